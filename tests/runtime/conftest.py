import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from florence_edge import Florence2

from .scripted_machine import (  # noqa: F401 - fixtures
    bare,
    in_place,
    machine,
    miniature_engines,
    pictures,
)


@pytest.fixture(scope="session")
def pointing_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a bias for location tokens: whatever it is asked, it points somewhere."""
    exporting = pytest.importorskip("florence_edge_export.export")
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("pointing")
    shutil.copytree(tiny_checkpoint, folder / "checkpoint")
    weights = folder / "checkpoint" / "model.safetensors"
    tensors = load_file(weights)
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    (vocabulary,) = {len(t) for name, t in tensors.items() if name.endswith("shared.weight")}
    bias = np.zeros((1, vocabulary), dtype=np.float32)
    locations = [tokenizer.token_to_id(f"<loc_{i}>") or 0 for i in range(1000)]
    bias[0, locations] = 9
    save_file({**tensors, "final_logits_bias": bias}, weights, metadata={"format": "pt"})
    exporting.export(
        "pointing", folder / "checkpoint", folder / "bundle", exporting.ExportOptions()
    )
    return folder / "bundle"


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
