import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from florence_edge import Florence2

from .command_line import photo, photos, run  # noqa: F401 - fixtures
from .host_kernels import Launch, compile_for_host
from .scripted_machine import (  # noqa: F401 - fixtures
    bare,
    in_place,
    machine,
    miniature_engines,
    pictures,
)


@pytest.fixture(scope="session")
def pointing_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a bias for location tokens: whatever it is asked, it points somewhere.

    In Microsoft's layout, since transformers ignores the bias in its own.
    """
    exporting = pytest.importorskip("florence_edge_export.export")
    from ..export import folders
    from ..export.microsoft_twin import write_twin

    folder = tmp_path_factory.mktemp("pointing")
    twin = write_twin(tiny_checkpoint, folder / "checkpoint")
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    tensors = folders.read(twin)
    bias = np.zeros_like(tensors["language_model.final_logits_bias"])
    locations = [tokenizer.token_to_id(f"<loc_{i}>") or 0 for i in range(1000)]
    bias[0, locations] = 9
    folders.write(twin, {**tensors, "language_model.final_logits_bias": bias})
    exporting.export("pointing", twin, folder / "bundle", exporting.ExportOptions())
    return folder / "bundle"


@pytest.fixture(scope="session")
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """kernels.cu, compiled for the host."""
    return compile_for_host(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def cuda_bindings() -> Any:
    """NVIDIA's package; its functions can be looked at without a GPU."""
    package = pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    for name in ("driver", "nvrtc", "runtime"):
        pytest.importorskip(f"cuda.bindings.{name}")
    return package


@pytest.fixture
def fresh_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def encoded(tiny_model: Florence2, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each run of the vision encoder was given."""
    counts: list[int] = []
    encode_image = tiny_model.backend.encode_image

    def counted(pixels: Any) -> Any:
        counts.append(len(pixels))
        return encode_image(pixels)

    monkeypatch.setattr(tiny_model.backend, "encode_image", counted)
    return counts
