"""`/v1/chat/completions` and `/v1/models`, as OpenAI's clients speak them.

The last message of the user is the question: one picture (`image_url` with a `data:` URL) and a
text. The text names a task, `<OD>` or `<CAPTION_TO_PHRASE_GROUNDING> a red car`, or is a prompt in
one's own words. What chat models have and Florence-2 lacks (sampling, a conversation) is ignored
where the answer stays what was asked for, and refused where it does not.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from starlette.responses import Response

from florence_edge import GenerationOptions, Needs, RequestError, Result, Task
from florence_edge.tasks import Request as TaskRequest
from florence_edge.tasks import find_task, free_prompt, request_for, request_for_prompt

from . import openapi, replies
from .answers import event_stream
from .failures import Failure, failure_of
from .schema import Options, Wanted, parsed, picture_of
from .service import Answered, Service
from .uploads import while_connected

_TASK = re.compile(r"\s*<([A-Za-z]\w*)>\s*(.*)", re.DOTALL)
_DEFAULT_TASK = "MORE_DETAILED_CAPTION"


class ImageUrl(BaseModel):
    """Where a picture is."""

    url: StrictStr = Field(description="a `data:` URL", examples=["data:image/jpeg;base64,/9j/..."])
    detail: StrictStr | None = None


class TextPart(BaseModel):
    """A piece of text of a message."""

    type: Literal["text"]
    text: StrictStr


class ImagePart(BaseModel):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """What one side said."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: StrictStr | list[Part] | None = None


class StreamOptions(BaseModel):
    """How to stream."""

    include_usage: StrictBool | None = None


class ChatRequest(BaseModel):
    """A question in the shape of a chat."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "florence-2-base-ft",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {
                                    "type": "image_url",
                                    "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ..."},
                                },
                                {"type": "text", "text": "<OD>"},
                            ],
                        }
                    ],
                }
            ]
        }
    )

    model: StrictStr | None = Field(None, description="any name; the server has one model")
    messages: list[Message] = Field(min_length=1)
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: StrictInt | None = None
    max_completion_tokens: StrictInt | None = None
    n: StrictInt | None = None
    options: dict[str, Any] | None = Field(
        None, description="options of /v1/answers (`extra_body` of OpenAI's client)"
    )


class _Question:
    """A chat request as what is asked about one picture."""

    def __init__(self, body: ChatRequest, service: Service) -> None:
        if body.n not in (None, 1):
            raise Failure(422, f"`n` is {body.n}; there is one answer.", param="n")
        self.picture, text = _last_question(body.messages)
        options = _options(body, service)
        try:
            request = request_of(text, service.model.bundle.tasks)
            self.wanted = Wanted(parts=((request, options),))
        except RequestError as error:
            raise failure_of(error) from None


def _options(body: ChatRequest, service: Service) -> GenerationOptions | None:
    values = dict(body.options or {})
    longest = body.max_completion_tokens or body.max_tokens
    if longest is not None:
        # Clients ask for what large language models have; more than there is would be refused.
        most = service.model.generation_config().max_new_tokens
        values.setdefault("max_new_tokens", min(longest, most) if longest > 0 else longest)
    return parsed(Options, values).to_generation() if values else None


def _last_question(messages: list[Message]) -> tuple[bytes, str]:
    """The picture and the text of the user's last message; the picture may stand further up.

    Raises:
        Failure: 422, there is none, or several.
    """
    of_user = [message for message in messages if message.role == "user"]
    if not of_user:
        raise Failure(422, "There is no message of the user.", param="messages")
    pictures: list[str] = []
    for message in reversed(of_user):
        pictures = _pictures(message)
        if pictures:
            break
    if len(pictures) != 1:
        raise Failure(
            422,
            f"A question has {len(pictures)} pictures; expected one, as `image_url` with a "
            "`data:` URL.",
            param="messages",
        )
    url = pictures[0]
    if not url[:5].lower() == "data:" and "://" not in url[:32]:
        raise Failure(422, "The `image_url` is not a `data:` URL.", param="messages")
    return picture_of(url), _text(of_user[-1])


def _pictures(message: Message) -> list[str]:
    parts = message.content if isinstance(message.content, list) else []
    return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(p.text for p in message.content or [] if isinstance(p, TextPart))


def request_of(text: str, own: Sequence[Task] = ()) -> TaskRequest:
    """What a text asks: `<TASK>` with what goes with it, or its own words.

    `own` are the bundle's own tasks.
    """
    if not text.strip():
        return request_for(_DEFAULT_TASK)
    named = _TASK.fullmatch(text)
    if named is None or not _could_be_task(named[1], own):
        return request_for_prompt(text)
    task, rest = find_task(named[1], own), named[2].strip()
    if task.needs is Needs.NOTHING and rest:
        raise RequestError(f"{task.token} takes no text, but got {rest!r:.80}. Leave it out.")
    return request_for(task, rest or None)


def _could_be_task(name: str, own: Sequence[Task]) -> bool:
    """Whether a name in angle brackets means a task; `<b>` begins somebody's own words."""
    return name == name.upper() or any(task.name == name for task in own)


class _Reply:
    """The replies to one question, in OpenAI's shapes."""

    def __init__(self, request_id: str, service: Service) -> None:
        self._id = f"chatcmpl-{request_id}"
        self._created = int(time.time())
        self._service = service

    def whole(self, answered: Answered) -> dict[str, Any]:
        (result,) = answered.results
        message = {
            "role": "assistant",
            "content": result.text,
            "refusal": None,
            "florence2_result": result.to_hf(),
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _finish(result),
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(result)}

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, result: Result) -> dict[str, Any]:
        head = self._head("chat.completion.chunk")
        return {**head, "choices": [], "usage": self._usage(result)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._service.name,
        }

    def _usage(self, result: Result) -> dict[str, int]:
        """Tokens of the prompt, the picture's among them, and of the answer."""
        size = self._service.model.bundle.size
        words = result.task.prompt(result.text_input)
        ids, _ = self._service.model.encode_prompts([free_prompt(words)])
        prompt, answer = size.image_tokens + ids.shape[1], len(result.token_ids)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }


def _finish(result: Result) -> str:
    return "length" if result.status == "truncated" else "stop"


async def _events(
    service: Service, question: _Question, reply: _Reply, usage: bool
) -> AsyncIterator[str]:
    """The answer in chunks, as OpenAI streams it."""
    news: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def answer() -> None:
        try:
            answered = await service.answer(
                question.picture,
                question.wanted,
                on_text=lambda _, piece: news.put_nowait(reply.chunk({"content": piece})),
            )
            (result,) = answered.results
            news.put_nowait(reply.chunk({"florence2_result": result.to_hf()}, _finish(result)))
            if usage:
                news.put_nowait(reply.usage_chunk(result))
        except Failure as failure:
            news.put_nowait(failure.body())
        finally:
            news.put_nowait(None)

    task = asyncio.create_task(answer())
    try:
        yield _event(reply.chunk({"role": "assistant", "content": ""}))
        while (chunk := await news.get()) is not None:
            yield _event(chunk)
        yield "data: [DONE]\n\n"
    finally:
        task.cancel()


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {replies.encoded(chunk)}\n\n"


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/chat/completions", summary="A task as a chat", responses=openapi.failures())
    async def completions(body: ChatRequest, request: Request) -> Response:
        """`message.content` is the answer as text, `message.florence2_result` as in transformers.

        The text of the question is `<OD>` or another task, with what it takes behind it, or a
        prompt in your own words; without a text the picture is described.
        """
        service.check()
        question = _Question(body, service)
        request.state.log = {"tasks": question.wanted.tasks}
        reply = _Reply(request.state.request_id, service)
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            return event_stream(_events(service, question, reply, usage))
        answered = await while_connected(request, service.answer(question.picture, question.wanted))
        return replies.json_response(reply.whole(answered))

    @routes.get("/v1/models", summary="The model, in OpenAI's list")
    async def models() -> Response:
        """One model; any name is taken in requests."""
        return replies.json_response({"object": "list", "data": [_model(service)]})

    @routes.get(
        "/v1/models/{name:path}", summary="The model", responses={404: {"model": openapi.ErrorBody}}
    )
    async def model(name: str) -> Response:
        """404 for another name."""
        if name != service.name:
            raise Failure(404, f"There is no model {name!r:.80}; there is {service.name!r}.")
        return replies.json_response(_model(service))

    return routes


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "florence-edge",
    }
