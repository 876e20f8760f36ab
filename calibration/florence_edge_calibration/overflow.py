"""What of a float32 bundle float16 cannot hold, by what its graphs compute about probes.

Every float32 value between two nodes is reduced to its extremes inside the graph, since the values
themselves are gigabytes. A node whose inputs or outputs come near float16's largest number stays
float32, and with it the weights it reads; the float16 pass puts casts around it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from florence_edge import contract
from florence_edge.backends.base import NamedArrays
from florence_edge.backends.host import HostBackend, HostModel, Run
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError

from .fp16 import LARGEST_HALF, SCORES, beyond_half, half_nodes, operator_of
from .graph_edit import Insertion
from .probes import Probe, ProbeOutputs, answer
from .quantization.observer import open_session

# Two bits are left to what was not run: other pictures (about 64 scenes and 46 photographs no value
# of the miniature was more than 2.8 times as large as about the probes), and kernels that add up in
# another order, whose partial sums may exceed the sum.
MARGIN = 4
LIMIT = LARGEST_HALF / MARGIN

_LARGEST, _SMALLEST = ".largest", ".smallest"  # ends of the names of the added outputs
# What they give are values of their inputs, or zeros.
_MOVING = frozenset(
    {"Cast", "Concat", "Expand", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
# At most 1, or float32 in every bundle.
_SCORING = frozenset({"Softmax", "TopK", "Exp", "Log"})


@dataclass(slots=True)
class GraphRecord:
    """What was seen of one graph: magnitudes by value name; feeds and outputs of its last run."""

    magnitudes: dict[str, float] = field(default_factory=dict)
    feeds: NamedArrays = field(default_factory=dict)
    outputs: NamedArrays = field(default_factory=dict)

    def note(self, name: str, magnitude: float) -> None:
        """Remember the largest magnitude of a value."""
        self.magnitudes[name] = max(self.magnitudes.get(name, 0.0), magnitude)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """What a float32 bundle computed about probes: `outputs` by probe, `records` by graph."""

    outputs: Sequence[ProbeOutputs]
    records: Mapping[str, GraphRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """What stays float32 in a float16 bundle.

    `operators` are named as `fp16.operator_of` does, for all graphs. `exchanged` says whether what
    graphs exchange (features and caches) stays float32, too, because float16 does not hold it.
    """

    operators: frozenset[str] = frozenset()
    exchanged: bool = False

    def adding(self, operators: Iterable[str]) -> "Lifted":
        """The same with further operators."""
        return replace(self, operators=self.operators.union(operators))

    def layers(self) -> list[str]:
        """The modules that the operators belong to, by name."""
        return sorted({layer_of(name) for name in self.operators}, key=_by_number)


def layer_of(operator: str) -> str:
    """The module of an operator, e.g. `text_encoder.layers.0.fc1`."""
    return operator.rpartition("/")[0].replace("/", ".")


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts `layers.2` before `layers.10`."""
    parts: list[str] = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def observe(bundle: Bundle, probes: Sequence[Probe], *, threads: int | None = None) -> Observation:
    """Run a float32 bundle on probes with every value measured.

    Raises:
        BundleError: a value is not finite; the layer is named.
        MissingPackageError: ONNX Runtime is not installed.
    """
    records = {name: GraphRecord() for name in contract.GRAPHS}
    backend = record(bundle, records, measured=True, threads=threads)
    outputs = [answer(bundle, backend, probe) for probe in probes]
    return Observation(outputs=outputs, records=records)


def record(
    bundle: Bundle,
    records: Mapping[str, GraphRecord],
    *,
    measured: bool = False,
    threads: int | None = None,
) -> HostBackend:
    """A bundle's graphs on ONNX Runtime's CPU, which write down what they are fed and give.

    Args:
        bundle: of any precision; of float32 where it is measured.
        records: by graph, to write to.
        measured: whether the magnitudes of all values are found, too.
        threads: of ONNX Runtime; None leaves it to that.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """
    binds = {}
    for name, of_graph in records.items():
        model = ir.load(bundle.graph_file(name))
        layers = measure(model) if measured else {}
        session = open_session(model, bundle.folder, threads=threads)
        binds[name] = partial(_bind, _Recorded(bundle, name, session, layers, of_graph))
    floats = HostModel(device="cpu", binds=binds, size=bundle.size, floats=bundle.floats)
    return HostBackend(floats)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A graph of a bundle in a session; `layers` are those of the values that it measures."""

    bundle: Bundle
    graph: str
    session: Any
    layers: Mapping[str, str]
    record: GraphRecord

    def run(self, inputs: NamedArrays, outputs: NamedArrays) -> None:
        """Run the graph once."""
        ends = [f"{name}{end}" for name in self.layers for end in (_LARGEST, _SMALLEST)]
        values = self.session.run([*outputs, *ends], dict(inputs))
        found = dict(zip([*outputs, *ends], values, strict=True))
        self._note(found)
        for name, array in outputs.items():
            array[...] = found[name]
        self.record.feeds = {name: np.array(array) for name, array in inputs.items()}
        self.record.outputs = {name: np.array(array) for name, array in outputs.items()}
        for name, array in self.record.feeds.items():
            self.record.note(name, float(np.abs(array).max(initial=0)))
        for name, array in self.record.outputs.items():
            if self.layers and not np.isfinite(array).all():  # a reduction may step over a NaN
                raise _not_finite(self.bundle, f"{self.graph}'s {name}")

    def _note(self, found: NamedArrays) -> None:
        for name, layer in self.layers.items():
            extremes = [float(found[name + _LARGEST]), float(found[name + _SMALLEST])]
            if not np.isfinite(extremes).all():
                raise _not_finite(self.bundle, layer)
            self.record.note(name, max(map(abs, extremes)))


def _bind(recorded: _Recorded, inputs: NamedArrays, outputs: NamedArrays) -> Run:
    return lambda: recorded.run(inputs, outputs)


def _not_finite(bundle: Bundle, layer: str) -> BundleError:
    return BundleError(
        f"{layer} gives values that are not finite, in float32 already: {bundle.model} has weights "
        "that no precision heals. Take a checkpoint from before its training diverged."
    )


def measure(model: ir.Model) -> dict[str, str]:
    """Add outputs, in place, with the extremes of every float32 value that a node computes.

    Returns:
        The measured values' names, in the order of the graph, each with the name of its layer.
    """
    values = [
        value
        for node in model.graph
        if node.op_type not in _MOVING and node.op_type not in _SCORING
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT
    ]
    # Of nodes that nobody reads ONNX Runtime serves the last one first: so a value is reduced as
    # soon as it is there, and none is kept until the end (1.7 GB in place of 7.1 for base).
    insertion = Insertion(model.graph, "measured")
    for value in reversed(values):
        _add_extremes(insertion, model.graph, value)
    return {str(value.name): layer_of(_node_of(value)) for value in values}


def _node_of(value: ir.Value) -> str:
    producer = value.producer()
    return "" if producer is None else str(producer.name)


def _add_extremes(insertion: Insertion, graph: ir.Graph, value: ir.Value) -> None:
    for end, reduction in ((_LARGEST, "ReduceMax"), (_SMALLEST, "ReduceMin")):
        label = f"{value.name}{end}"
        output = insertion.op(reduction, [value], ir.DataType.FLOAT, {"keepdims": 0}, name=label)
        output.name, output.shape = label, ir.Shape([])
        graph.outputs.append(output)


def find_overflow(bundle: Bundle, records: Mapping[str, GraphRecord]) -> Lifted:
    """What has to stay float32, by what was observed of the float32 bundle."""
    operators, exchanged = set[str](), False
    for name, record in records.items():
        graph = ir.load(bundle.graph_file(name)).graph
        operators |= {
            operator_of(node)
            for node in half_nodes(graph, SCORES)
            if beyond_half(node) or _exceeds(node, record)
        }
        outputs = (value for value in graph.outputs if value.name not in SCORES)
        exchanged = exchanged or any(_magnitude(value, record) > LIMIT for value in outputs)
    return Lifted(operators=frozenset(operators), exchanged=exchanged)


def norms_fit(graph: ir.Graph, record: GraphRecord) -> bool:
    """Whether float16 holds what a graph's layer norms read, which is float32 in most forms."""
    norms = (node for node in graph if node.op_type == "LayerNormalization")
    return not any(_exceeds(node, record) for node in norms)


def _exceeds(node: ir.Node, record: GraphRecord) -> bool:
    """Whether float16 might not hold what a node reads or gives."""
    return any(_magnitude(value, record) > LIMIT for value in _floats(node))


def _floats(node: ir.Node) -> Iterator[ir.Value]:
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype == ir.DataType.FLOAT and not value.is_initializer():
            yield value


def _magnitude(value: ir.Value, record: GraphRecord) -> float:
    """The largest magnitude of a float32 value: as measured, or that of what was moved."""
    name, producer = str(value.name), value.producer()
    if name in record.magnitudes:
        return record.magnitudes[name]
    if producer is None or producer.op_type not in _MOVING:
        return 0.0  # of scores, or no float32 value of a graph
    sources = (each for each in producer.inputs if each is not None and not each.is_initializer())
    return max((_magnitude(each, record) for each in sources), default=0.0)
