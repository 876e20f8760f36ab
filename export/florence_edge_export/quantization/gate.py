"""The gate: a quantized bundle follows the float model's answers closely enough, or is not made.

It is led along the float model's answers, and judged by the share of decided positions that each
task loses. Where a task loses more than the budget, blocks return to float, the most sensitive
first, as few as hold the budget: `next_count` says how many to try, by bisection.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

import numpy as np

from florence_edge import Florence2
from florence_edge.backends.base import DecoderSession, Squares
from florence_edge.backends.ort import open_ort
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.errors import BundleError
from florence_edge.search import Ints
from florence_edge.selftest import PROMPT_TOKENS
from florence_edge.tokenizer import Tokenizer
from florence_edge_calibration.quantization.agreement import TIE, Judged, TeacherForcing
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.dataset import CalibrationSample
from florence_edge_calibration.quantization.recipe import SHARED, Recipe, pattern_of
from florence_edge_calibration.quantization.sensitivity import Sensitivity, blocks_of, sweep

from ..progress import log_progress

MIN_POSITIONS = 2_000
_MIN_DECIDED = 0.1  # of MIN_POSITIONS; a trained model is decided nearly everywhere
MAX_NEW_TOKENS = 64  # enough for the longest answer about most pictures, and random weights stop
_RANKING_PICTURES = 2
_MAX_LIFTED = 0.5  # of the blocks: with more in float the bundle would be quantized by name only
_TIMED_RUNS = 3
_SEARCHES = {"greedy": 1, "3 beams": 3}
_TIMED_STEPS, _WARM_STEPS = 36, 6  # of each decoder, by turns


@dataclass(frozen=True, slots=True)
class Cost:
    """A bundle's size on disk, and how many times as fast as the float one it encodes.

    `speed` is on this machine's CPU, for one picture and one prompt; the decoder is left out.
    """

    megabytes: float
    speed: float


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """How many times as fast a decoder's step is as another's here: the median, and the quartiles.

    A machine that does other work gives ratios on both sides of 1 for two equal decoders; so
    `faster` wants three quarters of the steps to say so.
    """

    ratio: float
    quartiles: tuple[float, float]

    @property
    def faster(self) -> bool:
        """Whether three of four steps were."""
        return self.quartiles[0] > 1

    def __str__(self) -> str:
        """`1.30 times (1.21 to 1.38)`."""
        low, high = self.quartiles
        return f"{self.ratio:.2f} times ({low:.2f} to {high:.2f})"


@dataclass(frozen=True, slots=True)
class Trial:
    """A bundle, tried: how each task follows the float model, its size and its speed."""

    judged: Judged
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What went through the gate: the recipe that held, and what it took."""

    recipe: Recipe
    trial: Trial
    lifted: tuple[str, ...] = ()
    before: Trial | None = None  # with no block lifted, where some had to be


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """What bundles are judged by; `open_gate` makes it.

    `budget` is the largest share of decided positions that any task may lose.
    """

    model: Florence2
    teacher: TeacherForcing
    table: CalibrationTable
    samples: Sequence[CalibrationSample]
    budget: float

    @property
    def floats(self) -> Bundle:
        """The float32 bundle."""
        return self.model.bundle

    def judge(self, bundle: Bundle, *, whole: bool = True) -> Trial:
        """Lead a bundle along the float model's answers, and measure what it costs.

        Unless it is to be the whole, that ends as soon as the budget is certain not to be held.
        """
        budget = None if whole else self.budget
        with on_cpu(bundle) as student:
            progress = log_progress(f"{bundle.precision} follows")
            judged = Judged(self.teacher.judge(student, progress, budget=budget))
            return Trial(judged, measure_cost(self.model, student))

    def check_trained(self, trial: Trial) -> None:
        """Refuse to look for blocks to return to float where no block is to blame.

        Raises:
            BundleError: no answer of the float model ends by itself.
        """
        if not self.teacher.ended:
            raise BundleError(
                f"{trial.judged.verdict(self.budget)}, and none of the float model's own answers "
                f"ends within {MAX_NEW_TOKENS} tokens, as a trained model's do: there is nothing "
                "that rounding could keep. Take a trained checkpoint, allow more with --budget, or "
                "export without judging: --no-gate."
            )

    def rank_blocks(self, recipe: Recipe) -> list[str]:
        """The blocks that the recipe quantizes, the most sensitive first.

        The embedding is one table in both text models, so it is there once: where it costs most.
        """
        count = sum(map(len, blocks_of(self.floats, recipe).values()))
        progress, found = log_progress("Ranking", "blocks"), list[Sensitivity]()
        for each in sweep(self.floats, self.table, recipe, self.samples[:_RANKING_PICTURES]):
            found.append(each)
            progress(len(found), count)
        ranked = [each.block for each in sorted(found, key=lambda each: -each.error)]
        embeddings = [block for block in ranked if block.endswith(SHARED)]
        return [block for block in ranked if block not in embeddings[1:]]


def on_cpu(bundle: Bundle) -> Florence2:
    """A bundle on ONNX Runtime's CPU, whatever it was made for.

    That computes what TensorRT does from the same graphs but for the rounding of float16, which its
    casts do at other places, and the order of sums.
    """
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    return Florence2(bundle, open_ort(bundle), tokenizer)


def open_gate(
    model: Florence2,
    table: CalibrationTable,
    samples: Sequence[CalibrationSample],
    budget: float,
) -> Gate:
    """Let the float model answer about the samples.

    Raises:
        BundleError: that gives too few positions to judge by, or the model is decided nowhere.
    """
    progress = log_progress("The float model answers")
    teacher = TeacherForcing(model, samples, progress, max_new_tokens=MAX_NEW_TOKENS)
    if teacher.positions < MIN_POSITIONS:
        raise BundleError(
            f"{len(samples)} pictures give {teacher.positions} positions to judge by, "
            f"expected at least {MIN_POSITIONS}. Pass a folder with more pictures, or "
            "--no-gate to export without judging."
        )
    if teacher.decided < MIN_POSITIONS * _MIN_DECIDED:
        raise BundleError(
            f"The float model is decided at {teacher.decided} of {teacher.positions} positions "
            f"(its best token leads by {TIE:g} or more in log-probability), expected at least "
            f"{MIN_POSITIONS * _MIN_DECIDED:.0f}: there is nothing that rounding could keep. Is "
            "this checkpoint trained? --no-gate exports without judging."
        )
    return Gate(model=model, teacher=teacher, table=table, samples=samples, budget=budget)


def next_count(trials: Mapping[int, Trial], blocks: int, budget: float) -> int | None:
    """How many of `blocks` to return to float in the next trial; None if no more are needed.

    `trials` are those so far, by that number: the one without any comes first, then the one with
    as many as may return, then what lies between them is halved.

    Raises:
        BundleError: not even as many as may return hold the budget.
    """
    held = [count for count, trial in trials.items() if trial.judged.holds(budget)]
    if 0 in held:
        return None
    limit = int(blocks * _MAX_LIFTED)
    if limit not in trials:
        return limit
    if not held:
        raise BundleError(
            f"{trials[limit].judged.verdict(budget)}, even with the {limit} most sensitive of "
            f"{blocks} blocks finer. Allow more with --budget, or use another --precision, such as "
            "fp16; florence-calibrate --sensitivity, with the same --precision and --target, shows "
            "what each block costs."
        )
    fewest = min(held)
    too_few = max(count for count in trials if count < fewest)
    return (fewest + too_few) // 2 if fewest - too_few > 1 else None


def lift(recipe: Recipe, blocks: Sequence[str]) -> Recipe:
    """The recipe with these blocks in what is finer there: float, or for 4 bits int8.

    An embedding that both text models read returns in both, so that it is stored once.
    """
    patterns = (f"*{SHARED}" if block.endswith(SHARED) else pattern_of(block) for block in blocks)
    return replace(recipe, finer=recipe.finer.union(patterns))


def measure_cost(floats: Florence2, other: Florence2) -> Cost:
    """Size of a bundle, and its speed in turns with the float one."""
    ratios = [_encode(floats) / _encode(other) for _ in range(_TIMED_RUNS + 1)][1:]
    size = sum(stored.bytes for stored in other.bundle.files.values())
    return Cost(megabytes=round(size / 1e6, 2), speed=round(median(ratios), 2))


def _encode(model: Florence2) -> float:
    """Seconds for a picture and a prompt."""
    pixels, input_ids, mask = _blank(model)
    backend = model.backend
    started = time.perf_counter()
    backend.prefill(backend.encode_image(pixels), input_ids, mask, beams=1)
    return time.perf_counter() - started


def _blank(model: Florence2) -> tuple[Squares, Ints, Ints]:
    """A black picture [1, S, S, 3], the token ids of a prompt [1, P], and their mask [1, M]."""
    size = model.bundle.size
    pixels = np.zeros((1, size.image_size, size.image_size, 3), dtype=np.uint8)
    input_ids = np.full((1, PROMPT_TOKENS), 4, dtype=np.int64)
    mask = np.ones((1, size.image_tokens + PROMPT_TOKENS), dtype=np.int64)
    return pixels, input_ids, mask


def compare_steps(model: Florence2, other: Florence2) -> dict[str, StepSpeed]:
    """How many times as fast a step of `other`'s decoder is, by search, measured in turns."""
    return {name: _step_speed(model, other, beams) for name, beams in _SEARCHES.items()}


def saves_time(steps: Mapping[str, StepSpeed]) -> bool:
    """Whether the step is faster by every search."""
    return all(each.faster for each in steps.values())


def _step_speed(model: Florence2, other: Florence2, beams: int) -> StepSpeed:
    steppers = [_open_decoder(each, beams) for each in (model, other)]
    ratios = []
    for _ in range(_TIMED_STEPS):
        before, after = (_step(decoder, beams) for decoder in steppers)
        ratios.append(before / after)
    low, middle, high = quantiles(ratios[_WARM_STEPS:], n=4)
    return StepSpeed(round(middle, 2), (round(low, 2), round(high, 2)))


def _open_decoder(model: Florence2, beams: int) -> DecoderSession:
    """A decoder behind a blank picture and a prompt."""
    pixels, input_ids, mask = _blank(model)
    features = model.backend.encode_image(pixels)
    return model.backend.prefill(features, input_ids, mask, beams=beams)


def _step(decoder: DecoderSession, beams: int) -> float:
    """Seconds for the next token of each beam."""
    tokens = np.full((1, beams), 4, dtype=np.int64)
    started = time.perf_counter()
    decoder.step(tokens, np.zeros_like(tokens))
    return time.perf_counter() - started
