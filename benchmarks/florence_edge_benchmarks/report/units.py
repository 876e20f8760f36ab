"""Numbers as people read them."""

from ..timing import Spread


def duration(seconds: float | None) -> str:
    """`2.31 s`, `412 ms`, `3.4 ms`, `520 µs`."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 0.1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e6:.0f} µs"


def size(count: float | None) -> str:
    """`890 MB`, of 1,000,000 bytes."""
    if count is None:
        return "-"
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"


def rate(per_second: float) -> str:
    """`18.4`; three digits are enough."""
    return f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.3g}"


def share(part: float) -> str:
    """`7.9 %`."""
    return f"{part * 100:.1f} %"


def figure(value: float) -> str:
    """A measure of accuracy, `0.923`."""
    return f"{value:.3f}"


def spread(ratio: Spread) -> str:
    """`1.30 (1.27 to 1.40)`."""
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
