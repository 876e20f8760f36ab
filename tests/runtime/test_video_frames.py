"""Frames of a source without answers."""

import threading
from pathlib import Path

import pytest
from PIL import Image

from florence_edge import RequestError, SourceNotFoundError, Watching, frames

PICTURES = [Image.new("RGB", (8, 6), (n, n, n)) for n in range(5)]


def test_every_frame_of_what_is_not_live_comes_in_order() -> None:
    found = list(frames(PICTURES))
    assert [frame.index for frame in found] == [0, 1, 2, 3, 4]
    assert [frame.picture() for frame in found] == PICTURES
    assert [frame.dropped for frame in found] == [0] * 5


def test_one_of_so_many_is_given() -> None:
    assert [frame.index for frame in frames(PICTURES, how=Watching(every=2))] == [0, 2, 4]


def test_a_live_source_gives_its_newest() -> None:
    taken = list(frames(PICTURES, how=Watching(live=True)))
    assert taken[-1].picture() is PICTURES[-1]
    assert taken[-1].dropped + len(taken) == len(PICTURES)


@pytest.mark.parametrize("live", [False, True])
def test_frames_end_once_they_are_cancelled(live: bool) -> None:
    cancel = threading.Event()
    cancel.set()
    assert list(frames(PICTURES, cancel=cancel, how=Watching(live=live))) == []


def test_mistakes_are_raised_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        frames(tmp_path / "gone.mp4")
    with pytest.raises(RequestError, match="every is 0"):
        frames(PICTURES, how=Watching(every=0))
