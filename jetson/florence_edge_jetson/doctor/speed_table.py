"""What `florence-doctor --speed` measured, as a table with the line to use, and as JSON."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from florence_edge.backends.auto import here
from florence_edge.command import printable
from florence_edge.cpu import usable_cores

from .speed import Measured, SpeedReport

_HEAD = (
    "engine",
    "threads",
    "spinning",
    "precision",
    "picture",
    "prompt",
    "token",
    "answer",
    "CPU time",
)


def speed_text(report: SpeedReport, kept: Sequence[Path]) -> str:
    """The table for people; below it what to run, and where that is remembered."""
    several = len({each.candidate.bundle.folder for each in report.measured}) > 1
    head = [*(["bundle"] if several else []), *_HEAD, "times the fastest"]
    rows = [head, *(_row(each, several=several) for each in report.measured)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", *(printable(line) for line in _notes(report, kept))])


def _row(each: Measured, *, several: bool) -> list[str]:
    engine, bundle = each.engine, each.candidate.bundle
    spinning = {None: "-", True: "yes", False: "no"}[engine.spinning]
    precision = engine.precision or bundle.precision
    return [
        *([printable(bundle.folder.name)] if several else []),
        engine.device,
        "-" if engine.threads is None else str(engine.threads),
        spinning,
        f"{precision} (rounds)" if engine.rounds_more else precision,
        *(f"{value * 1000:.1f} ms" for value in (engine.vision, engine.prefill, engine.token)),
        f"{engine.seconds * 1000:.0f} ms",
        f"{engine.processor * 1000:.0f} ms",
        f"{engine.times_fastest:.2f}",
    ]


def _notes(report: SpeedReport, kept: Sequence[Path]) -> list[str]:
    best, first = report.best, report.measured[0]
    notes = [
        f"  Answers of {report.tokens} tokens, {report.rounds} rounds taking turns, the medians. "
        f"Threads that can be used: {usable_cores()}."
    ]
    if best is None:
        notes.append("  Nothing answered that keeps the bundle's precision.")
    else:
        notes.append(f"  Use: {command(best)}")
    if first.engine.rounds_more:
        faster = "If" if best is None else "Faster, if"
        notes.append(f"  {faster} answers may be rounded to bfloat16: {command(first)}")
    notes += [f"  Left out: {reason}" for reason in report.left_out]
    taken = "device='auto' (--device auto) takes it from now on"
    if best is None:
        taken = "Remembered for --device auto --engine-precision bf16"
    return notes + [f"  {taken}: {path}" for path in kept]


def command(each: Measured) -> str:
    """The line that runs what was measured."""
    folder = shlex.quote(str(each.candidate.bundle.folder))
    return f"florence-run {folder} PICTURE --task OD {each.candidate.settings.arguments()}"


def speed_json(report: SpeedReport, kept: Sequence[Path]) -> dict[str, Any]:
    """The same as plain JSON."""
    cores, best = usable_cores(), report.best
    return {
        "tokens": report.tokens,
        "rounds": report.rounds,
        "model": report.measured[0].candidate.bundle.model,
        "here": here(),
        "cores": asdict(cores),
        "engines": [
            {
                "bundle": each.candidate.bundle.folder.name,
                "bundle_precision": each.candidate.bundle.precision,
                **asdict(each.engine),
            }
            for each in report.measured
        ],
        "use": None if best is None else command(best),
        "left_out": list(report.left_out),
        "remembered": [str(path) for path in kept],
    }
