"""What a model's slips leave is kept in the parts, and left out of exports on request."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from florence_edge_label.cli import main
from florence_edge_label.parts import Row
from florence_edge_label.picture_list import Entry

from .conftest import Command, answered, box, draw, write_run

SLIPS = [
    box("<loc_53>STOP", 1, 1, 20, 20),
    box("car", 5, 5, 5, 20),
    box("loc_7>", 2, 2, 9, 9),
    box("bus", 3, 3, 30, 30),
]


def labelled_by(folder: Path, options: dict[str, object] | None = None) -> Path:
    def rows_of(entry: Entry) -> Sequence[Row]:
        return [answered(entry, SLIPS)]

    return write_run(folder / "out", draw(folder / "photos", ("a.png",)), rows_of, options)


def labels(folder: Path, *arguments: str) -> list[str]:
    assert main(["export", str(folder), "--format", "jsonl", *arguments]) == 0
    (picture,) = map(json.loads, (folder / "labels.jsonl").read_text("utf-8").splitlines())
    return [region["label"] for region in picture["answers"][0]["regions"]]


def test_an_export_is_cleaned_on_request(tmp_path: Path) -> None:
    folder = labelled_by(tmp_path)
    assert labels(folder) == [region.label for region in SLIPS]
    assert labels(folder, "--clean") == ["STOP", "bus"]
    assert labels(folder, "--clean", "--min-score", "0.95") == []


def test_a_set_that_was_labelled_clean_stays_so_unless_it_is_told_otherwise(
    tmp_path: Path,
) -> None:
    folder = labelled_by(tmp_path, {"clean": True})
    assert labels(folder) == labels(folder, "--nms", "0.5") == ["STOP", "bus"]
    assert labels(folder, "--no-clean") == [region.label for region in SLIPS]


def test_the_request_is_one_of_the_run(
    label: Command, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label(photos, tmp_path / "out", "--clean", "--shards", "1/9") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"]["clean"] is True
    assert label(photos, tmp_path / "out", "--shards", "1/9") == 1
    assert "begun with clean True; requested now: no clean" in capsys.readouterr().err
