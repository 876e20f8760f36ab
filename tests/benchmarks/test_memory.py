import sys
from pathlib import Path

import numpy as np
import pytest

from florence_edge_benchmarks.gauges.memory import forget_peak, peak_bytes, resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it in /proc")


def test_sizes_are_read_in_units_of_1024(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n")
    assert (peak_bytes(status), resident_bytes(status)) == (2048 * 1024, 1024 * 1024)


def test_a_system_that_does_not_say_gives_none(tmp_path: Path) -> None:
    assert peak_bytes(tmp_path / "nothing") is None
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert resident_bytes(tmp_path / "status") is None
    assert not forget_peak(tmp_path / "missing" / "clear_refs")


def test_the_peak_sees_what_was_freed_and_can_begin_anew() -> None:
    before = peak_bytes()
    block = np.ones(40_000_000, dtype=np.uint8)
    size = block.nbytes
    del block
    after, now = peak_bytes(), resident_bytes()
    assert before is not None
    assert after is not None
    assert now is not None
    assert after >= now + size // 2
    if not forget_peak():
        pytest.skip("this system does not let a peak begin anew")
    forgotten = peak_bytes()
    assert forgotten is not None
    assert forgotten < after
