"""Compare a bundle with transformers: every graph's outputs, and the answers to all 15 tasks.

Needs torch, transformers (extra `verify`) and ONNX Runtime (extra `cpu`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from florence_edge import Florence2, GenerationOptions, contract
from florence_edge.backends.host import HostBackend
from florence_edge.backends.ort import open_ort
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.image import pixels
from florence_edge.questions import Question, question
from florence_edge.text import Tokenizer
from florence_edge_calibration.scenes import ask_everything, draw_scene, generate_scenes

from ..checkpoint.defaults import ImageProcessing
from ..checkpoint.folder import Checkpoint
from .agreement import Agreement, Closeness, as_json, check, check_finite, closeness
from .reference import Array, Reference

logger = logging.getLogger(__name__)

SCENES = 2
FIRST_SCENE = 900_000  # seeds that the miniature was not trained on
BEAMS = (1, 3)
MAX_NEW_TOKENS = 64
TIE = 1e-4  # log-probabilities closer than this may be ordered either way by rounding


def verify(
    bundle: Path, checkpoint: Checkpoint, image: ImageProcessing, *, strict: bool
) -> Mapping[str, Any]:
    """Compare the bundle with transformers in float32 on generated scenes.

    Args:
        bundle: the exported folder.
        checkpoint: what it was exported from.
        image: mean and deviation of its image processor.
        strict: whether a difference beyond rounding is an error (float32) or only reported.

    Returns:
        What fidelity.json holds under `against_reference`.

    Raises:
        BundleError: a strict comparison failed, an output is not finite, or a package is missing.
    """
    reference = Reference(checkpoint)
    loaded = Bundle.load(bundle)
    backend = open_ort(loaded)
    tokenizer = Tokenizer(bundle / TOKENIZER, loaded.generation)
    model = Florence2(loaded, backend, tokenizer)
    graphs: dict[str, list[Closeness]] = {}
    answers: dict[tuple[str, int], list[str]] = {}
    for picture, questions in _scenes(model.bundle.size.image_size):
        comparison = _Comparison(reference, model, backend, picture, image)
        graphs.setdefault(contract.VISION_ENCODER, []).append(comparison.vision())
        for asked in questions:
            logger.info("Comparing %s", asked.task.token)
            for name, found in comparison.text_and_decoder(asked).items():
                graphs.setdefault(name, []).append(found)
            for beams in BEAMS:
                verdict = comparison.answer(asked, beams)
                answers.setdefault((asked.task.token, beams), []).append(verdict)
    worst = {name: max(found, key=lambda one: one.relative) for name, found in graphs.items()}
    agreements = {
        key: Agreement(len(verdicts), verdicts.count("equal"), verdicts.count("tie"))
        for key, verdicts in answers.items()
    }
    check_finite(worst)
    if strict:
        check(worst, agreements)
    return {
        "reference": reference.name,
        "pictures": f"{SCENES} generated scenes",
        "max_new_tokens": MAX_NEW_TOKENS,
        **as_json(worst, agreements),
    }


def _scenes(image_size: int) -> Iterator[tuple[Image.Image, list[Question]]]:
    for scene in generate_scenes(FIRST_SCENE, SCENES):
        picture = draw_scene(scene, image_size)
        questions = [
            question(asked.task, asked.text or None, None, picture.size)
            for asked in ask_everything(scene)
        ]
        yield picture, questions


class _Comparison:
    """Reference and bundle on one picture."""

    def __init__(
        self,
        reference: Reference,
        model: Florence2,
        backend: HostBackend,
        picture: Image.Image,
        image: ImageProcessing,
    ) -> None:
        self._reference = reference
        self._model = model
        self._backend = backend
        self._view = model.look(picture)
        square = pixels(picture, model.bundle.size.image_size)
        self._features = reference.image_features(_normalized(square, image))

    def vision(self) -> Closeness:
        return closeness(self._view.features, self._features)

    def text_and_decoder(self, asked: Question) -> dict[str, Closeness]:
        """Both graphs on the reference's own features, so that errors do not add up."""
        input_ids, mask = self._model.encode_prompts([asked])
        hidden = self._reference.encode(self._features, input_ids[0].tolist())
        expected = self._reference.cross_caches(hidden)
        features = self._features.astype(self._view.features.dtype)
        found = self._backend.cross_caches(features, input_ids, mask)
        text = max(
            (closeness(found[name], expected[name]) for name in expected),
            key=lambda closeness: closeness.relative,
        )
        generation = self._model.resolve(_options(beams=1))
        ids = self._reference.generate(hidden, generation)[:-1]
        decoder = self._backend.read(features, input_ids, mask, beams=1)
        rows = []
        for token in ids:
            (scores,) = decoder.step(np.array([[token]]), np.zeros((1, 1), dtype=np.int64))
            rows.append(scores.full()[0].copy())
        log_probs = closeness(np.array(rows), self._reference.log_probs(hidden, ids))
        return {contract.TEXT_ENCODER: text, contract.DECODER: log_probs}

    def answer(self, asked: Question, beams: int) -> str:
        """`equal`, `tie` or `different`."""
        options = _options(beams)
        (result,) = self._model.answer([self._view], [asked], options)
        input_ids, _ = self._model.encode_prompts([asked])
        hidden = self._reference.encode(self._features, input_ids[0].tolist())
        expected = self._reference.generate(hidden, self._model.resolve(options))
        found = list(result.token_ids)
        if found == expected:
            return "equal"
        return "tie" if self._gap(hidden, found, expected) < TIE else "different"

    def _gap(self, hidden: Array, found: Sequence[int], expected: Sequence[int]) -> float:
        """How much the reference prefers its own token where the answers part."""
        parting = next(
            (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None
        )
        if parting is None:  # one is the beginning of the other
            return float("inf")
        log_probs = self._reference.log_probs(hidden, expected[:parting])[-1]
        return abs(float(log_probs[expected[parting]] - log_probs[found[parting]]))


def _options(beams: int) -> GenerationOptions:
    return GenerationOptions(num_beams=beams, max_new_tokens=MAX_NEW_TOKENS)


def _normalized(square: Array, image: ImageProcessing) -> Array:
    """[S, S, 3] uint8 -> [1, 3, S, S] float32 as the image processor makes it."""
    mean = np.array(image.mean, dtype=np.float32)
    std = np.array(image.std, dtype=np.float32)
    values = (square.astype(np.float32) * np.float32(1 / 255) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])
