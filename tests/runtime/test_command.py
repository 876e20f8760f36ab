import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from florence_edge.command import run_command
from florence_edge.errors import BundleError, ImageError

Capture = pytest.CaptureFixture[str]


def failing(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(("given", "status"), [(None, 0), (0, 0), (1, 1), (7, 7)])
def test_the_status_is_that_of_the_work(given: int | None, status: int, capsys: Capture) -> None:
    assert run_command("florence-it", lambda: given) == status
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [BundleError("It is gone."), ImageError("It is gone.")])
def test_an_error_of_ours_is_one_line_with_the_command(error: Exception, capsys: Capture) -> None:
    assert run_command("florence-it", failing(error)) == 1
    assert capsys.readouterr() == ("", "florence-it: It is gone.\n")


def test_what_the_system_refuses_is_told_in_the_words_of_the_command(capsys: Capture) -> None:
    refused = failing(PermissionError(13, "Permission denied", "a"))
    assert run_command("florence-it", refused) == 1
    assert capsys.readouterr().err == "florence-it: [Errno 13] Permission denied: 'a'\n"
    assert run_command("florence-it", refused, explain=lambda error: f"no {error.filename}") == 1
    assert capsys.readouterr().err == "florence-it: no a\n"


def test_ctrl_c_is_status_130_and_says_what_became_of_the_work(capsys: Capture) -> None:
    assert run_command("florence-it", failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "florence-it: stopped.\n"
    run_command("florence-it", failing(KeyboardInterrupt()), stopped="stopped; all is lost.")
    assert capsys.readouterr().err == "florence-it: stopped; all is lost.\n"


@pytest.mark.parametrize("error", [TypeError("a bug"), SystemExit(2)], ids=["bug", "usage"])
def test_bugs_and_wrong_usage_are_not_hidden(error: BaseException) -> None:
    with pytest.raises(type(error)):
        run_command("florence-it", failing(error))


# As a process of its own, whose output goes somewhere odd.


def process(body: str, **options: Any) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys\nfrom florence_edge.command import run_command\n"
        f"def run():\n    print('an answer')\n    {body}\n"
        "sys.exit(run_command('florence-it', run))"
    )
    ending = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-c", program], check=False, text=True, **ending)


def test_what_was_printed_before_an_error_is_not_lost() -> None:
    done = process("raise OSError(5, 'Broken')")
    assert (done.returncode, done.stdout) == (1, "an answer\n")
    assert done.stderr == "florence-it: [Errno 5] Broken\n"


def test_a_reader_that_leaves_ends_a_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = process("sys.stdout.flush()", stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full of Linux")
def test_an_output_without_room_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = process("sys.stdout.flush()", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "florence-it: [Errno 28] No space left on device\n"


def test_a_command_without_an_output_tells_its_errors_all_the_same() -> None:
    done = process("raise OSError(5, 'Broken')", stdout=None, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (1, "florence-it: [Errno 5] Broken\n")
