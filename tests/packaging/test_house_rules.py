"""Rules about meaning that neither ruff, mypy nor import-linter can hold."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("runtime", "export", "calibration", "benchmarks", "jetson", "serve", "label", "js")


def written_in(folder: Path, pattern: str) -> list[Path]:
    """Files of ours: no environment, no package of npm, nothing that was built."""
    others = {"node_modules", "site", "demo"}
    found = ((path, path.relative_to(ROOT).parts) for path in folder.rglob(pattern))
    return sorted(
        path for path, parts in found if not others & {*parts} and not parts[0].startswith(".venv")
    )


MODULES = [path for folder in FOLDERS for path in written_in(ROOT / folder, "*.py")]
PROGRAMS = [path for folder in ("tests", "examples") for path in written_in(ROOT / folder, "*.py")]
PAGES = written_in(ROOT, "*.md")
LONGEST_MODULE, LONGEST_FUNCTION = 450, 60  # lines

# A drawer for whatever has no name of its own.
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "lib"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_look_at() -> None:
    assert MODULES
    assert PROGRAMS
    assert {"README.md", "results/README.md"} <= {name_of(page) for page in PAGES}


def test_every_module_is_named_after_what_is_in_it() -> None:
    assert [name_of(path) for path in MODULES if NAMELESS & {path.stem, path.parent.name}] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is(path: Path) -> None:
    """Where there is code; ruff holds the docstrings of classes and functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree)


def test_modules_and_functions_are_short_tests_as_well() -> None:
    too_long = []
    for path in [*MODULES, *PROGRAMS]:
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > LONGEST_MODULE:
            too_long.append(f"{name_of(path)} has {lines} lines: split it by what it is about")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    too_long.append(f"{node.name} of {name_of(path)} has {lines} lines")
    assert too_long == []


_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = {link.partition("#")[0] for link in _LINK.findall(text)}
    inside = {link for link in targets if link and not re.match(r"[a-z]+:", link)}
    assert [link for link in sorted(inside) if not (page.parent / link).exists()] == []


_PATH = re.compile(
    r"`((?:runtime|export|calibration|benchmarks|jetson|serve|label|js|tests)/[\w./-]+|results/[\w/]+\.(?:json|md))`"
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page: Path) -> None:
    """In backticks, from the root of the repository or from the page."""
    if page.name == "CHANGELOG.md":
        return
    named = set(_PATH.findall(page.read_text(encoding="utf-8")))
    gone = [name for name in sorted(named) if not _exists(page, name)]
    assert gone == []


def _exists(page: Path, name: str) -> bool:
    places = (ROOT, page.parent, *(path for path in page.parent.glob("florence_edge*")))
    return any((place / name).exists() for place in places)


def test_the_version_is_the_newest_of_the_changelog() -> None:
    source = (ROOT / "runtime" / "florence_edge" / "__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == version


_VARIABLE = re.compile(r"\bFLORENCE_[A-Z_]+\b")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_environment_variables_that_a_page_names_are_read_somewhere(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return
    scripts = written_in(ROOT / "tests", "*.sh")
    readers = [*MODULES, *PROGRAMS, *scripts]
    read = set(_VARIABLE.findall("".join(path.read_text("utf-8") for path in readers)))
    assert set(_VARIABLE.findall(page.read_text(encoding="utf-8"))) - read == set()
