import shutil
from pathlib import Path

import pytest

from florence_edge.bundle import Bundle
from florence_edge.errors import RequestError
from florence_edge_benchmarks.speed import random_models
from florence_edge_benchmarks.speed.random_models import (
    RandomModel,
    check_work,
    export_bundles,
    make_checkpoint,
)

from ..helpers.manifests import edit_manifest

TINY = RandomModel(architecture="tiny", image_size=64, precisions=("fp32", "fp16"))


@pytest.mark.slow
def test_a_checkpoint_is_made_once_and_bundles_every_time(tmp_path: Path) -> None:
    first = make_checkpoint(TINY, tmp_path)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert make_checkpoint(TINY, tmp_path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    for _ in range(2):
        exported = list(export_bundles(TINY, first, tmp_path))
        assert [(folder.name, problem) for folder, problem in exported] == [
            ("fp32", ""), ("fp16", "")
        ]  # fmt: skip
    bundle = Bundle.load(tmp_path / "fp16")
    assert (bundle.model, bundle.precision) == (TINY.name, "fp16")


def test_a_bundle_of_real_weights_in_the_work_folder_is_left_alone(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    check_work(TINY, tmp_path)
    shutil.copytree(tiny_bundle, tmp_path / "fp16")
    with pytest.raises(
        RequestError, match=r"fp16 is not a bundle of random weights.* Choose another --work"
    ):
        check_work(TINY, tmp_path)
    edit_manifest(tmp_path / "fp16", lambda manifest: manifest["model"].update(name=TINY.name))
    check_work(TINY, tmp_path)


def test_an_export_that_fails_is_reported_and_the_next_one_is_made(tmp_path: Path) -> None:
    wanted = RandomModel(architecture="tiny", image_size=64, precisions=("fp17", "fp32"))
    checkpoint = make_checkpoint(wanted, tmp_path)
    (failed, problem), (made, nothing) = export_bundles(wanted, checkpoint, tmp_path)
    assert "There is no precision 'fp17'" in problem
    assert (failed.exists(), made.exists(), nothing) == (False, True, "")


def test_an_interrupted_checkpoint_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from florence_edge_export import synthetic

    real = synthetic.write_checkpoint

    def interrupted(folder: Path, *_: object, **__: object) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_checkpoint(TINY, tmp_path)
    monkeypatch.setattr(synthetic, "write_checkpoint", real)
    assert (random_models.make_checkpoint(TINY, tmp_path) / "model.safetensors").exists()


@pytest.mark.slow
def test_int8_is_made_from_generated_scenes_and_not_gated(tmp_path: Path) -> None:
    wanted = RandomModel(architecture="tiny", image_size=64, precisions=("int8",))
    checkpoint = make_checkpoint(wanted, tmp_path)
    ((folder, problem),) = export_bundles(wanted, checkpoint, tmp_path)
    assert problem == ""
    bundle = Bundle.load(folder)
    assert (folder.name, bundle.precision, bundle.target) == ("int8-cpu", "int8", "cpu")
