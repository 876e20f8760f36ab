"""Results check themselves: no clock shows NaN."""

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.results import Round
from florence_edge_benchmarks.timing import STAGES


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
@pytest.mark.parametrize("name", ["seconds", "decoder"])
def test_a_time_that_no_clock_shows_is_refused(name: str, value: float) -> None:
    stages = {**dict.fromkeys(STAGES, 0.0), "decoder": 1.0}
    times = {"seconds": 1.0}
    (times if name == "seconds" else stages)[name] = value
    with pytest.raises(RequestError, match="expected more than 0 of each"):
        Round(stages=stages, tokens=10, **times)
