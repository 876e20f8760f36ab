import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from florence_edge.errors import FlorenceEdgeError, RequestError, SourceError
from florence_edge.video.writer import VideoWriter, open_writer

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
