"""Outlier channels: divide an activation's channels, multiply the rows of the weight behind them.

Where the division can be folded into what computes the activation, it costs nothing and changes
nothing: into the weight and bias of a layer norm that nobody else reads (DaViT is pre-norm), or
into v_proj, whose channels attention only averages. BART's layer norms are also the
residual, so there the division is a Mul of its own, kept only where it wins enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .. import Float32s
from ..graph_edit import LinearNode, weight_values
from .histogram import BINS_AN_OCTAVE, ChannelHistogram, mean_squares
from .range_selection import RangeMethod
from .scales import output_error, weight_power

Shifts = npt.NDArray[np.int64]  # [channels], in bins of the histogram

# How much of an outlier moves into the weight: none ... most of it (SmoothQuant's alpha).
_MIGRATIONS = (0.0, 0.25, 0.5, 0.75)
_MOVING = ("Pad", "Reshape", "Transpose")  # into windows; channels stay the last axis
_MAX_ERROR_SHARE = 0.5  # a Mul of its own costs time: it must at least halve the error


class FoldTarget(Enum):
    """Where the division of an activation's channels goes."""

    NOWHERE = "nowhere"
    NORM = "norm"
    VALUES = "values"
    MULTIPLY = "multiply"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """How the linears that read one activation are quantized.

    Channel c is divided by 2 ** (shifts[c] / 4) at `fold_target`; `histogram` is the activation's
    after that, where a magnitude of `limit` becomes 127. `error` and `plain_error` are expected
    squared errors of the outputs, with and without equalization, as shares of the outputs' power.
    """

    linears: tuple[LinearNode, ...]
    fold_target: FoldTarget
    shifts: Shifts
    limit: float
    histogram: ChannelHistogram
    error: float
    plain_error: float

    @property
    def factors(self) -> Float32s:
        """What channels are divided by, [channels]."""
        return (2.0 ** (self.shifts / BINS_AN_OCTAVE)).astype(np.float32)


def choose(
    linears: Sequence[LinearNode],
    histogram: ChannelHistogram,
    find_limit: RangeMethod,
    *,
    equalize: bool = True,
) -> Choice:
    """The best of a few equalizations for linears that read one activation, and its limit."""
    rows = [linear.weight_rows() for linear in linears]
    power = max(float(weight_power(rows) @ mean_squares(histogram)), 1e-30)
    where = foldable_into(linears) if equalize else FoldTarget.NOWHERE
    tried = []
    for migration in _MIGRATIONS if equalize else (0.0,):
        shifts = _shifts(histogram, rows, migration)
        moved, scaled = histogram.shifted(shifts), _scaled(rows, shifts)
        limit = find_limit(moved, weight_power(scaled))
        error = output_error(moved, scaled, limit) / power
        tried.append((error, migration, shifts, limit, moved))
    plain, best = tried[0], min(tried, key=lambda attempt: attempt[0])
    if where is FoldTarget.MULTIPLY and best[0] > _MAX_ERROR_SHARE * plain[0]:
        best = plain
    error, migration, shifts, limit, moved = best
    return Choice(
        linears=tuple(linears),
        fold_target=where if migration else FoldTarget.NOWHERE,
        shifts=shifts,
        limit=max(limit, 1e-6),
        histogram=moved,
        error=error,
        plain_error=plain[0],
    )


def _shifts(histogram: ChannelHistogram, rows: Sequence[Float32s], migration: float) -> Shifts:
    """Shifts that even channels out: maxima ** migration / weights ** (1 - migration).

    Xiao et al., "SmoothQuant" (2023), equation 4, on the grid of the bins and around 1.
    """
    if migration == 0.0:
        return np.zeros(len(histogram.abs_max), dtype=np.int64)
    weights = np.max([np.abs(each).max(axis=1) for each in rows], axis=0)
    alive = (histogram.abs_max > 0) & (weights > 0)
    logs = np.zeros(len(weights))
    logs[alive] = migration * np.log2(histogram.abs_max[alive])
    logs[alive] -= (1 - migration) * np.log2(weights[alive])
    if alive.any():
        logs[alive] -= np.median(logs[alive])
    return np.rint(logs * BINS_AN_OCTAVE).astype(np.int64)


def _scaled(rows: Sequence[Float32s], shifts: Shifts) -> list[Float32s]:
    factors = (2.0 ** (shifts / BINS_AN_OCTAVE)).astype(np.float32)
    return [each * factors[:, None] for each in rows]


def foldable_into(linears: Sequence[LinearNode]) -> FoldTarget:
    """Where the division would go, by what computes the activation."""
    readers = {linear.node for linear in linears}
    source = _source(linears[0].activation)
    if source is not None and source.op_type == "LayerNormalization":
        others = [user for user, _ in source.outputs[0].uses() if not _leads_only_to(user, readers)]
        return FoldTarget.MULTIPLY if others else FoldTarget.NORM
    if len(linears) == 1 and _value_projection(linears[0]) is not None:
        return FoldTarget.VALUES
    return FoldTarget.MULTIPLY


def _source(value: ir.Value) -> ir.Node | None:
    """What computes a value, behind operators that only move or pad it."""
    node = value.producer()
    while node is not None and node.op_type in _MOVING:
        moved = node.inputs[0]
        node = None if moved is None else moved.producer()
    return node


def _leads_only_to(node: ir.Node, readers: set[ir.Node]) -> bool:
    if node in readers:
        return True
    if node.op_type not in _MOVING:
        return False
    return all(_leads_only_to(user, readers) for user, _ in node.outputs[0].uses())


# The projections in front of whose outputs attention puts nothing but averages over positions.
_VALUES_OF = (
    ("window_attn.proj", "window_attn.v_proj"),
    ("self_attn.out_proj", "self_attn.v_proj"),
)


def _value_projection(linear: LinearNode) -> str | None:
    """Name of the projection that makes the values which `linear` reads averaged."""
    for ending, values in _VALUES_OF:
        if linear.name.endswith(ending):
            return linear.name.removesuffix(ending) + values
    return None


def fold(choice: Choice, graph: ir.Graph) -> None:
    """Divide what computes the activation, in place; the weights' rows are left to the caller."""
    linear = choice.linears[0]
    if choice.fold_target is FoldTarget.NORM:
        source = _source(linear.activation)
        for value in source.inputs[1:3] if source is not None else ():
            if value is not None:
                _replace(value, weight_values(value) / choice.factors)
    elif choice.fold_target is FoldTarget.VALUES:
        name = _value_projection(linear)
        for part in ("weight", "bias"):
            value = graph.initializers.get(f"{name}.{part}")
            if value is None:
                continue  # DaViT's may have no bias
            _replace(value, weight_values(value) / choice.factors)


def _replace(value: ir.Value, values: Float32s) -> None:
    value.const_value = ir.tensor(np.ascontiguousarray(values, dtype=np.float32), name=value.name)
