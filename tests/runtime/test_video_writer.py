import errno
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from florence_edge.errors import FlorenceEdgeError, RequestError, SourceError
from florence_edge.video.writer import VideoWriter, open_writer

from ..helpers.disk import check_synced_before_it_got_its_name, recorded
from .videos import number_of, picture, read_video


def image(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.fromarray(picture(number, size))


def test_frames_are_written_at_their_times(tmp_path: Path) -> None:
    times = [100.0, 100.25, 101.0, 101.04]
    with open_writer(tmp_path / "a.mp4") as video:
        for number, time in enumerate(times):
            video.write(image(number), time)
    read = read_video(tmp_path / "a.mp4")
    assert [number_of(pixels) for _, pixels in read] == [0, 1, 2, 3]
    assert [time for time, _ in read] == pytest.approx([time - 100 for time in times], abs=2e-3)


def test_times_that_do_not_grow_are_made_to(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.mkv") as video:
        for number, time in enumerate([5.0, 5.0, 4.0]):
            video.write(image(number), time)
    times = [time for time, _ in read_video(tmp_path / "a.mkv")]
    assert len(times) == 3
    assert times == sorted(set(times))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("live", [False, True])
def test_where_the_clock_falls_back_the_frames_stay_evenly_spaced(
    tmp_path: Path, suffix: str, live: bool
) -> None:
    times = [36_000 + n / 10 for n in range(20)] + [5 + n / 10 for n in range(20)]
    with open_writer(tmp_path / f"a{suffix}", live) as video:
        for number, time in enumerate(times):
            video.write(image(number % 10), time)
    read = [time for time, _ in read_video(tmp_path / f"a{suffix}")]
    assert read == pytest.approx([n / 10 for n in range(40)], abs=2e-3)


def test_an_ffmpeg_without_an_encoder_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", {"h264"})
    with (
        pytest.raises(
            FlorenceEdgeError, match=r"a\.mp4 cannot be written: .* no encoder of libx264"
        ),
        open_writer(tmp_path / "a.mp4") as video,
    ):
        video.write(image(0), 0)
    assert [each.name for each in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("OSError(28, 'No space left on device')", "Make room or choose another --save."),
        ("OSError(30, 'Read-only file system')", "Choose another --save."),
        ("MemoryError()", "there is not enough memory. .* Close other programs"),
        ("av.error.ExternalError(1, 'Generic error')", "encoder does not take frames of this size"),
    ],
)
def test_what_to_do_fits_what_happened(tmp_path: Path, error: str, advice: str) -> None:
    import av

    video = VideoWriter(tmp_path / "a.mp4")
    video.write(image(0), 0)

    def fail(_: object) -> None:
        raise eval(error, {"av": av})

    video._stream = SimpleNamespace(width=64, height=48, encode=fail)
    with pytest.raises(FlorenceEdgeError, match=advice):
        video.write(image(1), 1)


def test_a_frame_of_another_size_is_fitted_into_that_of_the_first(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.mp4") as video:
        video.write(image(4), 0)
        video.write(image(11, (200, 20)), 1)
    first, second = (pixels for _, pixels in read_video(tmp_path / "a.mp4"))
    assert first.shape == second.shape == (48, 64, 3)
    assert second[24].mean() > 150  # the wide picture in the middle
    assert second[:16].mean() < 20  # black above it
    assert second[-16:].mean() < 20


def test_odd_sides_are_made_even_without_scaling(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.mp4") as video:
        video.write(image(5, (63, 47)), 0)
    ((_, pixels),) = read_video(tmp_path / "a.mp4")
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[4:40, 4:56].astype(int) - 110).max() < 8


def test_an_old_video_stays_until_the_new_one_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with open_writer(path) as video:
        video.write(image(0), 0)
        assert path.read_text() == "old"
    assert len(read_video(path)) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_what_there_is_is_finished_where_the_source_fails(tmp_path: Path) -> None:
    def lose_the_camera() -> None:
        with open_writer(tmp_path / "a.mp4") as video:
            video.write(image(0), 0)
            raise SourceError("lost")

    with pytest.raises(SourceError, match="lost"):
        lose_the_camera()
    assert len(read_video(tmp_path / "a.mp4")) == 1


def test_without_a_frame_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("old")
    with open_writer(tmp_path / "a.mp4"):
        pass
    assert (tmp_path / "a.mp4").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("at", ["write", "finish"])
def test_a_full_disk_is_one_message_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("old")
    video = VideoWriter(path)
    video.write(image(0), 0)

    class Full:
        def __init__(self, container: Any) -> None:
            self.close = container.close

        def mux(self, packets: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    video._container = Full(video._container)
    with pytest.raises(FlorenceEdgeError, match=r"No space left on device.*is untouched") as raised:
        video.write(image(1), 1) if at == "write" else video.finish()
    assert "\n" not in str(raised.value)
    video.finish()  # once more, as the context manager does
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FlorenceEdgeError, match=r"Cannot write .*gone/a\.mp4: No such file"),
        open_writer(tmp_path / "gone" / "a.mp4") as video,
    ):
        video.write(image(0), 0)


def test_a_name_that_is_no_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a\.png is not the name of a video; expected .* \.mp4"):
        VideoWriter(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_a_killed_process_recorded_of_a_live_source_can_be_played(
    tmp_path: Path, suffix: str
) -> None:
    with open_writer(tmp_path / f"a{suffix}", live=True) as video:
        for number in range(100):
            video.write(image(number % 10), number / 10)
        killed = tmp_path / f"killed{suffix}"
        killed.write_bytes((tmp_path / f".a.unfinished{suffix}").read_bytes())
    assert len(read_video(killed)) > 75  # of 10 a second
    assert len(read_video(tmp_path / f"a{suffix}")) == 100


def test_a_video_is_on_the_disk_before_it_gets_its_name(tmp_path: Path) -> None:
    for live in (False, True):
        with recorded() as events, open_writer(tmp_path / "a.mp4", live) as video:
            video.write(image(0), 0)
        check_synced_before_it_got_its_name(events, tmp_path / "a.mp4")


def test_that_of_a_live_source_is_synced_as_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("florence_edge.files._SYNC_SECONDS", 0.01)
    with recorded() as events, open_writer(tmp_path / "a.mkv", live=True) as video:
        for number in range(30):
            video.write(image(number % 10), number / 10)
        deadline = time.monotonic() + 5
        while not events and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ("sync", str(tmp_path / ".a.unfinished.mkv")) in events


def test_two_cannot_save_to_one_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with open_writer(path) as first:
        first.write(image(3), 0)
        refused = pytest.raises(RequestError, match=r"a\.mp4 is being written by another process")
        with refused, open_writer(path):
            pass
        first.write(image(4), 1)
    assert [number_of(pixels) for _, pixels in read_video(path)] == [3, 4]
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_what_a_killed_process_recorded_is_kept_by_the_next_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.mkv"
    with open_writer(path, live=True) as video:
        for number in range(100):
            video.write(image(number % 10), number / 10)
        left = (tmp_path / ".a.unfinished.mkv").read_bytes()
    for number in (1, 2):
        (tmp_path / ".a.unfinished.mkv").write_bytes(left)
        with open_writer(path, live=True) as video:
            video.write(image(0), 0)
        kept = tmp_path / f"a.unfinished-{number}.mkv"
        assert len(read_video(kept)) > 75
        assert caplog.records[-1].getMessage().endswith(f"what it had is {kept}.")
    (tmp_path / ".a.unfinished.mkv").write_bytes(left[:100])  # nothing that can be played
    with open_writer(path):
        pass
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / ".a.unfinished.mkv").write_bytes(left)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "b.mkv").symlink_to(path)
    with open_writer(tmp_path / "link" / "b.mkv"):  # what was kept stays on its disk
        pass
    assert [each.name for each in (tmp_path / "link").iterdir()] == ["b.mkv"]
    (tmp_path / ".a.unfinished.mkv").write_text(f"ffconcat version 1.0\nfile '{path.name}'\n")
    with open_writer(path):  # a playlist is no recording, and leads to nothing
        pass
    assert not list(tmp_path.glob("a.unfinished-4*"))


def test_what_was_saved_of_a_live_source_is_kept_where_the_disk_fills_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.mkv"
    path.write_text("old")
    refused = pytest.raises(FlorenceEdgeError, match=r"No space left on device.*Make room")
    with refused, open_writer(path, live=True) as video:
        for number in range(100):
            video.write(image(number % 10), number / 10)
        monkeypatch.setattr("florence_edge.video.writer._fitted", full)
        video.write(image(0), 10)
    assert len(read_video(tmp_path / "a.unfinished-1.mkv")) > 75
    assert "what it had is" in caplog.text
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
