"""A batch of questions, each with options, an end and an error of its own.

    question = view.question("OD", options=..., cancel=..., on_text=...)
    model.answer_questions([question, ...], on_answer=...)

Questions of as many beams are answered together, up to the largest batch of the engine. An answer
is what its question gets alone, whatever its neighbours do.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import TypeAlias

from .backends.base import Backend, Features, join_features
from .bundle import Bundle
from .engine_lock import EngineLock
from .errors import FlorenceEdgeError, RequestError
from .generate import Asked, Outcome, generate_each, stop_after
from .options import GenerationConfig, GenerationOptions, resolve
from .processing import Timer, pad_prompts, prompt_ids, read_hypothesis
from .regions import Convention
from .results.result import DECODE, PARSE, PREFILL, Result
from .search import Hypothesis
from .tasks import Prompt
from .tokenizer import OnText, Tokenizer

Answer: TypeAlias = Result | FlorenceEdgeError
"""What a question of a batch gets: its result, or why there is none (a RequestError: the prompt or
an option; a BackendError: the engine's scores were not numbers)."""
OnAnswer: TypeAlias = Callable[[int, Answer], None]
"""Called with the number of a question and its answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # arrays have no one truth value
class Question:
    """One prompt about one encoded picture; `EncodedImage.question` makes it."""

    features: Features = field(repr=False)  # [1, image tokens, d_model]
    image_size: tuple[int, int]
    """Width and height of the picture in pixels."""
    prompt: Prompt
    options: GenerationOptions | None = None
    cancel: Event | None = None
    """Once it is set, the answer is what is complete by then, and its status `truncated`."""
    on_text: OnText | None = None
    """Called with each piece of the answer that cannot be taken back, as in `Florence2.run`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What the picture took, by stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What answers: a bundle on a backend."""

    bundle: Bundle
    backend: Backend
    tokenizer: Tokenizer
    convention: Convention
    lock: EngineLock

    def answer(self, questions: Sequence[Question], on_answer: OnAnswer | None) -> list[Answer]:
        """The answers in the order of the questions; `on_answer` gets each as soon as it is there.

        Raises:
            BackendError: the engine failed, or is closed.
        """
        with self.lock.held():
            return self._answer(questions, on_answer or (lambda _, answer: None))

    def answer_one(self, question: Question) -> Result:
        """The answer to one question.

        Raises:
            RequestError: the prompt or an option does not fit the model.
            BackendError: the engine failed, or is closed.
        """
        [answer] = self.answer([question], None)
        if isinstance(answer, FlorenceEdgeError):
            raise answer
        return answer

    def _answer(self, questions: Sequence[Question], tell: OnAnswer) -> list[Answer]:
        answers: dict[int, Answer] = {}
        rows: dict[int, _Row] = {}
        for number, question in enumerate(questions):
            try:
                rows[number] = self._row(question)
            except RequestError as error:
                answers[number] = error
                tell(number, error)
        for batch in _batches(rows, self.backend.max_batch):
            answers |= self._answer_batch({number: rows[number] for number in batch}, tell)
        return [answers[number] for number in range(len(questions))]

    def _row(self, question: Question) -> "_Row":
        bundle, on_text = self.bundle, question.on_text
        return _Row(
            question=question,
            config=resolve(question.options, bundle.generation, bundle.size),
            input_ids=prompt_ids(question.prompt, self.tokenizer, bundle.size),
            on_tokens=None if on_text is None else self.tokenizer.streamer(on_text),
        )

    def _answer_batch(self, rows: "Mapping[int, _Row]", on_answer: OnAnswer) -> dict[int, Answer]:
        """Answer questions of as many beams in one run of the decoder."""
        timer, size = Timer(), self.bundle.size
        chosen = list(rows.values())
        answers: dict[int, Answer] = {}

        def done(number: int, outcome: Outcome) -> None:
            """Read an answer at once; its seconds are the batch's up to now."""
            timer.seconds[DECODE] = time.perf_counter() - begin - timer.seconds.get(PARSE, 0.0)
            with timer.stage(PARSE):
                answer = self._read(rows[number], outcome)
            answers[number] = answer
            on_answer(number, _timed(answer, rows[number].question, timer.share(len(rows))))

        stops = [stop_after(row.max_time, row.question.cancel) for row in chosen]
        with timer.stage(PREFILL):
            pad = self.bundle.generation.pad_token_id
            input_ids, mask = pad_prompts([row.input_ids for row in chosen], size, pad=pad)
            parts = [row.question.features for row in chosen]
            features = parts[0] if len(parts) == 1 else join_features(parts)
            beams = chosen[0].config.num_beams
            decoder = self.backend.prefill(features, input_ids, mask, beams=beams)
        begin = time.perf_counter()
        generate_each(
            decoder,
            [
                Asked(
                    config=row.config,
                    stop=stop,
                    on_tokens=row.on_tokens,
                    on_done=partial(done, number),
                )
                for (number, row), stop in zip(rows.items(), stops, strict=True)
            ],
        )
        shares = timer.share(len(rows))
        return {n: _timed(answer, rows[n].question, shares) for n, answer in answers.items()}

    def _read(self, row: "_Row", outcome: Outcome) -> Answer:
        if not isinstance(outcome, Hypothesis):
            return outcome
        question = row.question
        return read_hypothesis(
            outcome,
            question.prompt,
            self.tokenizer,
            row.config,
            question.image_size,
            self.convention,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """A question that an engine can be asked."""

    question: Question
    config: GenerationConfig
    input_ids: Sequence[int]
    on_tokens: Callable[..., None] | None

    @property
    def max_time(self) -> float | None:
        return self.question.options.max_time if self.question.options else None


def _batches(rows: Mapping[int, _Row], most: int | None) -> Iterator[list[int]]:
    """The numbers of the rows that are answered together: of as many beams, at most `most`."""
    by_beams: dict[int, list[int]] = {}
    for number, row in rows.items():
        by_beams.setdefault(row.config.num_beams, []).append(number)
    for numbers in by_beams.values():
        step = most or len(numbers)
        for first in range(0, len(numbers), step):
            yield numbers[first : first + step]


def _timed(answer: Answer, question: Question, shares: Mapping[str, float]) -> Answer:
    if isinstance(answer, FlorenceEdgeError):
        return answer
    return replace(answer, seconds={**question.seconds, **shares})


def raise_error(_: int, answer: Answer) -> None:
    """An `OnAnswer` for batches that one error ends."""
    if isinstance(answer, FlorenceEdgeError):
        raise answer
