"""florence-run --source."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

from florence_edge.cli import video as video_command
from florence_edge.cli.main import main
from florence_edge.results.result import Result
from florence_edge.video.source import Captured, Frames, Source
from florence_edge.video.tracking import Tracker

from ..helpers.paused import let_hang_ups_count
from .videos import picture, read_video, write_video

Run = Callable[..., tuple[int, str, str]]

SHORT = ("--beams", "1", "--max-new-tokens", "8", "--threads", "1")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "in.mp4", 6)


@pytest.fixture
def run(pointing_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(pointing_bundle), *map(str, arguments), *SHORT])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_each_task_about_a_frame_is_a_line_of_json(run: Run, video: Path) -> None:
    status, out, err = run("--source", video, "--task", "OD,CAPTION", "--every", "2", "--json")
    assert status == 0
    seen = lines(out)
    assert [(line["frame"], line["task"]) for line in seen] == [
        (frame, task) for frame in (0, 2, 4) for task in ("<OD>", "<CAPTION>")
    ]
    assert [list(line["stats"]) for line in seen] == [["fps", "latency", "dropped"]] * 6
    assert all(line["stats"]["fps"] > 0 for line in seen)
    assert {line["image"] for line in seen} == {str(video)}
    assert [line["timestamp"] for line in seen[::2]] == pytest.approx([0, 0.2, 0.4])
    assert [line["elapsed"] for line in seen[::2]] == pytest.approx([0, 0.2, 0.4])
    assert {tuple(line["image_size"]) for line in seen} == {(64, 48)}
    assert {line["engine"]["device"] for line in seen} == {"cpu"}
    assert {line["track_ids"] for line in seen} == {None}
    assert err.startswith("florence-run: 3 frames answered, 0 dropped, ")
    assert "a second, latency" in err


def test_a_video_stands_where_pictures_do_and_its_answers_go_to_a_file(
    run: Run, video: Path, tmp_path: Path
) -> None:
    file = tmp_path / "kept" / "answers.jsonl"
    arguments = (video, "--task", "OD,CAPTION", "--every", "3", "--answers", file)
    status, out, _ = run(*arguments)
    assert (status, out) == (0, "")
    origin, *frames = lines(file.read_text("utf-8"))
    assert "florence-run" in origin
    assert [(line["frame"], line["task"]) for line in frames] == [
        (frame, task) for frame in (0, 3) for task in ("<OD>", "<CAPTION>")
    ]
    before = file.read_bytes()
    status, _, err = run(*arguments)
    assert status == 1
    assert "is there already" in err
    assert file.read_bytes() == before


def test_each_task_is_named(run: Run, video: Path) -> None:
    _, out, _ = run(video, "--task", "REGION_PROPOSAL,CAPTION", "--every", "9")
    assert out.startswith("frame 0:\n<REGION_PROPOSAL>:\n")
    assert "\n<CAPTION>:\n" in out


def test_tasks_may_be_given_one_by_one(run: Run, video: Path) -> None:
    _, out, _ = run("--source", video, "--task", "OD", "--task", "OCR", "--every", "9", "--json")
    assert [each["task"] for each in lines(out)] == ["<OD>", "<OCR>"]


def test_without_json_frames_are_described_for_people(run: Run, video: Path) -> None:
    status, out, _ = run("--source", video, "--task", "REGION_PROPOSAL", "--every", "3")
    assert status == 0
    assert out.startswith("frame 0:\n")
    assert "frame 3:\n" in out


def test_a_prompt_of_ones_own_is_asked(run: Run, video: Path) -> None:
    _, out, _ = run("--source", video, "--prompt", "What colour?", "--every", "9", "--json")
    assert list(lines(out)[0]["result"]) == ["What colour?"]


def test_tracks_are_in_the_json(run: Run, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sevens:  # the model of this test points at random, which nothing could follow
        def follow(self, results: Sequence[Result], timestamp: float) -> tuple[Result, ...]:
            return tuple(
                replace(each, regions=tuple(replace(r, track_id=7) for r in each.regions))
                for each in results
            )

    monkeypatch.setattr(Tracker, "open", lambda tasks: Sevens())
    _, out, _ = run("--source", video, "--task", "REGION_PROPOSAL", "--track", "--json")
    answers = lines(out)
    assert all(each["track_ids"] == [7] * len(each["scores"]) for each in answers)
    assert any(each["scores"] for each in answers)


def test_the_answers_are_saved_on_the_frames(run: Run, video: Path, tmp_path: Path) -> None:
    saved = tmp_path / "out.mp4"
    status, out, err = run("--source", video, "--task", "OD,CAPTION", "--save", saved)
    assert (status, out) == (0, "")
    assert err.endswith(f"florence-run: Wrote the video in {saved}.\n")
    plain, drawn = read_video(video), read_video(tmp_path / "out.mp4")
    assert [time for time, _ in drawn] == pytest.approx([time for time, _ in plain], abs=2e-3)
    assert drawn[3][1].shape == plain[3][1].shape
    assert abs(drawn[3][1].astype(int) - plain[3][1]).max() > 50
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_what_is_saved_of_a_camera_is_as_long_as_it_was_whatever_the_clock_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a board without a battery: first 1970, and then the time comes over the network."""
    unix = (10.0, 10.2, 1.8e9, 1.8e9 + 0.2, 1.8e9 - 3600, 1.8e9 - 3600)

    def frames() -> Frames:
        for number, moment in enumerate(unix):
            yield Captured(timestamp=moment, picture=partial(picture, number))
            time.sleep(0.2)

    camera = Source(name="the camera", live=True, endless=False, frames=frames)
    for module in ("cli.video", "video.watch"):
        monkeypatch.setattr(f"florence_edge.{module}.source_of", lambda *_, **__: camera)
    out = tmp_path / "out.mp4"
    begin = time.monotonic()
    status, _, _ = run("--source", "0", "--task", "OD", "--save", out)
    took = time.monotonic() - begin
    times = [time for time, _ in read_video(out)]
    assert status == 0
    assert len(times) >= 3
    assert 0.35 < times[-1] < took
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.15


def test_the_url_of_the_source_is_known_for_it(run: Run, video: Path) -> None:
    before = video.read_bytes()
    status, _, err = run("--source", video.as_uri(), "--task", "OD", "--save", video)
    assert status == 1
    assert "is the source; it will not be replaced" in err
    assert video.read_bytes() == before


def test_secrets_of_a_url_are_not_printed(run: Run, tmp_path: Path) -> None:
    url = "http://me:word1@127.0.0.1:9/a?token=word2&x=1"
    status, out, err = run("--source", url, "--task", "OD", "--save", tmp_path / "a.mp4")
    assert (status, out) == (1, "")
    assert "http://me:***@127.0.0.1:9/a?token=***&x=1 cannot be read: Connection refused" in err
    assert "word" not in err.replace("password", "")


def test_the_source_itself_is_not_written_over(run: Run, video: Path) -> None:
    before = video.read_bytes()
    status, _, err = run("--source", video, "--task", "OD", "--save", video)
    assert status == 1
    assert "is the source; it will not be replaced" in err
    assert video.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "gone.mp4"], "There is no file gone.mp4."),
        (["--source", "55"], "/dev/video55 cannot be read"),
        (["--source", __file__], "It is damaged, or not a video that FFmpeg can read."),
        (["--source", "55", "--save", "out.png"], "out.png is not the name of a video"),
        (["--source", "udp://a", "--camera-fps", "9"], "requested of a camera (a number or"),
        (["--source", "55", "--max-time", "0"], "max_time is 0.0; it must be"),
        (["--source", "55", "--task", "COUNT"], "There is no task 'COUNT'"),
    ],
)
def test_a_mistake_is_one_message(run: Run, arguments: list[str], message: str) -> None:
    status, out, err = run("--task", "OD", *arguments)
    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--task", "OD"],
        ["--source", "0", "picture.jpg", "--task", "OD"],
        ["--source", "0", "--task", "OD", "--every", "0"],
        ["--source", "0", "--task", "OD", "--output", "folder"],
        ["--source", "0", "--task", "OD", "--patience", "-1"],
        ["--source", "0", "--task", "OD", "--patience", "nan"],
        ["picture.jpg", "--task", "OD", "--wait"],
        ["picture.jpg", "--task", "OD", "--camera-fps", "30"],
        ["--source", "0", "--task", "OD", "--camera-size", "1280"],
        ["--source", "0", "--task", "OD", "--answers", "file", "--resume"],
    ],
)
def test_wrong_usage_is_status_two(run: Run, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        run(*arguments)
    assert leaving.value.code == 2


def test_a_window_without_a_display_is_one_message(
    run: Run, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    status, _, err = run("--source", video, "--task", "OD", "--show")
    assert status == 1
    assert "There is no display" in err


def test_a_closed_window_ends_it_and_the_video_is_finished(
    run: Run, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, int]] = []

    def show(image: Any) -> bool:
        shown.append(image.size)
        return len(shown) < 3

    monkeypatch.setattr("florence_edge.cli.video.open_window", lambda: show)
    out = tmp_path / "out.mp4"
    status, _, _ = run("--source", video, "--task", "OD", "--show", "--save", out)
    assert status == 0
    assert shown == [(64, 48)] * 3
    assert len(read_video(out)) == 3


def test_a_window_that_is_closed_while_no_frame_comes_ends_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("florence_edge.cli.video.open_window", lambda: lambda image: False)
    status, _, err = run("--source", "77", "--wait", "--task", "OD", "--show", "--json")
    assert status == 0
    assert "0 frames answered" in err


# As a process of its own.


def started(bundle: Path, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    command = "import sys; from florence_edge.cli.main import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", command, str(bundle), *map(str, arguments), *SHORT],
        **{"stdout": subprocess.PIPE, "preexec_fn": let_hang_ups_count, **options},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)]
)
def test_a_signal_ends_it_cleanly_and_the_video_is_finished(
    tiny_bundle: Path, tmp_path: Path, number: int, status: int
) -> None:
    video, out = write_video(tmp_path / "long.mp4", 3000), tmp_path / "out.mp4"
    out.write_text("old")
    process = started(tiny_bundle, "--source", video, "--task", "OD", "--json", "--save", out)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    assert out.read_text() == "old"
    process.send_signal(number)
    begin = time.monotonic()
    rest = process.stdout.read()  # not by communicate(), which forgets what readline() read ahead
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begin < 15
    assert process.returncode == status
    assert "Traceback" not in err
    assert "frames answered" in err
    answered = 3 + len(rest.splitlines())
    assert len(read_video(out)) == answered < 3000
    assert sorted(each.name for each in tmp_path.iterdir()) == ["long.mp4", "out.mp4"]


def test_a_hang_up_that_comes_as_several_signals_interrupts_nothing() -> None:
    """The kernel, the shell and systemd may each send one, also while the video is finished."""
    several = (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in set(several)}
    try:
        with vars(video_command)["_stopped_by_signals"]() as stop:
            for number in several:
                os.kill(os.getpid(), number)
        for number in several:
            os.kill(os.getpid(), number)
        assert stop.by == signal.SIGHUP
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_under_nohup_a_hang_up_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with vars(video_command)["_stopped_by_signals"]() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.event.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.by == signal.SIGTERM
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits of Unix")
def test_a_file_that_may_not_grow_is_one_message_and_what_was_there_stays(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    video, out = write_video(tmp_path / "in.mp4", 300), tmp_path / "out.mp4"
    out.write_text("old")

    def limit() -> None:  # writing beyond fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    process = started(
        tiny_bundle, "--source", video, "--task", "OD", "--save", out, preexec_fn=limit
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Cannot write" in err
    assert out.read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_without_room_is_one_message(tiny_bundle: Path, video: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = started(tiny_bundle, "--source", video, "--task", "OD", "--json", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Cannot write the answers to the standard output: No space left" in err
    assert "Make room where it goes, or send it elsewhere." in err
    assert "Traceback" not in err


def test_a_command_ends_with_its_status_though_a_thread_hangs() -> None:
    code = """if True:
        import threading, time
        from florence_edge.video import capture
        from florence_edge.video.source import Source
        capture._JOIN_TIMEOUT = 0.1
        def frames():
            time.sleep(60)
            yield
        waiting = capture.Waiting(patience=0.1, cancel=threading.Event())
        source = Source(name="it", live=True, endless=True, frames=frames)
        with capture.Latest(source, every=1, waiting=waiting):
            pass
        print("an answer")
        capture.end_soon_with(7)
        raise SystemExit(7)
    """
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "an answer\n", "")
    assert time.monotonic() - begin < 30


def test_a_command_whose_stream_is_silent_ends_cleanly(tiny_bundle: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{probe.getsockname()[1]}"
    process = started(tiny_bundle, "--source", url, "--patience", "0.5", "--task", "OD")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == (
        f"florence-run: {url} fell silent: no frame for 0.5 s. "
        "Check its cable or its network, then start again.\n"
    )
