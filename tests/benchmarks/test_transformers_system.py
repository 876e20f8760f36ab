from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="compares with transformers: [verify]")
pytest.importorskip("transformers")

from florence_edge_benchmarks.gauges.stages import STAGES
from florence_edge_benchmarks.systems.bundle_system import BundleSystem
from florence_edge_benchmarks.systems.devices import CPU
from florence_edge_benchmarks.systems.transformers_system import TransformersSystem
from florence_edge_benchmarks.systems.transformers_variants import VARIANTS, Variant
from florence_edge_benchmarks.systems.workload import Workload


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


def test_a_model_that_ends_its_answers_ends_them_alike(miniature: Path, picture: Path) -> None:
    workload = Workload(task="OD", beams=3, new_tokens=None, batch=1, image=str(picture))
    expected = BundleSystem.load(miniature, CPU, 1).answer(workload)
    found = TransformersSystem.load(VARIANTS["transformers"], miniature, "miniature", 1)
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
