"""What messages tell to do exists: commands and options; whole commands can be parsed.

Extras: tests/runtime/test_extras.py. Remedies are walked in tests/export/test_walked_remedies.py
and tests/runtime/test_cli_remedies.py.
"""

import argparse
import ast
import contextlib
import io
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
COMMANDS = dict(re.findall(r'^(florence-[a-z]+) = "([\w.]+):main"$', PROJECT, re.MULTILINE))
PARTS = {
    "florence-bench": ("speed", "accuracy", "energy", "serve", "all", "report"),
    "florence-label": ("export", "look", "merge"),
}

# The commands that a room's messages may come from: what is named without a command is theirs.
RUNTIME = ("florence-run", "florence-bag", "florence-label", "florence-serve")
ROOMS = {
    "runtime/florence_edge": (*RUNTIME, "florence-export"),  # bundles are told apart by its options
    "export/florence_edge_export": ("florence-export", "florence-build"),
    "calibration/florence_edge_calibration": ("florence-calibrate", "florence-export"),
    "jetson/florence_edge_jetson": ("florence-doctor", "florence-bag", "florence-bench", *RUNTIME),
    "label/florence_edge_label": ("florence-label",),
    "serve/florence_edge_serve": ("florence-serve",),
    "benchmarks/florence_edge_benchmarks": ("florence-bench",),
}
FILLED = "1"  # a path as good as any, and a number
NO_COMMANDS = {
    "florence-edge",
    "florence-community",
    "florence-lock",
    "florence-old",
    "florence-new",
}
# Options of other people's programs, which messages name in full.
OTHERS = {
    "docker run|container": ("--gpus", "--runtime"),
    "venv|virtual environment": ("--system-site-packages",),
    rf"pip|^{FILLED} ": ("--force-reinstall", "--only-binary", "--upgrade"),
    "v4l2-ctl": ("--list-formats-ext",),
    "apt": ("--reinstall",),
    "update-alternatives": ("--set",),
    "ray": ("--head",),
    "rosbags-convert": ("--src", "--dst"),
    "mcap": ("--output",),
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
CHOSEN = {"--precision": "fp32", "--target": "cpu", "--device": "cpu"}

# A command with what goes with it: options, and their values in lower case; places to fill in.
_VALUES = "yolo|fp16|fp32|int8|int4|tensorrt|cpu|portable|auto"
WHOLE = re.compile(
    r"florence-[a-z]+(?: (?:speed|accuracy|energy|serve|all|report|export|look|merge)(?![\w:]))?"
    rf"(?: (?:--[a-z][a-z-]*|(?:{_VALUES})\b|{FILLED}+\b|[A-Z][A-Z_,]+\b))+"
)
Message = tuple[str, str]  # where it stands, and its text; what is filled in is FILLED


def messages() -> Iterator[Message]:
    """The texts of the source: not docstrings, nor single words, which programs are called by."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.parent.name != "miniature":  # programs of whoever trains it
                tree = ast.parse(path.read_text(encoding="utf-8"))
                yield from ((f"{room}|{path.name}", text) for text in _texts(tree) if " " in text)


def _texts(tree: ast.Module) -> Iterator[str]:
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inner.add(id(node.value))  # a docstring
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else _filled(part)
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.replace("%s", FILLED).replace("%d", FILLED)


def _filled(part: ast.expr) -> str:
    """What stands for a place to be filled in; nothing for options that a program knows."""
    return "" if "arguments()" in ast.unparse(part) else FILLED


ALL = list(messages())


class _Parsed(Exception):
    """The arguments were understood."""


@cache
def options_of(command: str) -> frozenset[str]:
    """The options of a command and of its parts, as their help texts have them."""
    names = ((), *((part,) for part in PARTS.get(command, ())))
    return frozenset(option for name in names for option in OPTION.findall(_help(command, *name)))


def _help(command: str, *part: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        import_module(COMMANDS[command]).main([*part, "--help"])
    return printed.getvalue()


def test_commands_in_messages_are_installed() -> None:
    named = {
        (where, name) for where, text in ALL for name in re.findall(r"\bflorence-[a-z]+\b", text)
    }
    unknown = {(where, name) for where, name in named if name not in {*COMMANDS, *NO_COMMANDS}}
    assert unknown == set()
    assert len({name for _, name in named}) >= len(COMMANDS)


def test_options_in_messages_exist() -> None:
    """In the command that the message names, or in those that the message may come from."""
    gone = []
    for where, text in ALL:
        named = [name for name in re.findall(r"\bflorence-[a-z]+\b", text) if name in COMMANDS]
        known = {
            option
            for command in (*named, *ROOMS[where.partition("|")[0]])
            for option in options_of(command)
        }
        known |= {
            option
            for program, options in OTHERS.items()
            if re.search(program, text)
            for option in options
        }
        gone += [(where, option) for option in OPTION.findall(text) if option not in known]
    assert gone == []


def test_the_package_is_installed_by_the_hints_that_know_where_it_came_from() -> None:
    """Not from an index that may have none: florence_edge.extras says how."""
    own = re.compile(r"pip install\b.*\bflorence-edge\b")
    assert own.search("Run: pip install --upgrade 'florence-edge[cpu]'")
    assert [where for where, text in ALL if own.search(text) and "|extras.py" not in where] == []


def whole_commands() -> list[tuple[str, str]]:
    """Commands that are written out, with all that has to be filled in."""
    found = {(where, match[0]) for where, text in ALL for match in WHOLE.finditer(text)}
    filled = re.compile(rf" ([A-Z]|{FILLED}\b)")
    return sorted(
        (where, told)
        for where, told in found
        if told.split()[0] in COMMANDS and filled.search(told)
    )


@pytest.mark.parametrize(("where", "told"), whole_commands())
def test_a_whole_command_is_understood(
    where: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopping(parse: Callable[..., object]) -> Callable[..., None]:
        def parse_and_stop(self: argparse.ArgumentParser, arguments: list[str]) -> None:
            parse(self, arguments)
            raise _Parsed

        return parse_and_stop

    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(parse))
    command, *words = told.split()
    for place, word in enumerate(words[:-1]):
        if word in CHOSEN and set(words[place + 1]) == {FILLED}:
            words[place + 1] = CHOSEN[word]
    with contextlib.suppress(_Parsed):
        status = import_module(COMMANDS[command]).main(words)
        pytest.fail(f"{where}: {told}: {status} {capsys.readouterr().err}")


def test_enough_is_looked_at() -> None:
    assert len(whole_commands()) >= 15
