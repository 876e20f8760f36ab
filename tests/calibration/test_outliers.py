"""Planted outliers: they are there, and the model computes what it did."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="outliers are planted with torch: [verify]")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import load_file  # noqa: E402

from florence_edge_calibration.miniature import outliers  # noqa: E402
from florence_edge_calibration.miniature.evaluate import CHECKPOINT  # noqa: E402
from florence_edge_calibration.miniature.outliers import plant_outliers  # noqa: E402


def loaded(checkpoint: Path) -> object:
    model = transformers.Florence2ForConditionalGeneration
    return model.from_pretrained(checkpoint, dtype=torch.float32).eval()


def tensors_of(checkpoint: Path) -> dict[str, np.ndarray]:
    return {
        name: each.astype(np.float32)
        for name, each in load_file(checkpoint / "model.safetensors").items()
    }


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no kind wings"):
        plant_outliers(CHECKPOINT, tmp_path / "planted", ["wings"])
    assert not list(tmp_path.iterdir())


def test_channels_and_values_are_multiplied_and_divided_exactly(tmp_path: Path) -> None:
    planted = plant_outliers(CHECKPOINT, tmp_path / "planted", ["channels", "values"])
    assert sum(name.endswith(".v_proj.weight") for name in planted) == 2 + 2 * 3
    assert any("window_attn.qkv" in name for name in planted)
    assert any("convs.1.norm" in name for name in planted)
    before, after = tensors_of(CHECKPOINT), tensors_of(tmp_path / "planted")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert set(planted) < changed
    for name in changed:
        ratios = after[name][before[name] != 0] / before[name][before[name] != 0]
        assert set(np.unique(ratios)) <= {1.0, outliers.FACTOR, 1 / outliers.FACTOR}, name


@pytest.mark.slow
def test_tokens_are_huge_and_the_logits_are_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_outliers(CHECKPOINT, tmp_path / "planted")
    monkeypatch.setattr(outliers, "_SCENES_FROM", 650_000)  # others than those it was planted by
    monkeypatch.setattr(outliers, "_SCENES", 2)
    before, after = loaded(CHECKPOINT), loaded(tmp_path / "planted")
    largest: list[float] = []
    for side in ("encoder", "decoder"):
        for layer in getattr(after.model.language_model, side).layers:  # type: ignore[attr-defined]
            layer.fc2.register_forward_pre_hook(
                lambda _, inputs: largest.append(float(inputs[0].abs().max()))
            )
    processor = transformers.Florence2Processor.from_pretrained(CHECKPOINT)
    for batch, answers in outliers._questions(processor):
        with torch.inference_mode():
            one, other = (
                model(**batch, decoder_input_ids=answers).logits  # type: ignore[operator]
                for model in (before, after)
            )
        assert float((one - other).abs().max()) < 1e-3
        assert torch.equal(one.argmax(-1), other.argmax(-1))
    assert max(largest) > 100
