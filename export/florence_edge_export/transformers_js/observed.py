"""What linears of the float files read while they answer, as Gram matrices: GPTQ rounds by it."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_edge import Florence2
from florence_edge.backends.base import NamedArrays
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.tokenizer import Tokenizer
from florence_edge_calibration import Float32s
from florence_edge_calibration.graph_edit import Insertion
from florence_edge_calibration.quantization.agreement import TeacherForcing
from florence_edge_calibration.quantization.blockwise import linear_weight
from florence_edge_calibration.quantization.dataset import CalibrationSample
from florence_edge_calibration.quantization.observer import sampled_rows

from ..progress import log_progress
from ..quantization.gate import MAX_NEW_TOKENS
from . import layout
from .dtypes import named_linears
from .ort_backend import Model, OrtBackend, Session, open_file

_ROWS = 1024  # of what a linear reads in one run: more is of pixels beside each other
_TOGETHER = 2048  # rows that are multiplied at a time
_READ = ".read"  # in the names of the outputs that are added


def observe_inputs(
    build: Callable[[str], ir.Model],
    floats: Bundle,
    model: Model,
    samples: Sequence[CalibrationSample],
    beside: Path,
) -> dict[str, Float32s]:
    """Let the float files answer all tasks about some pictures.

    Args:
        build: gives a float32 graph of the layout, which is changed.
        floats: the same checkpoint's float32 bundle.
        model: its numbers.
        samples: pictures with their prompts.
        beside: a folder, beside which there is room for as long as that takes.

    Returns:
        X'X of the rows X that each linear reads, by its name.

    Raises:
        BackendError, MissingPackageError: as `open_file` does.
    """
    grams: dict[str, _Gram] = {}
    prefix = f"{beside.name}-observed-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=beside.parent) as scratch:
        sessions = {
            graph: _observed(build(graph), Path(scratch) / f"{graph}.onnx", grams)
            for graph in layout.GRAPHS
        }
        tokenizer = Tokenizer(floats.folder / TOKENIZER, floats.generation)
        with Florence2(floats, OrtBackend(sessions, model), tokenizer) as answering:
            progress = log_progress("What linears read is observed")
            # What it answers is of no interest.
            TeacherForcing(answering, samples, progress, max_new_tokens=MAX_NEW_TOKENS)
    return {name: gram.matrix() for name, gram in grams.items()}


@dataclass(slots=True)
class _Gram:
    """X'X of all rows so far, [inputs, inputs]; of some at a time, since a step has a row or so."""

    total: Float32s  # of large, twice the bytes would be gigabytes more
    waiting: list[Float32s] = field(default_factory=list)

    def add(self, rows: Float32s) -> None:
        """Count rows [any, inputs]."""
        self.waiting.append(rows)
        if sum(map(len, self.waiting)) >= _TOGETHER:
            self.matrix()

    def matrix(self) -> Float32s:
        """Of everything so far."""
        if self.waiting:
            rows = np.concatenate(self.waiting)
            self.total += rows.T @ rows
            self.waiting.clear()
        return self.total


def _observed(model: ir.Model, path: Path, grams: dict[str, _Gram]) -> Session:
    """Run a graph as it is, and count in `grams` what its linears read, by their names."""
    outputs = dict(_observe(model, grams))
    ir.save(model, path, external_data=f"{path.name}_data")
    run = open_file(path)

    def observing(wanted: Sequence[str], feeds: NamedArrays) -> Sequence[npt.NDArray[Any]]:
        found = run([*wanted, *outputs], feeds)
        for gram, rows in zip(outputs.values(), found[len(wanted) :], strict=True):
            gram.add(rows)
        return found[: len(wanted)]

    return observing


def _observe(model: ir.Model, grams: dict[str, _Gram]) -> Iterator[tuple[str, _Gram]]:
    """Add outputs to a graph, in place: rows of what its products read, and where they count."""
    of_values: dict[ir.Value, _Gram] = {}
    for node, name in list(named_linears(model.graph)):
        value = node.inputs[0]
        if node.op_type == "Gather" or value is None:
            continue
        if value not in of_values:
            inputs = len(linear_weight(node))
            insertion = Insertion(model.graph, f"{name}/observed")
            rows = sampled_rows(insertion, value, inputs, _ROWS)
            rows.name = f"{name}{_READ}"
            model.graph.outputs.append(rows)
            of_values[value] = _Gram(np.zeros((inputs, inputs), dtype=np.float32))
            yield rows.name, of_values[value]
        grams[name] = of_values[value]
