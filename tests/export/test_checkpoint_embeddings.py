"""Tied or not: what is exported is what `from_pretrained(folder).generate` answers with."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import transformers

from florence_edge import Florence2, contract
from florence_edge.bundle import FIDELITY
from florence_edge.errors import BundleError
from florence_edge_calibration.quantization.quantize import quantize_graph
from florence_edge_calibration.quantization.recipe import Recipe, Target
from florence_edge_calibration.scenes import draw_scene, generate_scene
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.quantization.export import QuantizationOptions

from . import folders
from .answers_as_generated import answers, generated, prompt
from .microsoft_twin import write_twin

pytestmark = pytest.mark.usefixtures("quiet_transformers")

_SHARED = "model.language_model.shared.weight"
_NAMES = {
    "shared": _SHARED,
    "head": "lm_head.weight",
    "encoder": "model.language_model.encoder.embed_tokens.weight",
    "decoder": "model.language_model.decoder.embed_tokens.weight",
}
_OWN, _SAME = True, False  # whether a stored matrix has values of its own


def _store(
    folder: Path,
    stored: Mapping[str, bool],
    *,
    head_tied: bool | None = None,
    text_tied: bool | None = None,
) -> folders.Tensors:
    """Write the embeddings that `stored` names, each equal to the original or of its own."""
    tensors = folders.read(folder)
    original = tensors.pop(_SHARED)
    rng = np.random.default_rng(5)
    for name, key in _NAMES.items():
        other = original + rng.standard_normal(original.shape, dtype=np.float32) * np.float32(0.1)
        if name in stored:
            tensors[key] = other if stored[name] else original
    folders.write(folder, tensors)

    def tie(config: dict[str, Any]) -> None:
        for level, tied in ((config, head_tied), (config["text_config"], text_tied)):
            if tied is not None:
                level["tie_word_embeddings"] = tied

    folders.edit_config(folder, tie)
    return tensors


def _read(folder: Path) -> dict[str, np.ndarray[Any, Any]] | None:
    """Embedding of prompts, of answers, and head as they are exported; None where refused."""
    try:
        tensors = read_checkpoint(folder).tensors
    except BundleError:
        return None
    shared = tensors["language_model.shared.weight"]
    decoder = tensors.get("language_model.decoder.embed_tokens.weight", shared)
    head = tensors.get("lm_head.weight", decoder)
    return {"shared": shared.load(), "decoder": decoder.load(), "head": head.load()}


def _from_pretrained(folder: Path) -> dict[str, np.ndarray[Any, Any]] | None:
    """The same of transformers; None where it fills one of them with random numbers."""
    model, info = transformers.Florence2ForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    if set(info["missing_keys"]) & {_NAMES[name] for name in ("shared", "decoder", "head")}:
        return None
    language = model.model.language_model
    found = {
        "shared": language.shared,
        "decoder": language.decoder.embed_tokens,
        "head": model.lm_head,
    }
    return {name: module.weight.detach().numpy() for name, module in found.items()}


def _assert_as_transformers(folder: Path) -> None:
    found, expected = _read(folder), _from_pretrained(folder)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("stored", "head_tied", "text_tied"),
    [
        ({"shared": _OWN, "head": _OWN}, None, None),
        ({"shared": _OWN, "head": _OWN}, False, None),
        ({"shared": _OWN, "head": _SAME}, True, True),
        ({"shared": _OWN}, False, None),
        ({"decoder": _OWN, "encoder": _OWN}, None, None),
        ({"head": _OWN, "encoder": _OWN}, None, None),
        ({"shared": _OWN, "decoder": _OWN, "encoder": _OWN, "head": _OWN}, False, False),
        ({"shared": _OWN, "head": _OWN}, None, False),
    ],
    ids=str,
)
def test_what_is_tied_is_what_transformers_ties(
    native: Path, stored: Mapping[str, bool], head_tied: bool | None, text_tied: bool | None
) -> None:
    _store(native, stored, head_tied=head_tied, text_tied=text_tied)
    _assert_as_transformers(native)


@pytest.mark.slow
@pytest.mark.parametrize("head_tied", [None, False])
@pytest.mark.parametrize("text_tied", [None, False])
def test_all_combinations_are_tied_as_transformers_ties_them(
    tiny_checkpoint: Path, tmp_path: Path, head_tied: bool | None, text_tied: bool | None
) -> None:
    for number, choice in enumerate(itertools.product((None, _OWN, _SAME), repeat=4)):
        stored = {n: own for n, own in zip(_NAMES, choice, strict=True) if own is not None}
        folder = folders.copy(tiny_checkpoint, tmp_path / str(number))
        _store(folder, stored, head_tied=head_tied, text_tied=text_tied)
        _assert_as_transformers(folder)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param({"shared": _SAME, "head": _OWN}, marks=pytest.mark.slow),
        pytest.param({"shared": _SAME, "decoder": _OWN, "encoder": _OWN}, marks=pytest.mark.slow),
        {"shared": _SAME, "head": _OWN, "decoder": _OWN},
    ],
    ids=str,
)
def test_the_bundle_answers_as_generate_does(
    native: Path, tiny_bundle: Path, tmp_path: Path, stored: Mapping[str, bool]
) -> None:
    """And otherwise than with tied embeddings, or this would prove nothing."""
    _store(native, stored)
    export("x", native, tmp_path / "b", ExportOptions())
    for beams in (1, 3):
        ours = answers(tmp_path / "b", beams)
        assert ours == generated(native, tmp_path / "b", beams)
        assert ours != answers(tiny_bundle, beams)


def test_the_encoders_own_table_is_named_as_unused(
    native: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _store(native, {"shared": _SAME, "encoder": _OWN})
    read_checkpoint(native)
    assert "encoder.embed_tokens.weight is stored with values of its own and not used" in (
        caplog.text
    )
    caplog.clear()
    _store(native, {"shared": _SAME, "encoder": _SAME})
    read_checkpoint(native)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("stored", "flags", "message"),
    [
        ({"shared": _SAME}, {"head_tied": False}, r"lm_head\.weight is not stored.*random"),
        (
            {"shared": _SAME},
            {"text_tied": False},
            r"text_config\.tie_word_embeddings = false.*decoder.*random",
        ),
        ({"head": _SAME}, {"head_tied": False}, "no token embedding"),
    ],
)
def test_what_transformers_would_fill_with_random_numbers_is_refused(
    native: Path, stored: Mapping[str, bool], flags: dict[str, bool], message: str
) -> None:
    _store(native, stored, **flags)
    with pytest.raises(BundleError, match=message):
        read_checkpoint(native)


def test_a_flag_that_is_no_truth_value_is_refused(native: Path) -> None:
    folders.edit_config(native, lambda config: config.update(tie_word_embeddings="false"))
    with pytest.raises(BundleError, match="tie_word_embeddings is neither true nor false"):
        read_checkpoint(native)


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_int8_has_both_tables(native: Path, tmp_path: Path, target: Target) -> None:
    tensors = _store(native, {"shared": _SAME, "head": _OWN})
    export("x", native, tmp_path / "b", ExportOptions())
    decoder = ir.load(tmp_path / "b" / "decoder.onnx")
    none: Any = None  # the decoder needs no table of activations
    quantize_graph(contract.DECODER, decoder, none, Recipe(target=target, float16=False))
    constants = {
        name: value.const_value.numpy()
        for name, value in decoder.graph.initializers.items()
        if value.const_value is not None
    }
    for table, scope in ((_SHARED, "decoder.shared"), ("lm_head.weight", "decoder.lm_head")):
        whole = [v for name, v in constants.items() if name.startswith(scope) and v.ndim == 2]
        scales = [v for name, v in constants.items() if name.startswith(scope) and "scale" in name]
        rows = whole[0].T if target == "cpu" else whole[0]
        steps = np.asarray(scales[0]).reshape(-1, 1)
        assert len(whole) == 1
        assert whole[0].dtype == np.int8
        assert (np.abs(rows * steps - tensors[table]) <= steps).all()


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        pytest.param("fp16", "tensorrt", marks=pytest.mark.slow),
        pytest.param("int8", "tensorrt", marks=pytest.mark.slow),
        pytest.param("int8", "portable", marks=pytest.mark.slow),
        pytest.param("int8", "cpu", marks=pytest.mark.slow),
    ],
)
def test_other_precisions_keep_a_head_of_its_own(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, precision: str, target: Target
) -> None:
    """Their scores are near those of the float32 bundle, and a tied one's are not."""
    folder = folders.copy(tiny_checkpoint, tmp_path / "checkpoint")
    _store(folder, {"shared": _SAME, "head": _OWN})
    export("x", folder, tmp_path / "fp32", ExportOptions())
    quantization = QuantizationOptions(
        target=target, images=_pictures(tmp_path), samples=32, budget=None
    )
    options = ExportOptions(
        precision=precision, quantization=quantization if precision == "int8" else _NONE
    )
    export("x", folder, tmp_path / "b", options)
    expected = _scores(tmp_path / "fp32")
    close = np.corrcoef(_scores(tmp_path / "b").ravel(), expected.ravel())[0, 1]
    tied = np.corrcoef(_scores(tiny_bundle).ravel(), expected.ravel())[0, 1]
    assert close > 0.98
    assert tied < 0.9


_NONE = QuantizationOptions()


def _pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(32):
        draw_scene(generate_scene(seed), 64).save(folder / f"{seed}.png")
    return folder


def _scores(bundle: Path) -> np.ndarray[Any, Any]:
    """Log-probabilities along fixed tokens [steps, vocabulary]."""
    with Florence2.load(bundle, threads=1) as model:
        view = model.encode(draw_scene(generate_scene(3), model.bundle.size.image_size))
        ids, mask = model.encode_prompts([prompt("OD", model.bundle.size.image_size)])
        decoder = model.backend.prefill(view.features, ids, mask, beams=1)
        rows = []
        for token in (2, 0, 40, 41, 42):
            (scores,) = decoder.step(np.array([[token]]), np.zeros((1, 1), dtype=np.int64))
            rows.append(scores.full()[0].copy())
    return np.array(rows)


@pytest.mark.usefixtures("verify_briefly")
def test_verify_agrees_and_would_notice_a_lost_head(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied = read_checkpoint(native)
    _store(native, {"shared": _SAME, "head": _OWN})
    export("x", native, tmp_path / "b", ExportOptions(verify=True))
    found = json.loads((tmp_path / "b" / FIDELITY).read_text())["against_reference"]
    assert all(
        count["equal"] == 1 for task in found["token_ids"].values() for count in task.values()
    )

    lost = type(tied)(native, tied.config, tied.tensors, tied.weight_files)
    monkeypatch.setattr("florence_edge_export.export.read_checkpoint", lambda folder: lost)
    with pytest.raises(BundleError, match="decoder differs from transformers"):
        export("x", native, tmp_path / "wrong", ExportOptions(verify=True))


class TestMicrosoft:
    """Its code ties as the flags say, and where values differ it depends on transformers how."""

    def test_a_head_of_its_own_needs_both_flags(self, native: Path, tmp_path: Path) -> None:
        tensors = _store(native, {"shared": _SAME, "head": _OWN})
        folder = self._twin(native, tmp_path / "twin", tensors["lm_head.weight"])
        for flags in ((True, True), (False, True), (True, False)):
            self._flags(folder, *flags)
            with pytest.raises(BundleError, match=r"depends on the version.*set tie_word_embedd"):
                read_checkpoint(folder)
        self._flags(folder, False, False)
        export("x", folder, tmp_path / "b", ExportOptions())
        export("x", native, tmp_path / "n", ExportOptions())
        assert answers(tmp_path / "b", 3) == answers(tmp_path / "n", 3)

    @pytest.mark.usefixtures("verify_briefly")
    def test_verify_knows_the_head_and_the_bias(self, native: Path, tmp_path: Path) -> None:
        tensors = _store(native, {"shared": _SAME, "head": _OWN})
        folder = self._twin(native, tmp_path / "twin", tensors["lm_head.weight"])
        self._flags(folder, False, False)
        theirs = folders.read(folder)
        rng = np.random.default_rng(0)
        bias = theirs["language_model.final_logits_bias"]
        theirs["language_model.final_logits_bias"] = rng.standard_normal(bias.shape).astype("f")
        folders.write(folder, theirs)
        export("x", folder, tmp_path / "b", ExportOptions(verify=True))

    @pytest.mark.parametrize("part", ["encoder", "decoder"])
    def test_another_table_of_one_side_is_refused(self, microsoft: Path, part: str) -> None:
        tensors = folders.read(microsoft)
        name = f"language_model.model.{part}.embed_tokens.weight"
        shared = tensors["language_model.model.shared.weight"]
        folders.write(microsoft, {**tensors, name: shared + 1})
        with pytest.raises(BundleError, match=f"{part}.embed_tokens.weight is stored with other"):
            read_checkpoint(microsoft)
        folders.write(microsoft, {**tensors, name: shared})
        read_checkpoint(microsoft)

    def _twin(self, native: Path, folder: Path, head: np.ndarray[Any, Any]) -> Path:
        tensors = folders.read(native)
        del tensors["lm_head.weight"]  # the twin's own table of names has none for it
        folders.write(native, tensors)
        write_twin(native, folder)
        folders.write(native, {**tensors, "lm_head.weight": head})
        folders.write(folder, {**folders.read(folder), "language_model.lm_head.weight": head})
        return folder

    def _flags(self, folder: Path, head: bool, text: bool) -> None:
        def edit(config: dict[str, Any]) -> None:
            config["tie_word_embeddings"] = head
            config["text_config"]["tie_word_embeddings"] = text

        folders.edit_config(folder, edit)
