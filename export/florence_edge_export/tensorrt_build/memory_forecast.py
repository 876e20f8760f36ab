"""How much memory building an engine will take, before it is begun: for boards with 8 GB.

An estimate, in four parts: TensorRT and its CUDA context; the weights, three times at the worst
(as parsed, on the device to try kernels with, in the finished plan); the values between layers; and
the workspace. On a Jetson all of it comes out of one memory. `Built.peak_mb` says what the process
really took, so that the estimate can be checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from florence_edge import contract
from florence_edge.bundle import MANIFEST, WEIGHTS, Bundle
from florence_edge.errors import BackendError, BundleError
from florence_edge.files import from_json, read_json
from florence_edge.tensorrt.profiles import EngineOptions, Profile
from florence_edge_jetson.machine.system import LIVE, Tree, read_memory

LIBRARIES_MB = 900  # an estimate: libnvinfer and its kernels mapped in, and a CUDA context
COPIES_OF_WEIGHTS = 3
LIVE_TENSORS = 4  # of the largest size at once: residual, normalized, hidden before and after GELU

MAKE_ROOM = (
    "Close other programs and the desktop, add swap on an NVMe, or give a smaller --workspace, "
    "--batch or --max-new-tokens; then run florence-build again."
)


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
class FreeMemory:
    """What the machine has left, in megabytes."""

    available_mb: int
    swap_mb: int


def forecast(
    bundle: Bundle, onnx: Path, graph: str, profiles: tuple[Profile, ...], options: EngineOptions
) -> Forecast:
    """Estimate the build of `graph` from the file `onnx` of the bundle, for its profiles.

    Raises:
        BundleError: the manifest's sizes of weights are garbled.
    """
    largest = max(_largest_tensor(graph, bundle.size, profile) for profile in profiles)
    return Forecast(
        graph=graph,
        weights_mb=weight_bytes(bundle, onnx) >> 20,
        activations_mb=largest * LIVE_TENSORS >> 20,
        workspace_mb=options.workspace_mb,
    )


def check_room(needed: Forecast, memory: FreeMemory | None) -> str | None:
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


def available_memory(tree: Tree = LIVE) -> FreeMemory | None:
    """What Linux says is available without swapping, and the free swap; None elsewhere."""
    memory = read_memory(tree)
    if memory is None:
        return None
    return FreeMemory(memory.available >> 20, memory.swap_free >> 20)


@dataclass(frozen=True, slots=True)
class _WeightSizes:
    """What manifest.json says of weights."""

    weight_bytes: Mapping[str, int] = field(default_factory=dict)


def weight_bytes(bundle: Bundle, onnx: Path) -> int:
    """Bytes of weights that a graph of the bundle loads from weights.bin.

    The exporter has written them into the manifest, because reading them out of the graph needs the
    onnx package, which a device does not have. Bundles of older exports do not say it: then it is
    the size of the whole file, which is more than any one graph loads.

    Raises:
        BundleError: the manifest's sizes of weights are garbled.
    """
    path = bundle.folder / MANIFEST
    try:
        sizes = from_json(_WeightSizes, read_json(path))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} does not say how large each graph's weights are: {error}. Copy it again, or "
            "export the bundle again."
        ) from error
    return sizes.weight_bytes.get(onnx.stem, bundle.files[WEIGHTS].bytes)


def _largest_tensor(graph: str, size: contract.ModelSize, profile: Profile) -> int:
    """Bytes of the largest value inside a graph at the profile's max, counted as float32."""
    largest = {symbol: allowed.max for symbol, allowed in profile.ranges.items()}
    images = largest["B"]
    if graph == contract.VISION_ENCODER:
        # After the first of four stages' stems, a quarter of the side; its MLP is at most d_model
        # wide (base: 4 x 128 of 768, large: 4 x 256 of 1024).
        return 4 * images * (size.image_size // 4) ** 2 * size.d_model
    if graph == contract.TEXT_ENCODER:
        scores = size.decoder_heads * largest["E"] ** 2
        hidden = 4 * size.d_model * largest["E"]
        return 4 * images * max(scores, hidden)
    caches = 2 * size.decoder_layers * size.d_model
    rows = largest["R"] * (size.vocab_size + largest["S"] * caches)
    return 4 * (rows + images * largest["E"] * caches) // LIVE_TENSORS  # inputs, there once
