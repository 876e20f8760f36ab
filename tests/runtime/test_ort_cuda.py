import ctypes
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, BackendError, Florence2, GenerationOptions, RequestError, contract
from florence_edge.backends import ort, ort_cuda, ort_libraries
from florence_edge.bundle import Bundle
from florence_edge.cuda import device as cuda_device
from florence_edge.cuda.api import failure

from .fake_cuda import FakeCuda
from .fake_tensorrt import GRAPHS, numpy_type, run_graph
from .on_gpu import require_gpu
from .scripted_machine import ask, assert_alike, backend_of
from .test_cuda_resize import OnGpu

SHORT = GenerationOptions(max_new_tokens=12)


@dataclass
class Binding:
    """ONNX Runtime's IOBinding, taking addresses of the GPU."""

    cuda: FakeCuda
    index: int
    bound: dict[str, tuple[int, Any]] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)

    def bind_input(
        self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int
    ) -> None:
        assert (device, index) == ("cuda", self.index)
        self.bound[name], self.types[name] = (address, tuple(shape)), dtype

    bind_output = bind_input


@dataclass
class Session:
    """A session on the scripted GPU: a run is enqueued, and may be captured if it was opened so."""

    cuda: FakeCuda
    path: str
    settings: dict[str, str]

    def io_binding(self) -> Binding:
        return Binding(self.cuda, int(self.settings["device_id"]))

    def get_inputs(self) -> Any:
        return GRAPHS[self.path].get_inputs()

    def get_outputs(self) -> Any:
        return GRAPHS[self.path].get_outputs()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if "enable_cuda_graph" in self.settings:
            assert options.get_run_config_entry("gpu_graph_id") == "-1"  # it captures nothing
        else:
            assert self.cuda.captured is None
        assert self.cuda.others[int(self.settings["user_compute_stream"])] == ("stream",)
        values = (*self.get_inputs(), *self.get_outputs())
        assert set(binding.bound) == {value.name for value in values}
        assert all(binding.types[value.name] is numpy_type(value) for value in values)
        bound = dict(binding.bound)
        self.cuda.enqueue(lambda: run_graph(GRAPHS[self.path], self.cuda, bound))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    scripted = FakeCuda()

    def open_session(bundle: Bundle, name: str, provider: tuple[str, dict[str, str]]) -> Session:
        assert provider[0] == ort_cuda.PROVIDER
        return Session(scripted, str(bundle.graph_file(name)), provider[1])

    monkeypatch.setattr(cuda_device, "open_provider", lambda: scripted)
    monkeypatch.setattr(ort_cuda, "available", lambda: [ort_cuda.PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(ort_cuda, "open_session", open_session)
    return scripted


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


def test_sessions_go_before_the_stream_that_they_were_given(
    fake: FakeCuda, tiny_bundle: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their libraries hold on to it, and touch it as they go."""
    opened, streams = vars(ort_cuda)["open_session"], []

    def open_session(*arguments: Any) -> Any:
        session = opened(*arguments)
        weakref.finalize(session, lambda: streams.append(("stream",) in fake.others.values()))
        return session

    monkeypatch.setattr(ort_cuda, "open_session", open_session)
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


def package(folder: Path, *, cuda_version: str = "13.0", **functions: Any) -> Any:
    """A module onnxruntime in a folder of packages; `preload_dlls` is one of its functions."""
    capi = folder / "onnxruntime" / "capi"
    capi.mkdir(parents=True, exist_ok=True)
    (capi / "libonnxruntime_providers_cuda.so").touch()
    path = folder / "onnxruntime" / "__init__.py"
    return SimpleNamespace(
        __file__=str(path), __version__="1.31.1", cuda_version=cuda_version, **functions
    )


@pytest.mark.parametrize(
    ("beside", "cuda_version", "preloads"),
    [
        ("nvidia/cu13/lib/libcublasLt.so.13", "13.0", True),
        ("nvidia/cublas/lib/libcublasLt.so.12", "12.2", True),
        ("nvidia/cublas/lib/libcublasLt.so.12", "13.0", False),  # another program's CUDA
        ("nvidia/cu13/lib/libnvrtc.so.13", "13.0", False),  # NVRTC alone, with the system's CUDA
        ("numpy/__init__.py", "13.0", False),
    ],
)
def test_libraries_are_loaded_from_wheels_of_the_right_cuda_only(
    tmp_path: Path, beside: str, cuda_version: str, preloads: bool
) -> None:
    (tmp_path / beside).parent.mkdir(parents=True)
    (tmp_path / beside).touch()
    loaded: list[bool] = []
    onnxruntime = package(
        tmp_path, cuda_version=cuda_version, preload_dlls=lambda: loaded.append(True)
    )
    ort_libraries.preload(onnxruntime)
    assert bool(loaded) is preloads


def test_on_a_jetson_nothing_is_loaded_over_the_systems_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "nvidia" / "cu13" / "lib" / "libcublasLt.so.13"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    release = tmp_path / "nv_tegra_release"
    release.touch()
    monkeypatch.setattr(ort_libraries, "L4T_RELEASE", release)
    onnxruntime = package(tmp_path, preload_dlls=lambda: pytest.fail("they were loaded"))
    ort_libraries.preload(onnxruntime)
    remedy = ort_libraries.remedy_for(onnxruntime, "libcublasLt.so.13")
    assert "apt install nvidia-jetpack-runtime" in remedy
    assert "pip" not in remedy


@pytest.mark.parametrize(("jetson", "missing"), [(True, ""), (False, "libcudnn.so.9")])
def test_which_cudnn_a_jetson_has_is_jetpacks_affair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jetson: bool, missing: str
) -> None:
    def load(name: str, mode: int = 0) -> None:
        if name == "libcudnn.so.9":
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    release = tmp_path / "nv_tegra_release"
    if jetson:
        release.touch()
    monkeypatch.setattr(ort_libraries, "L4T_RELEASE", release)
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert ort_libraries.missing_library(package(tmp_path)) == missing


def test_an_onnxruntime_that_cannot_load_from_wheels_is_left_alone(tmp_path: Path) -> None:
    wheel = tmp_path / "nvidia" / "cublas" / "lib" / "libcublasLt.so.12"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    ort_libraries.preload(package(tmp_path, cuda_version="12.2"))


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ("libcublasLt.so.13", "libcublasLt.so.13 is not found. Run: pip install 'onnxruntime-gpu["),
        (
            "libcuda.so.1",
            "libcuda.so.1 is not found. It comes with NVIDIA's driver: install that, ",
        ),
    ],
)
def test_a_library_that_the_provider_lacks_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, said: str
) -> None:
    def load(name: str, mode: int = 0) -> None:
        if name.endswith("providers_cuda.so"):
            raise OSError(f"{absent}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(ort, "import_onnxruntime", lambda: package(tmp_path))
    monkeypatch.setattr(ort, "available", lambda: [ort_cuda.PROVIDER, "CPUExecutionProvider"])
    with pytest.raises(BackendError) as raised:
        ort.check_active(ort_cuda.PROVIDER, ["CPUExecutionProvider"])
    assert said in str(raised.value)


def test_a_provider_that_gave_way_to_the_cpu_is_an_error() -> None:
    with pytest.raises(BackendError, match="it has CPUExecutionProvider"):
        ort.check_active("CUDAExecutionProvider", ["CPUExecutionProvider"])


@pytest.mark.gpu
@pytest.mark.parametrize("num_beams", [1, 3])
def test_cuda_answers_all_15_tasks_as_the_cpu_does(miniature_bundle: Path, num_beams: int) -> None:
    from .miniature_answers import assert_same_answers

    if ort_cuda.PROVIDER not in ort.available():
        pytest.skip("run `pytest -m gpu` with onnxruntime-gpu: pip install florence-edge[gpu]")
    require_gpu()
    assert_same_answers(miniature_bundle, "cuda", num_beams)
