import json
from pathlib import Path
from typing import Any

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.results import read_result, write_result, write_whole

from .conftest import STORED


@pytest.mark.parametrize("name", ["speed.json", "accuracy.json"])
def test_what_is_read_is_written_byte_for_byte(name: str, tmp_path: Path) -> None:
    write_result(tmp_path / name, read_result(STORED / name))
    assert (tmp_path / name).read_bytes() == (STORED / name).read_bytes()


def test_figures_keep_microseconds_and_no_more(tmp_path: Path) -> None:
    from dataclasses import replace

    from florence_edge_benchmarks.results import AccuracyResult

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
    ],
)
def test_other_files_give_one_clear_message(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(RequestError, match=message):
        read_result(path)
    with pytest.raises(RequestError, match="Cannot read"):
        read_result(tmp_path / "nowhere.json")
