"""results/README.md is the index of all measured evidence: every file, and nothing else."""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
FILES = sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.json"))
COLUMNS = ("file", "what it shows", "model", "machine", "command")


def rows() -> dict[str, dict[str, str]]:
    """The index by file."""
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| [")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    found = [dict(zip(COLUMNS, row, strict=True)) for row in cells]
    return {re.sub(r"\[(.*)\]\(\1\)", r"\1", row["file"]): row for row in found}


def values_of(content: Any, name: str) -> Iterator[Any]:
    """Every value under this name, however deep."""
    if isinstance(content, dict):
        if name in content:
            yield content[name]
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from values_of(part, name)


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_the_index_lists_every_file_and_no_other() -> None:
    assert len(FILES) > 10
    assert sorted(rows()) == FILES


def test_no_evidence_lies_anywhere_else() -> None:
    """Measured JSON outside results/ would be missing from the index."""
    others = [
        path.relative_to(ROOT).as_posix()
        for folder in ("runtime", "export", "calibration", "benchmarks", "jetson", "tests")
        for path in (ROOT / folder).rglob("*.json")
        if "node_modules" not in path.parts  # other people's
        and isinstance(content := json.loads(path.read_text(encoding="utf-8")), dict)
        and "command" in content
    ]
    assert others == []


@pytest.mark.parametrize("name", FILES)
def test_a_row_says_what_model_machine_and_command(name: str) -> None:
    row = rows()[name]
    assert all(row[column] for column in COLUMNS)
    assert re.fullmatch(r"`[^`]+`", row["command"])


@pytest.mark.parametrize("name", FILES)
def test_the_index_admits_which_file_does_not_name_its_machine(name: str) -> None:
    recorded = bool(list(values_of(read(name), "machine")))
    assert recorded == (not rows()[name]["machine"].startswith("not recorded"))


@pytest.mark.parametrize("name", FILES)
def test_a_recorded_command_is_the_one_of_the_index(name: str) -> None:
    """The index may add where the output goes; the program and its arguments are the same."""
    listed = rows()[name]["command"].strip("`")
    for command in values_of(read(name), "command"):
        assert listed.removesuffix(f" --output results/{name}").startswith(
            command.removesuffix(f" --output results/{name}")
        )


@pytest.mark.parametrize("name", FILES)
def test_evidence_names_no_private_folder(name: str) -> None:
    text = (RESULTS / name).read_text(encoding="utf-8")
    assert not [part for part in ("/tmp/", "/home/", "/root/", "/work/") if part in text]


@pytest.mark.parametrize("name", FILES)
def test_what_a_command_names_is_there(name: str) -> None:
    """Scripts, test files and modules move; the commands that measured with them follow."""
    command = rows()[name]["command"].strip("`")
    for path in re.findall(r"(?:tests|jetson|results)/[\w./-]+", command):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"-m (florence_edge_[\w.]+)", command):
        assert find_spec(module) is not None, module
