"""Modules and weights in, ONNX models out: named as the contract says, opset 20."""

import onnx_ir as ir
from onnxscript import GraphBuilder
from onnxscript.nn import Module, Parameter

from florence_edge import contract
from florence_edge.contract import ModelSize
from florence_edge.errors import BundleError

from ..checkpoint.config import CheckpointConfig
from .cuda_decoder import CudaDecoder
from .decoder import Decoder
from .text import TextEncoder
from .vision import VisionEncoder
from .weights import GraphWeights, checkpoint_name

OPSET = 20  # the newest that TensorRT 10.3 (JetPack 6) reads
IR_VERSION = 9  # of ONNX 1.15, the first with opset 20
IN_PLACE_OPSET, IN_PLACE_IR_VERSION = 24, 12  # ONNX 1.19: the first with TensorScatter

_DTYPES = {
    "bool": ir.DataType.BOOL,
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
        contract.DECODER: Decoder(config.text, own_head=weights.own_head),
    }
    graphs = contract.graphs(size, "float32")
    return {name: build_graph(modules[name], graphs[name], weights) for name in contract.GRAPHS}


def build_tensorrt_decoders(
    config: CheckpointConfig, size: ModelSize, weights: GraphWeights
) -> dict[str, ir.Model]:
    """The decoders for TensorRT in float32: one for any release, and one that works in place.

    The latter has caches of all positions, and opset 24.
    """
    any_release = Decoder(config.text, form="tensorrt", own_head=weights.own_head)
    in_place = Decoder(config.text, form="in place", own_head=weights.own_head)
    of_caches = contract.in_place_decoder(size, "float32", size.decoder_positions)
    models = {
        contract.TENSORRT_DECODER: build_graph(
            any_release, contract.graphs(size, "float32")[contract.DECODER], weights
        ),
        contract.IN_PLACE: build_graph(in_place, of_caches, weights, IN_PLACE_OPSET),
    }
    models[contract.IN_PLACE].ir_version = IN_PLACE_IR_VERSION
    return models


def build_cuda_graphs(
    config: CheckpointConfig, size: ModelSize, weights: GraphWeights
) -> dict[str, ir.Model]:
    """Vision encoder and decoder for ONNX Runtime's CUDA provider, in float32.

    That does not run the decoder before it is float16.
    """
    vision = VisionEncoder(config.vision, size.image_size, fused=True)
    decoder = CudaDecoder(config.text, own_head=weights.own_head)
    of_vision = contract.graphs(size, "float32")[contract.VISION_ENCODER]
    return {
        contract.VISION_CUDA: build_graph(vision, of_vision, weights),
        contract.CUDA_DECODER: build_graph(
            decoder, contract.cuda_decoder(size, "float32"), weights
        ),
    }


def build_graph(
    module: Module, signature: contract.GraphSignature, weights: GraphWeights, opset: int = OPSET
) -> ir.Model:
    """A module as a graph with these inputs and outputs, and `weights` as its initializers.

    Raises:
        BundleError: the checkpoint lacks a tensor that the module needs, or has another shape.
    """
    graph = ir.Graph(
        inputs=[], outputs=[], nodes=[], opset_imports={"": opset}, name=signature.name
    )
    builder = GraphBuilder(graph)
    inputs = {
        tensor.name: builder.input(tensor.name, _DTYPES[tensor.dtype], tensor.shape)
        for tensor in signature.inputs
    }
    outputs = module(builder.op, inputs)
    for tensor in signature.outputs:
        value = outputs[tensor.name]
        value.shape = ir.Shape(tensor.shape)
        value.type = ir.TensorType(_DTYPES[tensor.dtype])
        builder.add_output(value, tensor.name)
    _set_weights(module, weights)
    for node in graph:
        node.metadata_props.clear()  # the builder's scopes; names already say it
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="florence-edge")


def _set_weights(module: Module, weights: GraphWeights) -> None:
    for parameter in module.parameters():
        name, expected = str(parameter.name), parameter_shape(parameter)
        tensor = weights.get(name)
        if tensor is None:
            raise BundleError(
                f"The checkpoint has no tensor for {name} {list(expected)}: transformers calls it "
                f"{checkpoint_name(name)}, and the checkpoint has {weights.some_names()}. Is the "
                "download complete, and is it a Florence-2?"
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
