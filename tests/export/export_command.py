"""florence-export as a process of its own: run, stopped on the way, and what it says."""

import os
import re
import subprocess
import sys
from typing import Any

RUN = "import sys; from florence_edge_export.cli import main; sys.exit(main())"

# Stops inside a function of a module, and says so.
PAUSED = """
import importlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
module = importlib.import_module({module!r})
real = getattr(module, {point!r})

def paused(*args, **kwargs):
    result = real(*args, **kwargs)
    print("paused", flush=True)
    time.sleep(60)
    return result

module.{point} = paused
from florence_edge_export.cli import main
sys.exit(main())
"""


def run_export(
    *arguments: str, code: str = RUN, environment: dict[str, str] | None = None, **options: Any
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(sys.path)},
        **options,
    )


def assert_one_message(found: "subprocess.CompletedProcess[str]", message: str) -> None:
    assert found.returncode == 1, found.stderr
    assert "Traceback" not in found.stderr
    lines = [line for line in found.stderr.splitlines() if line.startswith("florence-export: ")]
    assert len(lines) == 1, found.stderr
    assert re.search(message, lines[0]), lines[0]
    assert found.stderr.rstrip().endswith(lines[0])
