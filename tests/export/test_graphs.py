from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge_export.export import ExportOptions, export

from . import stubs

# Counted when the graphs were written; they may shrink, and must not creep up. What counts in the
# end is bytes: three linears in place of `qkv` and a Split have more Transposes and move less.
_MOST_NODES = {
    "base": {"vision_encoder": 973, "text_encoder": 235, "decoder": 324},
    "large": {"vision_encoder": 973, "text_encoder": 457, "decoder": 618},
}
_MOST_TRANSPOSES = {
    "base": {"vision_encoder": 224, "text_encoder": 36, "decoder": 24},
    "large": {"vision_encoder": 224, "text_encoder": 72, "decoder": 48},
}


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / str(request.param)
    export("tiny", tiny_checkpoint, folder, ExportOptions(precision=request.param))
    return Bundle.load(folder)


@pytest.fixture(params=contract.GRAPHS)
def graph(request: pytest.FixtureRequest, bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.graph_file(request.param), load_external_data=False)


def test_graphs_are_of_opset_20_and_the_standard_domain_alone(graph: onnx.ModelProto) -> None:
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 20)]
    assert graph.ir_version == 9
    assert {node.domain for node in graph.graph.node} == {""}
    assert not graph.functions


def test_the_checker_accepts_every_graph_in_full(bundle: Bundle) -> None:
    for name in contract.GRAPHS:
        onnx.checker.check_model(str(bundle.graph_file(name)), full_check=True)


def test_inputs_and_outputs_are_exactly_the_contracts(bundle: Bundle) -> None:
    for name, expected in contract.graphs(bundle.size, bundle.floats).items():
        graph = ir.load(bundle.graph_file(name)).graph
        assert graph.name == name
        for values, tensors in ((graph.inputs, expected.inputs), (graph.outputs, expected.outputs)):
            assert [_signature(value) for value in values] == list(tensors)


def test_shapes_inferred_by_onnx_agree_with_those_declared(bundle: Bundle) -> None:
    for name in contract.GRAPHS:
        model = onnx.load(bundle.graph_file(name), load_external_data=False)
        declared = {value.name: _dims(value) for value in model.graph.output}
        del model.graph.value_info[:]
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        for output in inferred.graph.output:
            found = _dims(output)
            assert len(found) == len(declared[output.name])
            for side, expected in zip(found, declared[output.name], strict=True):
                assert not isinstance(side, int) or side == expected, output.name


def test_every_node_and_tensor_has_a_name_of_its_own(graph: onnx.ModelProto) -> None:
    for names in (
        [node.name for node in graph.graph.node],
        [tensor.name for tensor in graph.graph.initializer],
        [output for node in graph.graph.node for output in node.output],
    ):
        assert all(names)
        assert max(Counter(names).values()) == 1


def test_nothing_in_a_graph_is_unused(graph: onnx.ModelProto) -> None:
    read = {name for node in graph.graph.node for name in node.input}
    outputs = {output.name for output in graph.graph.output}
    made = {name for node in graph.graph.node for name in node.output}
    assert {tensor.name for tensor in graph.graph.initializer} <= read
    assert {tensor.name for tensor in graph.graph.input} <= read
    assert made <= read | outputs


def test_module_names_survive(bundle: Bundle) -> None:
    vision, text, decoder = (ir.load(bundle.graph_file(name)).graph for name in contract.GRAPHS)
    for graph, names in (
        (
            vision,
            (
                "vision_encoder.convs.3.conv.bias",
                "vision_encoder.blocks.2.1.channel_block.ffn.fc1.weight",
                "vision_encoder.blocks.0.0.spatial_block.window_attn.q_proj.weight",
                "vision_encoder.projector.image_projection.weight",
            ),
        ),
        (
            text,
            (
                "text_encoder.shared.weight",
                "text_encoder.layers.1.self_attn.q_proj.bias",
                "text_encoder.cross.1.k_proj.weight",
            ),
        ),
        (
            decoder,
            (
                "decoder.shared.weight",
                "decoder.layers.0.encoder_attn.q_proj.weight",
                "decoder.final_logits_bias",
            ),
        ),
    ):
        assert set(names) <= set(graph.initializers)
    block = "vision_encoder/blocks.2.1/channel_block/ffn/fc1/MatMul"
    assert any(str(node.name).startswith(block) for node in vision)


def test_linears_are_stored_in_by_out(bundle: Bundle) -> None:
    graph = ir.load(bundle.graph_file("vision_encoder")).graph
    weight = graph.initializers["vision_encoder.blocks.2.1.channel_block.ffn.fc1.weight"]
    assert list(weight.shape or ()) == [48, 192]


def test_the_embedding_is_read_by_gather_and_by_gemm(bundle: Bundle) -> None:
    decoder = ir.load(bundle.graph_file("decoder")).graph
    (gemm,) = (node for node in decoder if node.op_type == "Gemm")
    embedding = decoder.initializers["decoder.shared.weight"]
    assert gemm.inputs[1] is embedding
    assert gemm.attributes["transB"].as_int() == 1
    assert sorted(user.op_type for user, _ in embedding.uses()) == ["Gather", "Gemm"]


@pytest.mark.parametrize("architecture", ["base", "large"])
def test_node_and_transpose_counts_do_not_creep_up(architecture: str, tmp_path: Path) -> None:
    _, graphs = stubs.graphs(stubs.config(architecture, tmp_path), 768)
    for name, model in graphs.items():
        counts = Counter(node.op_type for node in model.graph)
        assert sum(counts.values()) <= _MOST_NODES[architecture][name]
        assert counts["Transpose"] <= _MOST_TRANSPOSES[architecture][name]


def test_windows_that_divide_the_map_are_not_padded(tmp_path: Path) -> None:
    config = stubs.config("base", tmp_path)
    for image_size, padded in ((768, 0), (384, 0), (576, 1), (992, 12)):
        _, graphs = stubs.graphs(config, image_size)
        counts = Counter(node.op_type for node in graphs["vision_encoder"].graph)
        assert counts["Pad"] == counts["Slice"] == padded


def _signature(value: ir.Value) -> contract.Tensor:
    assert value.dtype is not None
    assert value.shape is not None
    dtype = {"FLOAT": "float32", "FLOAT16": "float16"}.get(value.dtype.name)
    shape = tuple(side if isinstance(side, int) else str(side) for side in value.shape)
    return contract.Tensor(str(value.name), dtype or value.dtype.name.lower(), shape)


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]
