import json
import math
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.results import AccuracyResult, SpeedResult
from florence_edge_benchmarks.results_io import (
    check_writable,
    read_result,
    without_folders,
    write_result,
    write_text,
)

from .conftest import STORED


@pytest.mark.parametrize("name", ["speed.json", "gpu.json", "accuracy.json", "energy.json"])
def test_what_is_read_is_written_byte_for_byte(name: str, tmp_path: Path) -> None:
    write_result(tmp_path / name, read_result(STORED / name))
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

    monkeypatch.setattr("florence_edge.files.os.rename", full)
    with pytest.raises(RequestError, match=r"No space left on device.* Choose another --output"):
        write_text(path, "after")
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
        ("[1]", "is not a result of this florence-bench"),
        ('{"florence-bench": "speed", "schema": 99}', "is not a result of this florence-bench"),
        (json.dumps(_without("runs")), r"field `runs`\. Measure again"),
        (json.dumps(_without("baseline")), "required field `baseline`"),
        (json.dumps({**_without("runs"), "runs": [{}]}), r"field `label` - at `\$\.runs\[0\]`"),
        ("[" * 100_000, "is not JSON"),
        ('{"florence-bench": ["speed"], "schema": 1}', "is not a result of this florence-bench"),
        ('{"florence-bench": "energy", "schema": 1}', "required field `settings`"),
        (
            json.dumps({**json.loads((STORED / "energy.json").read_text()), "energy": {}}),
            r"required field `\w+` - at `\$\.energy`",
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


_ROUND = "runs[0].rounds[0]"


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        (
            "speed",
            f"{_ROUND}.seconds",
            "fast",
            f"Expected `float`, got `str` - at `$.{_ROUND}.seconds`",
        ),
        ("speed", f"{_ROUND}.seconds", math.nan, "is not JSON"),
        ("speed", f"{_ROUND}.seconds", math.inf, "is not JSON"),
        ("speed", f"{_ROUND}.seconds", 0.0, "4 tokens in 0.0 s"),
        ("speed", f"{_ROUND}.seconds", -1, "4 tokens in -1.0 s"),
        ("speed", f"{_ROUND}.tokens", 0, "0 tokens in"),
        ("speed", f"{_ROUND}.tokens", 10**400, "0 tokens in"),
        ("speed", f"{_ROUND}.seconds", 10**400, "seconds`"),
        ("speed", f"{_ROUND}.tokens", True, f"Expected `int`, got `bool` - at `$.{_ROUND}.tokens`"),
        (
            "speed",
            f"{_ROUND}.stages.vision",
            "x",
            f"Expected `float`, got `str` - at `$.{_ROUND}.stages[...]`",
        ),
        ("speed", f"{_ROUND}.stages", {"vision": 1.0}, "stages are ['vision']"),
        (
            "speed",
            "runs[0].workload.beams",
            "three",
            "Expected `int`, got `str` - at `$.runs[0].workload.beams`",
        ),
        ("speed", "runs[0].workload.beams", 0, "0 beams"),
        ("speed", "runs[0].workload.task", "FLY", "There is no task 'FLY'"),
        ("speed", "runs[0].rounds", [], "expected either rounds or error - at `$.runs[0]`"),
        ("speed", "runs[0].label", "ghost", "'ghost' is not one of the systems"),
        ("speed", "baseline", "nobody", "'nobody' is not one of the systems"),
        ("speed", "systems", None, "Expected `array`, got `null` - at `$.systems`"),
        ("speed", "systems", [], "is not one of the systems"),
        ("speed", "systems[0].start", None, "expected either start or error - at `$.systems[0]`"),
        ("speed", "systems[0].start.load_seconds", None, "Expected `float`, got `null`"),
        ("speed", "systems[0].system.kind", "toy", "Invalid enum value 'toy'"),
        ("speed", "machine", {}, "- at `$.machine`"),
        ("speed", "machine", [], "Expected `object`, got `array` - at `$.machine`"),
        ("speed", "machine.cores", "x", "Expected `int`, got `str` - at `$.machine.cores`"),
        ("speed", "settings", {}, "settings.threads is missing"),
        ("speed", "settings.rounds", math.nan, "is not JSON"),
        ("accuracy", "figures", [1], "Expected `object`, got `array` - at `$.figures`"),
        ("accuracy", "figures.OD", {}, "figures.OD has no figure"),
        ("accuracy", "figures.OD.AP50", "high", "Expected `float`, got `str`"),
        ("accuracy", "machine", {}, "- at `$.machine`"),
        ("accuracy", "settings", None, "Expected `object`, got `null`"),
        ("energy", "energy.joules_per_image", [1.0], "of length 2, got 1"),
        ("energy", "energy.throttling", {"hot": None}, "Expected `int`, got `null`"),
        (
            "energy",
            "machine.hottest_celsius",
            ["hot"],
            "got `str` - at `$.machine.hottest_celsius[0]`",
        ),
        ("energy", "settings", {}, "settings.model is missing"),
    ],
)
def test_a_field_of_another_kind_is_named_where_a_result_comes_in(
    name: str, place: str, value: object, message: str, tmp_path: Path
) -> None:
    content = json.loads((STORED / f"{name}.json").read_text())
    *above, last = [int(part) if part.isdecimal() else part for part in re.split(r"\W+", place)]
    inner = content
    for part in above:
        inner = inner[part]
    inner[last] = value
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=re.escape(message)):
        read_result(tmp_path / "x.json")


def test_a_figure_that_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("before")
    result = read_result(STORED / "accuracy.json")
    assert isinstance(result, AccuracyResult)
    with pytest.raises(RequestError, match=r"Nothing was written to .*NaN"):
        write_result(path, replace(result, figures={"OD": {"AP50": math.nan}}))
    assert path.read_text() == "before"


def test_a_result_names_folders_and_not_where_they_were(tmp_path: Path) -> None:
    result = read_result(STORED / "speed.json")
    assert isinstance(result, SpeedResult)
    first, *others = result.systems
    system = replace(first.system, bundle="/home/me/my models/fp32", python="/opt/v/bin/python")
    moved = replace(
        result,
        systems=(replace(first, system=system, model="/tmp/w/base"), *others),
        settings={**result.settings, "bundles": "/a/b/fp32@cpu,openvino,~/c/int8"},
    )
    write_result(tmp_path / "x.json", moved)
    row, settings = json.loads((tmp_path / "x.json").read_text())["systems"][0], _settings(tmp_path)
    assert (row["model"], row["system"]["bundle"]) == ("base", "fp32")
    assert row["system"]["python"] == "python"
    assert settings["bundles"] == "fp32@cpu,openvino,int8"


def _settings(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "x.json").read_text())["settings"]
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "There is no bundle at /tmp/w/x/base8. Give one.",
            "There is no bundle at base8. Give one.",
        ),
        (r"cannot read C:\Users\me\base8", "cannot read base8"),
        ("'/a/b/c' and (~/d/e)", "'c' and (e)"),
        *[(same, same) for same in ("12 tokens/s", "a / b", "https://x.org/y/z", "microsoft/base")],
    ],
)
def test_only_absolute_paths_lose_their_folders(text: str, expected: str) -> None:
    assert without_folders({"a": [text]}) == {"a": [expected]}


def test_a_pipe_is_written_to_and_a_link_stays_one(tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "figures")
    assert os.read(reader, 100) == b"figures"
    os.close(reader)
    assert pipe.is_fifo()
    file.write_text("old")
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_a_place_that_cannot_be_written_is_refused_before_the_measurement(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_writable(None)
    check_writable(tmp_path / "new" / "result.json")
    with pytest.raises(RequestError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(RequestError, match="is not a folder"):
        check_writable(tmp_path / "file" / "result.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is left behind"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc takes no files, whoever asks")
def test_a_folder_that_takes_no_files_is_refused_before_the_measurement() -> None:
    with pytest.raises(RequestError, match=r"/proc takes no new file .*Choose another file"):
        check_writable(Path("/proc/x/result.json"))
