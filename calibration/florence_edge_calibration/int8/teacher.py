"""Teacher-forced agreement: a model is led along the float model's answers and asked at each token.

Answers that run free derail after one changed token, whatever the rest is worth. Along the float
answer every position counts alike: is the best token the same, and how much less likely has the
float model's token become?
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from florence_edge import Florence2, GenerationOptions
from florence_edge.backends import Decoder
from florence_edge.backends.base import Features
from florence_edge.backends.features import join_features
from florence_edge.generate import generate
from florence_edge.image import pixels
from florence_edge.logits import Ints, forced_token
from florence_edge.questions import Question
from florence_edge.search import Hypothesis, Scores

from .ranges import Progress
from .samples import Sample

# Log-probabilities this close are a tie: the one is at least 90 % as likely as the other.
TIE = 0.1
_BATCH = 8  # pictures a run: a decoder step costs hardly more for eight rows than for one


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the float model said to one question, and what it preferred where it was free to.

    `positions` are the decoder's steps that no rule decided; the others belong to them: the best
    token, by how much it leads over the second, and the log-probability of what was said.
    """

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    best: tuple[int, ...]
    leads: tuple[float, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a model follows the float model's answers to one task.

    A position is decided where the float model's best token leads the second by TIE or more;
    elsewhere either is as good an answer, and which one comes first says nothing.
    """

    positions: int
    equal: int  # of all positions: same best token
    decided: int
    decided_equal: int
    drop: float  # sum over positions of how much the float model's token lost in log-probability

    @property
    def loss(self) -> float:
        """Share of decided positions with another best token: what the gate's budget bounds."""
        return 1 - self.decided_equal / max(1, self.decided)

    def as_json(self) -> dict[str, float]:
        """What fidelity.json holds of a task."""
        positions = max(1, self.positions)
        return {
            "positions": self.positions,
            "decided": self.decided,
            "loss": round(self.loss, 5),
            "top1_agreement": round(self.equal / positions, 5),
            "mean_log_prob_drop": round(self.drop / positions, 5),
        }


class Teacher:
    """The float model's answers about some pictures: asked for once, followed by any student."""

    def __init__(
        self,
        model: Florence2,
        samples: Sequence[Sample],
        progress: Progress,
        *,
        max_new_tokens: int,
    ) -> None:
        options = GenerationOptions(num_beams=1, max_new_tokens=max_new_tokens)
        self._samples = tuple(samples)
        self._generation = model.resolve(options)
        self._transcripts: list[list[Transcript]] = []  # one list a lesson, one entry a picture
        for lesson in self._lessons(model, progress):
            decoder = _Recording(lesson.open(model))
            hypotheses = generate(decoder, self._generation, images=len(lesson.questions))
            self._transcripts.append(
                [
                    self._transcript(*pair)
                    for pair in zip(hypotheses, decoder.preferred(), strict=True)
                ]
            )

    def judge(self, student: Florence2, progress: Progress) -> dict[str, Agreement]:
        """Lead a student along the answers: its agreement with the float model, by task."""
        found: dict[str, list[Agreement]] = {}
        lessons = self._lessons(student, progress)
        for lesson, transcripts in zip(lessons, self._transcripts, strict=True):
            task = lesson.questions[0].task.name
            found.setdefault(task, []).append(_follow(lesson.open(student), transcripts))
        return {task: total(parts) for task, parts in found.items()}

    def _lessons(self, model: Florence2, progress: Progress) -> Iterator["_Lesson"]:
        for start in range(0, len(self._samples), _BATCH):
            batch = self._samples[start : start + _BATCH]
            features = join_features([_look(model, sample) for sample in batch])
            for questions in zip(*(sample.questions for sample in batch), strict=True):
                yield _Lesson(features, questions)
            progress(start + len(batch), len(self._samples))

    @property
    def positions(self) -> int:
        """Positions that students are asked about, in all."""
        return sum(len(each.positions) for lesson in self._transcripts for each in lesson)

    def _transcript(
        self, hypothesis: Hypothesis, preferred: Sequence[tuple[int, float]]
    ) -> Transcript:
        token_ids = hypothesis.token_ids
        free = [
            step
            for step in range(len(token_ids) - 1)
            if forced_token(step + 1, self._generation) is None
        ]
        return Transcript(
            token_ids=token_ids,
            positions=tuple(free),
            best=tuple(preferred[step][0] for step in free),
            leads=tuple(preferred[step][1] for step in free),
            log_probs=tuple(hypothesis.log_probs[step] for step in free),
        )


def _look(model: Florence2, sample: Sample) -> Features:
    """One picture at a time: the vision encoder's activations fill most of the memory."""
    square = pixels(sample.read(), model.bundle.size.image_size)
    return model.backend.look(square[None])


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """The same task about a batch of pictures."""

    features: Features
    questions: tuple[Question, ...]

    def open(self, model: Florence2) -> Decoder:
        input_ids, mask = model.encode_prompts(self.questions)
        return model.backend.read(self.features, input_ids, mask, beams=1)


class _Recording:
    """A decoder that remembers each image's best token, and its lead, at each step."""

    def __init__(self, decoder: Decoder) -> None:
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


def _follow(decoder: Decoder, transcripts: Sequence[Transcript]) -> Agreement:
    """Feed what the float model said, whatever the student prefers."""
    longest = max(len(transcript.token_ids) for transcript in transcripts)
    found = []
    for step in range(longest - 1):
        fed = [each.token_ids[min(step, len(each.token_ids) - 1)] for each in transcripts]
        scores = decoder.step(np.array(fed)[:, None], np.zeros((len(fed), 1), dtype=np.int64))
        for transcript, seen in zip(transcripts, scores, strict=True):
            if step in transcript.positions:
                found.append(_compare(transcript, step, seen))
    return total(found)


def _compare(transcript: Transcript, step: int, scores: Scores) -> Agreement:
    """One position of one answer."""
    place = transcript.positions.index(step)
    equal = int(scores.top_ids[0, 0]) == transcript.best[place]
    decided = transcript.leads[place] >= TIE
    said = transcript.token_ids[step + 1]
    return Agreement(
        positions=1,
        equal=int(equal),
        decided=int(decided),
        decided_equal=int(decided and equal),
        drop=transcript.log_probs[place] - _log_prob(scores, said),
    )


def _log_prob(scores: Scores, token: int) -> float:
    found = np.flatnonzero(scores.top_ids[0] == token)
    return float(scores.top_log_probs[0, found[0]] if len(found) else scores.full()[0, token])


def total(parts: Iterable[Agreement]) -> Agreement:
    """Several agreements as one."""
    parts = tuple(parts)
    return Agreement(
        positions=sum(part.positions for part in parts),
        equal=sum(part.equal for part in parts),
        decided=sum(part.decided for part in parts),
        decided_equal=sum(part.decided_equal for part in parts),
        drop=sum(part.drop for part in parts),
    )
