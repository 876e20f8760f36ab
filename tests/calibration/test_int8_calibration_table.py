"""calibration.json: what is written is what is read, and nothing else is taken for it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge.bundle import Bundle
from florence_edge.errors import RequestError
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.histogram import BINS, ChannelHistogram
from florence_edge_export.export import ExportOptions, export


@pytest.fixture
def saved(table: CalibrationTable, tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    table.save(path)
    return path


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_what_is_written_is_read_again(table: CalibrationTable, saved: Path) -> None:
    found = CalibrationTable.load(saved)
    for name in ("model", "checkpoint", "image_size", "pictures", "prompts"):
        assert getattr(found, name) == getattr(table, name)
    assert list(found.activations) == list(table.activations)
    for name, histogram in table.activations.items():
        again = found.activations[name]
        np.testing.assert_allclose(again.min_values, histogram.min_values, rtol=1e-5)
        np.testing.assert_allclose(again.max_values, histogram.max_values, rtol=1e-5)
        np.testing.assert_array_equal(again.counts == 0, histogram.counts == 0)
        np.testing.assert_allclose(again.counts, histogram.counts, rtol=0.045, atol=0.51)


def test_counts_keep_their_precision_up_to_billions(tmp_path: Path) -> None:
    counts = np.zeros((1, BINS), np.int64)
    counts[0] = 2 ** (np.arange(BINS) // 4)
    edge = np.ones(1, np.float32)
    table = CalibrationTable(
        model="m",
        checkpoint="c",
        image_size=64,
        pictures=1,
        prompts=1,
        activations={"fc": ChannelHistogram(min_values=-edge, max_values=edge, counts=counts)},
    )
    table.save(tmp_path / "t.json")
    found = CalibrationTable.load(tmp_path / "t.json").activations["fc"].counts
    np.testing.assert_allclose(found, counts, rtol=0.045, atol=0.51)


def test_a_table_read_and_written_again_is_the_same(saved: Path, tmp_path: Path) -> None:
    once = tmp_path / "once.json"
    CalibrationTable.load(saved).save(once)
    assert once.read_bytes() == saved.read_bytes()


def test_saving_leaves_no_other_file(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["calibration.json"]


def test_an_interrupted_save_leaves_the_old_table(
    table: CalibrationTable, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def interrupted(_: int) -> None:  # what was written may be half of it by then
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["calibration.json"]


def _set(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update({name: value})


def _first(edit: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda content: edit(next(iter(content["activations"].values())))


_SPOILS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no activations": lambda content: content.pop("activations"),
    "no model": lambda content: content.pop("model"),
    "a list of activations": _set("activations", ["fc1"]),
    "an activation that is null": lambda content: content["activations"].update(fc1=None),
    "counts that are not base64": _first(_set("counts", "§§")),
    "counts that are not compressed": _first(_set("counts", "AAAA")),
    "counts that are null": _first(_set("counts", None)),
    "too few extremes": _first(_set("lows", [0.0])),
    "extremes that are words": _first(_set("highs", ["high"])),
    "extremes that are NaN": _first(_set("highs", [float("nan")])),
    "extremes beyond float32": _first(lambda each: each["highs"].__setitem__(0, 1e39)),
    "a lowest value above the highest": _first(lambda each: each["lows"].__setitem__(0, 1e9)),
    "no picture size": _set("image_size", None),
}


@pytest.mark.parametrize("spoil", _SPOILS)
def test_a_damaged_table_is_refused(saved: Path, spoil: str) -> None:
    edited(saved, _SPOILS[spoil])
    with pytest.raises(RequestError, match=r"is not a calibration table: .*Make one with flor"):
        CalibrationTable.load(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '{"format": 1}', "\x00\xff"])
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RequestError, match="is not a calibration table"):
        CalibrationTable.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(RequestError, match="is not a calibration table"):
            CalibrationTable.load(path)


def test_a_cut_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-300])
    with pytest.raises(RequestError, match="is not a calibration table"):
        CalibrationTable.load(saved)


@pytest.mark.parametrize(
    "edit", [_set("format", 2), _set("contract", 99), _set("bins", {"count": 64})]
)
def test_a_table_of_another_version_is_refused(
    saved: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    edited(saved, edit)
    with pytest.raises(RequestError, match="Calibrate again with florence-calibrate"):
        CalibrationTable.load(saved)


def test_a_table_of_another_checkpoint_is_refused(
    table: CalibrationTable, planted: Bundle, floats: Bundle
) -> None:
    table.check(floats)
    with pytest.raises(RequestError, match="made from tiny, whose weights are not those of plant"):
        table.check(planted)


def test_a_table_of_another_picture_size_is_refused(
    table: CalibrationTable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export("tiny", tiny_checkpoint, tmp_path / "larger", ExportOptions(image_size=96))
    with pytest.raises(RequestError, match=r"pictures of 64 pixels, this export for 96.*again"):
        table.check(Bundle.load(tmp_path / "larger"))
