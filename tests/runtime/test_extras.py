"""Hints about what to install work where they are given."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from florence_edge import extras
from florence_edge.extras import newer_release, pip_install

ROOT = Path(__file__).parents[2]
SOURCES = ("runtime", "export", "calibration", "benchmarks", "jetson", "serve", "label", "js")


@pytest.mark.parametrize(
    ("direct", "command"),
    [
        ({}, "pip install 'florence-edge[cpu,export]'"),
        (
            {"url": ROOT.as_uri(), "dir_info": {"editable": True}},
            f"pip install -e '{ROOT}[cpu,export]'",
        ),
        ({"url": ROOT.as_uri(), "dir_info": {}}, f"pip install '{ROOT}[cpu,export]'"),
        (
            {"url": "file:///gone", "dir_info": {"editable": True}},
            "pip install 'florence-edge[cpu,export]'",
        ),
        ({"url": "file:///gone", "dir_info": {}}, "pip install 'florence-edge[cpu,export]'"),
        (
            {"url": "file:///w/f.whl", "archive_info": {}},
            "pip install 'florence-edge[cpu,export] @ file:///w/f.whl'",
        ),
        (
            {"url": "https://h/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'florence-edge[cpu,export] @ git+https://h/r.git@abc'",
        ),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came(
    monkeypatch: pytest.MonkeyPatch, direct: dict[str, object], command: str
) -> None:
    monkeypatch.setattr(extras, "_direct_url", lambda: direct)
    assert pip_install("cpu", "export") == command


@pytest.mark.parametrize(
    ("direct", "command"),
    [
        ({}, "pip install --upgrade florence-edge"),
        ({"url": "file:///gone", "dir_info": {}}, "pip install --upgrade florence-edge"),
        (
            {"url": "https://h/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install --upgrade 'florence-edge @ git+https://h/r.git'",
        ),
        (
            {"url": "file:///w/f.whl", "archive_info": {}},
            "Install a newer release as this one was installed, from file:///w/f.whl.",
        ),
    ],
)
def test_a_newer_release_comes_from_where_this_one_came(
    monkeypatch: pytest.MonkeyPatch, direct: dict[str, object], command: str
) -> None:
    monkeypatch.setattr(extras, "_direct_url", lambda: direct)
    assert newer_release() == command


@pytest.mark.parametrize("of_git", [True, False])
@pytest.mark.parametrize("editable", [True, False])
def test_a_newer_release_of_a_checkout_is_pulled_and_a_copy_of_it_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, editable: bool, of_git: bool
) -> None:
    folder = tmp_path / "a checkout"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    if of_git:
        (folder / ".git").touch()  # as in a worktree
    info = {"editable": True} if editable else {}
    direct = {"url": folder.as_uri(), "dir_info": info}
    monkeypatch.setattr(extras, "_direct_url", lambda: direct)
    if of_git:
        again = "" if editable else f" && pip install '{folder}'"
        assert newer_release() == f"git -C '{folder}' pull{again}"
    else:
        again = "" if editable else ", and install it again"
        told = f"Put the sources of a newer release in the place of {folder}{again}."
        assert newer_release() == told


def test_a_checkout_that_is_not_installed_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "DISTRIBUTION", "no-such-distribution")
    extras._direct_url.cache_clear()
    try:
        assert pip_install("cpu") == f"pip install -e '{ROOT}[cpu]'"
    finally:
        extras._direct_url.cache_clear()


def _hints() -> Iterator[tuple[Path, ast.Call]]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "pip_install":
                    yield path, node


def test_every_hint_names_extras_that_there_are() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    known = set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE))
    hints = list(_hints())
    assert len(hints) > 25
    for path, call in hints:
        named = {argument.value for argument in call.args if isinstance(argument, ast.Constant)}
        assert len(named) == len(call.args), path
        assert named <= known, path


def test_no_hint_names_an_index_on_its_own() -> None:
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "extras.py":
                assert "florence-edge[" not in path.read_text("utf-8"), path
