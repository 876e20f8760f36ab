"""Compare a bundle with transformers: every graph's outputs, and the answers to all 15 tasks.

Needs torch, transformers (extra `verify`) and ONNX Runtime (extra `cpu`). First the measures, their
limits and what fidelity.json holds of them, then the comparison itself.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from florence_edge import Florence2, GenerationOptions, contract
from florence_edge.backends.host import HostBackend
from florence_edge.backends.ort import open_ort
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.errors import BundleError
from florence_edge.image import pixels
from florence_edge.selftest import remedy_for_nan
from florence_edge.tasks import Prompt, prompt_for
from florence_edge.tokenizer import Tokenizer
from florence_edge_calibration.scenes import ask_everything, draw_scene, generate_scenes

from ..checkpoint.defaults import ImageProcessing
from ..checkpoint.loader import Checkpoint
from ..progress import log_progress
from .reference import Reference

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3  # largest error of a float32 graph, in units of the output's standard deviation
TIE = 1e-4  # log-probabilities or scores closer than this may be ordered either way by rounding
MAX_TIES = 1 / 200  # of the answers
# Of the deviation of the text encoder's output: what another order of sums does to it, and ten
# times that. At 8 edges of a random checkpoint, found as tests/export/test_verify_compare.py finds
# them, the answer of the other side was each time among 8 draws of 1e-6.
NOISES = (1e-6, 1e-5)
DRAWS = 8  # of each

SCENES = 2
FIRST_SCENE = 900_000  # seeds that the miniature was not trained on
BEAMS = (1, 3)
MAX_NEW_TOKENS = 64

Asked = tuple[str, int]  # task token and number of beams
Answers = Mapping[Asked, "ReferenceAgreement"]


@dataclass(frozen=True, slots=True)
class Closeness:
    """How far an output is from the reference, over all its elements."""

    max_error: float
    mean_error: float
    deviation: float  # standard deviation of the reference, the scale of the errors

    @property
    def relative(self) -> float:
        """Largest error in units of the reference's standard deviation."""
        if not math.isfinite(self.max_error):
            return math.inf  # NaN would not compare as larger
        return self.max_error / max(self.deviation, 1e-30)


@dataclass(frozen=True, slots=True)
class ReferenceAgreement:
    """Answers compared with the reference's, token by token."""

    answers: int
    equal: int
    ties: int


def closeness(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Closeness:
    """Compare an output with the reference's."""
    errors = np.abs(found.astype(np.float64) - expected)
    return Closeness(float(errors.max()), float(errors.mean()), float(expected.std()))


def check_finite(graphs: Mapping[str, Closeness], precision: str) -> None:
    """Raise BundleError where a graph of a bundle of this precision gives infinities or NaN."""
    for name, closeness in graphs.items():
        if not np.isfinite(closeness.max_error):
            raise BundleError(
                f"{name} gives values that are not finite. {remedy_for_nan(precision)}"
            )


def check(
    graphs: Mapping[str, Closeness], agreements: Answers, culprit: Asked | None = None
) -> None:
    """Raise BundleError where more differs than rounding explains.

    `culprit` is what was asked where an answer is another one for certain; of other answers that
    differ it may not be known whether they are ties.
    """
    for name, closeness in graphs.items():
        if closeness.relative > TOLERANCE:
            raise BundleError(
                f"{name} differs from transformers by {closeness.max_error:.2g} where values vary "
                f"by {closeness.deviation:.2g}; rounding explains {TOLERANCE:g} of that. "
                "This is a defect: please report it with config.json."
            )
    total = sum(agreement.answers for agreement in agreements.values())
    ties = sum(agreement.ties for agreement in agreements.values())
    if culprit is not None:
        task, beams = culprit
        others = total - ties - sum(agreement.equal for agreement in agreements.values()) - 1
        more = f" Not looked into: {others} more of {total}." if others else ""
        raise BundleError(
            f"Answers differ from transformers: {task} with {beams} beams, by more than rounding "
            f"explains.{more} This is a defect: please report it with config.json and "
            "generation_config.json."
        )
    if _too_many(ties, total):
        raise BundleError(
            f"{ties} ties of {total} answers: the bundle's answer is another one that transformers "
            f"itself scores as high or within {TIE:g}, or gives where its numbers are rounded in "
            "another way; trained weights show that in 1 of 200. Are these the weights that were "
            "trained? Without --verify the bundle can be exported, and --keep-failed keeps it to "
            "look into it."
        )


def _too_many(ties: int, answers: int) -> bool:
    return ties > max(1, answers * MAX_TIES)


def as_json(graphs: Mapping[str, Closeness], agreements: Answers) -> dict[str, Any]:
    """Both comparisons as plain JSON: by graph, and by task and number of beams."""
    tasks: dict[str, dict[str, Any]] = {}
    for (task, beams), agreement in agreements.items():
        tasks.setdefault(task, {})[f"beams_{beams}"] = asdict(agreement)
    return {
        "graphs": {name: asdict(found) for name, found in graphs.items()},
        "token_ids": tasks,
    }


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
        BundleError: a strict comparison failed, or an output is not finite.
        MissingPackageError: torch, transformers or ONNX Runtime is not installed.
    """
    reference = Reference(checkpoint)
    loaded = Bundle.load(bundle)
    backend = open_ort(loaded)
    scenes = list(_scenes(loaded.size.image_size))
    so_far = _SoFar(len(BEAMS) * sum(len(prompts) for _, prompts in scenes))
    progress = log_progress("Compared with transformers", "answers")
    with Florence2(loaded, backend, Tokenizer(bundle / TOKENIZER, loaded.generation)) as model:
        for picture, prompts in scenes:
            comparison = _Comparison(reference, model, backend, picture, image)
            so_far.add_graph(contract.VISION_ENCODER, comparison.vision())
            for prompt in prompts:
                for name, found in comparison.text_and_decoder(prompt).items():
                    so_far.add_graph(name, found)
                for beams in BEAMS:
                    patient = strict and not so_far.refused
                    verdict = comparison.answer(prompt, beams, patient=patient)
                    so_far.add_answer((prompt.task.token, beams), verdict, patient=patient)
                    progress(so_far.answers, so_far.total)
    agreements = so_far.agreements()
    check_finite(so_far.graphs, loaded.precision)
    if strict:
        check(so_far.graphs, agreements, so_far.culprit)
    return {
        "reference": reference.name,
        "pictures": f"{SCENES} generated scenes",
        "max_new_tokens": MAX_NEW_TOKENS,
        **as_json(so_far.graphs, agreements),
    }


@dataclass(slots=True)
class _SoFar:
    """What was found so far, and whether that refuses the bundle already."""

    total: int  # answers that there will be
    graphs: dict[str, Closeness] = field(default_factory=dict)  # the worst of each
    verdicts: dict[Asked, list[str]] = field(default_factory=dict)
    culprit: Asked | None = None  # the first whose answer is another one for certain

    def add_graph(self, name: str, found: Closeness) -> None:
        worst = self.graphs.get(name, found)
        self.graphs[name] = max(worst, found, key=lambda one: one.relative)

    def add_answer(self, asked: Asked, verdict: str, *, patient: bool) -> None:
        """Patience tells ties with beams; a greedy answer is what its verdict says without."""
        self.verdicts.setdefault(asked, []).append(verdict)
        certain = patient or asked[1] == 1
        if self.culprit is None and verdict == "different" and certain:
            self.culprit = asked

    @property
    def answers(self) -> int:
        return sum(map(len, self.verdicts.values()))

    @property
    def refused(self) -> bool:
        """Whether `check` refuses the bundle, whatever comes: no answer needs to be looked into."""
        far = any(found.relative > TOLERANCE for found in self.graphs.values())
        ties = sum(verdicts.count("tie") for verdicts in self.verdicts.values())
        return far or self.culprit is not None or _too_many(ties, self.total)

    def agreements(self) -> Answers:
        return {
            asked: ReferenceAgreement(len(found), found.count("equal"), found.count("tie"))
            for asked, found in self.verdicts.items()
        }


def _scenes(image_size: int) -> Iterator[tuple[Image.Image, list[Prompt]]]:
    for scene in generate_scenes(FIRST_SCENE, SCENES):
        picture = draw_scene(scene, image_size)
        prompts = [
            prompt_for(question.task, question.text or None, None, picture.size)
            for question in ask_everything(scene)
        ]
        yield picture, prompts


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
        self._view = model.encode(picture)
        square = pixels(picture, model.bundle.size.image_size)
        self._features = reference.image_features(_normalized(square, image))

    def vision(self) -> Closeness:
        return closeness(self._view.features, self._features)

    def text_and_decoder(self, prompt: Prompt) -> dict[str, Closeness]:
        """Both graphs on the reference's own features, so that errors do not add up."""
        input_ids, mask = self._model.encode_prompts([prompt])
        hidden = self._reference.encode(self._features, input_ids[0].tolist())
        expected = self._reference.cross_caches(hidden)
        features = self._features.astype(self._view.features.dtype)
        found = self._backend.cross_caches(features, input_ids, mask)
        text = max(
            (closeness(found[name], expected[name]) for name in expected),
            key=lambda closeness: closeness.relative,
        )
        ids = self._reference.generate(hidden, self._reference.own_generation(1, MAX_NEW_TOKENS))
        ids = ids[:-1]
        decoder = self._backend.prefill(features, input_ids, mask, beams=1)
        rows = []
        for token in ids:
            (scores,) = decoder.step(np.array([[token]]), np.zeros((1, 1), dtype=np.int64))
            rows.append(scores.full()[0].copy())
        log_probs = closeness(np.array(rows), self._reference.log_probs(hidden, ids))
        return {contract.TEXT_ENCODER: text, contract.DECODER: log_probs}

    def answer(self, prompt: Prompt, beams: int, *, patient: bool) -> str:
        """`equal`, `tie` or `different`; patience takes long, and finds ties among the latter."""
        most = min(MAX_NEW_TOKENS, self._model.bundle.generation.max_new_tokens)
        options = GenerationOptions(num_beams=beams, max_new_tokens=most)
        (result,) = self._model.answer([self._view], [prompt], options)
        input_ids, _ = self._model.encode_prompts([prompt])
        hidden = self._reference.encode(self._features, input_ids[0].tolist())
        # By what the checkpoint's files say to transformers: a setting that was lost would show.
        own = self._reference.own_generation(beams, MAX_NEW_TOKENS)
        expected = self._reference.generate(hidden, own)
        found = list(result.token_ids)
        verdict = self._verdict(hidden, found, expected, own)
        if verdict == "different" and beams > 1 and patient:
            logger.info("Looking for a tie in %s with %d beams", prompt.task.token, beams)
            verdict = "tie" if self._rounding_gives(hidden, found, own) else verdict
        return verdict

    def _verdict(
        self, hidden: npt.NDArray[Any], found: list[int], expected: list[int], own: Any
    ) -> str:
        if found == expected:
            return "equal"
        tie = self._gap(hidden, found, expected) < TIE
        # Whole hypotheses are told apart by their sums, unless a setting changes those. A beam that
        # two sums of different order keep or drop leads to another answer far from it, which may
        # be the better one by the reference itself: that is no less a matter of rounding.
        if own.num_beams > 1 and own.repetition_penalty in (None, 1.0):
            ours, theirs = (self.score(hidden, ids, own) for ids in (found, expected))
            tie = tie or ours > theirs - TIE
        return "tie" if tie else "different"

    def _rounding_gives(self, hidden: npt.NDArray[Any], found: list[int], own: Any) -> bool:
        """Whether the reference itself answers so when its numbers are rounded in another way.

        A beam that is kept or dropped for less than rounding decides what comes of it, and that may
        be far away, and worse: sums do not tell this from a defect.
        """
        random, deviation = np.random.default_rng(0), float(hidden.std())
        for noise in np.repeat(NOISES, DRAWS):
            shaken = hidden + noise * deviation * random.standard_normal(hidden.shape)
            if self._reference.generate(shaken.astype(hidden.dtype), own) == found:
                return True
        return False

    def score(self, hidden: npt.NDArray[Any], ids: Sequence[int], own: Any) -> float:
        """What beam search ranks a whole hypothesis by, from the reference's log-probabilities."""
        log_probs = self._reference.log_probs(hidden, ids[:-1])
        given = 1 if own.forced_bos_token_id is not None else 0  # forced tokens score nothing
        until = len(ids) - 1
        if own.forced_eos_token_id is not None and until == own.max_new_tokens:
            until -= 1
        total = sum(float(log_probs[i, ids[i + 1]]) for i in range(given, until))
        penalty = 1.0 if own.length_penalty is None else own.length_penalty
        return total / float(len(ids) - 1) ** penalty

    def _gap(
        self, hidden: npt.NDArray[Any], found: Sequence[int], expected: Sequence[int]
    ) -> float:
        """How much the reference prefers its own token where the answers part."""
        parting = next(
            (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None
        )
        if parting is None:  # one is the beginning of the other
            return float("inf")
        log_probs = self._reference.log_probs(hidden, expected[:parting])[-1]
        return abs(float(log_probs[expected[parting]] - log_probs[found[parting]]))


def _normalized(square: npt.NDArray[Any], image: ImageProcessing) -> npt.NDArray[Any]:
    """[S, S, 3] uint8 -> [1, 3, S, S] float32 as the image processor makes it."""
    mean = np.array(image.mean, dtype=np.float32)
    std = np.array(image.std, dtype=np.float32)
    values = (square.astype(np.float32) * np.float32(1 / 255) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])
