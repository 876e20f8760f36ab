import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from florence_edge.contract import GraphSignature, Tensor
from florence_edge.errors import BackendError
from florence_edge.tensorrt.profiles import Profile, Range
from florence_edge_export.tensorrt_build import worker
from florence_edge_export.tensorrt_build.builder import BuildProgress, Built, Event, Job, Message
from florence_edge_export.tensorrt_build.worker import build_in_process

pytest.importorskip("tensorrt_rtx_bindings")

HEADS, QUERIES, KEYS, WIDTH = 2, 1, 8, 16


def job(onnx_file: Path, inputs: tuple[Tensor, ...], ahead_of_time: str = "8.6") -> Job:
    return Job(
        graph=GraphSignature("some", inputs, ()),
        onnx=onnx_file,
        plan=onnx_file.with_suffix(".plan"),
        timing_cache=onnx_file.with_name("timing.cache"),
        profiles=(Profile({"B": Range(1, 2, 4)}),),
        workspace_mb=64,
        flavour="tensorrt_rtx",
        ahead_of_time=ahead_of_time,
    )


def save(path: Path, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto]) -> Path:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "some", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    onnx.save(model, path)
    return path


def of_floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


X = Tensor("x", "float32", ("B", 8))


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return save(tmp_path / "doubling.onnx", [node], [of_floats("x", "B", 8)])


def ignore(_: Event) -> None:
    pass


def build(one: Job) -> list[Event]:
    """In a process of its own: TensorRT keeps the first logger of a process for all its builds."""
    return list(build_in_process(one))


def test_the_process_chooses_the_gpu_before_tensorrt_is_asked(
    doubling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []

    def plan(*_: object) -> bytes:
        done.append("plan")
        return b"plan"

    monkeypatch.setattr(worker, "open_provider", lambda: lambda *call: done.append(call))
    monkeypatch.setattr(worker, "plan_from_onnx", plan)
    for gpu in (0, 1):
        assert isinstance(worker.build(replace(job(doubling, (X,)), gpu=gpu), ignore), Built)
    assert done == ["plan", ("cudaSetDevice", 1), "plan"]


def test_a_graph_becomes_a_plan_and_progress_is_reported(doubling: Path) -> None:
    *events, last = build(job(doubling, (X,)))
    assert isinstance(last, Built)
    assert doubling.with_suffix(".plan").stat().st_size > 100
    steps = [event for event in events if isinstance(event, BuildProgress)]
    assert {step.phase for step in steps} == {"some"}
    assert all(0 <= step.done <= step.total for step in steps)
    assert max(step.done for step in steps) > 1


def test_an_ignored_input_fails_the_build(tmp_path: Path) -> None:
    """TensorRT takes nonpad_kv_seqlen for an unused input and would attend to padding."""
    tensors = (
        Tensor("q", "float32", ("B", HEADS, QUERIES, WIDTH)),
        Tensor("k", "float32", ("B", HEADS, KEYS, WIDTH)),
        Tensor("v", "float32", ("B", HEADS, KEYS, WIDTH)),
        Tensor("lengths", "int64", ("B",)),
    )
    inputs = [of_floats(tensor.name, *tensor.shape) for tensor in tensors[:3]]
    inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT64, ["B"]))
    node = helper.make_node("Attention", ["q", "k", "v", "", "", "", "lengths"], ["y"])
    path = save(tmp_path / "attention.onnx", [node], inputs)
    with pytest.raises(
        BackendError, match=r"ignores a part of .*attention\.onnx.*Unused Input: lengths"
    ):
        build(job(path, tensors))


def test_what_the_parser_refuses_is_one_message(tmp_path: Path) -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], name="quantize")
    cast = helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)
    path = save(tmp_path / "dynamic.onnx", [node, cast], [of_floats("x", "B", 8)])
    with pytest.raises(BackendError) as raised:
        build(job(path, (X,)))
    message = str(raised.value)
    assert f"TensorRT cannot read {path}" in message
    assert "DynamicQuantizeLinear" in message
    assert "Export the bundle again" in message
    assert "\n" not in message


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(bytes(np.arange(200, dtype=np.uint8)))
    with pytest.raises(BackendError, match=r"garbage\.onnx.*Export the bundle again"):
        build(job(path, (X,)))


def test_other_inputs_than_the_contract_names_are_refused(doubling: Path) -> None:
    with pytest.raises(BackendError, match=r"has the inputs \['x'\], the contract \['pixels'\]"):
        build(job(doubling, (Tensor("pixels", "uint8", ("B", 8)),)))


def test_rtx_refuses_gpus_that_it_does_not_know(doubling: Path) -> None:
    with pytest.raises(BackendError, match=r"capability 8\.7, only for 7\.5.*full TensorRT"):
        build(job(doubling, (X,), ahead_of_time="8.7"))


def test_a_driver_that_is_missing_or_too_old_is_not_the_bundles_fault(doubling: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a driver")
    with pytest.raises(BackendError, match=r"cannot build doubling\.onnx: .*Look at nvidia-smi"):
        build(replace(job(doubling, (X,)), ahead_of_time=None))


def test_int64_bindings_are_no_warning(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["ids"], ["y"], to=TensorProto.FLOAT)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["B"])
    path = save(tmp_path / "ids.onnx", [node], [ids])
    events = build(job(path, (Tensor("ids", "int64", ("B",)),)))
    messages = [event for event in events if isinstance(event, Message)]
    assert any("Int64" in message.text for message in messages)
    assert all(message.level < logging.WARNING for message in messages)
