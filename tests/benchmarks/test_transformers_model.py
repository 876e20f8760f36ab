import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="compares with transformers: [verify]")
pytest.importorskip("transformers")

import torch

from florence_edge_benchmarks.systems.transformers_model import load_model
from florence_edge_benchmarks.systems.transformers_variants import (
    FROM_PRETRAINED,
    OUR_READER,
    VARIANTS,
)
from florence_edge_export.checkpoint.folder import read_checkpoint
from florence_edge_export.verify.reference import Reference


def test_the_native_layout_is_read_by_transformers_and_is_the_same_model(
    tiny_checkpoint: Path,
) -> None:
    model, reader = load_model(tiny_checkpoint, VARIANTS["transformers"])
    assert reader == FROM_PRETRAINED
    assert not model.training
    expected = Reference(read_checkpoint(tiny_checkpoint)).model.state_dict()
    found = model.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.lm_head.weight is model.model.language_model.shared.weight


def test_a_short_float_is_asked_for_when_loading(tiny_checkpoint: Path) -> None:
    model, _ = load_model(tiny_checkpoint, VARIANTS["transformers-bf16"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_what_the_native_class_has_no_place_for_is_read_by_us(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    tensors = safetensors.load_file(folder / "model.safetensors")
    (vocabulary,) = {len(t) for name, t in tensors.items() if name.endswith("shared.weight")}
    bias = torch.arange(float(vocabulary))[None]
    tensors["final_logits_bias"] = bias
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, reader = load_model(folder, VARIANTS["transformers"])
    assert reader == OUR_READER
    assert torch.equal(model.lm_head.bias, bias[0])
