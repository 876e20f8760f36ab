import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="compares with transformers: [verify]")
pytest.importorskip("transformers")

import torch

from florence_edge_benchmarks.systems.bundle import BundleSystem
from florence_edge_benchmarks.systems.system import (
    CPU,
    FROM_PRETRAINED,
    OUR_READER,
    VARIANTS,
    Variant,
)
from florence_edge_benchmarks.systems.transformers import TransformersSystem, load_model
from florence_edge_benchmarks.systems.workload import Workload
from florence_edge_benchmarks.timing import STAGES
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.verify.reference import Reference

from ..helpers.assets import Asset


@pytest.fixture(scope="module")
def ours(tiny_bundle: Path) -> BundleSystem:
    return BundleSystem.load(tiny_bundle, CPU, 1)


@pytest.fixture(scope="module")
def theirs(tiny_bundle: Path, tiny_checkpoint: Path) -> TransformersSystem:
    return TransformersSystem.load(VARIANTS["transformers"], tiny_bundle, str(tiny_checkpoint), 1)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("new_tokens", [2, 12])
@pytest.mark.parametrize("task", ["CAPTION", "REGION_TO_SEGMENTATION"])
def test_both_answer_with_the_same_tokens(
    ours: BundleSystem,
    theirs: TransformersSystem,
    picture: Path,
    task: str,
    new_tokens: int,
    beams: int,
) -> None:
    workload = Workload(task=task, beams=beams, new_tokens=new_tokens, batch=1, image=str(picture))
    expected, found = ours.answer(workload), theirs.answer(workload)
    assert found.token_ids == expected.token_ids
    assert len(found.steps) == len(expected.steps) == found.tokens
    assert tuple(found.stages) == STAGES
    assert found.seconds == pytest.approx(sum(found.stages.values()))
    assert min(found.stages.values()) >= 0


def test_a_model_that_ends_its_answers_ends_them_alike(
    miniature_bundle: Path, picture: Path
) -> None:
    workload = Workload(task="OD", beams=3, new_tokens=None, batch=1, image=str(picture))
    expected = BundleSystem.load(miniature_bundle, CPU, 1).answer(workload)
    found = TransformersSystem.load(VARIANTS["transformers"], miniature_bundle, "miniature", 1)
    assert found.answer(workload).token_ids == expected.token_ids


def test_a_batch_is_answered_as_one(theirs: TransformersSystem, picture: Path) -> None:
    workload = Workload(task="OD", beams=2, new_tokens=4, batch=1, image=str(picture))
    alone, batch = theirs.answer(workload), theirs.answer(replace(workload, batch=3))
    assert batch.token_ids == alone.token_ids * 3
    assert len(batch.steps) == 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_run_as_such(
    tiny_bundle: Path, tiny_checkpoint: Path, picture: Path, dtype: str
) -> None:
    system = TransformersSystem.load(Variant(dtype), tiny_bundle, str(tiny_checkpoint), 1)
    workload = Workload(task="OD", beams=1, new_tokens=4, batch=1, image=str(picture))
    assert system.answer(workload).tokens == 4


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


def test_a_short_float_is_requested_when_loading(tiny_checkpoint: Path) -> None:
    model, _ = load_model(tiny_checkpoint, VARIANTS["transformers-bf16"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_what_the_native_class_has_no_place_for_is_left_out_as_transformers_does(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    tensors = safetensors.load_file(folder / "model.safetensors")
    (vocabulary,) = {len(t) for name, t in tensors.items() if name.endswith("shared.weight")}
    tensors["final_logits_bias"] = torch.arange(float(vocabulary))[None]
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, reader = load_model(folder, VARIANTS["transformers"])
    assert reader == FROM_PRETRAINED
    assert model.lm_head.bias is None


def test_microsofts_layout_is_put_into_transformers_class(asset: Asset) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    folder = asset("tiny-microsoft-layout")
    model, reader = load_model(folder, VARIANTS["transformers"])
    assert reader == OUR_READER
    bias = safetensors.load_file(folder / "model.safetensors")["language_model.final_logits_bias"]
    assert torch.equal(model.lm_head.bias, bias[0])
