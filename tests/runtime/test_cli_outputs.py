"""What florence-run writes beside answers: crops, YOLO's label files, a table; which regions."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import AnswerKind, ClassIds, Region, RequestError, Result
from florence_edge.cli.main import main
from florence_edge.results import result as results_module
from florence_edge.results.result import TokenPiece, read_answer
from florence_edge.tasks import find_task

Run = Callable[..., tuple[int, str, str]]


def box(label: str, *edges: float, score: float = 0.5) -> Region:
    return Region(label=label, shape="box", rings=(edges,), score=score)


FOUND = (
    box("car", 10, 10, 30, 20, score=0.9),
    box("bus / red", 0, 0, 80, 60, score=0.4),
    box("Car", 40, 5, 40, 60, score=0.7),
    box("", 5, 5, 9, 9, score=0.2),
)


@pytest.fixture
def run(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """The command, whose model finds the same regions in every picture."""
    monkeypatch.setattr(
        results_module, "_scored", lambda region, scorer: FOUND[region.label_span[0]]
    )
    found = [type("Found", (), {"label_span": (number, 0)})() for number in range(len(FOUND))]

    def find(kind: AnswerKind, *_: object, **__: object) -> list[Any]:
        return [] if kind is AnswerKind.PURE_TEXT else found

    monkeypatch.setattr(results_module, "find_regions", find)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        short = ("--max-new-tokens", "4", "--threads", "1")
        status = main([str(tiny_bundle), *map(str, arguments), *short])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_crops_are_what_regions_show_by_label(run: Run, photo: Path, tmp_path: Path) -> None:
    _, _, err = run(photo, "--task", "OD", "--save-crops", tmp_path / "crops")
    written = {path.relative_to(tmp_path / "crops").as_posix() for path in tmp_path.rglob("*.jpg")}
    assert written == {"car/a.png-1.jpg", "bus _ red/a.png-1.jpg", "object/a.png-1.jpg"}
    with Image.open(tmp_path / "crops" / "car" / "a.png-1.jpg") as crop:
        assert crop.size == (20, 10)
    assert f"Wrote 3 crops in {tmp_path / 'crops'}." in err


def test_label_files_are_yolos_with_the_names_of_their_numbers(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    run(photo, "--task", "OD", "--save-txt", out, "--min-score", "0.3")
    lines = (out / "a.txt").read_text().splitlines()
    assert lines == [
        "0 0.250000 0.250000 0.250000 0.166667",
        "1 0.500000 0.500000 1.000000 1.000000",
    ]
    assert (out / "classes.txt").read_text() == "car\nbus / red\n"


def test_numbers_of_classes_are_those_that_are_given(run: Run, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    asked = ("--task", "OD", "--save-txt", out, "--classes", "dog,car", "--json")
    _, text, _ = run(photo, *asked)
    assert json.loads(text.splitlines()[0])["result"]["<OD>"]["labels"] == ["car", "Car"]
    assert (out / "classes.txt").read_text() == "dog\ncar\n"
    assert {path.name for path in out.iterdir()} == {"a.txt", "classes.txt"}
    assert (out / "a.txt").read_text().startswith("1 ")


def test_a_table_has_a_row_for_each_region_and_text(run: Run, photo: Path, tmp_path: Path) -> None:
    file = tmp_path / "tables" / "found.csv"
    _, _, err = run(photo, "--task", "OD,CAPTION", "--csv", file, "--max-regions", "2")
    found = rows(file)
    assert [(row["task"], row["label"], row["x2"]) for row in found[:2]] == [
        ("<OD>", "car", "30"),
        ("<OD>", "Car", "40"),
    ]
    assert (found[2]["task"], found[2]["image"], found[2]["frame"]) == ("<CAPTION>", str(photo), "")
    assert {(row["width"], row["height"]) for row in found} == {("80", "60")}
    assert f"Wrote 3 rows in {file}." in err


def test_frames_of_a_video_have_numbers(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from .videos import write_video

    video = write_video(tmp_path / "in.mp4", 3)
    outputs = ("--save-txt", tmp_path / "txt", "--csv", tmp_path / "t.csv")
    crops = ("--save-crops", tmp_path / "crops", "--answers", tmp_path / "a.jsonl")
    _, _, err = run(video, "--task", "OD", "--every", "2", *outputs, *crops)
    names = {path.name for path in (tmp_path / "txt").iterdir()}
    assert names == {"in_0.txt", "in_2.txt", "classes.txt"}
    assert {(row["image"], row["frame"]) for row in rows(tmp_path / "t.csv")} == {
        (str(video), "0"),
        (str(video), "2"),
    }
    assert (tmp_path / "crops" / "car" / "in.mp4_2-1.jpg").is_file()
    assert f"and the answers in {tmp_path / 'a.jsonl'}." in err


def test_pictures_and_frames_have_answers_of_one_schema(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("av")
    from .videos import write_video

    video = write_video(tmp_path / "in.mp4", 1)
    asked = ("--task", "OD,CAPTION", "--json")
    found = [json.loads(line) for line in run(photo, *asked)[1].splitlines()]
    found += [json.loads(line) for line in run(video, *asked)[1].splitlines()]
    kept: list[dict[str, Any]] = []
    for source in (photo, video):
        file = tmp_path / f"{source.name}.jsonl"
        run(source, *asked[:2], "--answers", file)
        kept += map(json.loads, file.read_text("utf-8").splitlines()[1:])  # behind the origin
    assert len({tuple(line) for line in (*found, *kept)}) == 1
    assert [(line["image"], line["frame"], line["task"]) for line in found] == [
        (str(photo), None, "<OD>"),
        (str(photo), None, "<CAPTION>"),
        (str(video), 0, "<OD>"),
        (str(video), 0, "<CAPTION>"),
    ]
    assert [line["image_size"] for line in found] == [[80, 60]] * 2 + [[64, 48]] * 2
    changing = ("seconds", "stats")
    assert [{**line, **dict.fromkeys(changing)} for line in found] == [
        {**line, **dict.fromkeys(changing)} for line in kept
    ]


@pytest.mark.parametrize("option", ["--save-crops", "--save-txt", "--output"])
def test_a_place_that_cannot_be_written_is_said(run: Run, photo: Path, option: str) -> None:
    status, _, err = run(photo, "--task", "OD", option, photo / "below")
    assert status == 1
    assert "Cannot write" in err


def test_a_table_that_cannot_be_written_is_said_and_nothing_is_asked(run: Run, photo: Path) -> None:
    status, out, err = run(photo, "--task", "OD", "--csv", photo / "below" / "t.csv")
    assert (status, out) == (1, "")
    assert "Cannot write" in err


@pytest.mark.parametrize("classes", ["car,car", "car,", ""])
def test_classes_that_are_none_are_refused(
    run: Run, photo: Path, classes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        run(photo, "--task", "OD", "--classes", classes)
    assert leaving.value.code == 2
    assert "cannot be a class" in capsys.readouterr().err


def in_folders(tmp_path: Path, photo: Path, *names: str) -> Path:
    """A folder with the same picture under these names."""
    folder = tmp_path / "photos"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo.read_bytes())
    return folder


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refused(run: Run, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What is said about arguments that are refused before anything is loaded."""
    with pytest.raises(SystemExit) as leaving:
        run(*arguments, "--task", "OD")
    assert leaving.value.code == 2
    return capsys.readouterr().err


def test_files_lie_as_the_pictures_do(run: Run, photo: Path, tmp_path: Path) -> None:
    folder = in_folders(tmp_path, photo, "a/1.png", "b/1.png")
    best = ("--task", "OD", "--max-regions", "1", "--line-width", "1")
    out = {name: tmp_path / name for name in ("save-txt", "save-crops", "output")}
    run(folder, *best, *(each for name in out for each in (f"--{name}", out[name])))
    assert names_below(out["save-txt"]) == {"a/1.txt", "b/1.txt", "classes.txt"}
    assert names_below(out["save-crops"]) == {"car/a/1.png-1.jpg", "car/b/1.png-1.jpg"}
    assert names_below(out["output"]) == {"a/1.png.od.png", "b/1.png.od.png"}
    run(folder / "a" / "1.png", folder / "b" / "1.png", *best, "--save-txt", tmp_path / "named")
    assert names_below(tmp_path / "named") == {"a/1.txt", "b/1.txt", "classes.txt"}


@pytest.mark.parametrize("other", ["a.jpg", "classes.png"])
def test_two_label_files_of_one_name_are_refused(
    run: Run, photo: Path, tmp_path: Path, other: str
) -> None:
    folder = in_folders(tmp_path, photo, "a.png", other)
    status, out, err = run(folder, "--task", "OD", "--save-txt", tmp_path / "labels")
    assert (status, out) == (1, "")
    assert "YOLO's tools find labels by this name alone" in err
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize("option", ["--csv", "--save-txt", "--save-crops"])
def test_no_run_goes_on_with_the_files_of_another(
    run: Run, photo: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = ("--answers", tmp_path / "a.jsonl", "--resume")
    said = refused(run, capsys, photo, option, tmp_path / "out", *resumed)
    assert f"{option} does not go with --resume" in said
    assert run(photo, "--task", "OD", option, tmp_path / "out")[0] == 0
    place = tmp_path / "out"
    before = place.read_bytes() if place.is_file() else names_below(place)
    assert "another" in refused(run, capsys, photo, option, place)
    assert before == (place.read_bytes() if place.is_file() else names_below(place))


def test_a_table_replaces_nothing_and_a_place_is_for_one_output(
    run: Run, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = photo.read_bytes()
    assert f"{photo} is there already" in refused(run, capsys, photo, "--csv", photo)
    assert photo.read_bytes() == before
    both = ("--csv", tmp_path / "same.x", "--answers", tmp_path / "b" / ".." / "same.x")
    assert "--answers and --csv are both" in refused(run, capsys, photo, *both)
    folders = ("--save-txt", tmp_path / "out", "--output", tmp_path / "out")
    assert "--output and --save-txt are both" in refused(run, capsys, photo, *folders)
    assert "is not a folder" in refused(run, capsys, photo, "--save-txt", photo)
    assert "is a folder" in refused(run, capsys, photo, "--csv", tmp_path)


@pytest.mark.parametrize(
    ("tasks", "option", "said"),
    [
        ("CAPTION", "--save-txt", "needs a task that gives regions"),
        ("CAPTION", "--save-crops", "needs a task that gives regions"),
        ("OD,OCR_WITH_REGION", "--save-txt", "the regions of one task"),
    ],
)
def test_label_files_are_of_one_task_with_regions(
    run: Run, photo: Path, tmp_path: Path, tasks: str, option: str, said: str
) -> None:
    status, out, err = run(photo, "--task", tasks, option, tmp_path / "out")
    assert (status, out) == (1, "")
    assert said in err


def test_a_region_without_a_label_is_an_object(run: Run, photo: Path, tmp_path: Path) -> None:
    run(photo, "--task", "OD,CAPTION", "--save-txt", tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text() == "car\nbus / red\nobject\n"
    assert ClassIds(["object"]).number(" ") == 0


def test_long_names_are_shortened(run: Run, photo: Path, tmp_path: Path) -> None:
    stems = ["n" * 250 + end for end in "ab"]
    folder = in_folders(tmp_path, photo, *(f"{stem}.png" for stem in stems))
    crops, labels = tmp_path / "crops", tmp_path / "labels"
    outputs = ("--save-crops", crops, "--save-txt", labels, "--output", tmp_path / "drawn")
    assert run(folder, "--task", "OD", "--max-regions", "1", *outputs)[0] == 0
    assert names_below(labels) == {*(f"{stem}.txt" for stem in stems), "classes.txt"}
    assert len(names_below(crops)) == len(names_below(tmp_path / "drawn")) == 2


def test_a_table_keeps_its_rows_however_a_run_ends(
    run: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_folders(tmp_path, photo, "a.png", "b.png")
    draw = Result.draw

    def fail(result: Result, image: Image.Image, **options: Any) -> Image.Image:
        if (tmp_path / "t.csv").stat().st_size > 0:  # the second picture
            raise OSError("no room")
        return draw(result, image, **options)

    monkeypatch.setattr(Result, "draw", fail)
    outputs = ("--csv", tmp_path / "t.csv", "--output", tmp_path / "out")
    assert run(folder, "--task", "OD", *outputs)[0] == 1
    assert [Path(row["image"]).name for row in rows(tmp_path / "t.csv")] == ["a.png"] * 4


def with_regions(*regions: Region) -> Result:
    piece = TokenPiece(5, "x<loc_1><loc_1><loc_9><loc_9>", -1.0)
    found = read_answer(find_task("OD"), [piece], image_size=(100, 100))
    return replace(found, regions=regions)


def test_filter_keeps_the_best_of_the_classes_in_their_order() -> None:
    result = with_regions(*FOUND)
    assert result.filter(classes=["CAR "]).regions == (FOUND[0], FOUND[2])
    assert result.filter(max_regions=2).regions == (FOUND[0], FOUND[2])
    assert result.filter(0.3, max_regions=3).regions == FOUND[:3]
    assert result.filter(classes=["car"], max_regions=1).regions == FOUND[:1]
    assert result.filter(max_regions=0).regions == ()
    assert result.filter() == result
    with pytest.raises(RequestError, match="max_regions is -1"):
        result.filter(max_regions=-1)
    with pytest.raises(RequestError, match="stands twice"):
        result.filter(classes=["car", "CAR"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_regions": 1.5}, "max_regions is 1.5; it must be a whole number of 0 or more"),
        ({"max_regions": True}, "max_regions is True"),
        ({"min_score": "x"}, "min_score is 'x'; it must be a number"),
        ({"min_score": float("nan")}, "min_score is nan"),
        ({"classes": "square"}, "Classes are a list of labels, .* got 'square'"),
        ({"classes": 3}, "a list of labels"),
    ],
)
def test_a_filter_that_makes_no_sense_is_said(arguments: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        with_regions(*FOUND).filter(**arguments)


def test_numbers_of_classes_are_not_labels() -> None:
    wrong: Any = "square"
    result = with_regions(*FOUND)
    for method in (result.to_yolo, result.to_coco, result.to_supervision):
        with pytest.raises(RequestError, match="class_ids is 'square'; expected ClassIds"):
            method(wrong)


def test_lines_are_as_wide_as_requested() -> None:
    result: Any = with_regions(box("car", 20, 20, 80, 80))
    plain = Image.new("RGB", (100, 100))
    thin, thick = (np.asarray(result.draw(plain, line_width=n)).any(2).sum() for n in (1, 9))
    assert thick > 1.5 * thin  # the label is as large as before
    for wrong in (0, 1.5, "3"):
        with pytest.raises(RequestError, match=f"line_width is {wrong!r}; it must be a whole"):
            result.draw(plain, line_width=wrong)


def test_numbers_stay_the_same_from_frame_to_frame() -> None:
    ids = ClassIds()
    first, second = with_regions(FOUND[0], FOUND[1]), with_regions(FOUND[1], FOUND[0])
    assert [line[0] for line in first.to_yolo(ids)] == ["0", "1"]
    assert [line[0] for line in second.to_yolo(ids)] == ["1", "0"]
