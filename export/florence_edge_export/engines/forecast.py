"""How much memory building an engine will take, before it is begun: for boards with 8 GB.

An estimate, in four parts: TensorRT and its CUDA context; the weights, three times at the worst
(as parsed, on the device to try kernels with, in the finished plan); the values between layers; and
the workspace. On a Jetson all of it comes out of one memory. The builder's record says what the
process really took (`peak_mb`), so that the estimate can be checked.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from florence_edge import contract
from florence_edge.contract import ModelSize
from florence_edge.engines.profiles import EngineOptions, Profile
from florence_edge.errors import BackendError

LIBRARIES_MB = 900  # an estimate: libnvinfer and its kernels mapped in, and a CUDA context
COPIES_OF_WEIGHTS = 3
LIVE_TENSORS = 4  # of the largest size at once: residual, normalized, hidden before and after GELU

MAKE_ROOM = (
    "Close other programs and the desktop, add swap on an NVMe, or give a smaller --workspace, "
    "--batch or --max-new-tokens; then run florence-build again."
)

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What building one graph is expected to take, in megabytes."""

    graph: str
    weights_mb: int
    activations_mb: int
    workspace_mb: int

    @property
    def total_mb(self) -> int:
        """All of it, at the worst moment."""
        weights = COPIES_OF_WEIGHTS * self.weights_mb
        return LIBRARIES_MB + weights + self.activations_mb + self.workspace_mb

    def __str__(self) -> str:
        return (
            f"{self.graph}: about {self.total_mb} MB (weights {COPIES_OF_WEIGHTS} x "
            f"{self.weights_mb}, activations {self.activations_mb}, workspace "
            f"{self.workspace_mb}, libraries {LIBRARIES_MB})"
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """What the machine has left, in megabytes."""

    available_mb: int
    swap_mb: int


def forecast(
    graph: str, onnx: Path, size: ModelSize, profiles: tuple[Profile, ...], options: EngineOptions
) -> Forecast:
    """Estimate the build of `graph` for its profiles."""
    most = max(_largest_tensor(graph, size, profile) for profile in profiles)
    return Forecast(
        graph=graph,
        weights_mb=external_bytes(onnx) >> 20,
        activations_mb=most * LIVE_TENSORS >> 20,
        workspace_mb=options.workspace_mb,
    )


def check_room(needed: Forecast, memory: Memory | None) -> str | None:
    """Whether there is room: None, or a warning where swap will be needed.

    Raises:
        BackendError: not even with all of the free swap.
    """
    if memory is None or needed.total_mb <= memory.available_mb:
        return None
    if needed.total_mb <= memory.available_mb + memory.swap_mb:
        return (
            f"{needed}, but {memory.available_mb} MB are available: it will swap and be slow. "
            f"{MAKE_ROOM}"
        )
    raise BackendError(
        f"{needed}, but {memory.available_mb} MB are available and {memory.swap_mb} MB of swap. "
        f"{MAKE_ROOM}"
    )


def available_memory(path: Path = _MEMINFO) -> Memory | None:
    """What Linux says is available without swapping, and the free swap; None elsewhere."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        kilobytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
        return Memory(kilobytes["MemAvailable"] >> 10, kilobytes["SwapFree"] >> 10)
    except (OSError, KeyError, ValueError, IndexError):
        return None


def external_bytes(onnx: Path) -> int:
    """Bytes of weights outside the file: the sum of its tensors' `length` entries.

    Read from the protobuf encoding of StringStringEntryProto (onnx.proto: key = 1, value = 2), so
    that building needs no onnx package.
    """
    entries = re.findall(rb"\x0a\x06length\x12[\x01-\x14](\d+)", onnx.read_bytes())
    return sum(int(digits) for digits in entries)


def _largest_tensor(graph: str, size: ModelSize, profile: Profile) -> int:
    """Bytes of the largest value inside a graph at the profile's most, counted as float32."""
    most = {symbol: extent.most for symbol, extent in profile.extents.items()}
    images = most["B"]
    if graph == contract.VISION_ENCODER:
        # After the first of four stages' stems, a quarter of the side; its MLP is at most d_model
        # wide (base: 4 x 128 of 768, large: 4 x 256 of 1024).
        return 4 * images * (size.image_size // 4) ** 2 * size.d_model
    if graph == contract.TEXT_ENCODER:
        scores = size.decoder_heads * most["E"] ** 2
        hidden = 4 * size.d_model * most["E"]
        return 4 * images * max(scores, hidden)
    caches = 2 * size.decoder_layers * size.d_model
    rows = most["R"] * (size.vocab_size + most["S"] * caches)
    return 4 * (rows + images * most["E"] * caches) // LIVE_TENSORS  # inputs, there once
