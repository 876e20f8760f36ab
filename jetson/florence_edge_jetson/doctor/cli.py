"""florence-doctor: examine this machine, and a bundle, from the command line."""

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from florence_edge import __version__
from florence_edge.bundle import Bundle
from florence_edge.command import finish_output, parsed, run_command
from florence_edge.devices import Device
from florence_edge.errors import RequestError

from ..machine.system import Tree
from .examine import Scope, examine
from .findings import Finding, exit_status, table, worst
from .speed import TOKENS, Limits, keep, measure
from .speed_candidates import candidates
from .speed_table import speed_json, speed_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where a check failed, 2 for wrong usage, 128 + n when stopped by
        signal n.
    """
    parser = _parser()
    given = parsed(parser, arguments)
    if given.quick and given.bundle is None:
        parser.error("--quick is about a bundle: name one")
    if given.speed and given.bundle is None:
        parser.error("--speed measures a bundle: name one")
    if given.also and not given.speed:
        parser.error("--also needs --speed")
    return run_command(
        "florence-doctor",
        lambda: _speed(given) if given.speed else _run(given),
        explain=lambda error: f"{error}. Check the paths and the room there.",
    )


def _run(given: argparse.Namespace) -> int:
    if not given.root.is_dir():
        raise RequestError(f"There is no folder {given.root}.")
    scope = Scope(quick=given.quick, device=Device.parse(given.device))
    findings = examine(Tree(given.root.resolve()), given.bundle, given.engine_dir, scope)
    try:
        print(_json(findings) if given.json else _text(findings), flush=True)
    except BrokenPipeError:  # whoever read our output has left (| head); the status counts
        finish_output()
    return exit_status(findings, quick=given.quick)


def _speed(given: argparse.Namespace) -> int:
    """Measure, remember, and print what was found; 0 unless nothing answered."""
    bundles = [Bundle.load(folder) for folder in (given.bundle, *given.also)]
    for bundle in bundles:
        bundle.check_weights()
    left_out: list[str] = []
    wanted = candidates(bundles, given.engine_dir, left_out)
    limits = Limits(seconds=given.seconds, tokens=TOKENS, engine_dir=given.engine_dir)
    if not given.json:
        print(
            f"Measuring {len(wanted)} ways to run it for {given.seconds:.0f} s, after loading ...",
            file=sys.stderr,
            flush=True,
        )
    report = measure(wanted, limits)
    report = replace(report, left_out=(*left_out, *report.left_out))
    kept: list[Path] = []
    try:
        kept = keep(report, given.engine_dir)
    except (OSError, RequestError) as error:  # what was measured is worth printing all the same
        print(f"florence-doctor: This was not remembered: {error}", file=sys.stderr)
    text = (
        json.dumps({"florence_edge": __version__, "speed": speed_json(report, kept)}, indent=1)
        if given.json
        else speed_text(report, kept)
    )
    try:
        print(text, flush=True)
    except BrokenPipeError:
        finish_output()
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; expected 1 to 3600 seconds")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-doctor",
        description="Is this machine ready for florence-edge, and what fixes it. Only reads, but "
        "for --speed, which remembers the fastest engine for device='auto'.",
    )
    parser.add_argument("bundle", type=Path, nargs="?", help="folder that florence-export wrote")
    parser.add_argument(
        "--engine-dir", type=Path, metavar="DIR", help="where florence-build put TensorRT engines"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="no hashing of weights, no self-test; only bundle and engines decide the exit status",
    )
    parser.add_argument(
        "--device", default="cpu", help="with tensorrt, engines that do not fit are a failure"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--speed",
        action="store_true",
        help="let every installed engine answer in turn, and remember the fastest",
    )
    parser.add_argument(
        "--also",
        type=Path,
        metavar="BUNDLE",
        action="append",
        default=[],
        help="with --speed, another bundle of the same checkpoint; may be given again",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="with --speed, how long to measure beside the loading (default 60)",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="files of a recorded machine"
    )
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    return parser


def _text(findings: Sequence[Finding]) -> str:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size((100, 24)).columns
    return f"florence-edge {__version__}\n\n" + table(findings, width=width, colour=colour)


def _json(findings: Sequence[Finding]) -> str:
    content = {
        "florence_edge": __version__,
        "state": worst(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(content, indent=1)  # in ASCII: no controls of a terminal in names
