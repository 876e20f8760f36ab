"""The JSON that clients send: its shape, and what it asks of the model."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from florence_edge import Florence2, GenerationOptions, RelativeBox, RequestError, Result
from florence_edge.regions import is_location_text
from florence_edge.tasks import (
    Request,
    Task,
    TasksLike,
    listed,
    request_for,
    request_for_prompt,
    with_own,
)

from .batching import Asked
from .failures import Failure
from .settings import MAX_QUESTIONS

Number = StrictInt | StrictFloat
Some = TypeVar("Some", bound=BaseModel)

_REGION = (
    "left, top, right, bottom in pixels; or as text `x1,y1,x2,y2`, `10%,20%,50%,60%`, or four "
    "tokens `<loc_0>` to `<loc_999>`"
)


class Options(BaseModel):
    """How to generate, under Hugging Face's names; what is left out is the checkpoint's."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"num_beams": 1}]})

    num_beams: StrictInt | None = Field(None, description="1 (greedy) to 8")
    max_new_tokens: StrictInt | None = Field(None, description="longest answer")
    min_new_tokens: StrictInt | None = None
    no_repeat_ngram_size: StrictInt | None = None
    repetition_penalty: Number | None = None
    length_penalty: Number | None = None
    early_stopping: StrictBool | Literal["never"] | None = None
    forced_bos_token_id: StrictInt | None = None
    forced_eos_token_id: StrictInt | None = None
    suppress_tokens: list[StrictInt] | None = None
    begin_suppress_tokens: list[StrictInt] | None = None
    bad_words_ids: list[list[StrictInt]] | None = None
    eos_token_id: StrictInt | list[StrictInt] | None = None
    max_time: Number | None = Field(None, description="seconds that one answer may take")

    def to_generation(self) -> GenerationOptions:
        """As the runtime takes them."""
        return GenerationOptions(**self.model_dump(exclude_none=True))


class OneTask(BaseModel):
    """A task with what goes with it, or a prompt in one's own words."""

    model_config = ConfigDict(extra="forbid")

    task: StrictStr | None = Field(None, examples=["CAPTION_TO_PHRASE_GROUNDING"])
    prompt: StrictStr | None = None
    text: StrictStr | None = Field(None, examples=["a red car"])
    region: list[Number] | StrictStr | None = Field(None, description=_REGION)
    options: Options | None = None


class Ask(BaseModel):
    """What is asked about a picture: `task` (one or several), `tasks`, or `prompt`."""

    model_config = ConfigDict(extra="forbid")

    task: StrictStr | list[StrictStr] | None = Field(
        None, description="one task or several, such as OD or <OD>", examples=["OD"]
    )
    tasks: list[OneTask] | None = Field(
        None, description="in place of `task`: each with text, region and options of its own"
    )
    prompt: StrictStr | None = Field(None, description="in place of `task`: in your own words")
    text: StrictStr | None = Field(None, description="for the tasks that take one")
    region: list[Number] | StrictStr | None = Field(None, description=_REGION)
    options: Options | None = None
    min_score: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="regions that score below are left out"
    )
    clean: StrictBool = Field(
        False, description="leave out regions without an area, and location tokens in labels"
    )


class AnswersRequest(Ask):
    """A picture and what is asked about it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"image": "data:image/jpeg;base64,/9j/4AAQSkZJRg...", "task": "OD"},
                {
                    "image": "/9j/4AAQSkZJRg...",
                    "tasks": [
                        {"task": "CAPTION"},
                        {"task": "CAPTION_TO_PHRASE_GROUNDING", "text": "a red car"},
                        {"task": "REGION_TO_OCR", "region": [10, 20, 200, 80]},
                    ],
                },
            ]
        },
    )

    image: StrictStr = Field(description="base64, or a `data:` URL")
    deadline: Annotated[float, Field(gt=0, le=86400)] | None = Field(
        None, description="seconds from arrival; 504 if its turn does not come before"
    )
    stream: StrictBool = Field(False, description="server-sent events: the text while it is made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Questions that fit together, before their picture is known; `wanted` makes them."""

    parts: tuple[tuple[Request, GenerationOptions | None], ...]
    min_score: float = 0.0
    clean: bool = False

    def kept(self, result: Result) -> Result:
        """What the client gets of an answer."""
        return (result.clean() if self.clean else result).filter(self.min_score)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, for logs and metrics; `prompt` for one's own words."""
        return [
            name
            for request, _ in self.parts
            for name in ([task.name for task in request.tasks] or ["prompt"])
        ]

    def asked(self, size: tuple[int, int]) -> list[Asked]:
        """The questions about a picture of this width and height.

        Raises:
            RequestError: a region does not fit the picture.
        """
        return [
            Asked(prompt=prompt, options=options)
            for request, options in self.parts
            for prompt in request.prompts(size)
        ]

    def check(self, model: Florence2) -> None:
        """Refuse what this model cannot be asked, whatever the picture.

        Raises:
            RequestError: an option is out of range, or a prompt too long.
        """
        for request, options in self.parts:
            model.generation_config(options)
            for prompt in request.prompts(None):
                model.encode_prompts([prompt])


def wanted(ask: Ask, own: Sequence[Task] = ()) -> Wanted:
    """What a client asks; `own` are the bundle's own tasks.

    Raises:
        RequestError: no task or too many, one that does not exist, or too little or too much
            beside it.
    """
    given = [name for name in ("task", "tasks", "prompt") if getattr(ask, name) is not None]
    if len(given) != 1:
        named = " and ".join(given) if given else "none of them"
        raise RequestError(f"Give `task`, `tasks` or `prompt`, one of the three; got {named}.")
    options = ask.options.to_generation() if ask.options else None
    if ask.tasks is not None:
        if ask.text is not None or ask.region is not None:
            raise RequestError("With `tasks`, text and region stand in each of them.")
        parts = [(_one(each, own), _options(each, options)) for each in ask.tasks]
    elif ask.prompt is not None:
        parts = [(_prompt(ask.prompt, ask.text, ask.region), options)]
    else:
        parts = [(_tasks(with_own(ask.task or [], own), ask.text, ask.region), options)]
    count = sum(max(1, len(request.tasks)) for request, _ in parts)
    if not 1 <= count <= MAX_QUESTIONS:
        raise RequestError(f"{count} tasks are asked; expected 1 to {MAX_QUESTIONS}.")
    return Wanted(parts=tuple(parts), min_score=ask.min_score, clean=ask.clean)


def _options(each: OneTask, common: GenerationOptions | None) -> GenerationOptions | None:
    return each.options.to_generation() if each.options else common


def _one(each: OneTask, own: Sequence[Task]) -> Request:
    if (each.task is None) == (each.prompt is None):
        raise RequestError("Each of `tasks` has a `task` or a `prompt`, one of the two.")
    if each.prompt is not None:
        return _prompt(each.prompt, each.text, each.region)
    return _tasks(with_own(each.task or "", own), each.text, each.region)


def _prompt(prompt: str, text: str | None, region: object) -> Request:
    if text is not None or region is not None:
        raise RequestError("A prompt is the whole question: leave text and region out.")
    return request_for_prompt(prompt)


def _tasks(tasks: TasksLike, text: str | None, region: Sequence[float] | str | None) -> Request:
    names, _ = listed(tasks)
    if isinstance(region, str) and is_location_text(region):
        if text is not None and len(names) == 1:
            raise RequestError("Text and region were given. Give the region in one way only.")
        if len(names) > 1:
            raise RequestError(
                "With several tasks, give the region in pixels or in percent, or each task its "
                "own in `tasks`."
            )
        return request_for(tasks, region)
    return request_for(tasks, text, _box(region))


def _box(region: Sequence[float] | str | None) -> Sequence[float] | None:
    """A region as the runtime takes it; the text `10%,20%,50%,60%` is one of fractions."""
    if not isinstance(region, str):
        return region
    numbers = [part.strip() for part in region.strip().strip("[]").split(",")]
    percent = all(part.endswith("%") for part in numbers)
    try:
        values = [float(part.removesuffix("%") if percent else part) for part in numbers]
    except ValueError:
        values = []
    if len(values) != 4:
        raise RequestError(f"{region!r:.80} is not a region. Expected {_REGION}.")
    return RelativeBox(*(value / 100 for value in values)) if percent else values


def parsed(kind: type[Some], content: bytes | str | dict[str, Any]) -> Some:
    """A client's JSON, or the fields of its form, as `kind`.

    Raises:
        Failure: 422, with what is wrong first, in one sentence.
    """
    try:
        if isinstance(content, dict):
            return kind.model_validate(content)
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_context=False)) from None


def invalid(problems: Sequence[Any]) -> Failure:
    """The answer to a body of another shape; `problems` are pydantic's."""
    first = problems[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query")]
    where = [part for part in where if not part.startswith(("constrained", "lax", "function"))]
    name = ".".join(where)
    reason = str(first["msg"])[:1].lower() + str(first["msg"])[1:]
    if first["type"] == "extra_forbidden":
        message = f"There is no field `{name}`. Look at /docs for those there are."
    elif first["type"] == "missing":
        message = f"`{name}` is missing." if name else "The body is missing."
    elif first["type"] == "json_invalid":
        message = f"The body is not JSON: {reason.removeprefix('invalid JSON: ')}."
    else:
        message = f"`{name}`: {reason}." if name else f"{reason.capitalize()}."
    return Failure(422, message, param=name or None)


def picture_of(text: str) -> bytes:
    """The bytes of a picture that came as base64, or as a `data:` URL.

    Raises:
        Failure: 422, it is neither; a URL of another machine is refused with the reason.
    """
    head, comma, body = text.partition(",")
    if comma and head[:5].lower() == "data:":
        if not head.lower().endswith(";base64"):
            raise Failure(422, "A `data:` URL is expected in base64.", param="image")
        text = body
    elif "://" in text[:32]:
        raise Failure(
            422,
            "The server fetches no URLs: they would let strangers make it read from its own "
            "network. Send the picture itself, in base64 or as a `data:` URL.",
            param="image",
        )
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: letters that are no ASCII
        raise Failure(
            422, "`image` is not base64. Send it so, or as a `data:` URL.", param="image"
        ) from None
    if not content:
        raise Failure(422, "`image` is empty. Send a picture.", param="image")
    return content


def fields_of_form(fields: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The fields of a form as the JSON that they stand for.

    Raises:
        Failure: 422, a field comes twice, or is not JSON where it must be.
    """
    found: dict[str, Any] = {}
    tasks: list[str] = []
    for name, value in fields:
        if name == "task":
            tasks += [part.strip() for part in value.split(",") if part.strip()]
        elif name in found:
            raise Failure(422, f"The form has `{name}` twice.", param=name)
        else:
            found[name] = _field(name, value)
    if tasks:
        found["task"] = tasks if len(tasks) > 1 else tasks[0]
    return found


def _field(name: str, value: str) -> Any:
    if name in ("tasks", "options"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise Failure(422, f"`{name}` of the form is not JSON.", param=name) from None
    if name in ("stream", "clean"):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    return value
