"""Which engines are loaded, and what is said where they are missing or do not fit."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from florence_edge import (
    BackendError,
    Florence2,
    GenerationOptions,
    MissingPackageError,
    RequestError,
    contract,
)
from florence_edge.backends import trt
from florence_edge.bundle import Bundle, StoredFile
from florence_edge.tensorrt import manifest as manifests
from florence_edge.tensorrt.find import find_engines
from florence_edge.tensorrt.install import TensorRT, make_logger

from ..helpers.assets import Asset
from . import fake_tensorrt
from .asking import SHORT, ask, assert_alike
from .fake_tensorrt import FakeTensorRT
from .scripted_machine import BUILT, ORIN, Machine, Steps, backend_of, place_engines

OF_RTX = {  # called of TensorRT-RTX alone
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "ICudaEngine.create_runtime_config",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_execution_context_allocation_strategy",
}


def test_in_place_engines_are_preferred_and_another_graph_is_noticed(in_place: Machine) -> None:
    portable = place_engines(in_place.folder, BUILT)
    bundle = Bundle.load(in_place.folder)
    here = manifests.this_device(TensorRT(in_place.trt, "tensorrt", "10.3.0"))
    engines = find_engines(bundle, here)
    assert engines.folder != portable
    assert engines.manifest.options.in_place == 256
    files = {**bundle.files, "decoder.inplace.onnx": StoredFile(1, "1" * 64)}
    assert find_engines(replace(bundle, files=files), here).folder == portable
    alone = {name: file for name, file in bundle.files.items() if "inplace" not in name}
    assert find_engines(replace(bundle, files=alone), here).folder == portable


def test_without_tensorrt_the_error_says_what_to_install(
    bare: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match="tensorrt-cu12"):
        bare.load()


def test_tensorrt_rtx_is_chosen_by_name(bare: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", bare.trt)
    with pytest.raises(BackendError, match="There are no TensorRT engines"):
        bare.load("tensorrt-rtx")
    with pytest.raises(RequestError, match="no device 'tensorrt-lean'"):
        bare.load("tensorrt-lean")


@pytest.mark.parametrize("capturable", [True, False])
def test_tensorrt_rtx_is_captured_where_it_can_be(
    bare: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    capturable: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", bare.trt)
    place_engines(bare.folder, BUILT, flavour="tensorrt_rtx")
    bare.trt.capturable = capturable
    found = ask(bare.load("tensorrt-rtx"), "OD", pictures[0], SHORT)
    assert_alike(found, ask(tiny_model, "OD", pictures[0], SHORT))
    assert ("cudaGraphLaunch" in bare.cuda.calls) == capturable
    kernels = {c.how.dynamic_shapes_kernel_specialization_strategy for c in bare.trt.contexts}
    assert kernels == {bare.trt.DynamicShapesKernelSpecializationStrategy.EAGER}


def test_of_tensorrt_rtx_no_run_is_captured_once_one_cannot_be(
    bare: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", bare.trt)
    place_engines(bare.folder, BUILT, flavour="tensorrt_rtx")
    steps = Steps(bare, 1, device="tensorrt-rtx")
    for capturable in (False, True):
        bare.trt.capturable = capturable
        steps.decoder = steps.open(tokens=8 if capturable else 20)  # bindings of its own
        for _ in range(3):
            steps.step([0])
    assert "cudaGraphLaunch" not in bare.cuda.calls


def test_without_engines_the_error_says_how_to_build_them(bare: Machine) -> None:
    with pytest.raises(BackendError, match=f"Run: florence-build {bare.folder}"):
        bare.load()
    assert bare.cuda.calls == []


def test_engines_of_another_gpu_are_not_loaded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "find_gpu", lambda index=0: replace(ORIN, name="Thor"))
    with pytest.raises(BackendError, match="GPU Orin, here Thor"):
        machine.load()


def test_engines_may_be_elsewhere(bare: Machine, pictures: list[Image.Image]) -> None:
    elsewhere = bare.folder.parent / "engines of this board"
    place_engines(bare.folder, BUILT, elsewhere)
    model = bare.load(engine_dir=elsewhere)
    assert ask(model, "CAPTION", pictures[0], SHORT).token_ids


def test_more_than_was_built_is_refused_with_the_command(
    machine: Machine, pictures: list[Image.Image]
) -> None:
    model = machine.load()
    with pytest.raises(BackendError, match=r"beams 4, needed 5.*florence-build .* --beams 5"):
        ask(model, "OD", pictures[0], replace(SHORT, num_beams=5))
    with pytest.raises(BackendError, match=r"batch 3, needed 4.*--batch 4"):
        model.run([*pictures, pictures[0]], "OD", options=SHORT)
    long = GenerationOptions(num_beams=1, max_new_tokens=280)
    with pytest.raises(BackendError, match=r"tokens 200, needed 257.*--max-new-tokens 257"):
        ask(model, "OD", pictures[0], long)
    assert ask(model, "OD", pictures[0], SHORT).token_ids  # and the model still answers


def test_an_answer_of_open_length_ends_where_the_engines_do(
    bare: Machine, pictures: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint's default is more than was built: a number that nobody requested."""
    place_engines(bare.folder, replace(BUILT, max_new_tokens=70))
    model = bare.load()
    assert model.bundle.generation.max_new_tokens == 70
    answer = ask(model, "CAPTION", pictures[0], GenerationOptions(num_beams=1))
    assert (answer.status, len(answer.token_ids)) == ("truncated", 1 + 70)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "up to 70 tokens" in message
    assert f"florence-build {bare.folder} --max-new-tokens" in message
    options = GenerationOptions(num_beams=1, max_new_tokens=140)
    with pytest.raises(BackendError, match=r"tokens 70, needed 129"):
        ask(model, "CAPTION", pictures[0], options)


def test_a_default_that_fits_the_engines_is_left_alone(
    bare: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    default = Bundle.load(bare.folder).generation
    place_engines(bare.folder, replace(BUILT, max_new_tokens=default.max_new_tokens))
    assert bare.load().bundle.generation == default
    assert caplog.records == []


def test_the_command_for_the_second_gpu_names_it(bare: Machine) -> None:
    with pytest.raises(BackendError, match=rf"Run: florence-build {bare.folder} --gpu 1$"):
        bare.load("tensorrt:1")


def test_the_second_gpu_is_used_where_it_is_named(
    machine: Machine, pictures: list[Image.Image]
) -> None:
    model = machine.load("tensorrt:1")
    assert ask(model, "OD", pictures[0], SHORT).token_ids
    with pytest.raises(BackendError, match="no GPU of that number"):
        machine.load("tensorrt:2")
    assert backend_of(model)._model.cuda.index == 1


@pytest.mark.parametrize(
    "method",
    [
        "set_optimization_profile_async",
        "set_input_shape",
        "set_tensor_address",
        "execute_async_v3",
    ],
)
def test_an_engine_that_refuses_is_an_error(
    machine: Machine, pictures: list[Image.Image], method: str
) -> None:
    machine.trt.refuses = method
    with pytest.raises(BackendError, match=r"vision_encoder.plan.*florence-build .* --refresh"):
        ask(machine.load(), "OD", pictures[0], SHORT)


def test_a_plan_that_does_not_load_is_an_error(bare: Machine) -> None:
    engines = place_engines(bare.folder, BUILT)
    plan = engines / manifests.plan_name(contract.TEXT_ENCODER)
    plan.write_bytes(b"x" * plan.stat().st_size)
    with pytest.raises(BackendError, match=r"does not load .*text_encoder.plan.*--refresh"):
        bare.load(verify=False)
    assert bare.cuda.held == []


@pytest.mark.parametrize("graph", contract.GRAPHS)
def test_a_bit_that_flipped_in_a_plan_is_noticed_before_tensorrt_sees_it(
    bare: Machine, graph: str
) -> None:
    plan = place_engines(bare.folder, BUILT) / manifests.plan_name(graph)
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 0x10
    plan.write_bytes(content)
    with pytest.raises(BackendError, match=rf"{graph}\.plan is not what was built.*--refresh"):
        bare.load()
    assert bare.cuda.held == []


def test_a_failing_tensorrt_is_log_messaged(
    machine: Machine, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    log = make_logger(machine.trt, trt._log_message)
    log.log(machine.trt.ILogger.ERROR, "no kernel image")
    log.log(machine.trt.ILogger.INFO, "a detail")
    assert [record.getMessage() for record in caplog.records] == ["TensorRT: no kernel image"]


@pytest.mark.parametrize("release", ["tensorrt 10.3.0", "tensorrt 11.4.0", "tensorrt_rtx 1.7.1"])
def test_every_name_of_the_scripted_tensorrt_exists_in_each_release(
    asset: Asset, release: str
) -> None:
    """The backend runs over the script, so it uses no name that is not there."""
    names = set(json.loads(asset("tensorrt_api_names.json").read_text())[release])
    used = {"ExecutionContextAllocationStrategy.USER_MANAGED", "Runtime"}
    used |= {f"ILogger.{name}" for name in vars(FakeTensorRT.ILogger) if not name.startswith("__")}
    for kind in ("Runtime", "ICudaEngine", "IExecutionContext"):
        own = {"trt", "path", "engine", "profile", "scratch", "shapes", "addresses", "runs", "how"}
        public = {name for name in vars(getattr(fake_tensorrt, kind)) if not name.startswith("_")}
        used |= {f"{kind}.{name}" for name in public - own}
    used -= OF_RTX
    assert len(used) > 12
    assert sorted(used - names) == []


def test_tensorrt_rtx_says_whether_its_runs_can_be_captured(asset: Asset) -> None:
    names = json.loads(asset("tensorrt_api_names.json").read_text())["tensorrt_rtx 1.7.1"]
    assert sorted(OF_RTX - set(names)) == []
