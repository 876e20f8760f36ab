"""Every command that is installed says its version, whatever optional package is missing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import florence_edge

from ..helpers.optional import HOW_TO_GET

PROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
COMMANDS = dict(re.findall(r'^(florence-[a-z]+) = "([\w.]+:main)"$', PROJECT, re.MULTILINE))


def run(command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command with its arguments, in an interpreter without any optional package."""
    module, _, function = COMMANDS[command].partition(":")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(HOW_TO_GET)}))\n"
        f"sys.argv[:] = {[command, *arguments]}\n"
        f"from {module} import {function}; sys.exit({function}())"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_all_commands_are_known() -> None:
    assert {"florence-run", "florence-export", "florence-build"} <= set(COMMANDS)
    assert len(COMMANDS) == PROJECT.count(':main"')


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_its_version(command: str) -> None:
    done = run(command, "--version")
    assert (done.returncode, done.stdout) == (0, f"florence-edge {florence_edge.__version__}\n"), (
        done.stderr
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_itself(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("florence-export", ("miniature", "--output", "nowhere")),
        ("florence-calibrate", ("nowhere", "nowhere", "--output", "nowhere.json")),
        ("florence-build", ("nowhere",)),
        ("florence-run", ("nowhere", "nowhere.jpg")),
        ("florence-bag", ("nowhere", "nowhere", "nowhere")),
    ],
)
def test_what_is_missing_is_one_line_and_no_traceback(
    command: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(command, *arguments)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert not Path("nowhere").exists()
