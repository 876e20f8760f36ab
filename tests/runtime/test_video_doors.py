"""What a source may lead to: nothing but what was named."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

from florence_edge.errors import RequestError, SourceError, SourceNotFoundError
from florence_edge.video import advice, pyav
from florence_edge.video.formats import SCHEMES, protocols_of
from florence_edge.video.sources import source_of

from .videos import numbers, picture, served, write_video

MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"
 type="static" mediaPresentationDuration="PT1S" minBufferTime="PT1S"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000">
<BaseURL>{video}</BaseURL></Representation></AdaptationSet></Period></MPD>
"""
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 50040 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
IDX = "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A video that nobody named."""
    folder = tmp_path / "secret"
    folder.mkdir()
    return write_video(folder / "video.ts", 5, codec="mpeg2video", kind="mpegts")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.ffconcat", "ffconcat version 1.0\nfile secret/video.ts\n"),
        ("list.mp4", "ffconcat version 1.0\nfile secret/video.ts\n"),
        ("list.m3u8", HLS),
        ("list.m3u", HLS),
        ("list.mp4", HLS),
        ("list.mpd", MPD),
        ("list.sdp", SDP),
        ("list.mp4", SDP),
        ("list.idx", IDX),
    ],
)
@pytest.mark.parametrize("address", ["secret/video.ts", "file://{path}", "{path}"])
def test_a_playlist_in_a_file_does_not_lead_to_other_files(
    tmp_path: Path, secret: Path, name: str, text: str, address: str
) -> None:
    playlist = tmp_path / name
    playlist.write_text(text.replace("{video}", address.format(path=secret)))
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"list\.\w+ cannot be read: .*(not a video)"):
        numbers(playlist)
    assert time.monotonic() - begin < 5
    assert numbers(secret) == [0, 1, 2, 3, 4]  # it could have been read


def test_a_playlist_is_named_as_one_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile video.ts\n")
    with pytest.raises(SourceError, match=r"a playlist \(HLS, ffconcat\).* Name the video") as it:
        numbers(tmp_path / "list.mp4")
    assert "usermod" not in str(it.value)


@pytest.mark.parametrize("name", ["frame%03d.png", "frame*.png", "frame[0-9].png"])
def test_the_name_of_a_file_is_not_a_pattern(tmp_path: Path, name: str) -> None:
    from PIL import Image

    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"frame{number:03}.png")
    Image.fromarray(picture(7)).save(tmp_path / name)
    try:
        read = numbers(tmp_path / name)
    except SourceError:
        read = []
    assert read in ([], [7])


@pytest.mark.parametrize(
    "name",
    [
        "concat:{path}|{path}",
        "subfile,,start,0,end,9,,:{path}",
        "data:video/mp4,AA",
        "pipe:0",
    ],
)
def test_the_protocols_of_ffmpeg_are_not_those_of_paths(secret: Path, name: str) -> None:
    with pytest.raises(SourceNotFoundError, match="There is no file"):
        source_of(name.format(path=secret))


@pytest.mark.parametrize(
    "url",
    ["concat://{path}", "async://{path}", "cache://{path}", "unix://{path}", "data://AA", "fd://3"],
)
def test_a_url_of_another_scheme_is_refused(secret: Path, url: str) -> None:
    with pytest.raises(RequestError, match=r"begins with \w+://, which is not read\. .*rtsp"):
        source_of(url.format(path=secret))


@pytest.mark.parametrize("name", ["concat:a.mp4", "http:a.mp4", "data:,AA.mp4", "a%20b.mp4"])
def test_a_file_whose_name_looks_like_a_url_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    assert numbers(name) == [0, 1, 2]


def test_the_url_of_a_file_is_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a b.mp4", 3)
    assert not source_of(path.as_uri()).live
    assert source_of(path.as_uri()).file == path
    for url in (path.as_uri(), f"FILE://localhost{path}", f"file:{path}"):
        assert numbers(url) == [0, 1, 2]


@pytest.mark.parametrize(
    "wanted",
    [
        "rtsp:/me:word@host/a",
        "nonsense://me:word@host/a",
        b"rtsp://me:word@host/a",
        "host/a?token=word",
    ],
)
def test_what_is_refused_is_named_without_its_secrets(wanted: Any) -> None:
    with pytest.raises((RequestError, SourceError)) as raised:
        source_of(wanted)
    assert "***" in str(raised.value)
    assert "word" not in str(raised.value)


def test_no_scheme_reads_files() -> None:
    for scheme in SCHEMES:
        protocols = (protocols_of(scheme) or "").split(",")
        assert scheme in protocols
        assert not {"file", "fd", "pipe", "concat", "subfile", "data", "unix"} & set(protocols)


def test_a_playlist_over_http_leads_to_http_alone(tmp_path: Path, secret: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    (public / "video.ts").write_bytes(secret.read_bytes())
    (public / "good.m3u8").write_text(HLS.format(video="video.ts"))
    (public / "bad.m3u8").write_text(HLS.format(video=f"file://{secret}"))
    (public / "bad.mpd").write_text(MPD.format(video=f"file://{secret}"))
    (public / "bad.ffconcat").write_text(f"ffconcat version 1.0\nfile file:{secret}\n")
    (public / "bad.sdp").write_text(SDP)
    with served(public) as url:
        assert numbers(f"{url}/good.m3u8") == [0, 1, 2, 3, 4]
        for bad in ("bad.m3u8", "bad.mpd", "bad.ffconcat", "bad.sdp"):
            with pytest.raises(SourceError, match=rf"{bad} cannot be read"):
                numbers(f"{url}/{bad}", timeout=3)


# Pipes, folders and devices.


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"pipe\.mp4 is a pipe, which is not read"):
        source_of(tmp_path / "pipe.mp4")
    assert time.monotonic() - begin < 1


def test_a_pipe_that_takes_the_place_of_a_file_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 1)
    source = source_of(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SourceError, match=r"a\.mp4 is a pipe"):
        next(source.frames())


def test_the_command_refuses_a_pipe_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    code = "import sys; from florence_edge.cli.main import main; sys.exit(main())"
    arguments = [str(tmp_path), "--source", str(tmp_path / "pipe.mp4"), "--task", "OD"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "is a pipe, which is not read" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder. Name a video in it."),
        (lambda path: path.symlink_to("/dev/zero"), "is a device. Name the file of a video."),
    ],
)
def test_what_is_not_a_file_says_what_it_is(tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "thing.mp4"
    make(path)
    with pytest.raises(SourceError) as raised:
        source_of(path)
    assert str(raised.value) == f"{path} {message}"


def test_a_device_of_another_kind_is_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("it was opened"))
    for device in ("/dev/null", "/dev/zero", "/dev/tty"):
        with pytest.raises(SourceError, match=f"{device} cannot be read: .* kind than a camera"):
            next(source_of(device).frames())
    with pytest.raises(SourceError, match="/dev/ is a folder"):
        next(source_of("/dev/").frames())


# Advice.


def permission_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    def refuse(*_: object, **__: object) -> None:
        raise av.error.PermissionError(13, "Permission denied")

    monkeypatch.setattr(av, "open", refuse)


def test_nobody_is_told_to_join_a_group_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", 1)
    permission_denied(monkeypatch)
    with pytest.raises(SourceError, match=r"a\.mp4 cannot .* denied\. .*chmod \+r") as it:
        next(source_of(path).frames())
    assert "usermod" not in str(it.value)
    with pytest.raises(SourceError) as it:
        next(source_of("udp://127.0.0.1:9").frames())
    assert str(it.value) == "udp://127.0.0.1:9 cannot be read: Permission denied."


@pytest.mark.parametrize(
    ("mode", "group", "mine", "message"),
    [
        (0o660, "video", False, "log in again: sudo usermod -aG video $USER"),
        (0o660, "video", True, "A sandbox or a container keeps it from you."),
        (0o600, "video", False, "Look at its rights: ls -l /dev/video0"),
        (0o660, "root", False, "Look at its rights: ls -l /dev/video0"),
    ],
)
def test_the_group_of_a_camera_is_advised_where_it_is_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, mode: int, group: str, mine: bool, message: str
) -> None:
    import grp
    from types import SimpleNamespace

    camera = SimpleNamespace(
        st_mode=0o020000 | mode, st_rdev=os.makedev(81, 0), st_gid=44444, st_uid=0
    )
    real = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **how: camera if path == "/dev/video0" else real(path, **how)
    )
    monkeypatch.setattr(grp, "getgrgid", lambda number: SimpleNamespace(gr_name=group))
    monkeypatch.setattr(os, "getgroups", lambda: [44444] if mine else [])
    permission_denied(monkeypatch)
    with pytest.raises(SourceError) as raised:
        next(source_of(0).frames())
    assert str(raised.value).startswith("/dev/video0 cannot be read: Permission denied. ")
    assert str(raised.value).endswith(message)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("camera", "OSError(16, '')", "fuser -v /dev/video0"),
        ("camera", "OSError(19, '')", "ls /dev/video*"),
        ("file", "OSError(24, '')", "ulimit -n"),
        ("file", "OSError(2, '')", "Correct the path."),
        ("file", "av.error.DecoderNotFoundError(1, '')", "ffmpeg -i IN -c:v libx264 OUT.mp4"),
        ("stream", "av.error.HTTPUnauthorizedError(1, '')", "Name a user and a password"),
        ("stream", "av.error.HTTPNotFoundError(1, '')", "correct the path behind it"),
        ("stream", "av.error.InvalidDataError(1, '')", "leads to an address"),
        ("stream", "OSError(5, '')", "the network is up"),
        ("stream", "OSError(2, '')", ""),
    ],
)
def test_each_advice_fits_the_kind_of_source(kind: Any, error: str, message: str) -> None:
    import av

    given = advice.advice_for(kind, "/dev/video0", eval(error, {"av": av}))
    assert message in given
    assert bool(given) == bool(message)
    assert ("/dev/video" in given) == (kind == "camera")


def test_too_little_memory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(write_video(tmp_path / "a.mp4", 1))
    captured = next(source.frames())

    def fail(frame: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pyav, "rgb", fail)
    with pytest.raises(SourceError, match=r"a\.mp4 cannot be read: there is not enough memory"):
        captured.picture()
