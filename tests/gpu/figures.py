"""The figures of a visit: one JSON file that is written anew with every figure that is known.

    python -m gpu.figures FILE SECTION KEY VALUE     a figure from a shell, VALUE being JSON

What a call had written when it was stopped is then what it brings back.
"""

import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from florence_edge.files import write_whole

FAILED = " failed"  # ends the key of a part that did


class Figures:
    """One section of the file; other sections are left as they are."""

    def __init__(self, path: Path, section: str) -> None:
        self.path = path
        self.section = section
        self.exit_status = 0  # of a program whose parts were attempts

    def put(self, key: str, value: Any) -> None:
        """Note a figure, in place of an earlier one of that name."""
        everything = read(self.path)
        section = everything.setdefault(self.section, {})
        section.pop(f"{key}{FAILED}", None)
        section[key] = value
        write_whole(self.path, json.dumps(everything, indent=1) + "\n")
        sys.stdout.write(f"{self.section}: {key}: {json.dumps(value)}\n")
        sys.stdout.flush()

    @contextmanager
    def attempt(self, key: str) -> Iterator[None]:
        """A part whose failure is noted, and ends nothing but itself."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - of torch, of ONNX Runtime, of ours: all are told
            traceback.print_exc()
            message = (str(error).strip() or "no message").splitlines()[0]
            self.put(f"{key}{FAILED}", f"{type(error).__name__}: {message[:300]}")
            self.exit_status = 1


def read(path: Path) -> dict[str, Any]:
    """All sections; none yet where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def seconds_of(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile."""
    ordered = sorted(seconds)
    p90 = ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))]
    return {
        "p50": round(1e3 * statistics.median(ordered), 4),
        "p90": round(1e3 * p90, 4),
        "count": len(ordered),
    }


if __name__ == "__main__":
    path, section, key, value = sys.argv[1:]
    Figures(Path(path), section).put(key, json.loads(value))
