"""What is committed says what its JSON says. After new results, write RESULTS.md anew, with
`florence-bench report benchmarks/results/*.json --output benchmarks/RESULTS.md`, the README's
block, with `florence-bench report benchmarks/results/base_cpu.json --update README.md`, and that of
benchmarks/README.md, with `python -m tests.benchmarks.asked_figures`.
"""

import argparse
import json
import shlex
from pathlib import Path

import pytest

from florence_edge_benchmarks.commands.speed_arguments import add_arguments, settings_of
from florence_edge_benchmarks.report.markdown import markdown_of, with_block
from florence_edge_benchmarks.results.files import read_result
from florence_edge_benchmarks.results.paths import without_folders

from .asked_figures import README, ROOT, block

COMMITTED = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_the_committed_tables_are_those_of_the_committed_results() -> None:
    assert COMMITTED
    told = markdown_of([*map(read_result, COMMITTED)], [path.name for path in COMMITTED])
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8") == told


def test_the_readmes_table_is_that_of_its_result() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    result = read_result(ROOT / "benchmarks" / "results" / "base_cpu.json")
    assert with_block(page, markdown_of([result], brief=True), "README.md") == page


def test_the_figures_of_the_benchmarks_readme_are_those_of_the_results() -> None:
    page = README.read_text(encoding="utf-8")
    assert with_block(page, block(), str(README)) == page


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
