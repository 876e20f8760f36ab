import io

from florence_edge.cli.progress import Pace, StatusLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rate_and_time_left_are_those_of_what_is_done() -> None:
    times = iter([100.0, 102.0, 104.0, 3704.0])
    pace = Pace(1000, clock=lambda: next(times))
    assert pace.after_one_more() == "1/1000  0.50 images/s  33:18 left"
    assert pace.after_one_more() == "2/1000  0.50 images/s  33:16 left"
    assert pace.after_one_more().endswith("images/s  332:42:09 left")


def test_the_last_one_leaves_nothing() -> None:
    times = iter([0.0, 2.0])
    assert Pace(1, clock=lambda: next(times)).after_one_more() == "1/1  0.50 images/s  0:00 left"


def test_a_clock_that_stands_still_divides_nothing() -> None:
    assert Pace(9, clock=lambda: 5.0).after_one_more() == "1/9"


def test_a_line_replaces_itself_and_is_gone_at_the_end() -> None:
    terminal = Terminal()
    with StatusLine(terminal) as line:
        line.show("one")
        line.show("two")
    assert terminal.getvalue() == "\r\033[Kone\r\033[Ktwo\r\033[K"


def test_a_log_gets_a_line_a_minute() -> None:
    log, now = io.StringIO(), [0.0]
    with StatusLine(log, clock=lambda: now[0]) as line:
        for second in range(0, 200, 7):
            now[0] = second
            line.clear()
            line.show(f"{second}/200")
    assert log.getvalue() == "63/200\n126/200\n189/200\n"


def test_what_is_not_to_be_shown_is_not_written() -> None:
    for stream in (io.StringIO(), Terminal()):
        with StatusLine(stream, shown=False, clock=iter([0.0, 100.0, 200.0]).__next__) as line:
            line.show("one")
        assert stream.getvalue() == ""
