"""`measure_accuracy`: ask a bundle everything the data has truth for, and grade the answers."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge import Florence2, GenerationOptions, View
from florence_edge.errors import RequestError
from florence_edge.questions import Question, free_question, question

from .captions import TOKENIZER_NOTE
from .detection import detection_figures
from .devices import CPU, Device
from .grades import Answered, grade
from .machine import describe_machine
from .results import AccuracyResult
from .truth import VQA, Asked, Truth

logger = logging.getLogger(__name__)

_TOLD_EVERY = 50  # pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """How to ask: `tasks` None means all that the data has truth for.

    `batch` questions of a task about one picture are answered at once, and `vqa_prompt` says how
    the fine-tune wants to be asked.
    """

    tasks: Sequence[str] | None = None
    options: GenerationOptions | None = None
    batch: int = 8
    vqa_prompt: str = "{question}"


def measure_accuracy(
    folder: Path,
    truth: Truth,
    examination: Examination,
    *,
    device: Device = CPU,
    threads: int | None = None,
) -> AccuracyResult:
    """Let the bundle in `folder` answer, free-running, and grade the answers task by task.

    Raises:
        FlorenceEdgeError: the bundle cannot be loaded, nothing is to be asked, or no picture could
            be read.
    """
    model = Florence2.load(
        folder, device.engine, threads=threads, engine_precision=device.precision or None
    )
    answered, unread = examine(model, truth, examination)
    return AccuracyResult(
        machine=describe_machine(),
        settings=_settings(model, examination, device.name),
        model=model.bundle.model,
        precision=model.bundle.precision,
        device=device.name,
        data=truth.name,
        images=len(truth.pictures) - len(unread),
        figures=figures_of(truth, answered),
        notes=(*_note(answered), *(f"Not read: {message}" for message in unread)),
    )


def _note(answered: Mapping[str, Sequence[Answered]]) -> Sequence[str]:
    captioned = any(each.asked.references for answers in answered.values() for each in answers)
    return [TOKENIZER_NOTE] if captioned else []


def examine(
    model: Florence2, truth: Truth, examination: Examination
) -> tuple[dict[str, list[Answered]], list[str]]:
    """All answers by task, and the messages of pictures that could not be read.

    Raises:
        RequestError: the data has no truth for the tasks, or no picture could be read.
    """
    wanted = examination.tasks
    asked = [each for each in truth.asked if wanted is None or each.task in wanted]
    if not asked:
        known = ", ".join(sorted({each.task for each in truth.asked})) or "none"
        raise RequestError(f"{truth.name} has no truth for these tasks. It has: {known}.")
    by_picture: dict[int, list[Asked]] = {}
    for each in asked:
        by_picture.setdefault(each.image_id, []).append(each)
    answered: dict[str, list[Answered]] = {}
    unread = []
    for count, (image_id, questions) in enumerate(by_picture.items(), start=1):
        try:
            view = model.look(truth.pictures[image_id], options=examination.options)
        except RequestError as error:
            logger.warning("%s", error)
            unread.append(str(error))
            continue
        for answer in _answers(model, view, questions, examination):
            answered.setdefault(answer.asked.task, []).append(answer)
        if count % _TOLD_EVERY == 0 or count == len(by_picture):
            logger.info("%d of %d pictures", count, len(by_picture))
    if not answered:
        raise RequestError(f"None of the pictures of {truth.name} could be read: {unread[0]}")
    return answered, unread


def figures_of(
    truth: Truth, answered: Mapping[str, Sequence[Answered]]
) -> dict[str, dict[str, float]]:
    """Figures by task, headline first; for OD with instances COCO's come before all others."""
    figures = {}
    for task, answers in answered.items():
        graded = grade(task, answers)
        if task == "OD" and truth.instances:
            results = {each.asked.image_id: each.result for each in answers}
            plain = {f"{name} in bins, without scores": value for name, value in graded.items()}
            graded = {**detection_figures(truth, results), **plain}
        figures[task] = graded
    return figures


def _answers(
    model: Florence2, view: View, questions: Sequence[Asked], examination: Examination
) -> Iterator[Answered]:
    """The questions about one picture, those of one task together."""
    for group in _groups(questions, lambda asked: asked.task, examination.batch):
        put = [_question(asked, view, examination.vqa_prompt) for asked in group]
        results = model.answer([view] * len(group), put, examination.options)
        yield from map(Answered, group, results)


def _groups(
    questions: Iterable[Asked], key: Callable[[Asked], str], most: int
) -> Iterator[list[Asked]]:
    by_key: dict[str, list[Asked]] = {}
    for each in questions:
        by_key.setdefault(key(each), []).append(each)
    for group in by_key.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def _question(asked: Asked, view: View, vqa_prompt: str) -> Question:
    if asked.task == VQA:
        return free_question(vqa_prompt.replace("{question}", asked.text or ""))
    return question(asked.task, asked.text, None, view.image.size)


def _settings(model: Florence2, examination: Examination, device: str) -> dict[str, Any]:
    generation = model.resolve(examination.options)
    return {
        "device": device,
        "beams": generation.num_beams,
        "max-new-tokens": generation.max_new_tokens,
        "bundle": str(model.bundle.folder),
    }
