import builtins
from typing import Any

import numpy as np
import pytest

from florence_edge.errors import MissingPackageError
from florence_edge.regions import Region
from florence_edge.results.result import Result
from florence_edge.tasks import find_task
from florence_edge.video.tracking import Tracker

SIZE = (640, 480)


def result(*boxes: tuple[float, float, float, float], task: str = "OD") -> Result:
    regions = tuple(
        Region(label=f"thing {n}", shape="box", rings=(box,), score=0.2)
        for n, box in enumerate(boxes)
    )
    return Result(
        task=find_task(task),
        raw_text="",
        token_ids=(),
        token_log_probs=(),
        status="ok",
        image_size=SIZE,
        text="",
        regions=regions,
        score=0.5,
    )


def at(x: float, y: float = 100) -> tuple[float, float, float, float]:
    return x, y, x + 80, y + 60


@pytest.fixture
def tracker() -> Tracker:
    pytest.importorskip("trackers")
    return Tracker.open(1)


def follow(tracker: Tracker, seconds: float, *boxes: Any) -> list[int | None]:
    (followed,) = tracker.follow([result(*boxes)], seconds)
    assert [region.box for region in followed.regions] == list(boxes)
    return [region.track_id for region in followed.regions]


def test_objects_keep_their_numbers_while_they_move_and_change_places(tracker: Tracker) -> None:
    assert follow(tracker, 0.0, at(0), at(300)) == [None, None]
    one, other = follow(tracker, 0.1, at(10), at(290))
    assert one is not None
    assert other is not None
    assert one != other
    assert follow(tracker, 0.2, at(280), at(20)) == [other, one]
    assert follow(tracker, 0.3, at(30), at(270)) == [one, other]


def test_an_object_that_was_hidden_for_a_moment_has_its_number_again(tracker: Tracker) -> None:
    for n in range(5):
        (number,) = follow(tracker, n / 10, at(100))
    assert follow(tracker, 0.5) == []
    assert follow(tracker, 0.6) == []
    assert follow(tracker, 0.7, at(102)) == [number]


def test_an_object_that_comes_later_has_a_number_of_its_own(tracker: Tracker) -> None:
    for n in range(3):
        (number,) = follow(tracker, n / 10, at(100))
    follow(tracker, 0.3, at(100), at(400))
    again, new = follow(tracker, 0.4, at(100), at(400))
    assert again == number
    assert new not in (None, number)


@pytest.mark.parametrize("back", [0.0, 0.5, 0.9, 1.1, -36_000.0])
def test_numbers_go_on_where_the_clock_falls_back(tracker: Tracker, back: float) -> None:
    for n in range(12):
        (number,) = follow(tracker, n / 10, at(100 + n))
    again = [follow(tracker, back + n / 10, at(112 + n)) for n in range(20)]
    assert again == [[number]] * 20


def test_each_task_is_followed_by_itself() -> None:
    pytest.importorskip("trackers")
    tracker = Tracker.open(2)
    for n in range(2):
        both = [result(at(0)), result(at(0), at(300), task="REGION_PROPOSAL")]
        one, other = tracker.follow(both, n / 10)
    assert [region.track_id for region in one.regions] == [0]
    assert sorted(np.array([region.track_id for region in other.regions])) == [0, 1]


def test_answers_without_regions_pass(tracker: Tracker) -> None:
    assert follow(tracker, 0.0) == []
    assert follow(tracker, 0.1) == []


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "trackers":
            raise ImportError("No module named 'trackers'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[tracking\]'"):
        Tracker.open(1)
