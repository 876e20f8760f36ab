"""What a check found: good, doubtful or bad, and the command that fixes it."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from florence_edge.command import printable

State = Literal["ok", "warn", "fail"]

_COLOURS = {"ok": "\033[32m", "warn": "\033[33m", "fail": "\033[31m"}
_PLAIN = "\033[0m"
_DECISIVE = ("bundle", "engines")
_MARGIN = 8  # before the names: "  warn  "
_MIN_WIDTH = 24  # columns for what was found, in the smallest window


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `fix` is a command or, where there is none, what to do.

    It is empty where all is well, and only there.
    """

    check: str
    state: State
    found: str
    fix: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def warn(check: str, found: str, fix: str) -> Finding:
    """It works, but slowly, or not for everything."""
    return Finding(check, "warn", found, fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(check, "fail", found, fix)


def worst(findings: Sequence[Finding]) -> State:
    """The state of all findings together."""
    states = {finding.state for finding in findings}
    return "fail" if "fail" in states else "warn" if "warn" in states else "ok"


def exit_status(findings: Sequence[Finding], *, quick: bool) -> int:
    """1 where a check failed, else 0.

    Of a quick examination only the bundle and its engines count: a service that writes nothing can
    do with a full disk, and heat and little memory pass by themselves.
    """
    counted = [each for each in findings if not quick or each.check in _DECISIVE]
    return 1 if worst(counted) == "fail" else 0


def table(findings: Sequence[Finding], *, width: int = 100, colour: bool = False) -> str:
    """The findings for people: state, check, what was found; below it what fixes it."""
    indent = _MARGIN + max((len(finding.check) for finding in findings), default=0) + 2
    rows = [_row(finding, indent, width, colour) for finding in findings]
    return "\n".join([*rows, "", _summary(findings)])


def _row(finding: Finding, indent: int, width: int, colour: bool) -> str:
    room = max(width - indent, _MIN_WIDTH)
    wrapped = textwrap.wrap(finding.found, room, break_on_hyphens=False)
    lines = [*map(printable, wrapped)] or [""]
    if finding.fix:  # a command stays on one line, to be copied
        lines.append(f"-> {printable(finding.fix)}")
    state = finding.state.ljust(_MARGIN - 2)
    if colour:
        state = f"{_COLOURS[finding.state]}{state}{_PLAIN}"
    head = f"  {state}{finding.check.ljust(indent - _MARGIN)}"
    return ("\n" + " " * indent).join([head + lines[0], *lines[1:]])


def _summary(findings: Sequence[Finding]) -> str:
    counts = {state: sum(finding.state == state for finding in findings) for state in _COLOURS}
    words = [f"{counts['ok']} ok"]
    if counts["warn"]:
        words.append(_plural(counts["warn"], "warning"))
    if counts["fail"]:
        words.append(_plural(counts["fail"], "failure"))
    return "  " + ", ".join(words) + "."


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
