"""Tensors beside the weights: the temporal table is used, what nothing reads is named."""

import logging
from pathlib import Path

import numpy as np
import pytest

from florence_edge.errors import BundleError
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.export import ExportOptions, export

from . import folders
from .answers_as_generated import answers, generated

pytestmark = pytest.mark.usefixtures("quiet_transformers")

_SHARED = "model.language_model.shared.weight"
_TEMPORAL = "model.multi_modal_projector.visual_temporal_embed.pos_idx_to_embed"


def test_a_stored_temporal_table_is_used(native: Path, tmp_path: Path) -> None:
    tensors = folders.read(native)
    width = tensors["model.vision_tower.convs.3.conv.weight"].shape[0]
    rng = np.random.default_rng(0)
    tensors[_TEMPORAL] = rng.standard_normal((100, width), dtype=np.float32)
    folders.write(native, tensors)
    export("x", native, tmp_path / "b", ExportOptions())
    for beams in (1, 3):
        assert answers(tmp_path / "b", beams) == generated(native, tmp_path / "b", beams)
    tensors[_TEMPORAL] = tensors[_TEMPORAL][:, 1:]
    folders.write(native, tensors)
    with pytest.raises(BundleError, match=r"pos_idx_to_embed is \[100, .*do not belong together"):
        export("x", native, tmp_path / "c", ExportOptions())


def test_a_bias_is_left_out_of_the_native_layout_and_named(
    native: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = folders.read(native)
    rng = np.random.default_rng(0)
    bias = rng.standard_normal((1, len(tensors[_SHARED])), dtype=np.float32) * 9
    folders.write(native, {**tensors, "final_logits_bias": bias})
    with caplog.at_level(logging.WARNING):
        export("x", native, tmp_path / "b", ExportOptions())
    assert "final_logits_bias is stored and not used" in caplog.text
    assert answers(tmp_path / "b", 1) == generated(native, tmp_path / "b", 1)
    caplog.clear()
    folders.write(native, {**tensors, "final_logits_bias": bias * 0})
    read_checkpoint(native)
    assert caplog.text == ""


def test_tensors_that_nothing_reads_are_named(
    native: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = folders.read(native)
    extra: folders.Tensors = {
        "model.language_model.decoder.layers.2.fc1.bias": np.ones(3, dtype=np.float32),
        "lm_head.bias": np.ones(3, dtype=np.float32),
        "score.weight": np.ones((2, 2), dtype=np.int8),
    }
    folders.write(native, {**tensors, **extra})
    export("x", native, tmp_path / "b", ExportOptions())
    (said,) = (r.getMessage() for r in caplog.records if "has no place for" in r.getMessage())
    for name in ("language_model.decoder.layers.2.fc1.bias", "lm_head.bias", "score.weight"):
        assert name in said
    caplog.clear()
    folders.write(native, tensors)
    export("x", native, tmp_path / "c", ExportOptions())
    assert "no place" not in caplog.text
