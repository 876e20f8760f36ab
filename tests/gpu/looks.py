"""Looks: how long the vision encoder takes, on the host and on the GPU.

python -m gpu.looks --figures FILE --work DIR [--device cpu] [--precision fp16]
"""

import sys
from pathlib import Path

from .backends import Opened, traced
from .figures import Figures, milliseconds, seconds_of
from .models import measure_asked

LOOKS = 30
PROFILED = 3


def main() -> int:
    return measure_asked(__doc__, "looks", measure_bundle)


def measure_bundle(
    figures: Figures, name: str, folder: Path, device: str, engine_dir: Path | None = None
) -> None:
    """All figures of a bundle on a device; `engine_dir` has TensorRT's engines for it."""
    with Opened(folder, device, engine_dir) as model:
        figures.put(f"{name}, first look s", round(seconds_of(model.encode), 3))
        looks = [model.take(model.encode)[0] for _ in range(LOOKS)]
        figures.put(f"{name}, look ms", milliseconds([one.seconds for one in looks]))
        host = milliseconds([one.host for one in looks])["p50"]
        figures.put(f"{name}, of that host ms", host)
        with figures.attempt(f"{name}, device"):
            with traced(device) as found:
                for _ in range(PROFILED):
                    model.encode()
            figures.put(f"{name}, device", found.each(PROFILED))


if __name__ == "__main__":
    sys.exit(main())
