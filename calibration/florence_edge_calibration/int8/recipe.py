"""From a float bundle's graphs to those of an int8 bundle, as a recipe says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import RequestError

from ..half import KEPT_IN_FLOAT32, half_from_float
from .clipping import DEFAULT_METHOD, METHODS
from .dynamic import multiply_dynamically, store_embedding_by_columns
from .equalize import Choice, choose
from .linears import Linear, by_activation, find_linears, scopes
from .quantize import quantize_for_cpu, quantize_portably
from .table import CalibrationTable
from .targets import Floats, Target
from .weight_only import (
    embedding_name,
    embedding_names,
    embedding_nodes,
    store_embedding_as_int8,
    store_weights_as_int8,
)

_EMBEDDING = ".shared"
_FLOAT32_OUTPUTS = frozenset({"top_log_probs", "log_probs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to quantize.

    Args:
        target: "tensorrt" is portable: static Q/DQ, float16 elsewhere; "cpu" is for ONNX Runtime's
            CPU alone: its integer products, float32 elsewhere.
        method: how limits are chosen (see clipping.py).
        kept: patterns over names of linears, and the float type those stay in.
        equalize: whether outlier channels are evened out.
        halve: whether the portable target is float16 elsewhere; float32 is for comparing blocks.
    """

    target: Target
    method: str = DEFAULT_METHOD
    kept: Mapping[str, Floats] = field(default_factory=dict)
    equalize: bool = True
    halve: bool = True

    def kept_as(self, name: str) -> Floats | None:
        """The float type that a linear or an embedding stays in; None if it is quantized."""
        for pattern, floats in self.kept.items():
            if fnmatchcase(name, pattern):
                return floats
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The graphs of an int8 bundle, and what was chosen for each activation of the encoders."""

    graphs: Mapping[str, ir.Model]
    choices: tuple[Choice, ...]


def quantize(bundle: Bundle, table: CalibrationTable, recipe: Recipe) -> Quantization:
    """Quantize a float bundle.

    Raises:
        RequestError: the table is another model's, or a pattern matches no linear.
    """
    table.check(bundle)
    check_patterns(bundle, recipe)
    graphs = {name: ir.load(bundle.graph_file(name)) for name in contract.GRAPHS}
    choices: list[Choice] = []
    for name, model in graphs.items():
        choices += quantize_graph(name, model, table, recipe)
    return Quantization(graphs=graphs, choices=tuple(choices))


def quantize_graph(
    name: str, model: ir.Model, table: CalibrationTable, recipe: Recipe
) -> list[Choice]:
    """Quantize one graph of a float bundle, in place.

    Returns:
        What was chosen for each activation; nothing for the decoder, whose weights alone are int8.
    """
    linears = find_linears(model.graph)
    exact = [linear for linear in linears if recipe.kept_as(linear.name) == "fp32"]
    islands = (*KEPT_IN_FLOAT32, *scopes(exact), *_exact_lookups(model.graph, recipe))
    choices = [] if name == contract.DECODER else _choose(linears, table, recipe)
    cpu = recipe.target == "cpu"
    for table_name in embedding_names(model.graph):
        if recipe.kept_as(table_name) is None:
            (store_embedding_by_columns if cpu else store_embedding_as_int8)(model.graph)
    if name == contract.DECODER:
        kept = frozenset(each.name for each in linears if recipe.kept_as(each.name) is not None)
        (multiply_dynamically if cpu else store_weights_as_int8)(model.graph, kept)
    elif cpu:
        quantize_for_cpu(model.graph, choices)
    else:
        islands += quantize_portably(model.graph, choices)
    if not cpu and recipe.halve:
        half_from_float(model, _FLOAT32_OUTPUTS, kept=islands)
    return choices


def _choose(linears: Sequence[Linear], table: CalibrationTable, recipe: Recipe) -> list[Choice]:
    """For each activation, how the linears that read it and are not kept are quantized."""
    groups = {
        name: [linear for linear in group if recipe.kept_as(linear.name) is None]
        for name, group in by_activation(linears).items()
    }
    find_limit = METHODS[recipe.method]
    return [
        choose(group, table.activations[name], find_limit, equalize=recipe.equalize)
        for name, group in groups.items()
        if group
    ]


def _exact_lookups(graph: ir.Graph, recipe: Recipe) -> tuple[str, ...]:
    """Names of the nodes that read an embedding which stays float32."""
    return tuple(
        str(node.name)
        for node, table in embedding_nodes(graph)
        if recipe.kept_as(embedding_name(table)) == "fp32"
    )


def block_of(name: str) -> str:
    """The block that a linear is kept in float with, e.g. `text_encoder.layers.0.self_attn`.

    BART's fc1 and fc2 have no module of their own; their block is `text_encoder.layers.0.fc`. An
    embedding is a block.
    """
    if name.endswith(_EMBEDDING):
        return name
    parent, _, last = name.rpartition(".")
    return f"{parent}.fc" if last.startswith("fc") and parent[-1].isdigit() else parent


def pattern_of(block: str) -> str:
    """The pattern that matches the layers of a block, and no others."""
    if block.endswith(_EMBEDDING):
        return block
    return f"{block}?" if block.endswith(".fc") else f"{block}.*"


def layer_names(graph: ir.Graph) -> list[str]:
    """What can be quantized or kept: linears, and the embedding."""
    return [*embedding_names(graph), *(linear.name for linear in find_linears(graph))]


def check_patterns(bundle: Bundle, recipe: Recipe) -> None:
    """Refuse a recipe that wants to keep what is not there.

    Raises:
        RequestError: a pattern matches no linear and no embedding of the float bundle.
    """
    models = (ir.load(bundle.graph_file(name)) for name in contract.GRAPHS)
    names = [name for model in models for name in layer_names(model.graph)]
    for pattern in recipe.kept:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RequestError(
                f"--keep {pattern} matches no layer. Layers are called like {names[0]}, and all of "
                f"a block is matched by '{names[0].rpartition('.')[0]}.*'."
            )
