"""Where transformers runs: the CPU or one GPU, and how time is taken there.

On a GPU a call returns before its work is done. Stages end with a wait; the steps of `generate`,
between which waiting would cost transformers time, are timed on the GPU by events.
"""

from collections.abc import Callable
from typing import Any

from florence_edge.errors import BackendError

from .stages import Call


def torch_cuda(index: int) -> Any:
    """`torch.cuda`, with GPU `index` as the current one.

    Raises:
        BackendError: this torch finds no such GPU.
    """
    import torch

    if not torch.cuda.is_available() or torch.cuda.device_count() <= index:
        raise BackendError(
            f"torch {torch.__version__} finds no GPU number {index}. Install a torch that is built "
            "for this machine's CUDA, or compare with NAME@cpu."
        )
    torch.cuda.set_device(index)
    return torch.cuda


class Steps:
    """Begin and end of every step of an answer, on the host's clock.

    Args:
        clock: the host's.
        cuda: `torch.cuda` where the steps run on a GPU.
    """

    def __init__(self, clock: Callable[[], float], cuda: Any = None) -> None:
        self._clock = clock
        self._cuda = cuda
        self._moments: list[Any] = []
        self._zero, self._zero_event = 0.0, None

    def wait(self) -> None:
        """Until the GPU has done all that it was given."""
        if self._cuda is not None:
            self._cuda.synchronize()

    def start(self) -> None:
        """Forget all steps; both clocks are set to now."""
        self._moments = []
        self.wait()
        if self._cuda is not None:
            self._zero_event = self._event()
        self._zero = self._clock()

    def mark(self, *_: object) -> None:
        """A step begins or, the next time, ends; fit for a hook of torch."""
        self._moments.append(self._clock() if self._cuda is None else self._event())

    def take(self) -> list[Call]:
        """The steps since the start."""
        self.wait()
        moments = self._moments
        if self._cuda is not None:
            zero: Any = self._zero_event
            moments = [self._zero + zero.elapsed_time(each) / 1e3 for each in moments]
        return [
            Call("step", begin, end) for begin, end in zip(moments[::2], moments[1::2], strict=True)
        ]

    def _event(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event
