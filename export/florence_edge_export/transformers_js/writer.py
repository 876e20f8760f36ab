"""Writing graphs: built of the checkpoint, turned into a dtype, put where the layout wants them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import onnx_ir as ir

from florence_edge_calibration import Float32s
from florence_edge_calibration.overflow import Lifted

from ..bundle_writer import BundleSource
from . import layout, recipes
from .dtypes import linear_size, named_linears, to_blocks, to_float16
from .gate import Gate, Passage
from .graphs import build_graph
from .layout import Dtype

BITS: Mapping[Dtype, recipes.Bits] = {"q8": 8, "q4": 4, "q4f16": 4}
HALVES: frozenset[Dtype] = frozenset({"fp16", "q4f16"})
_MOST_INLINE = 1_900_000_000  # bytes of tensors in one file: protobuf ends at 2 GB


class Writer:
    """Writes the graphs of a checkpoint into a folder.

    `lifted` is what float16 does not hold; dtypes that compute in it need it first. `grams` are of
    what linears read, by name (observed.py); without them 4 bits are rounded by the weights alone.
    `external` has the names of files whose tensors lie in `NAME_data` beside.
    """

    def __init__(self, source: BundleSource, folder: Path, *, first_step: bool) -> None:
        self.folder = folder
        self.lifted = Lifted()
        self.grams: Mapping[str, Float32s] = {}
        self.external: set[str] = set()
        self._source = source
        self._graphs = (*layout.GRAPHS, layout.FIRST_STEP) if first_step else layout.GRAPHS
        self._built: dict[str, ir.Model] = {}
        (folder / "onnx").mkdir()

    def write_dtype(
        self, dtype: Dtype, gate: Gate | None, start: Mapping[str, int]
    ) -> Passage | None:
        """All files of a dtype, as coarse as the gate lets; None where there is no gate.

        Args:
            dtype: what to write.
            gate: what to judge by.
            start: the rung to begin at, by graph.
        """
        rungs = dict(start) or dict.fromkeys(layout.GRAPHS, 0)
        passage = None
        if gate is None:
            for graph, rung in rungs.items():
                self.write(dtype, graph, rung)
        elif dtype in BITS:
            counts = {graph: len(self._ladder(graph, BITS[dtype])) for graph in layout.GRAPHS}
            passage = gate.pass_dtype(partial(self.write, dtype), rungs, counts)
            rungs = dict(passage.rungs)
        else:
            files = {graph: self.write(dtype, graph) for graph in layout.GRAPHS}
            passage = Passage(gate.judge(files), rungs)
        if layout.FIRST_STEP in self._graphs:
            self.write(dtype, layout.FIRST_STEP, rungs[layout.DECODER])
        return passage

    def write(self, dtype: Dtype, graph: str, rung: int = 0) -> Path:
        """One file, at a rung of its dtype (see recipes.py); others have none."""
        model = self.float_graph(graph)
        if dtype in BITS:
            blocks = self._ladder(graph, BITS[dtype])[rung].blocks
            to_blocks(model, blocks, self.grams, accuracy_level=recipes.ACCURACY_LEVEL)
        if dtype in HALVES:
            to_float16(model, self.lifted.operators)
        path = self.folder / layout.file_of(graph, dtype)
        self._save(model, path)
        return path

    def stored(self, dtype: Dtype, rungs: Mapping[str, int]) -> dict[str, str]:
        """How each graph's weights are stored at a rung of a dtype in blocks, in words."""
        return {
            graph: self._ladder(graph, BITS[dtype])[rung].words for graph, rung in rungs.items()
        }

    def remove(self, dtype: Dtype) -> None:
        """Take the files of a dtype away again."""
        for graph in self._graphs:
            path = self.folder / layout.file_of(graph, dtype)
            self.external.discard(path.name)
            for each in (path, _data_of(path)):
                each.unlink(missing_ok=True)

    def bytes_of(self, graph: str, dtype: Dtype) -> int:
        """Size of a file, with its tensors beside it."""
        path = self.folder / layout.file_of(graph, dtype)
        return sum(each.stat().st_size for each in (path, _data_of(path)) if each.exists())

    def _ladder(self, graph: str, bits: recipes.Bits) -> tuple[recipes.Rung, ...]:
        """How finely a graph may be stored."""
        found = named_linears(self.float_graph(graph).graph)
        if graph == layout.EMBED_TOKENS:
            bits = 8  # in all dtypes in blocks
        return recipes.ladder(bits, {name: linear_size(node) for node, name in found})

    def float_graph(self, graph: str) -> ir.Model:
        """A float32 graph of its own; building one takes longer than all that is done to it."""
        if graph not in self._built:
            self._built[graph] = build_graph(graph, self._source)
        return self._built[graph].clone()

    def _save(self, model: ir.Model, path: Path) -> None:
        tensors = (value.const_value for value in model.graph.initializers.values())
        total = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        for each in (path, _data_of(path)):
            each.unlink(missing_ok=True)  # an engine may still have the one before open
        self.external.discard(path.name)
        if total > _MOST_INLINE:
            self.external.add(path.name)
            ir.save(model, path, external_data=_data_of(path).name)
        else:
            ir.save(model, path)


def _data_of(path: Path) -> Path:
    return path.with_name(f"{path.name}_data")
