"""florence-doctor: examine this machine, and a bundle, from the command line."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from florence_edge import __version__
from florence_edge.command import finish_output, parsed, run_command
from florence_edge.devices import Device
from florence_edge.errors import RequestError

from ..machine.system import Tree
from .examine import Scope, examine
from .findings import Finding, exit_status, table, worst


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
    return run_command(
        "florence-doctor",
        lambda: _run(given),
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-doctor",
        description="Is this machine ready for florence-edge, and what fixes it. Only reads.",
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
