"""A machine with a GPU as scripted: CUDA, TensorRT, and a bundle with engines.

The fixtures are in the conftest.py of this folder and of tests/benchmarks.
"""

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence2, contract
from florence_edge.backends.gpu import GpuBackend
from florence_edge.bundle import Bundle, StoredFile, sha256
from florence_edge.cuda import device as cuda_device
from florence_edge.tensorrt import manifest as manifests
from florence_edge.tensorrt.driver import GpuInfo
from florence_edge.tensorrt.install import Flavour
from florence_edge.tensorrt.manifest import EngineManifest, TargetDevice
from florence_edge.tensorrt.profiles import EngineOptions

from . import fake_tensorrt
from .asking import noise_pictures
from .fake_cuda import FakeCuda
from .fake_tensorrt import FakeTensorRT
from .on_gpu import require_tensorrt

ORIN = GpuInfo(name="Orin", compute_capability="8.7", multiprocessors=16, driver="12.6")
BUILT = EngineOptions(batch=3, beams=4, max_new_tokens=200)


@dataclass
class Machine:
    """A Jetson as scripted: its CUDA, its TensorRT, and a bundle with engines for it."""

    cuda: FakeCuda
    trt: FakeTensorRT
    folder: Path

    def load(self, device: str = "tensorrt", **options: Any) -> Florence2:
        return Florence2.load(self.folder, device, **options)


def place_engines(
    folder: Path,
    options: EngineOptions,
    root: Path | None = None,
    flavour: Flavour = "tensorrt",
) -> Path:
    """Engines of the bundle in `folder`: a plan is the path of its graph."""
    bundle = Bundle.load(folder)
    here = TargetDevice(
        gpu=ORIN.name,
        multiprocessors=ORIN.multiprocessors,
        compute_capability=ORIN.compute_capability,
        flavour=flavour,
        tensorrt="10.3.0",
        driver=ORIN.driver,
        l4t=None,
    )
    engines = (root or folder / "engines") / manifests.fingerprint(bundle, here, options)
    engines.mkdir(parents=True)
    plans = {}
    for graph in contract.GRAPHS:
        plan = engines / manifests.plan_name(graph)
        _, onnx = manifests.source(bundle, graph, options)
        plan.write_text(str(onnx), encoding="utf-8")
        plans[plan.name] = StoredFile(plan.stat().st_size, sha256(plan))
    manifest = EngineManifest(
        layout=manifests.LAYOUT_VERSION,
        producer="test",
        model=bundle.model,
        precision=bundle.precision,
        device=here,
        options=options,
        sources=manifests.sources(bundle, options),
        plans=plans,
    )
    manifests.write_manifest(engines, manifest)
    return engines


@pytest.fixture
def bare(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose bundle has no engines yet."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    fake = FakeCuda()
    module = FakeTensorRT(fake)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(cuda_device, "open_provider", lambda: fake)
    monkeypatch.setattr(manifests, "find_gpu", lambda index=0: ORIN)
    monkeypatch.setattr(manifests, "l4t_release", lambda: None)
    monkeypatch.delenv("FLORENCE_TENSORRT", raising=False)
    return Machine(fake, module, folder)


@pytest.fixture
def machine(bare: Machine) -> Machine:
    place_engines(bare.folder, BUILT)
    return bare


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return noise_pictures((80, 60), (80, 70), (80, 80))


def backend_of(model: Florence2) -> GpuBackend:
    assert isinstance(model.backend, GpuBackend)
    return model.backend


class Steps:
    """A decoder driven by hand, with the calls of each step."""

    def __init__(self, machine: Machine, beams: int, device: str = "tensorrt") -> None:
        self.model = machine.load(device)
        self.fake = machine.cuda
        self.beams = beams
        self.decoder = self.open()

    def open(self, tokens: int = 8) -> Any:
        size = self.model.bundle.size
        pixels = np.zeros((1, size.image_size, size.image_size, 3), dtype=np.uint8)
        features = self.model.backend.encode_image(pixels)
        ids = np.arange(tokens, dtype=np.int64)[None] + 4
        mask = np.ones((1, size.image_tokens + tokens), dtype=np.int64)
        return self.model.backend.prefill(features, ids, mask, beams=self.beams)

    def step(self, parents: list[int]) -> list[str]:
        before = len(self.fake.calls)
        tokens = np.full((1, self.beams), 5, dtype=np.int64)
        self.scores = self.decoder.step(tokens, np.array([parents]))
        return self.fake.calls[before:]


@pytest.fixture
def in_place(bare: Machine, tiny_checkpoint: Path, tmp_path: Path) -> Machine:
    exporting = pytest.importorskip("florence_edge_export.export")
    ort_errors = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    folder = tmp_path / "in place"
    exporting.export("tiny", tiny_checkpoint, folder, exporting.ExportOptions())
    try:
        fake_tensorrt.GRAPHS[str(folder / "decoder.inplace.onnx")]
    except (ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.NotImplemented) as error:
        pytest.skip(f"this ONNX Runtime is older than TensorScatter: {error}")
    place_engines(folder, replace(BUILT, in_place=256))
    return replace(bare, folder=folder)


@pytest.fixture(scope="module")
def miniature_engines(miniature_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with engines built here."""
    require_tensorrt()
    building = pytest.importorskip("florence_edge_export.tensorrt_build.cli")
    bundle = tmp_path_factory.mktemp("miniature") / "bundle"
    shutil.copytree(miniature_bundle, bundle)
    assert building.main([str(bundle)]) == 0
    return bundle
