"""The figures of docs/label.md are those of results/, computed by docs/draw_label.py."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "label.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_label", ROOT / "docs" / "draw_label.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_was_measured(figures: ModuleType) -> None:
    assert figures.filled(PAGE) == PAGE
    for name, text in figures.blocks().items():
        assert f"<!-- {name} -->{text}<!-- /{name} -->" in PAGE


def test_the_simulation_is_exact_where_it_can_be_reckoned(figures: ModuleType) -> None:
    assert figures.makespan(1, [2.0] * 6, 0.5) == 12.5
    assert figures.makespan(3, [2.0] * 6, 0.0) == 4.0
    assert figures.makespan(3, [2.0] * 6, 0.5) == 5.5  # three parts wait for each other
    assert figures.makespan(100, [2.0] * 6, 1.0) == 8.0  # the driver is the limit
    assert figures.makespan(2, [4.0, 1.0, 1.0, 1.0], 0.0) == 4.0
