"""What is committed agrees with its JSON. After new results, write RESULTS.md anew, with
`florence-bench report results/speed/*.json --output benchmarks/RESULTS.md`, the block of
docs/benchmarks.md, with `florence-bench report results/speed/base_cpu.json --update
docs/benchmarks.md`, and the tables of benchmarks/README.md, with `python -m
florence_edge_benchmarks.report.targets results/speed --update benchmarks/README.md`.
"""

import argparse
import json
import shlex
from pathlib import Path

import pytest

from florence_edge_benchmarks.commands.speed import add_arguments, settings_of
from florence_edge_benchmarks.report.markdown import markdown_of, with_block
from florence_edge_benchmarks.report.targets import read_results, target_tables
from florence_edge_benchmarks.results_io import read_result, without_folders

ROOT = Path(__file__).parents[2]
README = ROOT / "benchmarks" / "README.md"
COMMITTED = sorted((ROOT / "results" / "speed").glob("*.json"))


def test_the_committed_tables_are_those_of_the_committed_results() -> None:
    assert COMMITTED
    expected = markdown_of([*map(read_result, COMMITTED)], [path.name for path in COMMITTED])
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8") == expected


def test_the_documentations_table_is_that_of_its_result() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    result = read_result(ROOT / "results" / "speed" / "base_cpu.json")
    assert with_block(page, markdown_of([result], brief=True), "benchmarks.md") == page


def test_the_figures_of_the_benchmarks_readme_are_those_of_the_results() -> None:
    page = README.read_text(encoding="utf-8")
    assert with_block(page, target_tables(read_results(COMMITTED[0].parent)), str(README)) == page


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_the_benchmarks_readme_has_the_command_of_every_result(path: Path) -> None:
    page = README.read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = (line for line in page.splitlines() if line.endswith(f"--output {path.name}"))
    program, subcommand, *asked = shlex.split(command)
    assert (program, subcommand) == ("florence-bench", "speed")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(asked)
    assert settings_of(arguments, arguments.threads) == read_result(path).settings


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_committed_results_name_model_machine_and_versions_and_no_private_path(path: Path) -> None:
    result = read_result(path)
    assert result.machine["processor"]
    assert result.machine["versions"]["florence-edge"]
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    assert without_folders(content) == content, "write_result leaves no folder"
    assert not [name for name in ("/tmp/", "/home/", "/root/", "/work/") if name in text]
