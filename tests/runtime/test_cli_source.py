"""The one argument that says what is looked at."""

from pathlib import Path

import pytest

from florence_edge import RequestError
from florence_edge.cli.arguments import parse_arguments
from florence_edge.cli.source import find_pictures, split_sources


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures by name, as no more than their names are looked at here."""
    for name in ("photos/b.jpg", "photos/a.PNG", "photos/x/c.webp", "photos/note.md", "7", "0.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "Drive [b2].mpg").touch()
    (tmp_path / "list.txt").write_text("# two\nphotos/b.jpg\n\nphotos/gone.jpg\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "source", "expected"),
    [
        (["photos"], None, (["photos"], None)),
        (["a.jpg", "b.jpg"], None, (["a.jpg", "b.jpg"], None)),
        (["drive.mp4"], None, ([], "drive.mp4")),
        (["DRIVE.MOV"], None, ([], "DRIVE.MOV")),
        (["0"], None, ([], "0")),
        (["7"], None, (["7"], None)),  # there is such a file
        (["rtsp://camera/stream"], None, ([], "rtsp://camera/stream")),
        (["/dev/video9"], None, ([], "/dev/video9")),
        (["videotestsrc ! appsink"], None, ([], "videotestsrc ! appsink")),
        ([], "drive.mp4", ([], "drive.mp4")),
        ([], "photos", (["photos"], None)),
        ([], "photos/*.jpg", (["photos/*.jpg"], None)),
        ([], "list.txt", (["list.txt"], None)),
        ([], "0.jpg", ([], "0.jpg")),
        ([], "Drive [a1].mp4", ([], "Drive [a1].mp4")),  # as downloaders call them
        ([], "Drive [b2].mpg", ([], "Drive [b2].mpg")),  # there is such a file
        ([], "Drive [c3].jpg", (["Drive [c3].jpg"], None)),
    ],
)
@pytest.mark.usefixtures("photos")
def test_words_mean_pictures_or_one_source_of_frames(
    words: list[str], source: str | None, expected: object
) -> None:
    assert split_sources(words, source) == expected


@pytest.mark.parametrize(
    ("words", "source", "says"),
    [
        ([], None, "nothing to ask about"),
        (["a.jpg"], "0", "one of the two"),
        (["a.jpg", "drive.mp4"], None, "drive.mp4 is a camera or a video"),
        (["0", "1"], None, "answered alone"),
    ],
)
def test_what_cannot_be_meant_is_told(words: list[str], source: str | None, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        split_sources(words, source)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("photos", ["photos/a.PNG", "photos/b.jpg", "photos/x/c.webp"]),
        ("photos/*", ["photos/a.PNG", "photos/b.jpg"]),
        ("photos/**/*.webp", ["photos/x/c.webp"]),
        ("list.txt", ["photos/b.jpg", "photos/gone.jpg"]),
        ("gone.jpg", ["gone.jpg"]),
    ],
)
@pytest.mark.usefixtures("photos")
def test_folders_patterns_and_lists_are_their_pictures(word: str, names: list[str]) -> None:
    assert list(map(str, find_pictures([word], []))) == names


@pytest.mark.parametrize(
    ("word", "says"),
    [("x*.jpg", "No picture is called"), ("gone.txt", "not a list"), ("photos/note.md", None)],
)
@pytest.mark.usefixtures("photos")
def test_what_has_no_picture_is_told(word: str, says: str | None) -> None:
    if says is None:  # a file is asked about, and says itself that it is none
        assert list(find_pictures([word], [])) == [Path(word)]
        return
    with pytest.raises(RequestError, match=says):
        list(find_pictures([word], []))


def test_a_video_may_stand_where_pictures_do(capsys: pytest.CaptureFixture[str]) -> None:
    found = parse_arguments(["bundle", "drive.mp4", "--task", "OD", "--every", "2"])
    assert (found.images, found.source) == ([], "drive.mp4")
    for wrong in (["a.jpg", "--every", "2"], ["drive.mp4", "--batch", "2"], []):
        with pytest.raises(SystemExit) as leaving:
            parse_arguments(["bundle", *wrong, "--task", "OD"])
        assert leaving.value.code == 2
    said = capsys.readouterr().err
    assert "--every needs a camera or a video" in said
    assert "--batch does not go with a camera or a video" in said
