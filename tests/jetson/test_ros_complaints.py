from florence_edge_jetson.ros.complaints import Complaints


class Log:
    """What was said, under a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.complaints = Complaints(self.said.append, clock=lambda: self.now)


def test_what_lasts_is_said_once() -> None:
    log = Log()
    for second in range(100):
        log.now = float(second)
        log.complaints.about("no colour")
    assert log.said == ["no colour"]


def test_texts_that_differ_are_said_once_in_ten_seconds_with_a_count() -> None:
    log = Log()
    told = []
    for frame in range(61):
        log.now = frame / 4
        told.append(log.complaints.about(f"frame {frame}"))
    assert log.said == ["frame 0", "frame 40 (and 39 other complaints since the last one)"]
    assert [frame for frame, said in enumerate(told) if said] == [0, 40]


def test_what_comes_back_is_news_but_not_at_once() -> None:
    log = Log()
    for second in (0, 1, 2, 11):  # a good frame between any two
        log.now = float(second)
        log.complaints.about("cut short")
        log.complaints.settled()
    assert log.said == ["cut short", "cut short (and 2 other complaints since the last one)"]
