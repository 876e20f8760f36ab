import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from florence_edge import Florence2, GenerationOptions, RequestError, SourceError, Watching, watch
from florence_edge.image import ImageLike

from .videos import picture, write_stream, write_video

NAN: Any = float("nan")

SHORT = GenerationOptions(num_beams=1, max_new_tokens=8)


def test_every_frame_of_a_file_is_answered_as_the_picture_would_be(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", 5)
    for index, (frame, results, stats) in enumerate(watch(tiny_model, path, "OD", options=SHORT)):
        assert frame.index == index
        assert frame.timestamp == pytest.approx(index / 10)
        assert results == (tiny_model.run(frame.image, "OD", options=SHORT),)
        assert (stats.answered, stats.dropped, stats.reconnects) == (index + 1, 0, 0)
        assert stats.fps > 0
        assert 0 < stats.latency < 60
    assert index == 4


def test_how_much_passed_does_not_depend_on_the_clock_of_the_system(
    tiny_model: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a board without a battery, when the time comes over the network."""
    real, jumps = time.time, iter([0.0, 3600.0, 3600.0, -7200.0])
    monkeypatch.setattr("florence_edge.video.sources.time.time", lambda: real() + next(jumps))

    def camera() -> Iterator[np.ndarray]:
        for number in range(4):
            yield picture(number)
            time.sleep(0.1)

    begin = time.monotonic()
    watched = watch(tiny_model, camera(), "OD", options=SHORT, how=Watching(live=True))
    elapsed = [frame.elapsed for frame, _, _ in watched]
    assert elapsed[0] == 0.0
    assert elapsed == sorted(set(elapsed))
    assert len(elapsed) > 1
    assert elapsed[-1] < time.monotonic() - begin < 60


def test_of_a_file_what_passed_is_its_own_time(tiny_model: Florence2, tmp_path: Path) -> None:
    path = write_stream(tmp_path / "a.ts", 36_000.0, 36_000.1, 36_000.2, 5.0, 5.1)
    frames = [frame for frame, _, _ in watch(tiny_model, path, "OD", options=SHORT)]
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-4)
    assert [frame.elapsed for frame in frames] == [frame.timestamp for frame in frames]


def test_several_tasks_cost_one_encoding(
    tiny_model: Florence2, tmp_path: Path, encoded: list[int]
) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    tasks = ["OD", "CAPTION", "CAPTION_TO_PHRASE_GROUNDING", "REGION_TO_OCR"]
    watched = watch(tiny_model, path, tasks, "a car", region=(1, 2, 30, 40), options=SHORT)
    answers = [[r.task.name for r in results] for _, results, _ in watched]
    assert answers == [tasks] * 2
    assert encoded == [1, 1]


def test_one_frame_of_n_is_answered(tiny_model: Florence2, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 7)
    watched = watch(tiny_model, path, "OD", options=SHORT, how=Watching(every=3))
    assert [frame.index for frame, _, _ in watched] == [0, 3, 6]


def test_a_live_source_drops_what_comes_while_a_frame_is_answered(tiny_model: Florence2) -> None:
    answered = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield picture(0)
        answered.wait(10)  # the first frame is being answered, or the consumer still has it
        for number in range(1, 6):
            yield picture(number)

    watched = watch(tiny_model, camera(), "OD", options=SHORT, how=Watching(live=True))
    first = next(watched)
    before = time.time()
    answered.set()
    time.sleep(0.3)
    second = next(watched)
    assert (first.frame.index, second.frame.index) == (0, 5)
    assert second.stats.dropped == 4
    assert second.stats.latency > 0
    assert before - 60 < second.frame.timestamp < before + 60
    assert list(watched) == []


def test_frames_may_change_their_size(tiny_model: Florence2) -> None:
    frames: list[ImageLike] = [picture(0), picture(1, (96, 64)), Image.new("RGB", (20, 30))]
    sizes = [each.frame.view.size for each in watch(tiny_model, frames, "OD", options=SHORT)]
    assert sizes == [(64, 48), (96, 64), (20, 30)]


def test_setting_the_event_ends_it_within_the_answer_at_hand(tiny_model: Florence2) -> None:
    cancel = threading.Event()
    watched = watch(tiny_model, [picture(n) for n in range(9)], "OD", options=SHORT, cancel=cancel)
    next(watched)
    cancel.set()
    assert list(watched) == []


def test_an_answer_that_the_event_cut_short_is_not_given(
    tiny_model: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = threading.Event()
    answer, calls = tiny_model.answer, []

    def interrupted(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        cancel.set()
        return answer(*arguments, **more)

    monkeypatch.setattr(tiny_model, "answer", interrupted)
    assert list(watch(tiny_model, [picture(0)], "OD", options=SHORT, cancel=cancel)) == []
    assert len(calls) == 1


def test_leaving_it_early_closes_the_source_and_ends_its_threads(tiny_model: Florence2) -> None:
    before = set(threading.enumerate())
    for live in (True, False):
        closed: list[bool] = []

        def camera(closed: list[bool] = closed) -> Iterator[np.ndarray]:
            try:
                for number in range(1000):
                    yield picture(number)
            finally:
                closed.append(True)

        watched = watch(tiny_model, camera(), "OD", options=SHORT, how=Watching(live=live))
        next(watched)
        watched.close()
        assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("task", "values", "error", "message"),
    [
        ("COUNT", {}, RequestError, "There is no task 'COUNT'"),
        ("OD", {"how": Watching(every=0)}, RequestError, "every is 0"),
        ("OD", {"how": Watching(every=NAN)}, RequestError, "every is nan"),
        ("OD", {"how": Watching(patience=NAN)}, RequestError, "patience is nan"),
        ("OD", {"how": Watching(timeout=NAN)}, RequestError, "timeout is nan"),
        ("OD", {"how": Watching(patience=-1)}, RequestError, "patience is -1"),
        ("OD", {"how": Watching(timeout=-1)}, RequestError, "timeout is -1"),
        ("OD", {"options": GenerationOptions(num_beams=99)}, RequestError, "num_beams is 99"),
        (
            ["OD", "CAPTION"],
            {"text": "a car"},
            RequestError,
            "None of <OD>, <CAPTION> takes a text",
        ),
        ([], {}, RequestError, "No task is named"),
        ("OD", {"source": "gone.mp4"}, SourceError, r"There is no file gone\.mp4"),
    ],
)
def test_a_mistake_is_told_before_the_first_frame(
    tiny_model: Florence2, task: Any, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    values = {"source": [picture(0)], "tasks": task, **values}
    with pytest.raises(error, match=message):
        watch(tiny_model, **values)


def send_by_udp(url: str, pictures: int, go_on: threading.Event) -> None:
    """What a network camera sends: a transport stream, 20 frames a second."""
    import av

    with av.open(url, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(stream.encode(frame))
            if go_on.wait(0.05):
                return


def test_a_stream_over_the_network_that_stops_and_comes_back_is_followed(
    tiny_model: Florence2,
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{probe.getsockname()[1]}"
    enough = threading.Event()

    def camera() -> None:
        send_by_udp(url, 40, enough)
        enough.wait(1.5)  # longer than the timeout: the stream is lost
        send_by_udp(url, 400, enough)

    sender = threading.Thread(target=camera)
    sender.start()
    how = Watching(timeout=1.0, patience=60)
    try:
        for frame, results, stats in watch(tiny_model, url, "OD", options=SHORT, how=how):
            assert frame.view.size == (64, 48)
            assert results[0].task.name == "OD"
            if stats.reconnects:
                break
    finally:
        enough.set()
        sender.join()
    assert stats.reconnects >= 1
    assert stats.answered > 1
