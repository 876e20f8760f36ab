"""Our kernels (kernels.cu), compiled by NVRTC for the GPU at hand.

Copies of the CUDA runtime would do for the caches but for one thing: a copy has fixed addresses in
a CUDA graph, while a new cache row goes one further each step and beams part anywhere.
"""

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.resources import files
from typing import Any, TypeAlias

from .. import contract
from ..errors import BackendError
from .api import CudaCall
from .buffers import DeviceView
from .device import Cuda

PRECISION_BITS = 22  # of the resize weights; Pillow's Resample.c: 32 - 8 - 2

RULES = 4 + contract.TOP_K  # of a search: four numbers and the tokens that end an answer

CONSTANTS = {  # of kernels.cu
    "RULES": RULES,
    "MAX_BEAMS": contract.MAX_BEAMS,
    "TOP_K": contract.TOP_K,
    "PRECISION_BITS": PRECISION_BITS,
}

Argument: TypeAlias = "ctypes._SimpleCData[Any]"
Views: TypeAlias = "Mapping[str, DeviceView]"
Grid: TypeAlias = "tuple[int, int, int]"

_NAMES = ("place_rows", "follow", "advance_beams", "resample")
_WORD = 4  # bytes; kernels.cu moves caches in these
THREADS = 256  # of a block, all along x; MAX_BEAMS * TOP_K or more for advance_beams


class Kernels:
    """The kernels, compiled; they are enqueued on the stream of `cuda`."""

    def __init__(self, cuda: Cuda) -> None:
        call = cuda.call
        self._cuda = cuda
        cubin = compile_kernels(call, cuda.compute_capability)
        with ExitStack() as owned:
            module = call("cuModuleLoadData", cubin)
            owned.callback(call, "cuModuleUnload", module)
            self._functions = {
                name: call("cuModuleGetFunction", module, name.encode()) for name in _NAMES
            }
            self._owned = owned.pop_all()

    def follow(self, caches: DeviceView, fed: Views, rows: int) -> None:
        """Enqueue that each beam takes over its parent's past, of `rows` cache rows at most.

        `caches` is [caches, images * beams, heads, capacity, head_dim]. Of `fed`, "parents"
        [images, beams] is the row of the same image that each continues; rows from "first" [images]
        to before "position" [1] move, all at once, unless "held" [1] is set.
        """
        count, _, heads, capacity, _ = caches.shape
        images, beams = fed["parents"].shape
        words = _row_words(caches)
        views = (caches, *(fed[name] for name in ("parents", "first", "position", "held")))
        arguments: list[Argument] = [
            *(ctypes.c_void_p(view.address) for view in views),
            *map(ctypes.c_int, (images, beams, capacity, words)),
        ]
        self.launch("follow", (rows * words, heads, count * images), arguments)

    def place_rows(
        self, caches: DeviceView, new_rows: Sequence[DeviceView], now: DeviceView
    ) -> None:
        """Enqueue that new rows [rows, heads, 1, head_dim], one array a cache, go to row `now` [1].

        The arrays of `new_rows` lie at equal distances.
        """
        count, rows, heads, capacity, _ = caches.shape
        words = _row_words(caches)
        distance = (new_rows[1].address - new_rows[0].address) // _WORD
        arguments: list[Argument] = [
            *(ctypes.c_void_p(view.address) for view in (caches, new_rows[0], now)),
            *map(ctypes.c_int, (rows * heads, words, capacity, distance)),
        ]
        self.launch("place_rows", (rows * heads * words, count, 1), arguments)

    def advance_beams(
        self,
        scores: Views,
        rules: DeviceView,
        fed: Views,
        following: Views,
        state: Views,
        kept: Views,
    ) -> None:
        """Enqueue the search's step: what the next step of the decoder is fed with.

        `scores` are the decoder's "top_logits" and "top_ids" [images, beams, K] and "log_sum_exp"
        [images, beams]; `fed` and `following` what this step and the next are fed with, by the
        names of `follow` and "token_ids" [images, beams]. `rules`, `state` and `kept` are those of
        `SearchMemory` (backends/device_search.py).
        """
        images, beams, top = scores["top_ids"].shape
        views = (
            *(scores[name] for name in ("top_logits", "top_ids", "log_sum_exp")),
            rules,
            *(fed[name] for name in ("position", "token_ids", "held")),
            *(following[name] for name in ("position", "token_ids", "parents", "first", "held")),
            *(state[name] for name in ("history", "totals", "differ_from")),
            *(kept[name] for name in ("top_logits", "top_ids", "log_sum_exp")),
            *(kept[name] for name in ("tokens", "parents", "held")),
        )
        numbers = (beams, top, state["history"].shape[-1], kept["held"].shape[0])
        arguments: list[Argument] = [
            *(ctypes.c_void_p(view.address) for view in views),
            *map(ctypes.c_int, numbers),
        ]
        self.launch("advance_beams", (images * THREADS, 1, 1), arguments)

    def launch(self, name: str, threads: Grid, arguments: list[Argument]) -> None:
        """Enqueue a kernel with at least this many threads along x, y and z."""
        x, y, z = threads
        blocks = -(-x // THREADS), y, z
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._cuda.call(
            "cuLaunchKernel",
            self._functions[name],
            *blocks,
            *(THREADS, 1, 1),
            0,  # bytes of shared memory
            self._cuda.stream,
            ctypes.addressof(addresses),  # the driver copies the values before it returns
            0,
        )

    def close(self) -> None:
        """Unload the kernels."""
        self._owned.close()


def _row_words(caches: DeviceView) -> int:
    """Words of one row of a cache; head_dim is even, so that halves fill them, too."""
    return caches.shape[-1] * caches.dtype.itemsize // _WORD


def compile_kernels(call: CudaCall, compute_capability: tuple[int, int]) -> bytes:
    """Kernels as a cubin: machine code of this GPU, which no driver has to translate.

    Raises:
        BackendError: NVRTC is missing or does not know the GPU.
    """
    major, minor = compute_capability
    options = [
        f"--gpu-architecture=sm_{major}{minor}",
        *(f"-D{name}={value}" for name, value in CONSTANTS.items()),
    ]
    source = (files(__package__) / "kernels.cu").read_bytes()
    program = call("nvrtcCreateProgram", source, b"kernels.cu", 0, None, None)
    try:
        _compile(call, program, [option.encode() for option in options])
        return _text(call, "nvrtcGetCUBIN", program)
    finally:
        handle = ctypes.c_void_p(program)
        call("nvrtcDestroyProgram", ctypes.addressof(handle))


def _compile(call: CudaCall, program: int, options: list[bytes]) -> None:
    try:
        call("nvrtcCompileProgram", program, len(options), options)
    except BackendError as error:
        log = _text(call, "nvrtcGetProgramLog", program).rstrip(b"\0").decode(errors="replace")
        raise BackendError(
            f"NVRTC cannot compile for this GPU: {log.strip() or error}. Install an NVRTC of the "
            "driver's CUDA generation (nvidia-cuda-nvrtc; on a Jetson it comes with JetPack)."
        ) from error


def _text(call: CudaCall, function: str, program: int) -> bytes:
    """What an nvrtcGet... function writes into bytes that belong to nobody else."""
    text = bytes(call(f"{function}Size", program))
    call(function, program, text)
    return text
