from florence_edge_jetson.robots.ros.rate_limited_log import RateLimitedLog


class Log:
    """What was logged, under a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.limited = RateLimitedLog(self.lines.append, clock=lambda: self.now)


def test_what_lasts_is_logged_once() -> None:
    log = Log()
    for second in range(100):
        log.now = float(second)
        log.limited.message("no colour")
    assert log.lines == ["no colour"]


def test_texts_that_differ_are_logged_once_in_ten_seconds_with_a_count() -> None:
    log = Log()
    logged = []
    for frame in range(61):
        log.now = frame / 4
        logged.append(log.limited.message(f"frame {frame}"))
    assert log.lines == ["frame 0", "frame 40 (and 39 other messages since the last one)"]
    assert [frame for frame, written in enumerate(logged) if written] == [0, 40]


def test_what_comes_back_is_logged_again_but_not_at_once() -> None:
    log = Log()
    for second in (0, 1, 2, 11):  # a good frame between any two
        log.now = float(second)
        log.limited.message("cut short")
        log.limited.reset()
    assert log.lines == ["cut short", "cut short (and 2 other messages since the last one)"]
