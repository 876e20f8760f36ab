"""Asking: every question of a truth, picture by picture, and what could not be asked."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from florence_edge import Florence2, GenerationOptions, Result, View
from florence_edge.errors import RequestError
from florence_edge.questions import Question, free_question, question

from . import captions, detection
from .grades import Answered
from .questions import VQA, Asked
from .truth import Truth

logger = logging.getLogger(__name__)

_TOLD_EVERY = 50  # pictures
_SHOWN = 40  # letters of a question that could not be asked


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """All answers by task, and messages of what was left out."""

    answered: Mapping[str, Sequence[Answered]]
    unread: Sequence[str]
    """Of pictures."""
    unasked: Sequence[str]
    """Of questions, with their pictures."""


def wanted(truth: Truth, examination: Examination) -> list[Asked]:
    """The questions that are to be asked.

    Raises:
        RequestError: the data has no truth for the tasks.
    """
    tasks = examination.tasks
    asked = [each for each in truth.asked if tasks is None or each.task in tasks]
    if not asked:
        known = ", ".join(sorted({each.task for each in truth.asked})) or "none"
        raise RequestError(f"{truth.name} has no truth for these tasks. It has: {known}.")
    return asked


def check_gradable(truth: Truth, examination: Examination) -> None:
    """Find out before the answers, which may take hours, that they can be graded.

    Raises:
        RequestError: the data has no truth for the tasks, or a scorer is not installed.
    """
    asked = wanted(truth, examination)
    if truth.has_boxes and any(each.task == "OD" for each in asked):
        detection.check_installed()
    if any(each.references for each in asked):
        captions.check_installed()


def examine(model: Florence2, truth: Truth, examination: Examination) -> Examined:
    """Ask everything that is wanted; a picture or question that does not work is left out.

    Raises:
        RequestError: the options are impossible, the data has no truth for the tasks, or nothing
            could be asked.
        BackendError: the engine failed.
    """
    model.resolve(examination.options)
    by_picture: dict[int, list[Asked]] = {}
    for asked in wanted(truth, examination):
        by_picture.setdefault(asked.image_id, []).append(asked)
    answered: dict[str, list[Answered]] = {}
    unread, unasked = list[str](), list[str]()
    for count, (image_id, questions) in enumerate(by_picture.items(), start=1):
        path = truth.pictures[image_id]
        try:
            view = model.look(path, options=examination.options)
        except RequestError as error:
            logger.warning("%s", error)
            unread.append(str(error))
            continue
        for asked, result in _answers(model, view, questions, examination):
            if isinstance(result, Result):
                answered.setdefault(asked.task, []).append(Answered(asked, result))
            else:
                unasked.append(f"{path.name}, {_name(asked)}: {result}")
                logger.warning("%s", unasked[-1])
        if count % _TOLD_EVERY == 0 or count == len(by_picture):
            logger.info("%d of %d pictures", count, len(by_picture))
    if not answered:
        first = (unread + unasked)[0]
        raise RequestError(f"None of the questions of {truth.name} could be asked. {first}")
    return Examined(answered=answered, unread=unread, unasked=unasked)


def _answers(
    model: Florence2, view: View, questions: Sequence[Asked], examination: Examination
) -> Iterator[tuple[Asked, Result | str]]:
    """The questions about one picture, those of one task together; a message for an answer."""
    possible = []
    for asked in questions:
        try:
            possible.append((asked, _question(asked, view, examination.vqa_prompt)))
        except RequestError as error:
            yield asked, str(error)
    for group in _groups(possible, examination.batch):
        put = [each for _, each in group]
        results = _results(model, view, put, examination.options)
        yield from zip((asked for asked, _ in group), results, strict=True)


def _results(
    model: Florence2, view: View, put: Sequence[Question], options: GenerationOptions | None
) -> list[Result | str]:
    """Answers to all at once; where one is refused, to each alone."""
    try:
        return [*model.answer([view] * len(put), put, options)]
    except RequestError as error:
        if len(put) == 1:
            return [str(error)]
        return [_results(model, view, [each], options)[0] for each in put]


def _groups(
    questions: Iterable[tuple[Asked, Question]], most: int
) -> Iterator[list[tuple[Asked, Question]]]:
    by_task: dict[str, list[tuple[Asked, Question]]] = {}
    for asked, put in questions:
        by_task.setdefault(asked.task, []).append((asked, put))
    for group in by_task.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def _question(asked: Asked, view: View, vqa_prompt: str) -> Question:
    if asked.task == VQA:
        return free_question(vqa_prompt.replace("{question}", asked.text or ""))
    return question(asked.task, asked.text, None, view.image.size)


def _name(asked: Asked) -> str:
    text = asked.text or ""
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"{asked.task} {shown!r}" if shown else asked.task
