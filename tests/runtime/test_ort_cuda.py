import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import (
    TASKS,
    BackendError,
    Florence2,
    GenerationOptions,
    ImageError,
    RequestError,
    contract,
)
from florence_edge.backends import ort, ort_cuda, ort_package
from florence_edge.bundle import Bundle
from florence_edge.cuda.api import failure

from .asking import SHORT, ask, assert_alike
from .fake_cuda import FakeCuda, OnGpu
from .fake_ort import Binding, Session, script_onnxruntime
from .fake_tensorrt import GRAPHS
from .on_gpu import require_onnxruntime_gpu
from .scripted_machine import backend_of


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return script_onnxruntime(monkeypatch)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((80, 60))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_all_15_tasks_are_answered_as_on_the_cpu(
    fake: FakeCuda,
    tiny_bundle: Path,
    tiny_model: Florence2,
    picture: Image.Image,
    num_beams: int,
) -> None:
    options = replace(SHORT, num_beams=num_beams)
    model = Florence2.load(tiny_bundle, "cuda:1")
    for task in TASKS:
        found = ask(model, task, picture, options)
        assert_alike(found, ask(tiny_model, task, picture, options))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_caches_grow_on_the_device(
    fake: FakeCuda,
    tiny_bundle: Path,
    tiny_model: Florence2,
    picture: Image.Image,
    num_beams: int,
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=80)
    found = ask(Florence2.load(tiny_bundle, "cuda"), "CAPTION", picture, options)
    assert_alike(found, ask(tiny_model, "CAPTION", picture, options))
    assert len(found.token_ids) > contract.MIN_CACHE_CAPACITY


@pytest.mark.parametrize("num_beams", [1, 2])
def test_steps_without_graphs_give_the_same_answers(
    fake: FakeCuda,
    tiny_bundle: Path,
    tiny_model: Florence2,
    picture: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    num_beams: int,
) -> None:
    monkeypatch.setenv("FLORENCE_CUDA_GRAPHS", "0")
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=80)  # two capacities
    found = ask(Florence2.load(tiny_bundle, "cuda"), "CAPTION", picture, options)
    assert_alike(found, ask(tiny_model, "CAPTION", picture, options))
    assert "cudaStreamBeginCapture" not in fake.calls
    monkeypatch.setenv("FLORENCE_CUDA_GRAPHS", "yes")
    with pytest.raises(RequestError, match="is 'yes'; expected 1 or 0"):
        Florence2.load(tiny_bundle, "cuda")
    assert fake.held == []


def test_a_decoder_that_onnxruntime_keeps_out_of_graphs_runs_without(
    fake: FakeCuda,
    tiny_bundle: Path,
    tiny_model: Florence2,
    picture: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(bundle: Bundle, name: str, provider: tuple[str, dict[str, str]]) -> Session:
        if "enable_cuda_graph" in provider[1]:
            raise BackendError("This session cannot use the graph capture feature.")
        return Session(fake, str(bundle.graph_file(name)), provider[1])

    monkeypatch.setattr(ort_cuda, "open_session", refuse)
    found = ask(Florence2.load(tiny_bundle, "cuda"), "CAPTION", picture, SHORT)
    assert_alike(found, ask(tiny_model, "CAPTION", picture, SHORT))
    assert "cudaStreamBeginCapture" not in fake.calls
    assert caplog.text.count("This session cannot use the graph capture feature.") == 1


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize(
    "refused", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_a_capture_that_is_refused_is_said_once_and_the_answer_is_the_same(
    fake: FakeCuda,
    tiny_bundle: Path,
    tiny_model: Florence2,
    picture: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refused: str,
    num_beams: int,
) -> None:
    def refuse(*arguments: Any) -> None:
        fake.captured = None
        raise failure(refused, "cudaErrorStreamCaptureInvalidated")

    monkeypatch.setattr(fake, refused, refuse)
    model = Florence2.load(tiny_bundle, "cuda")
    for options in (SHORT, GenerationOptions(num_beams=num_beams, max_new_tokens=80)):
        found = ask(model, "CAPTION", picture, options)
        assert_alike(found, ask(tiny_model, "CAPTION", picture, options))
    assert caplog.text.count("cannot be captured") == 1
    assert fake.calls.count(refused) == 1
    assert "cudaGraphLaunch" not in fake.calls


def test_a_step_brings_the_top_k_to_the_host_and_nothing_else(
    fake: FakeCuda, tiny_bundle: Path
) -> None:
    model = Florence2.load(tiny_bundle, "cuda")
    size = model.bundle.size
    features = model.backend.encode_image(
        np.zeros((1, size.image_size, size.image_size, 3), np.uint8)
    )
    ids, mask = np.full((1, 5), 9), np.ones((1, size.image_tokens + 5), dtype=np.int64)
    decoder = model.backend.prefill(features, ids, mask, beams=1)
    start, same = np.full((1, 1), 2), np.zeros((1, 1), dtype=np.int64)
    decoder.step(start, same)  # ONNX Runtime allocates
    fake.calls.clear()
    decoder.step(start, same)
    assert fake.calls == [
        "cudaSetDevice",
        "cudaStreamBeginCapture",
        "cudaMemcpyAsync",  # position and token
        "cuLaunchKernel",  # the new rows
        "cudaMemcpyAsync",  # the top K
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphDestroy",  # what it was instantiated from
        "cudaGraphLaunch",
        "cudaStreamSynchronize",
    ]
    fake.calls.clear()
    decoder.step(start, same)
    assert fake.calls == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]


def test_frames_on_the_gpu_stay_there(
    fake: FakeCuda, tiny_bundle: Path, tiny_model: Florence2
) -> None:
    values = np.random.default_rng(5).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    view = Florence2.load(tiny_bundle, "cuda").encode(OnGpu(fake, values), options=SHORT)
    assert_alike(view.caption(), tiny_model.encode(values, options=SHORT).caption())


def test_a_frame_of_another_gpu_is_refused_by_both_numbers(
    fake: FakeCuda, tiny_bundle: Path
) -> None:
    model, values = Florence2.load(tiny_bundle, "cuda:1"), np.zeros((50, 90, 3), np.uint8)
    frames = OnGpu(fake, values), OnGpu(fake, values)
    address, _ = frames[1].__cuda_array_interface__["data"]
    fake.owners[address] = 0
    with pytest.raises(ImageError, match=r"memory of GPU 0, and the model on GPU 1.*'cuda:0'"):
        model.encode(list(frames))
    fake.managed.add(address)
    assert len(model.encode(list(frames))) == 2


def test_a_frame_of_whose_memory_cuda_knows_nothing_is_tried(
    fake: FakeCuda, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise failure("cuPointerGetAttribute", "CUDA_ERROR_INVALID_VALUE")

    monkeypatch.setattr(fake, "cuPointerGetAttribute", refuse)
    values = np.zeros((50, 90, 3), np.uint8)
    Florence2.load(tiny_bundle, "cuda").encode(OnGpu(fake, values))


def test_everything_is_freed_with_the_model(
    fake: FakeCuda, tiny_bundle: Path, picture: Image.Image
) -> None:
    model = Florence2.load(tiny_bundle, "cuda")
    model.run(picture, "CAPTION", options=SHORT)
    assert fake.held
    del model
    assert fake.held == []


def test_a_graph_that_does_not_open_leaves_nothing_behind(
    fake: FakeCuda, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise BackendError("CUDA did not become active")

    monkeypatch.setattr(ort_cuda, "open_session", refuse)
    with pytest.raises(BackendError, match="did not become active"):
        Florence2.load(tiny_bundle, "cuda")
    assert fake.held == []


def test_a_binding_that_is_refused_is_an_error(
    fake: FakeCuda, tiny_bundle: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(Binding, "bind_input", refuse)
    with pytest.raises(BackendError, match="pixels on the GPU: no such device"):
        Florence2.load(tiny_bundle, "cuda").encode(picture)


def test_an_input_that_would_be_read_only_once_is_refused(
    fake: FakeCuda, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime copies an input to the host, if it wants it there, when it is bound."""

    onnxruntime = pytest.importorskip("onnxruntime")
    if not hasattr(onnxruntime.InferenceSession, "get_input_memory_infos"):
        pytest.skip("this ONNX Runtime cannot be asked where it wants its inputs")

    def memory_infos(session: Session) -> Any:
        return GRAPHS[session.path].get_input_memory_infos()  # of a session on the CPU

    monkeypatch.setattr(Session, "get_input_memory_infos", memory_infos, raising=False)
    with pytest.raises(BackendError, match="requires pixels on Cpu:0"):
        Florence2.load(tiny_bundle, "cuda")
    assert fake.held == []


def test_an_input_of_another_gpu_is_refused(
    fake: FakeCuda, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def memory_infos(session: Session) -> Any:
        return [SimpleNamespace(name="Cuda", device_id=0) for _ in session.get_inputs()]

    monkeypatch.setattr(Session, "get_input_memory_infos", memory_infos, raising=False)
    Florence2.load(tiny_bundle, "cuda")
    with pytest.raises(BackendError, match="requires pixels on Cuda:0"):
        Florence2.load(tiny_bundle, "cuda:1")


NO_KERNEL = "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0"
FULL = "Available memory of 8388608 is smaller than requested bytes of 33554432"


@pytest.mark.parametrize(
    ("said", "remedy"),
    [(NO_KERNEL, "has no code for this GPU"), (FULL, "The GPU's memory is full. Close other")],
)
def test_a_run_that_fails_says_what_to_do_about_the_gpu(
    fake: FakeCuda,
    tiny_bundle: Path,
    picture: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    remedy: str,
) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(Session, "run_with_iobinding", refuse)
    with pytest.raises(BackendError, match=f"failed while running: .*{remedy}"):
        Florence2.load(tiny_bundle, "cuda").encode(picture)


def test_a_session_that_finds_no_memory_on_the_gpu_says_so(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    bundle = Bundle.load(tiny_bundle)
    with pytest.raises(BackendError, match="The GPU's memory is full"):
        ort.open_session(bundle, contract.DECODER, (ort_package.CUDA, {}))
    with pytest.raises(BackendError, match="florence-doctor looks for the cause"):
        ort.open_session(bundle, contract.DECODER, ort_package.CPU)


def note_streams(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the stream is there, at the end of each session that is opened from now on."""
    opened, streams = vars(ort_cuda)["open_session"], []

    def open_session(*arguments: Any) -> Any:
        session = opened(*arguments)
        weakref.finalize(session, lambda: streams.append(("stream",) in fake.others.values()))
        return session

    monkeypatch.setattr(ort_cuda, "open_session", open_session)
    return streams


def test_sessions_go_before_the_stream_that_they_were_given(
    fake: FakeCuda, tiny_bundle: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their libraries hold on to it, and touch it as they go."""
    streams = note_streams(fake, monkeypatch)
    model = Florence2.load(tiny_bundle, "cuda")
    ask(model, "OD", picture, SHORT)
    backend_of(model).close()
    assert streams == [True] * 3
    assert fake.held == []


def test_an_onnxruntime_without_cuda_is_an_error_before_anything_is_opened(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_cuda, "available", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"CUDA did not become active.*pip install .*\[gpu\]"):
        Florence2.load(tiny_bundle, "cuda")


def test_a_provider_that_gave_way_to_the_cpu_is_an_error() -> None:
    with pytest.raises(BackendError, match="it has CPUExecutionProvider"):
        ort.check_active("CUDAExecutionProvider", ["CPUExecutionProvider"])


@pytest.mark.gpu
@pytest.mark.parametrize("num_beams", [1, 3])
def test_cuda_answers_all_15_tasks_as_the_cpu_does(miniature_bundle: Path, num_beams: int) -> None:
    from .miniature_answers import assert_same_answers

    require_onnxruntime_gpu()
    assert_same_answers(miniature_bundle, "cuda", num_beams)
