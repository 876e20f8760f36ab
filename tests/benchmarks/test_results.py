import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.results import (
    AccuracyResult,
    SpeedResult,
    check_writable,
    read_result,
    write_result,
    write_whole,
)

from .conftest import STORED


@pytest.mark.parametrize("name", ["speed.json", "gpu.json", "accuracy.json"])
def test_what_is_read_is_written_byte_for_byte(name: str, tmp_path: Path) -> None:
    result = read_result(STORED / name)
    assert isinstance(result, SpeedResult | AccuracyResult)
    write_result(tmp_path / name, result)
    assert (tmp_path / name).read_bytes() == (STORED / name).read_bytes()


def test_results_of_before_the_gpu_are_read(tmp_path: Path) -> None:
    content = json.loads((STORED / "speed.json").read_text())
    for row in content["systems"]:
        del row["system"]["engine_precision"]
        for name in ("device_bytes", "reader", "versions"):
            if row["start"]:
                del row["start"][name]
    for run in content["runs"]:
        for each in run["rounds"]:
            del each["host"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert read_result(tmp_path / "old.json") == read_result(STORED / "speed.json")


def test_figures_keep_microseconds_and_no_more(tmp_path: Path) -> None:
    result = read_result(STORED / "accuracy.json")
    assert isinstance(result, AccuracyResult)
    write_result(tmp_path / "a.json", replace(result, figures={"OD": {"AP50": 1 / 3}}))
    assert '"AP50": 0.333333\n' in (tmp_path / "a.json").read_text()


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RequestError, match=r"No space left on device.* Choose another --output"):
        write_whole(path, "after")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("result.json", "before")
    ]


def _without(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((STORED / "speed.json").read_text())
    del content[name]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no result of this florence-bench"),
        ('{"florence-bench": "speed", "schema": 99}', "is no result of this florence-bench"),
        (json.dumps(_without("runs")), "lacks or garbles a field: 'runs'"),
        (json.dumps(_without("baseline")), "lacks or garbles a field: .*baseline"),
        (json.dumps({**_without("runs"), "runs": [{}]}), "lacks or garbles a field"),
        ('{"florence-bench": ["speed"], "schema": 1}', "is no result of this florence-bench"),
        ('{"florence-bench": "energy", "schema": 1}', "lacks or garbles a field: 'energy'"),
        (
            json.dumps({**json.loads((STORED / "energy.json").read_text()), "energy": {}}),
            "lacks or garbles a field: 'idle_watts'",
        ),
    ],
)
def test_other_files_give_one_clear_message(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(RequestError, match=message):
        read_result(path)
    with pytest.raises(RequestError, match="Cannot read"):
        read_result(tmp_path / "nowhere.json")


def test_a_pipe_is_written_to_and_a_link_stays_one(tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "figures")
    assert os.read(reader, 100) == b"figures"
    os.close(reader)
    assert pipe.is_fifo()
    file.write_text("old")
    link.symlink_to(file)
    write_whole(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_a_place_that_cannot_be_written_is_refused_before_the_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_writable(None)
    check_writable(tmp_path / "new" / "result.json")
    with pytest.raises(RequestError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(RequestError, match="is no folder"):
        check_writable(tmp_path / "file" / "result.json")
