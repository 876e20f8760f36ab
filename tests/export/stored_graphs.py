"""What a graph file says: its inputs and outputs, and where its weights lie."""

import onnx

from florence_edge.contract import GraphSignature


def assert_has_the_tensors_of(model: onnx.ModelProto, expected: GraphSignature) -> None:
    """The inputs and outputs of the contract, by name and shape."""
    for tensors, values in (
        (expected.inputs, model.graph.input),
        (expected.outputs, model.graph.output),
    ):
        assert {tensor.name: tensor.shape for tensor in tensors} == {
            value.name: tuple(
                side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim
            )
            for value in values
        }


def places(model: onnx.ModelProto) -> set[tuple[int, int]]:
    """Where in weights.bin a graph's tensors lie: offset and length."""
    entries = [
        {each.key: each.value for each in tensor.external_data}
        for tensor in model.graph.initializer
    ]
    return {(int(entry["offset"]), int(entry["length"])) for entry in entries if entry}
