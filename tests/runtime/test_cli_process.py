"""florence-run as a process of its own: signals, full disks, odd names, a reader that leaves."""

import io
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ..helpers.paused import let_hang_ups_count
from .command_line import lines


def process(
    bundle: Path, *arguments: str | Path | bytes, **options: Any
) -> subprocess.CompletedProcess[str]:
    command = "import sys; from florence_edge.cli.main import main; sys.exit(main())"
    short = ("--max-new-tokens", "5", "--threads", "1")
    ending = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    done = subprocess.run(
        [sys.executable, "-c", command, str(bundle), *arguments, *short],
        check=False,
        text=True,
        **ending,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


def test_the_command_answers(tiny_bundle: Path, photo: Path) -> None:
    done = process(tiny_bundle, photo, "--task", "OD", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout)[0]["task"] == "<OD>"


def test_a_reader_that_leaves_ends_the_command_quietly(tiny_bundle: Path, photos: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = process(tiny_bundle, photos, "--task", "OD", stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full of Linux")
def test_a_full_disk_behind_the_output_is_one_message(tiny_bundle: Path, photos: Path) -> None:
    with open("/dev/full", "w") as full:
        done = process(tiny_bundle, photos, "--task", "OD", stdout=full)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_full_disk_leaves_the_picture_that_was_there(
    tiny_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert process(tiny_bundle, photo, "--task", "OD", "--output", output).returncode == 0
    (picture,) = output.iterdir()
    before = picture.read_bytes()

    def limit() -> None:  # writing beyond fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    assert len(before) > 500
    done = process(tiny_bundle, photo, "--task", "OD", "--output", output, preexec_fn=limit)
    assert done.returncode == 1
    assert f"Cannot write {picture}" in done.stderr
    assert [path.name for path in output.iterdir()] == [picture.name]
    assert picture.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_one_line_and_leaves_nothing_unfinished(
    tiny_bundle: Path, photo: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    program = f"""
import os, sys, time
from PIL import Image
def save(picture, file):
    file.write_bytes(b"half")
    os.kill(os.getpid(), {int(number)})
    time.sleep(5)
Image.Image.save = save
from florence_edge.cli.main import main
sys.exit(main())
"""
    asked = ("--task", "OD", "--max-new-tokens", "5", "--output", str(output))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_bundle), str(photo), *asked],
        check=False,
        text=True,
        capture_output=True,
        preexec_fn=let_hang_ups_count,
    )
    assert (done.returncode, done.stderr) == (128 + number, "florence-run: stopped.\n")
    assert not list(output.iterdir())


def test_names_do_not_steer_the_terminal(tiny_bundle: Path, photos: Path) -> None:
    odd = photos / "a\n\x1b[2J\x9b.png"
    odd.write_bytes((photos / "b.PNG").read_bytes())
    broken = photos / "b\n\x1b[31m.png"
    broken.write_text("no picture")
    for shown in ((), ("--json",)):
        done = process(tiny_bundle, photos, "--task", "OD", *shown)
        assert done.returncode == 1
        for text in (done.stdout, done.stderr):
            assert not set(text) & {"\x1b", "\x9b"}
        assert "a\\n\\u001b" in done.stdout if shown else "a\\n\\x1b[2J\\x9b.png:" in done.stdout
        assert "b\\n\\x1b[31m.png" in done.stderr
    done = process(tiny_bundle, photos, "--task", "OD", "--x\x1b[2J")
    assert done.returncode == 2
    assert "unrecognized arguments: --x\\x1b[2J" in done.stderr


def test_a_damaged_exif_is_one_line_and_no_python(tiny_bundle: Path, photo: Path) -> None:
    file = io.BytesIO()
    Image.open(photo).convert("RGB").save(
        file, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"
    )
    odd = photo.with_name("odd.jpg")
    odd.write_bytes(file.getvalue())
    done = process(tiny_bundle, odd, "--task", "OD")
    assert done.returncode == 0
    assert "Warning" not in done.stderr
    assert done.stderr.count("\n") <= 1


def test_names_and_texts_in_no_encoding_are_no_stumbling_block(
    tiny_bundle: Path, photos: Path
) -> None:
    odd = os.fsencode(photos) + b"/caf\xe9 \xf0\x9f\xa6\x9c.png"
    Path(os.fsdecode(odd)).write_bytes((photos / "b.PNG").read_bytes())
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    task = ("--task", "OPEN_VOCABULARY_DETECTION", "--text", b"caf\xe9")
    done = process(tiny_bundle, photos, odd, *task, env=ascii_only)
    left_out = f"florence-run: {photos}: 1 file that is not a picture left out.\n"
    assert (done.returncode, done.stderr) == (0, left_out)
    assert "\\udce9" in done.stdout
    done = process(tiny_bundle, odd, b"gone-\xe9.png", *task, "--json", env=ascii_only)
    assert done.returncode == 1
    assert lines(done.stdout)[0]["text_input"] == "caf\udce9"
    assert "There is no file gone-\\udce9.png" in done.stderr
