"""How an int8 bundle is made, as the user says; checked before anything is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from florence_edge.errors import BackendError, RequestError
from florence_edge_calibration.int8.clipping import DEFAULT_METHOD, METHODS
from florence_edge_calibration.int8.samples import HOW_MANY, LEAST_PICTURES, pictures_in
from florence_edge_calibration.int8.targets import TARGETS, Floats, Target

from ..checkpoint.source import MINIATURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Options:
    """How to make an int8 bundle.

    `images` is a folder of pictures; None is for the miniature, which has scenes of its own.
    `table` is a calibration made before. `budget` bounds the share of positions that a task may
    lose (see gate.py); None leaves the gate out.
    """

    target: Target = "tensorrt"
    images: Path | None = None
    samples: int = 256
    method: str = DEFAULT_METHOD
    kept: Mapping[str, Floats] = field(default_factory=dict)
    budget: float | None = 0.01
    table: Path | None = None


def check_int8_options(model: str, options: Int8Options) -> None:
    """Refuse what cannot be done, before anything is.

    Raises:
        BackendError: ONNX Runtime is not installed.
        RequestError: what is wrong, and what to pass instead.
    """
    if find_spec("onnxruntime") is None:
        raise BackendError(
            "--precision int8 calibrates with ONNX Runtime, which is not installed. Install "
            "florence-edge[cpu]."
        )
    if options.target not in TARGETS:
        raise RequestError(f"There is no target {options.target!r}. Choose from {TARGETS}.")
    if options.method not in METHODS:
        raise RequestError(f"There is no method {options.method!r}. Choose from {tuple(METHODS)}.")
    needed = options.table is None or options.budget is not None
    if needed and options.images is None and model != MINIATURE:
        raise RequestError(f"--precision int8 needs --calibration-images DIR. {HOW_MANY}")
    if options.images is not None:
        pictures_in(options.images)
    if options.target == "cpu" and "fp16" in options.kept.values():
        raise RequestError(
            "The cpu target is float32 where it is not int8: use --keep PATTERN=fp32."
        )
    if options.budget is not None and not 0 <= options.budget < 1:
        raise RequestError(f"The budget is {options.budget:g}; it must be at least 0 and below 1.")
    if options.samples < LEAST_PICTURES:
        raise RequestError(f"--samples is {options.samples}; it must be {LEAST_PICTURES} or more.")
