"""How every command ends: with an exit status, and where something failed with one line."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from .errors import FlorenceEdgeError


def run_command(
    name: str,
    run: Callable[[], int | None],
    *,
    explain: Callable[[OSError], str] = str,
    stopped: str = "stopped.",
) -> int:
    """Run a command; what ends it early is one line on the standard error, never a traceback.

    Args:
        name: the command, in front of every line.
        run: the work; gives the exit status, None for 0.
        explain: says what to do about a full disk, or a path that cannot even be looked up.
        stopped: what to say on Ctrl-C.

    Returns:
        The exit status: that of `run`, 1 where something failed, 130 on Ctrl-C.
    """
    try:
        return run() or 0
    except FlorenceEdgeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: {stopped}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has left (| head)
        finish_output()
        return 1
    except OSError as error:
        print(f"{name}: {explain(error)}", file=sys.stderr)
        finish_output()
        return 1


def finish_output() -> None:
    """Write what is left of the output, or send it nowhere: Python would fail at its exit."""
    if sys.stdout is None:  # closed from the start (>&-)
        return
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
