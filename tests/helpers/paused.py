"""A program that pauses in the midst of its work and says so, to be stopped there by a signal."""

import signal
import subprocess
import sys
from collections.abc import Sequence


def let_hang_ups_count() -> None:
    """For what a test starts: nohup has had them ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start_until_paused(program: str, arguments: Sequence[str]) -> "subprocess.Popen[str]":
    """Run Python source with arguments until it prints "paused"."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=let_hang_ups_count,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "paused\n"
    return process


def stop(process: "subprocess.Popen[str]", by: signal.Signals) -> tuple[int, str]:
    """Send the signal.

    Returns:
        The exit status, and what the program wrote to stderr.
    """
    process.send_signal(by)
    _, error = process.communicate(timeout=60)
    return process.returncode, error
