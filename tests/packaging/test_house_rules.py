"""Sizes that keep the code readable; a module that needs more says here why."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("runtime", "export", "calibration", "benchmarks", "jetson")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

MOST_LINES = 400
USUAL_LINES = 250
LONGER: dict[str, str] = {
    "runtime/florence_edge/search.py": "greedy and beam search, to be read side by side",
}
MOST_LINES_OF_A_FUNCTION = 60


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 20
    assert {name_of(path) for path in MODULES} >= set(LONGER), "an exception without its module"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_short_and_so_are_its_functions(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (MOST_LINES if name_of(path) in LONGER else USUAL_LINES)
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_checks_at_run_time_are_errors_and_not_asserts(path: Path) -> None:
    asserts = [node.lineno for node in nodes(path) if isinstance(node, ast.Assert)]
    assert asserts == []
