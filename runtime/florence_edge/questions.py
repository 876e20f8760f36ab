"""A question to the model: a task, what goes with it, and the English prompt they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from .answers.regions import check_region, is_location_text, location_tokens
from .errors import RequestError
from .tasks import Needs, Task, find_task, free_prompt

_Value = TypeVar("_Value")

_SOME_REGION = "<loc_0><loc_0><loc_1><loc_1>"  # stands for a region until its picture is known


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one picture."""

    task: Task
    text: str | None  # beside the picture: a caption, a phrase, or four location tokens
    prompt: str


def question(
    task: str | Task,
    text: str | None,
    region: Sequence[float] | None,
    image_size: tuple[int, int] | None,
) -> Question:
    """Check and put together a question about a picture.

    Args:
        task: `OD` or `<OD>`.
        text: for tasks that take one; region tasks take four location tokens.
        region: left, top, right, bottom in pixels, in place of those tokens.
        image_size: width and height of the picture that is asked about; None checks all but
            whether a region fits it.

    Raises:
        RequestError: an unknown task, or too little or too much beside it.
    """
    task = find_task(task)
    if text is not None and not isinstance(text, str):
        raise RequestError(f"The text for {task.token} is {text!r}, expected a string.")
    if region is not None:
        if task.needs is not Needs.REGION:
            raise RequestError(f"{task.token} takes no region. Leave the region out.")
        if text is not None:
            raise RequestError(
                f"{task.token} got a text and a region. Give the region in one way only."
            )
        check_region(region)
        text = location_tokens(region, image_size) if image_size else _SOME_REGION
    elif task.needs is Needs.REGION and text is not None and not is_location_text(text):
        raise RequestError(
            f"{task.token} needs a region, but got the text {text!r}. Pass region=(x1, y1, x2, y2) "
            "in pixels (on the command line: --region x1,y1,x2,y2), or a text of four tokens "
            "<loc_0> to <loc_999>."
        )
    return Question(task, text, task.prompt(text))


def questions_of(
    task: str | Task,
    image_sizes: Sequence[tuple[int, int]],
    texts: Sequence[str | None] | None,
    regions: Sequence[Sequence[float] | None] | None,
) -> list[Question]:
    """The same task about several pictures, each with a text or a region of its own.

    Raises:
        RequestError: as `question`, or there is not one text or region for each picture.
    """
    count = len(image_sizes)
    each = zip(
        image_sizes,
        _one_each("texts", texts, count),
        _one_each("regions", regions, count),
        strict=True,
    )
    return [question(task, text, region, image_size) for image_size, text, region in each]


def free_question(prompt: str) -> Question:
    """A question in the user's own words, passed through as it is (VQA and other fine-tunes).

    Raises:
        RequestError: the prompt is empty.
    """
    if not prompt.strip():
        raise RequestError("The prompt is empty. Write what you want to know, or name a task.")
    return Question(free_prompt(prompt), None, prompt)


def _one_each(
    name: str, values: Sequence[_Value | None] | None, images: int
) -> Sequence[_Value | None]:
    if values is None:
        return [None] * images
    if isinstance(values, str) or len(values) != images:
        raise RequestError(f"{name} must hold one entry for each of the {images} images.")
    return values
