"""What each dtype costs, and which file of each graph is recommended: fidelity.json."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence_edge_calibration.overflow import Lifted
from florence_edge_calibration.quantization.agreement import Judged

from . import layout
from .gate import Passage
from .layout import Dtype

# On a CPU float16 is computed through casts; on a GPU it is half the bytes.
_USUAL: tuple[Dtype, ...] = ("q8", "fp32", "q4")
_WEBGPU: tuple[Dtype, ...] = ("fp16", "q8", "fp32", "q4f16", "q4")


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypeFidelity:
    """A dtype: what the gate found (None without one), and the largest deviations about probes.

    `stored` says in words how each graph's weights are stored, of dtypes in blocks. `bytes` are of
    its files by graph; none where it is left out, as it does not hold the budget.
    """

    passage: Passage | None
    stored: Mapping[str, str]
    deviations: Mapping[str, float]
    bytes: Mapping[str, int]

    @property
    def kept(self) -> bool:
        """Whether its files are there."""
        return bool(self.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """A file of each graph, and what they cost together (None where that was not measured)."""

    dtypes: Mapping[str, Dtype]
    judged: Judged | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What was found about all dtypes that were requested."""

    dtypes: Mapping[Dtype, DtypeFidelity]
    usual: Recommended
    webgpu: Recommended
    pictures: int
    budget: float | None
    lifted: Lifted

    def as_json(self) -> dict[str, Any]:
        """What fidelity.json holds."""
        return {
            "against_float": {
                "pictures": self.pictures,
                "budget": self.budget,
                "float32_operators": self.lifted.layers(),
                "dtypes": {name: _dtype_json(each) for name, each in self.dtypes.items()},
            },
            "recommended": {
                "usual": _recommended_json(self.usual),
                "webgpu": _recommended_json(self.webgpu),
            },
        }


def _dtype_json(found: DtypeFidelity) -> dict[str, Any]:
    content: dict[str, Any] = {
        "kept": found.kept,
        "megabytes": {graph: round(size / 1e6, 2) for graph, size in found.bytes.items()},
        "deviations": {each: round(value, 5) for each, value in found.deviations.items()},
    }
    if found.passage is not None:
        content |= _judged_json(found.passage.judged)
    if found.stored:
        content["stored"] = dict(found.stored)
    return content


def _judged_json(judged: Judged) -> dict[str, Any]:
    task, loss = judged.worst
    # Of a judging that broke off there is one task, with what was not compared as if it were equal.
    every = {"all_tasks": judged.all_tasks.as_json()}
    return {
        "worst": {"task": task, "loss": round(loss, 5)},
        **({"broken_off": True} if judged.broken_off else every),
        "tasks": {name: each.as_json() for name, each in judged.agreements.items()},
    }


def _recommended_json(found: Recommended) -> dict[str, Any]:
    content: dict[str, Any] = {"dtypes": dict(found.dtypes)}
    if found.judged is not None:
        task, loss = found.judged.worst
        content["worst"] = {"task": task, "loss": round(loss, 5)}
    return content


def recommend(
    found: Mapping[Dtype, DtypeFidelity],
    judge: Callable[[Mapping[str, Dtype]], Judged] | None,
    budget: float,
) -> tuple[Recommended, Recommended]:
    """A file of each graph for CPUs, and one for WebGPU.

    Judged ones are the smallest that hold the budget together: where files of several dtypes are
    smallest, and do not hold it together, all are of the smallest dtype that does. Without a gate
    they are of the dtype that loses least for its size, as a rule.

    Args:
        found: dtypes with their files.
        judge: what files of several dtypes cost together; None without a gate.
        budget: the gate's.
    """
    return (
        _recommended(found, _USUAL, judge, budget),
        _recommended(found, _WEBGPU, judge, budget),
    )


def _recommended(
    found: Mapping[Dtype, DtypeFidelity],
    order: Sequence[Dtype],
    judge: Callable[[Mapping[str, Dtype]], Judged] | None,
    budget: float,
) -> Recommended:
    kept = [name for name in found if found[name].kept]
    served = [name for name in order if name in kept] or kept
    if judge is None:
        return Recommended(dtypes=dict.fromkeys(layout.GRAPHS, served[0]), judged=None)
    smallest = {
        graph: min(served, key=lambda name: found[name].bytes[graph]) for graph in layout.GRAPHS
    }
    if len(set(smallest.values())) > 1:
        together = judge(smallest)
        if together.holds(budget):
            return Recommended(dtypes=smallest, judged=together)
    best = min(served, key=lambda name: sum(found[name].bytes.values()))
    passage = found[best].passage
    return Recommended(
        dtypes=dict.fromkeys(layout.GRAPHS, best), judged=passage.judged if passage else None
    )
