"""No circle of files: following imports, TYPE_CHECKING ones included, never leads back.

import-linter holds the layers; it says nothing about files within one layer.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "runtime/florence_edge",
    "export/florence_edge_export",
    "calibration/florence_edge_calibration",
    "benchmarks/florence_edge_benchmarks",
    "jetson/florence_edge_jetson",
    "serve/florence_edge_serve",
    "label/florence_edge_label",
)

Graph = Mapping[str, frozenset[str]]


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    return {module_name(path, package.parent): path for path in sorted(package.rglob("*.py"))}


def imported(path: Path, name: str, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of its own package that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                if whole in known:
                    yield whole
                elif base in known:
                    yield base


def imports_of(package: Path) -> Graph:
    known = modules_of(package)
    return {name: frozenset(imported(path, name, known)) - {name} for name, path in known.items()}


def circles(graph: Graph) -> list[list[str]]:
    """Sets of modules each of which leads to every other (Tarjan), larger than one module."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def shortest_way_round(graph: Graph, members: list[str]) -> str:
    """One circle among the members, as a -> b -> a."""
    ways = [[name] for name in members]
    while ways:
        way = ways.pop(0)
        for other in sorted(graph[way[-1]] & set(members)):
            if other == way[0]:
                return " -> ".join([*way, other])
            if other not in way:
                ways.append([*way, other])
    raise ValueError(f"There is no circle among {members}.")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_leads_back_to_itself(package: str) -> None:
    graph = imports_of(ROOT / package)
    assert len(graph) > 10
    found = [f"{len(members)}: {shortest_way_round(graph, members)}" for members in circles(graph)]
    assert found == []


def test_a_circle_would_be_noticed(tmp_path: Path) -> None:
    """Also one by way of TYPE_CHECKING, of a function, and of the package itself."""
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text("from .a import x\n")
    (package / "a.py").write_text("if TYPE_CHECKING:\n    from .b import y\n")
    (package / "b.py").write_text("def f():\n    from house import c\n")
    (package / "c.py").write_text("from . import a\nimport house.d\n")
    (package / "d.py").write_text("from .. import elsewhere\n")
    graph = imports_of(package)
    (members,) = circles(graph)
    assert members == ["house.a", "house.b", "house.c"]
    assert shortest_way_round(graph, members) == "house.a -> house.b -> house.c -> house.a"
