import argparse
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from florence_edge import command
from florence_edge.command import how_it_ended, parsed, plain_usage, printable, run_command
from florence_edge.errors import BackendError, BundleError, ImageError

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


# Too little of something.


def caused(error: Exception, by: BaseException) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9 TiB"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
        caused(ImageError("The picture is damaged: "), MemoryError()),
        caused(BundleError("It cannot be read."), OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
)
def test_too_little_memory_is_one_sentence(error: Exception, capsys: Capture) -> None:
    assert run_command("florence-it", failing(error)) == 1
    assert capsys.readouterr().err == (
        "florence-it: This machine ran out of memory. Close other programs, or ask for less at "
        "once: smaller pictures, a smaller batch, a model of lower precision.\n"
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        caused(BackendError("The engine failed."), RuntimeError("can't start new thread")),
    ],
)
def test_too_few_threads_are_one_sentence(error: Exception, capsys: Capture) -> None:
    assert run_command("florence-it", failing(error)) == 1
    said = capsys.readouterr().err
    assert said.startswith("florence-it: The system refused another thread or process, ")
    assert said.count("\n") == 1


def test_an_error_of_ours_that_names_memory_says_it_itself(capsys: Capture) -> None:
    error = caused(BackendError("No memory for the decoder: 3 GB are needed."), MemoryError())
    assert run_command("florence-it", failing(error)) == 1
    assert capsys.readouterr().err == f"florence-it: {error}\n"


def test_an_output_that_would_block_is_not_taken_for_too_few_threads(capsys: Capture) -> None:
    error = BlockingIOError(errno.EAGAIN, "write could not complete without blocking")
    assert run_command("florence-it", failing(error)) == 1
    assert "without blocking" in capsys.readouterr().err


# Names that a terminal would obey.


def test_what_an_error_quotes_is_made_printable(capsys: Capture) -> None:
    error = BundleError("There is no bundle at a\n\x1b[2Jb.")
    assert run_command("florence-it", failing(error)) == 1
    assert capsys.readouterr().err == "florence-it: There is no bundle at a\\n\\x1b[2Jb.\n"


def test_a_log_is_made_printable_while_a_command_runs(capsys: Capture) -> None:
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        run_command("florence-it", lambda: logging.getLogger("a").warning("%s", "x\n\x1b[2J"))
        assert capsys.readouterr().err == "x\\n\\x1b[2J\n"
        assert not handler.filters
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_record_whose_arguments_do_not_fit_is_left_to_logging() -> None:
    record = logging.LogRecord("theirs", logging.WARNING, "a.py", 1, "%d", ("x",), None)
    assert vars(command)["_make_printable"](record)  # and no error in whoever logs


def test_arguments_that_argparse_quotes_are_made_printable(capsys: Capture) -> None:
    parser = argparse.ArgumentParser(prog="florence-it")
    with pytest.raises(SystemExit):
        parsed(parser, ["--no\x1b[2J\x9b"])
    said = capsys.readouterr().err
    assert "unrecognized arguments: --no\\x1b[2J\\x9b\n" in said
    assert said.startswith("usage: florence-it [-h]\n")


def test_colours_of_argparse_are_taken_off(capsys: Capture) -> None:
    """Python 3.14 has them; they are not to be read as `\\x1b[1;34m`."""
    with plain_usage():
        sys.stderr.write("\x1b[1;34musage: \x1b[0mit\n")
    assert capsys.readouterr().err == "usage: it\n"


# Warnings of Python.


def test_a_warning_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture, capsys: Capture) -> None:
    before = warnings.showwarning

    def run() -> None:
        warnings.warn("Corrupt EXIF data.  Expecting to read 4 bytes.\n ", stacklevel=1)
        warnings.warn("This will go.", DeprecationWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run_command("florence-it", run)
    assert [each.getMessage() for each in caplog.records] == [
        "Corrupt EXIF data. Expecting to read 4 bytes."
    ]
    assert "UserWarning" not in capsys.readouterr().err
    assert warnings.showwarning == before


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_work_as_ctrl_c_does(number: signal.Signals, capsys: Capture) -> None:
    inherited = signal.signal(number, signal.SIG_DFL)  # nohup has SIGHUP ignored
    before = signal.getsignal(number)
    cleaned = []

    def run() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), number)  # once more, in the midst of cleaning up
            time.sleep(0.01)
            cleaned.append(True)

    try:
        assert run_command("florence-it", run) == 128 + number
        assert signal.getsignal(number) == before
    finally:
        signal.signal(number, inherited)
    assert cleaned == [True]
    assert capsys.readouterr().err == "florence-it: stopped.\n"


def test_a_hang_up_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        assert run_command("florence-it", lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_command_runs_in_a_thread_that_may_not_ask_for_signals() -> None:
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(run_command("it", lambda: 3)))
    thread.start()
    thread.join()
    assert statuses == [3]


def test_a_terminal_that_is_gone_is_no_traceback() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        os.close(ours)
        done = process("sys.stderr.flush(); raise KeyboardInterrupt", stderr=terminal)
    assert (done.returncode, done.stdout) == (130, "an answer\n")


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


# Terminals.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r", "a\\nb\\r"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b2J\x7f", "\\x9b2J\\x7f"),
        ("gnp.\u202egnp", "gnp.\\u202egnp"),
        ("a\u2028b", "a\\u2028b"),
        (os.fsdecode(b"a\xff.jpg"), "a\\udcff.jpg"),
        ("Grüße, 東京\t.", "Grüße, 東京\t."),
        (Path("a\nb"), "a\\nb"),
    ],
)
def test_controls_are_made_visible(text: object, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


NOISE = "- MISSING:\tthose params were newly initialized because missing from the checkpoint."


@pytest.mark.parametrize(
    ("status", "errors", "expected"),
    [
        (1, ["Traceback", "ValueError: no.", NOISE], "ended with status 1: ValueError: no."),
        (3, [NOISE, "the last words", ""], "ended with status 3: the last words"),
        (0, [NOISE], "ended with status 0"),
        (-15, ["ValueError: of before", NOISE], "was ended by signal 15 (SIGTERM)"),
        (-9, [NOISE], "was ended by signal 9 (SIGKILL), perhaps for want of memory"),
        (-11, [NOISE], "was ended by signal 11 (SIGSEGV)"),
        (
            -6,
            ["terminate called after throwing 'std::length_error'", "Aborted", NOISE],
            "was ended by signal 6 (SIGABRT): terminate called after throwing 'std::length_error'",
        ),
        (-250, [], "ended with status -250"),
    ],
)
def test_the_end_of_another_process_is_said_with_its_error_alone(
    status: int, errors: list[str], expected: str
) -> None:
    assert how_it_ended(status, errors) == expected
