"""An observed graph: the float graph with small outputs that tell what its linears read.

Reduced inside the graph, because full activations of one picture are a gigabyte: the extremes of
every channel over all rows, and the bins (see activations.py) of some rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .activations import BINS, BINS_AN_OCTAVE, LOWEST_OCTAVE, Activation
from .linears import by_activation, find_linears
from .rewrite import Insertion

_SAMPLED_ROWS = 256  # of each activation of a picture, evenly spread
_SEEN = ".seen_"
_REDUCTIONS = {"lows": "ReduceMin", "highs": "ReduceMax", "sums": "ReduceSum"}

Outputs = Mapping[str, npt.NDArray[Any]]


def output_name(activation: str, part: str) -> str:
    """Name of the output that tells one thing of an activation."""
    return f"{activation}{_SEEN}{part}"


def is_told(output: str) -> bool:
    """Whether an output tells of an activation, rather than being the graph's own."""
    return _SEEN in output


def observe(model: ir.Model) -> dict[str, int]:
    """Add outputs to `model`, in place, for what its linears read.

    Returns:
        The number of channels of each activation, which is called after the first linear that
        reads it.
    """
    channels = {}
    for name, (linear, *_) in by_activation(find_linears(model.graph)).items():
        value = linear.activation
        producer = value.producer()
        if linear.node.op_type == "Conv" and producer is not None:
            value = _before_transpose(producer)  # [B, H, W, C]: channels last, as everywhere else
        insertion = Insertion(model.graph, f"{linear.scope}/seen")
        for part, seen in _reduce(insertion, value, linear.channels).items():
            seen.name = output_name(name, part)
            model.graph.outputs.append(seen)
        channels[name] = linear.channels
    return channels


def _before_transpose(producer: ir.Node) -> ir.Value:
    value = producer.inputs[0]
    if producer.op_type != "Transpose" or value is None:
        raise ValueError(f"{producer.name} is no Transpose of a feature map")
    return value


def _reduce(insertion: Insertion, value: ir.Value, channels: int) -> dict[str, ir.Value]:
    """Lows, highs and sums [C] of all rows, and bins [sampled rows, C] of some."""
    op, constant, float32 = insertion.op, insertion.constant, ir.DataType.FLOAT
    first = constant(np.array([0]), "first")
    rows = op("Reshape", [value, constant(np.array([-1, channels]), "rows")], float32)
    reduced = {
        part: op(reduction, [rows, first], float32, {"keepdims": 0})
        for part, reduction in _REDUCTIONS.items()
    }
    count = op("Shape", [rows], ir.DataType.INT64, {"start": 0, "end": 1})
    each = op("Div", [count, constant(np.array([_SAMPLED_ROWS]), "sampled")], ir.DataType.INT64)
    step = op("Max", [each, constant(np.array([1]), "one")], ir.DataType.INT64)
    last = constant(np.array([2**31 - 1]), "last")
    sample = op("Slice", [rows, first, last, first, step], float32)
    logarithms = op("Log", [op("Abs", [sample], float32)], float32)  # -inf of zeros
    scale = constant(np.float32(BINS_AN_OCTAVE / math.log(2)), "scale")
    origin = constant(np.float32(1 - LOWEST_OCTAVE * BINS_AN_OCTAVE), "origin")
    places = op("Add", [op("Mul", [logarithms, scale], float32), origin], float32)
    limits = (constant(np.float32(0), "lowest"), constant(np.float32(BINS - 1), "highest"))
    inside = op("Clip", [op("Floor", [places], float32), *limits], float32)
    bins = op("Cast", [inside], ir.DataType.UINT8, {"to": ir.DataType.UINT8})
    return {**reduced, "bins": bins}


@dataclass(slots=True)
class Seen:
    """Running totals of one activation over pictures and prompts."""

    lows: npt.NDArray[np.float32]
    highs: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]

    @classmethod
    def nothing(cls, channels: int) -> "Seen":
        """Before the first picture."""
        return cls(
            lows=np.full(channels, np.inf, dtype=np.float32),
            highs=np.full(channels, -np.inf, dtype=np.float32),
            counts=np.zeros((channels, BINS), dtype=np.int64),
        )

    def add(self, name: str, outputs: Outputs) -> None:
        """Take in what a run of the observed graph told of the activation `name`."""
        lows, highs, bins = (outputs[output_name(name, part)] for part in ("lows", "highs", "bins"))
        self.lows, self.highs = np.minimum(self.lows, lows), np.maximum(self.highs, highs)
        channels = self.counts.shape[0]
        places = bins + np.arange(channels, dtype=np.int64) * BINS
        self.counts += np.bincount(places.ravel(), minlength=channels * BINS).reshape(-1, BINS)

    def result(self) -> Activation:
        """What was seen so far."""
        return Activation(lows=self.lows, highs=self.highs, counts=self.counts)


def is_finite(name: str, outputs: Outputs) -> bool:
    """Whether the whole activation was finite in this run."""
    return bool(np.isfinite(outputs[output_name(name, "sums")].astype(np.float64)).all())
