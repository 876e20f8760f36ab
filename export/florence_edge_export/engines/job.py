"""What one process is told to build, and what it says while it does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from florence_edge.contract import Graph
from florence_edge.engines.flavours import Flavour
from florence_edge.engines.profiles import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One graph to build: everything that the building process has to know.

    `ahead_of_time` is the compute capability to build for without a GPU (TensorRT-RTX alone can),
    None where the engine is for the GPU of this machine.
    """

    graph: Graph
    onnx: Path
    plan: Path
    timing_cache: Path
    profiles: tuple[Profile, ...]
    workspace_mb: int
    flavour: Flavour
    ahead_of_time: str | None
    gpu: int = 0  # the number of this machine's GPU


@dataclass(frozen=True, slots=True)
class Message:
    """Something TensorRT logged; `level` is one of the standard library's."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase of the build is."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Built:
    """The plan is written; `peak_mb` is the most memory the process had, as the kernel saw it."""

    seconds: float
    peak_mb: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The build failed for a reason that this message gives."""

    text: str


Event = Message | Progress | Built | Failed
Tell = Callable[[Event], None]
