"""Modules and weights in, ONNX models out: named as the contract says, opset 20."""

import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder
from onnxscript.nn import Module, Parameter

from florence_edge import contract
from florence_edge.contract import ModelSize
from florence_edge.errors import BundleError

from ..config import CheckpointConfig
from ..weights import GraphWeights
from .decoder import Cache, Decoder
from .text import TextEncoder
from .vision import VisionEncoder

OPSET = 20  # the newest that TensorRT 10.3 (JetPack 6) reads
IR_VERSION = 9  # of ONNX 1.15, the first with opset 20

_DTYPES = {
    "uint8": ir.DataType.UINT8,
    "int64": ir.DataType.INT64,
    "float32": ir.DataType.FLOAT,
}


def build_graphs(
    config: CheckpointConfig, size: ModelSize, weights: GraphWeights
) -> dict[str, ir.Model]:
    """The three graphs in float32, with `weights` (see `weights.py`) as their initializers."""
    modules: dict[str, Module] = {
        contract.VISION_ENCODER: VisionEncoder(config.vision, size.image_size),
        contract.TEXT_ENCODER: TextEncoder(config.text),
        contract.DECODER: Decoder(config.text),
    }
    graphs = contract.graphs(size, "float32")
    return {name: _build(modules[name], graphs[name], size, weights) for name in contract.GRAPHS}


def _build(
    module: Module, signature: contract.Graph, size: ModelSize, weights: GraphWeights
) -> ir.Model:
    graph = ir.Graph(
        inputs=[], outputs=[], nodes=[], opset_imports={"": OPSET}, name=signature.name
    )
    builder = GraphBuilder(graph)
    inputs = {
        tensor.name: builder.input(tensor.name, _DTYPES[tensor.dtype], tensor.shape)
        for tensor in signature.inputs
    }
    outputs = _call(module, builder.op, inputs, size)
    for tensor in signature.outputs:
        value = outputs[tensor.name]
        value.shape = ir.Shape(tensor.shape)
        value.type = ir.TensorType(_DTYPES[tensor.dtype])
        builder.add_output(value, tensor.name)
    _set_weights(module, weights)
    for node in graph:
        node.metadata_props.clear()  # the builder's scopes; names already say it
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="florence-edge")


def _call(
    module: Module, op: OpBuilder, inputs: dict[str, ir.Value], size: ModelSize
) -> dict[str, ir.Value]:
    """Run `forward` and name what it returns."""
    layers = range(size.decoder_layers)
    if isinstance(module, VisionEncoder):
        return {"image_features": module(op, inputs["pixels"])}
    if isinstance(module, TextEncoder):
        caches = iter(module(op, *inputs.values()))
        return {
            contract.cross_cache(i, part): next(caches) for i in layers for part in contract.PARTS
        }
    names = {"self": contract.self_cache, "cross": contract.cross_cache}
    caches_of = {
        kind: [Cache(inputs[name(i, "key")], inputs[name(i, "value")]) for i in layers]
        for kind, name in names.items()
    }
    scores, rows = module(
        op,
        inputs["token_ids"],
        inputs["position"],
        inputs["encoder_mask"],
        caches_of["self"],
        caches_of["cross"],
    )
    outputs = dict(zip(("top_log_probs", "top_ids", "log_probs"), scores, strict=True))
    for i, row in enumerate(rows):
        outputs[contract.new_row(i, "key")] = row.key
        outputs[contract.new_row(i, "value")] = row.value
    return outputs


def _set_weights(module: Module, weights: GraphWeights) -> None:
    for parameter in module.parameters():
        name, expected = str(parameter.name), parameter_shape(parameter)
        tensor = weights.get(name)
        if tensor is None:
            raise BundleError(
                f"The checkpoint has no tensor for {name} {list(expected)}. "
                "Is the download complete?"
            )
        if tuple(tensor.shape) != expected:
            raise BundleError(
                f"{name} is {list(tensor.shape)} in the checkpoint, but config.json asks for "
                f"{list(expected)}. Weights and config.json do not belong together."
            )
        parameter.const_value = tensor


def parameter_shape(parameter: Parameter) -> tuple[int, ...]:
    """The shape of a parameter, which is always known, as numbers."""
    return tuple(int(str(side)) for side in parameter.shape or ())
