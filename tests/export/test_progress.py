import pytest

from florence_edge_export.progress import log_progress


def test_progress_is_told_every_quarter_of_a_minute_with_the_time_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seconds = iter([0.0, 10.0, 20.0, 30.0, 60.0, 70.0])
    caplog.set_level("INFO")
    progress = log_progress("Ranking", "blocks", clock=lambda: next(seconds))
    for done in range(1, 6):
        progress(done * 2, 20 if done < 5 else 10)
    assert caplog.messages == [
        "Ranking: 4 of 20 blocks, about 1 min left",  # 80 seconds
        "Ranking: 8 of 20 blocks, about 2 min left",
        "Ranking: 10 of 10 blocks",
    ]
