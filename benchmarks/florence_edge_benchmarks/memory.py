"""Memory of an NVIDIA GPU that a process takes beyond its CUDA context.

What is free on the whole GPU is compared with before, as CUDA reports it: that counts weights,
caches, workspaces and loaded kernels, and is right where no other process takes memory meanwhile.
Memory of the host is read by `florence_edge_jetson.machine.system`.
"""

from collections.abc import Callable

FreeBytes = Callable[[], int]  # () -> bytes that are free on the GPU


class DeviceMemory:
    """Begins to count when it is made; the first reading opens the context."""

    def __init__(self, free: FreeBytes) -> None:
        self._free = free
        free()
        self._before = free()

    def taken(self) -> int:
        """Bytes that are held now and were not at the beginning."""
        return max(0, self._before - self._free())


def open_device_memory(gpu: int | None, *, by_torch: bool) -> DeviceMemory | None:
    """Before a system is loaded; None for one that does not run on an NVIDIA GPU.

    Args:
        gpu: its number.
        by_torch: ask torch, whose context a system of torch runs in, and not CUDA itself.

    Raises:
        BackendError: there is no CUDA, or no such GPU.
    """
    if gpu is None:
        return None
    return DeviceMemory(_by_torch(gpu) if by_torch else _by_cuda(gpu))


def _by_torch(index: int) -> FreeBytes:
    from .timing import torch_cuda

    cuda = torch_cuda(index)
    return lambda: int(cuda.mem_get_info(index)[0])


def _by_cuda(index: int) -> FreeBytes:
    from florence_edge.cuda.device import open_cuda

    cuda = open_cuda(index)

    def free() -> int:
        cuda.activate()
        return cuda.memory()[0]

    return free
