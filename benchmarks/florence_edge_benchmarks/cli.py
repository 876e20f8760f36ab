"""florence-bench: speed, accuracy, energy, servers. A module of `commands` is a subcommand."""

import argparse
import logging
from collections.abc import Sequence

from florence_edge import __version__
from florence_edge.command import parsed, plain, run_command

from .commands import accuracy, all_precisions, energy, report, serve, speed

_COMMANDS = {
    "speed": speed,
    "accuracy": accuracy,
    "energy": energy,
    "serve": serve,
    "all": all_precisions,
    "report": report,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 128 + n when stopped by
        signal n.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("florence_edge_benchmarks").setLevel(logging.INFO)
    request = parsed(_parser(), arguments)
    return run_command(
        "florence-bench",
        lambda: print(plain(_COMMANDS[request.command].run(request)), flush=True),
        explain=lambda error: f"{error}. Check the paths and the room there.",
        stopped="stopped; no result was written.",
    )


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
