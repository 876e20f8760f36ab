"""Engines against ONNX Runtime, graph by graph, with Polygraphy's Comparator (extra `debug`).

Both get the same inputs: what ONNX Runtime's own graphs before it gave, so that an error belongs to
the graph it is shown for. `layers` marks every tensor of the network as an output, builds that, and
names the first that drifts; marking prevents fusions, so it finds wrong operators rather than the
last digit of a fused kernel.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .inputs import inputs
from .runners import Subject, open_polygraphy, run, runners_of

# Largest difference that passes, in standard deviations of the output. Chosen, not measured on a
# GPU: storage alone costs float16 up to 0.005 (tests/export/half_errors.json).
LIMITS = {"fp32": 0.001, "fp16": 0.05}
LIMIT_OF_OTHERS = 0.3

IGNORED = ("top_ids",)  # ids of near ties change places; top_log_probs says how far apart they are


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a tensor is from ONNX Runtime's, in standard deviations; infinite for NaNs."""

    tensor: str
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All compared tensors of a graph, in the order in which they are computed."""

    graph: str
    limit: float
    drifts: tuple[Drift, ...]

    @property
    def first(self) -> Drift | None:
        """The first tensor beyond the limit."""
        return next((drift for drift in self.drifts if not drift.error <= self.limit), None)

    @property
    def worst(self) -> Drift:
        """The tensor that is furthest off."""
        return max(self.drifts, key=lambda drift: drift.error)


def compare(subject: Subject, *, layers: bool) -> Iterator[Comparison]:
    """Compare graph by graph; needs the GPU that the engines were built for.

    Raises:
        BackendError: Polygraphy or ONNX Runtime is missing, or the engines do not run.
    """
    open_polygraphy(subject.tensorrt)
    limit = LIMITS.get(subject.bundle.precision, LIMIT_OF_OTHERS)
    for graph, feeds in inputs(subject.bundle, subject.record.options.beams).items():
        with tempfile.TemporaryDirectory() as scratch:
            runners = runners_of(subject, graph, feeds, Path(scratch) if layers else None)
            results = run(runners, feeds)
        yield Comparison(graph=graph, limit=limit, drifts=drifts(*results))


def drifts(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[Drift, ...]:
    """The error of each tensor that both have, in the order of `expected`."""
    both = [name for name in expected if name in found and name not in IGNORED]
    return tuple(Drift(name, error(found[name], expected[name])) for name in both)


def error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference in standard deviations of `expected` (or as it is, of a constant)."""
    if found.shape != expected.shape or not np.isfinite(found.astype(np.float64)).all():
        return float("inf")
    if found.size == 0:
        return 0.0
    exact = expected.astype(np.float64)
    return float(np.abs(found - exact).max() / (exact.std() or 1.0))


def describe(comparison: Comparison) -> str:
    """A line on the graph, and one on the first tensor that drifts."""
    worst, first = comparison.worst, comparison.first
    line = f"{comparison.graph}: {len(comparison.drifts)} tensors, worst {worst.tensor} "
    line += f"{worst.error:.2g} standard deviations off (limit {comparison.limit})"
    if first is None:
        return line
    return f"{line}\n  the first that drifts: {first.tensor}, {first.error:.2g}"
