"""What clients get back, as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from florence_edge import Region, Result, Task
from florence_edge.regions import box_of_locations

from .service import Answered

_WORST_FIRST = ("truncated", "unparsed", "empty", "ok")

_ABOUT = {
    "CAPTION": ("Caption", "One sentence about the picture.", None),
    "DETAILED_CAPTION": ("Detailed caption", "A few sentences about the picture.", None),
    "MORE_DETAILED_CAPTION": ("Long caption", "A paragraph about the picture.", None),
    "OCR": ("Read text", "All text in the picture.", None),
    "OCR_WITH_REGION": ("Read text, with places", "Each piece of text and where it stands.", None),
    "OD": ("Detect objects", "Objects with their names.", None),
    "DENSE_REGION_CAPTION": ("Dense captions", "Objects, each with a description.", None),
    "REGION_PROPOSAL": ("Propose regions", "Where something is, without a name.", None),
    "CAPTION_TO_PHRASE_GROUNDING": (
        "Ground a caption",
        "Where the things are that your sentence speaks of.",
        "A person next to a red car",
    ),
    "OPEN_VOCABULARY_DETECTION": (
        "Find what you name",
        "Where the thing is that you name; several with <and> between.",
        "traffic light",
    ),
    "REFERRING_EXPRESSION_SEGMENTATION": (
        "Outline what you name",
        "The outline of the thing that you name.",
        "the car on the left",
    ),
    "REGION_TO_SEGMENTATION": ("Outline a region", "The outline of what a rectangle holds.", None),
    "REGION_TO_CATEGORY": ("Name a region", "What a rectangle holds.", None),
    "REGION_TO_DESCRIPTION": ("Describe a region", "What a rectangle shows.", None),
    "REGION_TO_OCR": ("Read a region", "The text in a rectangle.", None),
}
"""For people: a title, a hint, and an example of the text that the task takes."""


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A reply in JSON."""
    return Response(
        msgspec.json.encode(content), status, headers=headers, media_type="application/json"
    )


def encoded(content: object) -> str:
    """JSON as text, for a WebSocket or an event."""
    return msgspec.json.encode(content).decode()


def task_list(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Tasks: what each takes, how its answer is read, and what to call it."""
    return [_about_task(task) for task in tasks]


def _about_task(task: Task) -> dict[str, Any]:
    own_words = (task.name.replace("_", " ").capitalize(), task.template, None)
    title, hint, example = _ABOUT.get(task.name, own_words)
    return {
        "task": task.name,
        "token": task.token,
        "takes": task.needs.value,
        "answer": task.answer.value,
        "title": title,
        "hint": hint,
        "example": example,
    }


def answer_of(result: Result) -> dict[str, Any]:
    """One answer: `Result.to_json`, with its text, its score and its regions."""
    asked = box_of_locations(result.text_input or "", result.image_size, result.convention)
    return {
        **result.to_json(),
        "text": result.text,
        "score": result.score,
        "asked_region": asked,
        "regions": [_region(region) for region in result.regions],
    }


def _region(region: Region) -> dict[str, Any]:
    return {
        "label": region.label,
        "shape": region.shape,
        "box": region.box,
        "rings": region.rings,
        "score": region.score,
        "label_score": region.label_score,
    }


def merged(results: Sequence[Result]) -> dict[str, Any]:
    """The answers to all tasks as Hugging Face's processor gives them, in one dictionary.

    Of two answers to the same task the later one stands.
    """
    return {token: answer for result in results for token, answer in result.to_hf().items()}


def worst_status(results: Sequence[Result]) -> str:
    """What is said about all of them: `truncated` before `unparsed`, `empty` and `ok`."""
    return min((result.status for result in results), key=_WORST_FIRST.index)


def reply(answered: Answered, *, request_id: str, model: str) -> dict[str, Any]:
    """The reply of /v1/answers."""
    return {
        "id": request_id,
        "model": model,
        **about(answered),
    }


def about(answered: Answered) -> dict[str, Any]:
    """What replies and live messages have in common."""
    width, height = answered.size
    results = answered.results
    # A look at a picture is the same for all of its answers.
    seconds = {
        stage: (max if stage in ("image", "vision") else sum)(
            result.seconds.get(stage, 0.0) for result in results
        )
        for stage in ("image", "vision", "prefill", "decode", "parse")
    }
    return {
        "image": {"width": width, "height": height},
        "answers": [answer_of(result) for result in results],
        "result": merged(results),
        "status": worst_status(results),
        "seconds": {"queue": answered.queue, **seconds, "total": answered.total},
    }
