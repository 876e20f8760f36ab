"""The documentation builds without the network, and says what is."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import florence_edge
from florence_edge import STAGES, TASKS, errors

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def load(name: str) -> ModuleType:
    """A program of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> Any:
    pytest.importorskip("mkdocs", reason="install florence-edge[docs]")
    return load("hooks")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning fails the build."""
    pytest.importorskip("mkdocs", reason="install florence-edge[docs]")
    pytest.importorskip("mkdocstrings", reason="install florence-edge[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    return folder


def test_the_site_has_every_page_and_fetches_nothing(site: Path) -> None:
    assert {path.stem for path in PAGES} <= {path.stem for path in site.glob("*.html")}
    for built in site.glob("*.html"):
        html = built.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="https?://', html) == []
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\(['\"]?https?://", sheet.read_text(encoding="utf-8")) == []


def test_the_site_carries_the_evidence_that_it_links_to(site: Path) -> None:
    linked = set(re.findall(r"\]\(\.\./([^)]+)\)", "".join(map(page, (p.name for p in PAGES)))))
    assert "results/speed/base_cpu.json" in linked
    for name in linked:
        assert (site / "repository" / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_reference_has_every_public_name_and_no_other() -> None:
    named = re.findall(r"^::: florence_edge\.(\w+)$", page("api.md"), re.MULTILINE)
    assert sorted(named) == sorted(florence_edge.__all__)


def test_the_errors_are_all_explained() -> None:
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.FlorenceEdgeError)
    }
    rows = set(re.findall(r"^\| `(\w+)` \|", page("errors.md"), re.MULTILINE))
    assert rows | {"FlorenceEdgeError"} == kinds
    drawn = set(re.findall(r"(\w+Error) +also", page("errors.md")))
    assert drawn <= kinds


def test_the_stages_are_all_explained() -> None:
    rows = re.findall(r'^\| `"(\w+)"` \| `(\w+)` \|', page("running.md"), re.MULTILINE)
    assert tuple(key for key, _ in rows) == STAGES
    assert [getattr(florence_edge, constant) for _, constant in rows] == list(STAGES)


def test_the_quickstart_knows_all_tasks() -> None:
    table = page("index.md").split("## The 15 tasks")[1]
    assert {name for name in TASKS if f"`{name}`" in table} == set(TASKS)


def test_every_command_is_shown(hooks: Any) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    scripts = settings["project"]["scripts"]
    assert {name: f"{module}:main" for name, module in hooks.COMMANDS.items()} == scripts
    shown = re.findall(r"^<!-- help ([\w -]+) -->$", page("commands.md"), re.MULTILINE)
    assert {command.split()[0] for command in shown} == set(scripts)
    choices = re.search(r"\{([\w,]+)\}", hooks.help_of("florence-bench"))
    assert choices
    parts = {command.split()[1] for command in shown if command.startswith("florence-bench ")}
    assert parts == set(choices[1].split(","))


def commands_of(text: str) -> list[list[str]]:
    """The lines of its examples that call a command of ours, without their comments."""
    lines = [line for _, block in _FENCE.findall(text) for line in block.splitlines()]
    ours = [shlex.split(line, comments=True) for line in lines if line.startswith("florence-")]
    return [words for words in ours if words]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_in_examples_exist(path: Path, hooks: Any) -> None:
    for words in commands_of(path.read_text(encoding="utf-8")):
        command = " ".join(words[:2]) if words[0] == "florence-bench" else words[0]
        known = set(re.findall(r"--[\w-]+", hooks.help_of(command)))
        assert {word for word in words if word.startswith("--")} <= known, words


def test_the_picture_of_a_run_has_the_files_of_the_readme() -> None:
    """Whose list `tests/runtime/test_way_of_run.py` compares with a run."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## How it works")[1]
    listed = re.findall(r"^\| `([a-z_/0-9]+\.py)` \|", section.split("\n## ")[0], re.MULTILINE)
    drawn = re.findall(r">([a-z_/0-9]+\.py)</text>", page("run.svg"))
    assert drawn == listed


def test_the_picture_of_a_run_is_what_its_program_draws() -> None:
    assert load("draw_run").drawing() == page("run.svg")
