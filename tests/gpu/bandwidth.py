"""How fast this GPU copies, and what a launch and a wait cost at the least.

    python -m gpu.bandwidth --figures FILE --work DIR [--device cpu]

A copy within the GPU's memory counts twice, as read and as written. What a decoder's step has to
read, divided by this, is the floor of its time.
"""

import sys

import numpy as np

from florence_edge.cuda.device import Cuda, open_cuda

from .figures import Figures, milliseconds, seconds_of
from .models import arguments

COPIES = 10
ROUNDS = 5
LAUNCHES = 200


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--bytes", type=int, default=2 << 30, help="far beyond any cache")
    told = parser.parse_args()
    figures = Figures(told.figures, "bandwidth")
    with figures.attempt("copy"):
        if told.device == "cpu":
            figures.put("copy GB/s", host_copy())
            return figures.exit_status
        cuda = open_cuda()
        figures.put("compute capability", ".".join(map(str, cuda.compute_capability)))
        figures.put("copy GB/s", device_copy(cuda, told.bytes))
        figures.put("launch and wait ms", launches(cuda))
        cuda.close()
    return figures.exit_status


def device_copy(cuda: Cuda, size: int) -> dict[str, float]:
    """Of several copies in a row, as a profile would be of kernels that only read and write."""
    source, target = (cuda.array((size,), np.uint8) for _ in range(2))
    try:
        cuda.zero(source.view)

        def copies() -> None:
            for _ in range(COPIES):
                cuda.copy(target.view, source.view)
            cuda.synchronize()

        copies()
        rates = [2 * size * COPIES / seconds_of(copies) / 1e9 for _ in range(ROUNDS)]
    finally:
        source.close()
        target.close()
    return {"best": round(max(rates), 1), "worst": round(min(rates), 1)}


def launches(cuda: Cuda) -> dict[str, float]:
    """A graph that clears four bytes, and the wait for it."""
    small = cuda.array((4,), np.uint8)
    graph = cuda.capture(lambda: cuda.zero(small.view))

    def once() -> None:
        cuda.launch(graph)
        cuda.synchronize()

    seconds = [seconds_of(once) for _ in range(LAUNCHES)]
    graph.close()
    small.close()
    return milliseconds(seconds[LAUNCHES // 10 :])


def host_copy() -> dict[str, float]:
    """The same of the host's memory, for trying the program."""
    source = np.zeros(1 << 26, dtype=np.uint8)
    rates = [2 * source.nbytes / seconds_of(source.copy) / 1e9 for _ in range(ROUNDS)]
    return {"best": round(max(rates), 1), "worst": round(min(rates), 1)}


if __name__ == "__main__":
    sys.exit(main())
