"""How well a bundle agrees with the reference: measures, limits, and what fidelity.json holds."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.errors import BundleError

# Largest error of a float32 graph, in units of the output's standard deviation.
TOLERANCE = 1e-3
MOST_TIES = 1 / 200

Answers = Mapping[tuple[str, int], "Agreement"]  # by task token and number of beams


@dataclass(frozen=True, slots=True)
class Closeness:
    """How far an output is from the reference, over all its elements."""

    max_error: float
    mean_error: float
    deviation: float  # standard deviation of the reference, the scale of the errors

    @property
    def relative(self) -> float:
        """Largest error in units of the reference's standard deviation."""
        if not math.isfinite(self.max_error):
            return math.inf  # NaN would not compare as larger
        return self.max_error / max(self.deviation, 1e-30)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers compared token by token."""

    answers: int
    equal: int
    ties: int


def closeness(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Closeness:
    """Compare an output with the reference's."""
    errors = np.abs(found.astype(np.float64) - expected)
    return Closeness(float(errors.max()), float(errors.mean()), float(expected.std()))


def check_finite(graphs: Mapping[str, Closeness]) -> None:
    """Raise BundleError where a graph gives infinities or NaN."""
    for name, closeness in graphs.items():
        if not np.isfinite(closeness.max_error):
            raise BundleError(
                f"{name} gives values that are not finite. This checkpoint's activations are too "
                "large for the precision; export it with --precision fp32."
            )


def check(graphs: Mapping[str, Closeness], agreements: Answers) -> None:
    """Raise BundleError where more differs than rounding explains."""
    for name, closeness in graphs.items():
        if closeness.relative > TOLERANCE:
            raise BundleError(
                f"{name} differs from transformers by {closeness.max_error:.2g} where values vary "
                f"by {closeness.deviation:.2g}; rounding explains {TOLERANCE:g} of that. "
                "This is a defect: please report it with config.json."
            )
    total = sum(agreement.answers for agreement in agreements.values())
    ties = sum(agreement.ties for agreement in agreements.values())
    different = [
        f"{task} with {beams} beams"
        for (task, beams), agreement in agreements.items()
        if agreement.equal + agreement.ties < agreement.answers
    ]
    if different or ties > max(1, total * MOST_TIES):
        raise BundleError(
            f"Answers differ from transformers: {', '.join(different) or f'{ties} ties'} "
            f"of {total}. This is a defect: please report it with config.json."
        )


def as_json(graphs: Mapping[str, Closeness], agreements: Answers) -> dict[str, Any]:
    """Both comparisons as plain JSON: by graph, and by task and number of beams."""
    tasks: dict[str, dict[str, Any]] = {}
    for (task, beams), agreement in agreements.items():
        tasks.setdefault(task, {})[f"beams_{beams}"] = asdict(agreement)
    return {
        "graphs": {name: asdict(found) for name, found in graphs.items()},
        "token_ids": tasks,
    }
