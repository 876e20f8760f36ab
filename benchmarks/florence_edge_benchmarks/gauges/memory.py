"""Memory of this process, as Linux counts it."""

from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def resident_bytes(status: Path = _STATUS) -> int | None:
    """Memory that is resident now, mapped files included; None where the system does not say."""
    return _field("VmRSS", status)


def peak_bytes(status: Path = _STATUS) -> int | None:
    """The most that was resident since the start, or since `forget_peak`.

    Not `ru_maxrss`, which a child process inherits from its parent.
    """
    return _field("VmHWM", status)


def forget_peak(clear_refs: Path = _CLEAR_REFS) -> bool:
    """Let the peak begin anew at what is resident now; False where the system does not do that."""
    try:
        clear_refs.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True


def _field(name: str, status: Path) -> int | None:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else None  # the file says kB, which are 1,024 bytes
