"""Asking a model every question of a data folder, picture by picture.

What could not be read or asked is kept beside the answers.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from florence_edge import EncodedImage, Florence2, GenerationOptions, Prompt, Result
from florence_edge.errors import RequestError
from florence_edge.tasks import free_prompt, prompt_for

from . import captions, coco
from .data import VQA, DataQuestion, Truth
from .score import GradedAnswer

logger = logging.getLogger(__name__)

_REPORTED_EVERY = 50  # pictures
_SHOWN = 40  # letters of a question that could not be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """How to ask: `tasks` None means all that the data has truth for.

    `batch` questions of a task about one picture are answered at once, and `vqa_prompt` says how
    the fine-tune wants to be asked.
    """

    tasks: Sequence[str] | None = None
    options: GenerationOptions | None = None
    batch: int = 8
    vqa_prompt: str = "{question}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAnswers:
    """All answers by task, and messages of what was left out."""

    answered: Mapping[str, Sequence[GradedAnswer]]
    unread: Sequence[str]
    """Of pictures."""
    unasked: Sequence[str]
    """Of questions, with their pictures."""


def select_questions(truth: Truth, ask_options: AskOptions) -> list[DataQuestion]:
    """The questions of the tasks that are asked.

    Raises:
        RequestError: the data has no truth for the tasks.
    """
    tasks = ask_options.tasks
    questions = [each for each in truth.questions if tasks is None or each.task in tasks]
    if not questions:
        known = ", ".join(sorted({each.task for each in truth.questions})) or "none"
        raise RequestError(f"{truth.name} has no truth for these tasks. It has: {known}.")
    return questions


def check_gradable(truth: Truth, ask_options: AskOptions) -> None:
    """Find out before the answers, which may take hours, that they can be graded.

    Raises:
        RequestError: the data has no truth for the tasks.
        MissingPackageError: a scorer is not installed.
    """
    questions = select_questions(truth, ask_options)
    if truth.has_boxes and any(each.task == "OD" for each in questions):
        coco.check_installed()
    if any(each.references for each in questions):
        captions.check_installed()


def ask_all(model: Florence2, truth: Truth, ask_options: AskOptions) -> AskedAnswers:
    """Ask every selected question; a picture or question that does not work is left out.

    Raises:
        RequestError: the options are impossible, the data has no truth for the tasks, or nothing
            could be asked.
        BackendError: the engine failed.
    """
    model.generation_config(ask_options.options)
    by_picture: dict[int, list[DataQuestion]] = {}
    for question in select_questions(truth, ask_options):
        by_picture.setdefault(question.image_id, []).append(question)
    answered: dict[str, list[GradedAnswer]] = {}
    unread, unasked = list[str](), list[str]()
    for count, (image_id, questions) in enumerate(by_picture.items(), start=1):
        path = truth.pictures[image_id]
        try:
            view = model.encode(path, options=ask_options.options)
        except RequestError as error:
            logger.warning("%s", error)
            unread.append(str(error))
            continue
        for question, result in _answers(model, view, questions, ask_options):
            if isinstance(result, Result):
                answered.setdefault(question.task, []).append(GradedAnswer(question, result))
            else:
                unasked.append(f"{path.name}, {_name(question)}: {result}")
                logger.warning("%s", unasked[-1])
        if count % _REPORTED_EVERY == 0 or count == len(by_picture):
            logger.info("%d of %d pictures", count, len(by_picture))
    if not answered:
        first = (unread + unasked)[0]
        raise RequestError(f"None of the questions of {truth.name} could be asked. {first}")
    return AskedAnswers(answered=answered, unread=unread, unasked=unasked)


def _answers(
    model: Florence2,
    view: EncodedImage,
    questions: Sequence[DataQuestion],
    ask_options: AskOptions,
) -> Iterator[tuple[DataQuestion, Result | str]]:
    """The questions about one picture, those of one task together; a message for an answer."""
    possible = []
    for question in questions:
        try:
            possible.append((question, _prompt(question, view, ask_options.vqa_prompt)))
        except RequestError as error:
            yield question, str(error)
    for group in _groups(possible, ask_options.batch):
        prompts = [prompt for _, prompt in group]
        results = _results(model, view, prompts, ask_options.options)
        yield from zip((question for question, _ in group), results, strict=True)


def _results(
    model: Florence2,
    view: EncodedImage,
    prompts: Sequence[Prompt],
    options: GenerationOptions | None,
) -> list[Result | str]:
    """Answers to all at once; where one is refused, to each alone."""
    try:
        return [*model.answer([view] * len(prompts), prompts, options)]
    except RequestError as error:
        if len(prompts) == 1:
            return [str(error)]
        return [_results(model, view, [prompt], options)[0] for prompt in prompts]


def _groups(
    questions: Iterable[tuple[DataQuestion, Prompt]], size: int
) -> Iterator[list[tuple[DataQuestion, Prompt]]]:
    """Questions of one task, at most `size` together."""
    by_task: dict[str, list[tuple[DataQuestion, Prompt]]] = {}
    for question, prompt in questions:
        by_task.setdefault(question.task, []).append((question, prompt))
    for group in by_task.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _prompt(question: DataQuestion, view: EncodedImage, vqa_prompt: str) -> Prompt:
    if question.task == VQA:
        return free_prompt(vqa_prompt.replace("{question}", question.text or ""))
    return prompt_for(question.task, question.text, None, view.size)


def _name(question: DataQuestion) -> str:
    text = question.text or ""
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"{question.task} {shown!r}" if shown else question.task
