"""Teacher-forced agreement: a model is fed the float model's answers, and compared at each token.

Answers that run free derail after one changed token, whatever the rest is worth. Along the float
answer every position counts alike: is the best token the same, and how much less likely has the
float model's token become?
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from florence_edge import Florence2, GenerationOptions
from florence_edge.backends.base import DecoderSession, Features, join_features
from florence_edge.generate import generate
from florence_edge.image import pixels
from florence_edge.logits_process import forced_token
from florence_edge.search import Hypothesis, Ints, Scores
from florence_edge.tasks import Prompt

from .dataset import CalibrationSample, ShowProgress

# Log-probabilities this close are a tie: the one is at least 90 % as likely as the other.
TIE = 0.1
_BATCH = 8  # pictures a run: a decoder step costs hardly more for eight rows than for one


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a model agrees with the float model along its answers to one task.

    A position is decided where the float model's best token leads the second by TIE or more;
    elsewhere either is as good an answer, and which one comes first means nothing.
    """

    positions: int
    equal: int  # of all positions: same best token
    decided: int
    decided_equal: int
    drop: float  # sum over positions of how much the float model's token lost in log-probability
    broken: int = 0  # of all positions: scores that are not finite

    @property
    def loss(self) -> float:
        """Share of decided positions with another best token: what the gate's budget bounds."""
        return 1 - self.decided_equal / self.decided if self.decided else 0.0

    def as_json(self) -> dict[str, float]:
        """What fidelity.json holds of a task."""
        positions = max(1, self.positions)
        return {
            "positions": self.positions,
            "decided": self.decided,
            "loss": round(self.loss, 5),
            "top1_agreement": round(self.equal / positions, 5),
            "mean_log_prob_drop": round(self.drop / positions, 5),
            **({"not_finite": self.broken} if self.broken else {}),
        }


def total(parts: Iterable[Agreement]) -> Agreement:
    """Several agreements as one."""
    parts = tuple(parts)
    return Agreement(
        positions=sum(part.positions for part in parts),
        equal=sum(part.equal for part in parts),
        decided=sum(part.decided for part in parts),
        decided_equal=sum(part.decided_equal for part in parts),
        drop=sum(part.drop for part in parts),
        broken=sum(part.broken for part in parts),
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """How each task follows the float model.

    Where it was `broken_off` there is the one task that was certain to lose too much, which loses
    at least so much (see `TeacherForcing.judge`).
    """

    agreements: Mapping[str, Agreement]
    broken_off: bool = False

    @property
    def worst(self) -> tuple[str, float]:
        """The task that loses the largest share of its decided positions, and that share."""
        task, agreement = max(self.agreements.items(), key=lambda item: item[1].loss)
        return task, agreement.loss

    @property
    def broken(self) -> int:
        """Positions, of all tasks, at which the scores are not finite."""
        return sum(agreement.broken for agreement in self.agreements.values())

    @property
    def undecided(self) -> tuple[str, ...]:
        """Tasks at which the float model is decided nowhere: nothing was judged by them."""
        return tuple(task for task, each in self.agreements.items() if not each.decided)

    @property
    def all_tasks(self) -> Agreement:
        """All tasks as one."""
        return total(self.agreements.values())

    def holds(self, budget: float) -> bool:
        """Whether no task loses more than the budget, and everything is finite."""
        return self.broken == 0 and self.worst[1] <= budget

    def verdict(self, budget: float) -> str:
        """The worst task in words."""
        task, loss = self.worst
        if self.broken:
            return f"Scores are not finite at {self.broken} positions"
        return f"{task} loses {loss:.4f} of its positions, where the budget is {budget:g}"


@dataclass(frozen=True, slots=True)
class Transcript:
    """The float model's answer to one prompt, and what it preferred where no rule decided.

    `positions` are the decoder's steps that no rule decided; the others belong to them: the best
    token, by how much it leads over the second, and the log-probability of the answer's token.
    """

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    best: tuple[int, ...]
    leads: tuple[float, ...]
    log_probs: tuple[float, ...]


class TeacherForcing:
    """The float model's answers about some pictures: asked for once, fed to any other model."""

    def __init__(
        self,
        model: Florence2,
        samples: Sequence[CalibrationSample],
        progress: ShowProgress,
        *,
        max_new_tokens: int,
    ) -> None:
        options = GenerationOptions(num_beams=1, max_new_tokens=max_new_tokens)
        self._samples = tuple(samples)
        self._config = model.generation_config(options)
        self._longest = max_new_tokens + 1  # of an answer's tokens, its start among them
        self._tasks: list[str] = []  # of the batches
        self._transcripts: list[list[Transcript]] = []  # a list a batch, an entry a picture
        for batch in self._batches(model, progress):
            decoder = _PreferenceRecorder(batch.open(model))
            hypotheses = generate(decoder, self._config, images=len(batch.prompts))
            pairs = zip(hypotheses, decoder.preferred(), strict=True)
            self._tasks.append(batch.prompts[0].task.name)
            self._transcripts.append([self._transcript(*pair) for pair in pairs])

    @property
    def positions(self) -> int:
        """Positions at which models are compared, in all."""
        return sum(len(each.positions) for batch in self._transcripts for each in batch)

    @property
    def decided(self) -> int:
        """Those of them at which the float model is decided."""
        leads = (each.leads for batch in self._transcripts for each in batch)
        return sum(lead >= TIE for some in leads for lead in some)

    @property
    def ended(self) -> int:
        """How many answers end before they are cut off, as a trained model's do."""
        answers = (each for batch in self._transcripts for each in batch)
        return sum(len(each.token_ids) < self._longest for each in answers)

    def judge(
        self, model: Florence2, progress: ShowProgress, *, budget: float | None = None
    ) -> dict[str, Agreement]:
        """Feed a model the answers: its agreement with the float model, by task.

        With a budget it ends as soon as a task is certain to lose more than that, or not finite:
        with that task alone, as if all else of it were equal.
        """
        found: dict[str, Agreement] = {}
        batches = self._batches(model, progress)
        for batch, transcripts in zip(batches, self._transcripts, strict=True):
            task = batch.prompts[0].task.name
            part = _follow(batch.open(model), transcripts)
            found[task] = total([found[task], part]) if task in found else part
            if budget is not None:
                least = self._at_least(task, found[task])
                if least.broken or least.loss > budget:
                    return {task: least}
        return found

    def _at_least(self, task: str, so_far: Agreement) -> Agreement:
        """What a task loses if all that was not compared yet is equal."""
        known = zip(self._tasks, self._transcripts, strict=True)
        answers = [each for name, batch in known if name == task for each in batch]
        decided = sum(lead >= TIE for each in answers for lead in each.leads) - so_far.decided
        rest = sum(len(each.positions) for each in answers) - so_far.positions
        equal = Agreement(
            positions=rest, equal=rest, decided=decided, decided_equal=decided, drop=0.0
        )
        return total([so_far, equal])

    def _batches(self, model: Florence2, progress: ShowProgress) -> Iterator["_Batch"]:
        for start in range(0, len(self._samples), _BATCH):
            samples = self._samples[start : start + _BATCH]
            features = join_features([_encode(model, sample) for sample in samples])
            for prompts in zip(*(sample.prompts for sample in samples), strict=True):
                yield _Batch(features, prompts)
            progress(start + len(samples), len(self._samples))

    def _transcript(
        self, hypothesis: Hypothesis, preferred: Sequence[tuple[int, float]]
    ) -> Transcript:
        token_ids = hypothesis.token_ids
        free = [
            step
            for step in range(len(token_ids) - 1)
            if forced_token(step + 1, self._config) is None
        ]
        return Transcript(
            token_ids=token_ids,
            positions=tuple(free),
            best=tuple(preferred[step][0] for step in free),
            leads=tuple(preferred[step][1] for step in free),
            log_probs=tuple(hypothesis.log_probs[step] for step in free),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """The same task about several pictures."""

    features: Features
    prompts: tuple[Prompt, ...]

    def open(self, model: Florence2) -> DecoderSession:
        input_ids, mask = model.encode_prompts(self.prompts)
        return model.backend.prefill(self.features, input_ids, mask, beams=1)


def _encode(model: Florence2, sample: CalibrationSample) -> Features:
    """One picture at a time: the vision encoder's activations fill most of the memory."""
    square = pixels(sample.read(), model.bundle.size.image_size)
    return model.backend.encode_image(square[None])


class _PreferenceRecorder:
    """A decoder that remembers each image's best token, and its lead, at each step."""

    def __init__(self, decoder: DecoderSession) -> None:
        self._decoder = decoder
        self._steps: list[list[tuple[int, float]]] = []

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        scores = self._decoder.step(tokens, parents)
        self._steps.append([_preferred(image) for image in scores])
        return scores

    def preferred(self) -> list[tuple[tuple[int, float], ...]]:
        """For each image, step by step: the best token and its lead over the second."""
        return list(zip(*self._steps, strict=True))


def _preferred(scores: Scores) -> tuple[int, float]:
    first, second = scores.top_log_probs[0, :2]
    return int(scores.top_ids[0, 0]), float(first - second)


def _follow(decoder: DecoderSession, transcripts: Sequence[Transcript]) -> Agreement:
    """Feed the float model's answers, whatever the decoder's model prefers."""
    longest = max(len(transcript.token_ids) for transcript in transcripts)
    found = []
    for step in range(longest - 1):
        fed = [each.token_ids[min(step, len(each.token_ids) - 1)] for each in transcripts]
        scores = decoder.step(np.array(fed)[:, None], np.zeros((len(fed), 1), dtype=np.int64))
        for transcript, own_scores in zip(transcripts, scores, strict=True):
            if step in transcript.positions:
                found.append(_compare(transcript, step, own_scores))
    return total(found)


def _compare(transcript: Transcript, step: int, scores: Scores) -> Agreement:
    """One position of one answer."""
    place = transcript.positions.index(step)
    decided = transcript.leads[place] >= TIE
    if not np.isfinite(scores.top_log_probs[0, 0]):  # then all of its row are NaN, and ids chance
        return Agreement(
            positions=1, equal=0, decided=int(decided), decided_equal=0, drop=0.0, broken=1
        )
    equal = int(scores.top_ids[0, 0]) == transcript.best[place]
    token = transcript.token_ids[step + 1]
    return Agreement(
        positions=1,
        equal=int(equal),
        decided=int(decided),
        decided_equal=int(decided and equal),
        drop=transcript.log_probs[place] - _log_prob(scores, token),
    )


def _log_prob(scores: Scores, token: int) -> float:
    found = np.flatnonzero(scores.top_ids[0] == token)
    return float(scores.top_log_probs[0, found[0]] if len(found) else scores.full()[0, token])
