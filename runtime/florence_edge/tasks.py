"""The 15 tasks of Florence-2, one table; and prompts: a task with what goes with it.

Prompts and answer kinds are those of Microsoft's `processing_florence2.py`; punctuation matters
(three prompts have no final full stop or question mark).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from string import Formatter
from typing import Any, Literal, TypeAlias

from .errors import RequestError
from .regions import BoxLike, RelativeBox, check_region, is_location_text, location_tokens

TaskName = Literal[
    "CAPTION",
    "DETAILED_CAPTION",
    "MORE_DETAILED_CAPTION",
    "OCR",
    "OCR_WITH_REGION",
    "OD",
    "DENSE_REGION_CAPTION",
    "REGION_PROPOSAL",
    "CAPTION_TO_PHRASE_GROUNDING",
    "OPEN_VOCABULARY_DETECTION",
    "REFERRING_EXPRESSION_SEGMENTATION",
    "REGION_TO_SEGMENTATION",
    "REGION_TO_CATEGORY",
    "REGION_TO_DESCRIPTION",
    "REGION_TO_OCR",
]
"""The 15 tasks, as editors complete them and type checkers hold them."""
TasksLike: TypeAlias = "TaskLike | Request | Sequence[TaskLike]"
"""A task, several of them, or a `Request` that is made already."""
TextEach: TypeAlias = str | Sequence[str | None] | None
"""A text for all pictures, or a list with one for each."""
RegionEach: TypeAlias = BoxLike | Sequence[BoxLike | None] | None
"""A region for all pictures, or a list with one for each."""


class AnswerKind(Enum):
    """How the text of an answer is read; values are Hugging Face's names."""

    PURE_TEXT = "pure_text"
    QUADS = "ocr"
    BOXES_WITH_LABELS = "description_with_bboxes"
    BOXES = "bboxes"
    PHRASES = "phrase_grounding"
    POLYGONS = "polygons"
    BOXES_OR_POLYGONS = "description_with_bboxes_or_polygons"


class Needs(Enum):
    """What a task takes beside the picture."""

    NOTHING = "nothing"
    TEXT = "text"
    REGION = "region"


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its marker, the English prompt behind it, and how its answer is read."""

    token: str
    template: str
    answer: AnswerKind
    needs: Needs = Needs.NOTHING

    @property
    def name(self) -> str:
        """The marker without its brackets, e.g. `OD`."""
        return self.token[1:-1]

    def prompt(self, text: str | None = None) -> str:
        """The English prompt; white space around `text` is stripped, as transformers does.

        Raises:
            RequestError: `text` is missing where the task needs it, or given where it takes none.
        """
        text = (text or "").strip()
        if self.needs is Needs.NOTHING:
            if text:
                raise RequestError(
                    f"{self.token} takes no text, but got {text!r}. Leave the text out."
                )
            return self.template
        if not text:
            wanted = "a region" if self.needs is Needs.REGION else "a text"
            raise RequestError(f"{self.token} needs {wanted}. {_HOW_TO_GIVE[self.needs]}")
        return self.template.format(input=text)


TaskLike: TypeAlias = TaskName | str | Task
"""A task: one of the 15, in other spellings (`<OD>`, `od`), too; or one of a bundle's own."""
TaskList: TypeAlias = list[TaskName] | list[str] | list[Task] | tuple[TaskLike, ...]
"""Several tasks."""

_HOW_TO_GIVE = {
    Needs.TEXT: "Pass text='...' (on the command line: --text '...').",
    Needs.REGION: (
        "Pass region=(x1, y1, x2, y2) in pixels (on the command line: --region x1,y1,x2,y2), a "
        "RelativeBox in fractions (--region 10%,20%,50%,60%), or "
        "text='<loc_x1><loc_y1><loc_x2><loc_y2>'."
    ),
}

_TABLE = (
    Task("<CAPTION>", "What does the image describe?", AnswerKind.PURE_TEXT),
    Task(
        "<DETAILED_CAPTION>",
        "Describe in detail what is shown in the image.",
        AnswerKind.PURE_TEXT,
    ),
    Task(
        "<MORE_DETAILED_CAPTION>",
        "Describe with a paragraph what is shown in the image.",
        AnswerKind.PURE_TEXT,
    ),
    Task("<OCR>", "What is the text in the image?", AnswerKind.PURE_TEXT),
    Task("<OCR_WITH_REGION>", "What is the text in the image, with regions?", AnswerKind.QUADS),
    Task(
        "<OD>",
        "Locate the objects with category name in the image.",
        AnswerKind.BOXES_WITH_LABELS,
    ),
    Task(
        "<DENSE_REGION_CAPTION>",
        "Locate the objects in the image, with their descriptions.",
        AnswerKind.BOXES_WITH_LABELS,
    ),
    Task("<REGION_PROPOSAL>", "Locate the region proposals in the image.", AnswerKind.BOXES),
    Task(
        "<CAPTION_TO_PHRASE_GROUNDING>",
        "Locate the phrases in the caption: {input}",
        AnswerKind.PHRASES,
        Needs.TEXT,
    ),
    Task(
        "<OPEN_VOCABULARY_DETECTION>",
        "Locate {input} in the image.",
        AnswerKind.BOXES_OR_POLYGONS,
        Needs.TEXT,
    ),
    Task(
        "<REFERRING_EXPRESSION_SEGMENTATION>",
        "Locate {input} in the image with mask",
        AnswerKind.POLYGONS,
        Needs.TEXT,
    ),
    Task(
        "<REGION_TO_SEGMENTATION>",
        "What is the polygon mask of region {input}",
        AnswerKind.POLYGONS,
        Needs.REGION,
    ),
    Task(
        "<REGION_TO_CATEGORY>",
        "What is the region {input}?",
        AnswerKind.PURE_TEXT,
        Needs.REGION,
    ),
    Task(
        "<REGION_TO_DESCRIPTION>",
        "What does the region {input} describe?",
        AnswerKind.PURE_TEXT,
        Needs.REGION,
    ),
    Task(
        "<REGION_TO_OCR>",
        "What text is in the region {input}?",
        AnswerKind.PURE_TEXT,
        Needs.REGION,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TABLE}
"""The 15 tasks by name, such as `OD`."""


def find_task(name: TaskLike, own: Iterable[Task] = ()) -> Task:
    """The task called `name`, written `OD`, `od` or `<OD>`; `own` are those of a bundle.

    Raises:
        RequestError: there is no such task; the message lists those there are.
    """
    if isinstance(name, Task):
        return name
    if not isinstance(name, str):
        raise RequestError(f"A task is expected as a string such as 'OD', got {name!r}.")
    known = {**TASKS, **{task.name.upper(): task for task in own}}
    key = task_key(name)
    if key not in known:
        names = ", ".join(task.name for task in known.values())
        raise RequestError(f"There is no task {name!r}. The tasks are: {names}.")
    return known[key]


def task_key(name: str) -> str:
    """What names of tasks are compared by: `OD`, `od` and `<OD>` are one."""
    return name.strip().removeprefix("<").removesuffix(">").upper()


def with_own(tasks: TasksLike, own: Sequence[Task]) -> TasksLike:
    """Tasks as they were given, but a name of one of `own` as that task.

    Raises:
        RequestError: one does not exist.
    """
    if not own or isinstance(tasks, Task | Request) or not isinstance(tasks, Iterable):
        return tasks
    if isinstance(tasks, str):
        return find_task(tasks, own)
    return [find_task(task, own) for task in tasks]


_TOKEN = re.compile(r"<[A-Za-z][A-Za-z0-9_]*>")


def check_own_tasks(tasks: Iterable[Task]) -> None:
    """Refuse tasks that a bundle cannot bring beside the 15.

    Raises:
        RequestError: a name that is taken or cannot be written, or a template that does not fit
            what the task takes.
    """
    names: set[str] = set(TASKS)
    for task in tasks:
        if not _TOKEN.fullmatch(task.token):
            raise RequestError(
                f"{task.token!r:.80} is not the name of a task. Expected letters, digits and "
                "underscores in angle brackets, such as <FIND_DEFECTS>."
            )
        if task.name.upper() in names:
            raise RequestError(f"There is a task {task.token} already. Give this one another name.")
        names.add(task.name.upper())
        wanted = [] if task.needs is Needs.NOTHING else ["input"]
        if _fields(task.template) != wanted:
            raise RequestError(
                f"The prompt of {task.token} is {task.template!r:.200}; one that takes "
                f"{task.needs.value} has {'{input} once' if wanted else 'no braces'}."
            )


def _fields(template: str) -> list[str]:
    """The names in braces; `invalid` where they do not close."""
    try:
        return [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        return ["invalid"]


def free_task(text: str) -> Task:
    """A task for a prompt that is passed through as it is (VQA and other fine-tunes)."""
    return Task(text, text.replace("{", "{{").replace("}", "}}"), AnswerKind.PURE_TEXT)


_SOME_REGION = "<loc_0><loc_0><loc_1><loc_1>"  # stands for a region until its picture is known


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked about one picture; `prompt_for` and `free_prompt` make it."""

    task: Task
    text_input: str | None
    """What goes with the task: a caption, a phrase, or four location tokens."""
    wording: str
    """The English words that the text encoder reads."""


def prompt_for(
    task: TaskLike,
    text: str | None,
    region: Sequence[float] | None,
    image_size: tuple[int, int] | None,
) -> Prompt:
    """Check and put together a question about a picture.

    Args:
        task: `OD` or `<OD>`.
        text: for tasks that take one; region tasks take four location tokens.
        region: left, top, right, bottom in pixels, or a `RelativeBox`, in place of those tokens.
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
    return Prompt(task, text, task.prompt(text))


def free_prompt(prompt: str) -> Prompt:
    """A question in the user's own words, passed through as it is (VQA and other fine-tunes).

    Raises:
        RequestError: the prompt is empty.
    """
    if not prompt.strip():
        raise RequestError("The prompt is empty. Write what you want to know, or name a task.")
    return Prompt(free_task(prompt), None, prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What every picture is asked: one task or several, or a prompt; `request_for` makes it.

    Where there are several tasks, the text goes to those that take one, and so does the region.
    """

    tasks: tuple[Task, ...] = ()
    text: str | None = None
    region: tuple[float, ...] | None = None
    prompt: str | None = None

    def prompts(self, image_size: tuple[int, int] | None) -> list[Prompt]:
        """The prompts about a picture of this size; None checks all but that the region fits.

        Raises:
            RequestError: text or region do not fit a task.
        """
        if self.prompt is not None:
            return [free_prompt(self.prompt)]
        if len(self.tasks) == 1:
            return [prompt_for(self.tasks[0], self.text, self.region, image_size)]
        return [
            prompt_for(
                task,
                self.text if task.needs is Needs.TEXT else None,
                self.region if task.needs is Needs.REGION else None,
                image_size,
            )
            for task in self.tasks
        ]


def request_for(
    tasks: TasksLike,
    text: str | None = None,
    region: Sequence[float] | None = None,
) -> Request:
    """One task or several, with the text and the region that go with them.

    Raises:
        RequestError: no task, one that does not exist, or too little or too much beside them.
    """
    if isinstance(tasks, Request):
        return tasks
    named = _find_tasks(tasks)
    request = Request(
        tasks=named,
        text=text,
        region=_as_tuple(region),
    )
    request.prompts(None)
    needs = {task.needs for task in request.tasks}
    names = ", ".join(task.token for task in request.tasks)
    if text is not None and Needs.TEXT not in needs and len(named) > 1:
        raise RequestError(f"None of {names} takes a text. Leave the text out.")
    if region is not None and Needs.REGION not in needs:
        raise RequestError(f"None of {names} takes a region. Leave the region out.")
    return request


def _as_tuple(region: Sequence[float] | None) -> tuple[float, ...] | None:
    return region if region is None or isinstance(region, RelativeBox) else tuple(region)


def request_for_prompt(prompt: str) -> Request:
    """A prompt in the user's own words.

    Raises:
        RequestError: the prompt is empty.
    """
    free_prompt(prompt)
    return Request(prompt=prompt)


def requests_for(
    tasks: TasksLike, text: object, region: object, *, images: int | None
) -> list[Request]:
    """What each of several pictures is asked; `text` and `region` are one for all, or a list.

    `images` None means one picture, whose text and region are not lists.

    Raises:
        RequestError: as `request_for`, or a list has not one entry for each picture.
    """
    count = 1 if images is None else images
    texts = _one_each("text", text, isinstance(text, str), images)
    of_numbers = isinstance(region, Iterable) and all(isinstance(x, Real) for x in region)
    regions = _one_each("region", region, of_numbers or images is None, images)
    if count == 0 and not isinstance(tasks, Request):
        _find_tasks(tasks)
    return [request_for(tasks, *each) for each in zip(texts, regions, strict=True)]


def listed(value: Any) -> tuple[Sequence[Any], bool]:
    """What was given as a list, and whether it was one thing alone; a text is one, and bytes.

    An array of four dimensions is a list of pictures, and so is what a generator gives.
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return value, False
    a_file = hasattr(value, "read")
    if (isinstance(value, Iterator) and not a_file) or getattr(value, "ndim", None) == 4:
        return list(value), False
    return [value], True


def _find_tasks(tasks: TaskLike | Sequence[TaskLike]) -> tuple[Task, ...]:
    one = isinstance(tasks, str) or not isinstance(tasks, Iterable)
    named: Any = [tasks] if one else tasks
    found = tuple(map(find_task, named))
    if not found:
        raise RequestError("No task is named. Give one or more, such as OD.")
    return found


def _one_each(name: str, given: Any, for_all: bool, images: int | None) -> list[Any]:
    if given is None or for_all or images is None:
        return [given] * (1 if images is None else images)
    if not isinstance(given, Sequence) or len(given) != images:
        raise RequestError(
            f"{name} must be one for all of the {images} images, or a list with one for each."
        )
    return list(given)
