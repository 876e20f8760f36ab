"""The 15 tasks of Florence-2: one table, written once.

Prompts and answer kinds are those of Microsoft's `processing_florence2.py`; punctuation matters
(three prompts have no final full stop or question mark).
"""

from dataclasses import dataclass
from enum import Enum

from .errors import RequestError


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


_HOW_TO_GIVE = {
    Needs.TEXT: "Pass text='...' (on the command line: --text '...').",
    Needs.REGION: (
        "Pass region=(x1, y1, x2, y2) in pixels (on the command line: --region x1,y1,x2,y2), "
        "or text='<loc_x1><loc_y1><loc_x2><loc_y2>'."
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


def find_task(name: str | Task) -> Task:
    """The task called `name`, written `OD`, `od` or `<OD>`.

    Raises:
        RequestError: there is no such task; the message lists those there are.
    """
    if isinstance(name, Task):
        return name
    if not isinstance(name, str):
        raise RequestError(f"A task is expected as a string such as 'OD', got {name!r}.")
    key = name.strip().removeprefix("<").removesuffix(">").upper()
    if key not in TASKS:
        raise RequestError(f"There is no task {name!r}. The tasks are: {', '.join(TASKS)}.")
    return TASKS[key]


def free_prompt(text: str) -> Task:
    """A task for a prompt that is passed through as it is (VQA and other fine-tunes)."""
    return Task(text, text.replace("{", "{{").replace("}", "}}"), AnswerKind.PURE_TEXT)
