"""florence-bag as a command."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge import Result
from florence_edge_jetson.robots.bag.answer import ANSWERS
from florence_edge_jetson.robots.bag.cli import main

from ..helpers.manifests import edit_manifest
from ..helpers.paused import let_hang_ups_count
from .recorded_bags import FRAMES, TOPIC, damaged, png, record, recorded_messages
from .scripted_model import FIND_DEFECTS


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    short = ("--max-new-tokens", "8", "--beams", "1", "--threads", "1")
    status = main([*map(str, arguments), *short])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_answers_a_recording(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = record(tmp_path / "in"), tmp_path / "new" / "out"
    asked = ("--topic", TOPIC, "--task", "<CAPTION>", "--bundle", tiny_bundle, "--every", "2")
    status, out, err = run(capsys, source, target, *asked)
    assert (status, err) == (0, "")
    assert out == f"{target}: 2 frames of {TOPIC} answered.\n"
    assert len(recorded_messages(target)[ANSWERS]) == 2


def test_the_command_knows_a_bundles_own_tasks(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    edit_manifest(bundle, lambda manifest: manifest.update(tasks=[FIND_DEFECTS]))
    asked = ("--topic", TOPIC, "--bundle", bundle, "--every", "4", "--task")
    source, target = record(tmp_path / "in"), tmp_path / "out"
    assert run(capsys, source, target, *asked, "OD,find_defects")[0] == 0
    [answer] = recorded_messages(target)["/florence_edge/find_defects/answers"]
    assert json.loads(answer.message.data)["task"] == "<FIND_DEFECTS>"
    # A mistake is found before the recording is opened.
    status, _, err = run(capsys, tmp_path / "none", tmp_path / "other", *asked, "find_cracks")
    assert status == 1
    assert "There is no task 'find_cracks'" in err
    assert "FIND_DEFECTS" in err


def test_an_answer_of_the_command_takes_no_longer_than_max_time(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--topic", TOPIC, "--task", "OD", "--bundle", tiny_bundle, "--max-time", "1e-9")
    assert run(capsys, record(tmp_path / "in"), tmp_path / "out", *asked)[0] == 0
    spoken = [
        json.loads(each.message.data) for each in recorded_messages(tmp_path / "out")[ANSWERS]
    ]
    assert {each["status"] for each in spoken} == {"truncated"}


def test_answers_are_cleaned_on_request(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Result, "clean", lambda self: replace(self, raw_text="cleaned"))
    source = record(tmp_path / "in")
    asked = ("--topic", TOPIC, "--task", "OD", "--bundle", tiny_bundle, "--every", "4")
    for name, more, cleaned in (("as-it-is", (), False), ("clean", ("--clean",), True)):
        assert run(capsys, source, tmp_path / name, *asked, *more)[0] == 0
        [answer] = recorded_messages(tmp_path / name)[ANSWERS]
        assert (json.loads(answer.message.data)["raw_text"] == "cleaned") == cleaned


def test_the_command_names_damaged_frames_and_is_no_success(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = record(tmp_path / "in", make=png, change=damaged)
    asked = ("--topic", TOPIC, "--task", "OD", "--bundle", tiny_bundle)
    status, out, err = run(capsys, source, tmp_path / "out", *asked)
    assert status == 1
    assert out == f"{tmp_path / 'out'}: 2 frames of {TOPIC} answered.\n"
    first, second, last = err.splitlines()
    assert first.startswith("florence-bag: A frame of /camera/image with the format 'png' cannot")
    assert second.startswith("florence-bag: A frame of /camera/image")
    assert last == "florence-bag: 2 of 4 frames failed."


def test_the_command_says_what_is_wrong_in_one_line(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = record(tmp_path / "in")
    task = ("--topic", TOPIC, "--task", "OD", "--bundle")
    for arguments, message in [
        ((source, tmp_path / "out", *task, tmp_path / "none"), "There is no bundle at"),
        ((source, tmp_path / "out", *task, tiny_bundle, "--device", "tpu"), "no device 'tpu'"),
        ((source, source, *task, tiny_bundle), "is where the frames come from"),
    ]:
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (1, "")
        assert err.startswith("florence-bag: ")
        assert err.count("\n") == 1
        assert message in err


def test_wrong_usage_is_status_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["in", "out"],
        ["in", "out", "--topic", "/a", "--task", "OD", "--every", "x"],
    ):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 2
    assert "usage: florence-bag" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing_behind(
    tiny_bundle: Path, tmp_path: Path, kind: signal.Signals
) -> None:
    source = record(tmp_path / "in", FRAMES * 500)
    # Where the tests are a background job they ignore Ctrl-C, as would whatever they start.
    command = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from florence_edge_jetson.robots.bag.cli import main; sys.exit(main())"
    )
    asked = ("--topic", TOPIC, "--task", "OD", "--bundle", tiny_bundle, "--threads", "1")
    target = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", command, source, target, *asked],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=let_hang_ups_count,
    ) as process:
        deadline = time.monotonic() + 30
        while (
            not list(tmp_path.glob(".out.florence-new/out/out.db3")) and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        process.send_signal(kind)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (
        128 + kind,
        "",
        "florence-bag: stopped; nothing was written.\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
