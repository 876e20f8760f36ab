"""florence-bench: speed, accuracy and reports. A module of `commands` is a subcommand."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from florence_edge import __version__
from florence_edge.errors import FlorenceEdgeError

from .commands import accuracy, energy, report, speed

_COMMANDS = {"speed": speed, "accuracy": accuracy, "energy": energy, "report": report}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 130 when stopped.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("florence_edge_benchmarks").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as on Ctrl-C
    asked = _parser().parse_args(arguments)
    try:
        print(_COMMANDS[asked.command].run(asked), flush=True)
    except FlorenceEdgeError as error:
        print(f"florence-bench: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has left (| head); files are written by now
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a path that the file system cannot even look up, a full disk
        print(f"florence-bench: {error}. Check the paths.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("florence-bench: stopped; no result was written.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-bench", description="Measure bundles, and show what was measured."
    )
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in _COMMANDS.items():
        command.add_arguments(
            commands.add_parser(name, help=command.HELP, description=command.DESCRIPTION)
        )
    return parser
