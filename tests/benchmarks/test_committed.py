"""What is committed says what its JSON says. After new results, write RESULTS.md anew, with
`florence-bench report benchmarks/results/*.json --output benchmarks/RESULTS.md`, and the README's
block, with `florence-bench report benchmarks/results/base_cpu.json --update README.md`.
"""

from pathlib import Path

import pytest

from florence_edge_benchmarks.markdown import markdown_of, with_block
from florence_edge_benchmarks.results import read_result

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_the_committed_tables_are_those_of_the_committed_results() -> None:
    assert COMMITTED
    results = [read_result(path) for path in COMMITTED]
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8") == markdown_of(results)


def test_the_readmes_table_is_that_of_its_result() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    result = read_result(ROOT / "benchmarks" / "results" / "base_cpu.json")
    assert with_block(page, markdown_of([result], brief=True), "README.md") == page


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_committed_results_name_model_machine_and_versions_and_no_private_path(path: Path) -> None:
    result = read_result(path)
    assert result.machine["processor"]
    assert result.machine["versions"]["florence-edge"]
    places = [result.settings.get(name, "") for name in ("bundles", "bundle", "checkpoint")]
    assert not any(place.startswith(("/", "~")) for place in places)
