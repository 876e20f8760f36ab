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
    assert written == {"car/a.png-1.jpg", "bus _ red/a.png-1.jpg", "unlabelled/a.png-1.jpg"}
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
    _, text, _ = run(photo, photo, *asked)
    assert json.loads(text.splitlines()[0])["result"]["<OD>"]["labels"] == ["car", "Car"]
    assert (out / "classes.txt").read_text() == "dog\ncar\n"
    assert {path.name for path in out.iterdir()} == {"a.txt", "a-2.txt", "classes.txt"}
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
    assert {row["frame"] for row in rows(tmp_path / "t.csv")} == {"0", "2"}
    assert (tmp_path / "crops" / "car" / "in.mp4_2-1.jpg").is_file()
    assert f"and the answers in {tmp_path / 'a.jsonl'}." in err


def test_pictures_and_frames_have_answers_of_one_schema(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("av")
    from .videos import write_video

    video = write_video(tmp_path / "in.mp4", 1)
    (picture,) = map(json.loads, run(photo, "--task", "OD", "--json")[1].splitlines())
    (frame,) = map(json.loads, run(video, "--task", "OD", "--json")[1].splitlines())
    assert set(picture) - {"image", "engine"} == set(frame["results"][0])
    assert picture["image_size"] == [80, 60]
    assert frame["results"][0]["image_size"] == frame["size"]


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


def test_lines_are_as_wide_as_requested() -> None:
    result: Any = with_regions(box("car", 20, 20, 80, 80))
    plain = Image.new("RGB", (100, 100))
    thin, thick = (np.asarray(result.draw(plain, line_width=n)).any(2).sum() for n in (1, 9))
    assert thick > 1.5 * thin  # the label is as large as before
    with pytest.raises(RequestError, match="line_width is 0"):
        result.draw(plain, line_width=0)


def test_numbers_stay_the_same_from_frame_to_frame() -> None:
    ids = ClassIds()
    first, second = with_regions(FOUND[0], FOUND[1]), with_regions(FOUND[1], FOUND[0])
    assert [line[0] for line in first.to_yolo(ids)] == ["0", "1"]
    assert [line[0] for line in second.to_yolo(ids)] == ["1", "0"]
