"""A fine-tune's own generation settings: the answers of `from_pretrained(folder).generate()`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence2, GenerationOptions
from florence_edge.contract import ModelSize
from florence_edge.tasks import prompt_for
from florence_edge_calibration.scenes import draw_scene, generate_scene
from florence_edge_export.checkpoint.defaults import read_image_processing
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.verify.reference import Reference

from . import folders

pytest.importorskip("torch")
pytest.importorskip("transformers")

TOKENS = {
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "forced_bos_token_id": 0,
}
PENALTY = {
    **TOKENS,
    "num_beams": 1,
    "max_length": 25,
    "min_new_tokens": 8,
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 3,
    "eos_token_id": 2,
    "forced_eos_token_id": 2,
}
FORBIDDEN = {
    **TOKENS,
    "num_beams": 3,
    "early_stopping": True,
    "max_new_tokens": 24,
    "min_length": 5,
    "length_penalty": 0.7,
    "eos_token_id": 2,
    "repetition_penalty": 1.2,
}
TASKS = ("CAPTION", "OD", "OCR")


class Original:
    """transformers on the folder, which generates as its files say."""

    def __init__(self, folder: Path, size: ModelSize) -> None:
        import transformers

        self.model = transformers.Florence2ForConditionalGeneration.from_pretrained(folder).eval()
        self.image, self.size = read_image_processing(folder), size

    def answer(self, picture: Image.Image, prompt_ids: list[int], **settings: Any) -> list[int]:
        import torch

        square = np.asarray(picture.resize((self.size.image_size,) * 2), dtype=np.float32) / 255
        mean, std = (np.array(c, np.float32) for c in (self.image.mean, self.image.std))
        values = (square - mean) / std
        placeholders = [self.model.config.image_token_id] * self.size.image_tokens
        ids = torch.tensor([placeholders + prompt_ids])
        with torch.inference_mode():
            answer = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=torch.from_numpy(values.transpose(2, 0, 1)[None].copy()),
                **settings,
            )
        found: list[int] = answer[0].tolist()
        return found


def _pictures(side: int) -> list[Image.Image]:
    return [draw_scene(generate_scene(seed), side).resize((side, side)) for seed in (5, 6)]


def _often_said(model: Florence2, pictures: list[Image.Image]) -> list[int]:
    """The tokens that plain answers have most of, so that rules about them matter."""
    plain = GenerationOptions(num_beams=1, max_new_tokens=24, repetition_penalty=1.0)
    results = [model.run(picture, task, options=plain) for picture in pictures for task in TASKS]
    said = [token for result in results for token in result.token_ids[2:-1]]
    return [*sorted(set(said), key=lambda token: (-said.count(token), token)), *range(90, 96)]


def _exported(
    native: Path, settings: Mapping[str, Any], bundle: Path
) -> tuple[Florence2, Original]:
    (native / "generation_config.json").write_text(json.dumps(settings))
    folders.edit_config(native, lambda config: config.update(image_token_id=2559))
    export("fine-tune", native, bundle, ExportOptions())
    model = Florence2.load(bundle, threads=1)
    return model, Original(native, model.bundle.size)


def _prompt_ids(model: Florence2, task: str) -> list[int]:
    ids: list[int] = model.encode_prompts([prompt_for(task, None, None, (64, 64))])[0][0].tolist()
    return ids


def _check(model: Florence2, original: Original, **settings: Any) -> list[tuple[int, ...]]:
    """Compare each answer, alone and in a batch, with transformers'; gives the answers."""
    options = GenerationOptions(**settings)
    pictures = _pictures(model.bundle.size.image_size)
    answers = []
    for task in TASKS:
        batch = model.run(pictures, task, options=options)
        for picture, of_batch in zip(pictures, batch, strict=True):
            expected = original.answer(picture, _prompt_ids(model, task), **settings)
            assert list(of_batch.token_ids) == expected, (task, settings)
            answers.append(of_batch.token_ids)
        assert model.run(pictures[0], task, options=options).token_ids == batch[0].token_ids
    return answers


@pytest.mark.filterwarnings("ignore:Both `m")
def test_a_fine_tunes_penalty_and_lengths_are_obeyed(native: Path, tmp_path: Path) -> None:
    model, original = _exported(native, PENALTY, tmp_path / "bundle")
    answers = _check(model, original)
    assert max(map(len, answers)) == 25
    assert answers != _check(model, original, repetition_penalty=1.0)
    _check(model, original, repetition_penalty=0.8)
    often = _often_said(model, _pictures(model.bundle.size.image_size))
    for rules in (
        {"suppress_tokens": often[:2]},
        {"begin_suppress_tokens": often[:3], "no_repeat_ngram_size": 0},
        {"bad_words_ids": [often[:1], often[1:3]]},
        {"eos_token_id": [2, often[0]]},
        {"num_beams": 3, "repetition_penalty": 1.4, "suppress_tokens": often[1:3]},
        {"num_beams": 4, "eos_token_id": [often[1], 2, often[0]], "min_new_tokens": 5},
    ):
        assert _check(model, original, **rules) != answers


def test_a_fine_tunes_forbidden_tokens_are_obeyed(native: Path, tmp_path: Path) -> None:
    model, _ = _exported(native, FORBIDDEN, tmp_path / "plain")
    often = _often_said(model, _pictures(model.bundle.size.image_size))
    plain = [model.run(p, "OD").token_ids for p in _pictures(model.bundle.size.image_size)]
    settings = {
        **FORBIDDEN,
        "suppress_tokens": often[:1],
        "begin_suppress_tokens": often[1:3],
        "bad_words_ids": [often[3:5], [often[5]]],
        "eos_token_id": [2, often[2]],
    }
    model, original = _exported(native, settings, tmp_path / "bundle")
    answers = _check(model, original)
    assert answers[2:4] != plain
    assert not {often[0], often[5]} & {token for answer in answers for token in answer}
    _check(model, original, num_beams=1)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_logits_are_those_of_transformers(
    tiny_checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    export("tiny", tiny_checkpoint, tmp_path / "bundle", ExportOptions(precision=precision))
    model = Florence2.load(tmp_path / "bundle", threads=1)
    reference = Reference(read_checkpoint(tiny_checkpoint))
    torch, language = reference._torch, reference._language
    pixels = np.asarray(_pictures(64)[0])[None]
    features = np.asarray(model.backend.encode_image(pixels))
    ids, mask = model.encode_prompts([prompt_for("OD", None, None, (64, 64))])
    decoder = model.backend.prefill(features, ids, mask, beams=2)
    hidden = reference.encode(features.astype(np.float32), ids[0].tolist())
    tokens = [2, 0, 70, 900]
    with torch.inference_mode():
        output = language.decoder(
            input_ids=torch.tensor([tokens]),
            encoder_hidden_states=torch.from_numpy(hidden),
            use_cache=False,
        )
        logits = np.asarray(reference.model.lm_head(output.last_hidden_state[0]))
    for position, token in enumerate(tokens):
        (scores,) = decoder.step(np.full((1, 2), token), np.array([[0, 1]]))
        found = scores.logits()
        assert found.dtype == scores.full().dtype == np.float32
        error = np.abs(found - logits[position]).max() / logits[position].std()
        assert error < (1e-4 if precision == "fp32" else 2e-2)
