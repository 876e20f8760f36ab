"""`POST /v1/answers`: one picture, one task or many, in a form or as JSON; whole or as events."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from florence_edge import RequestError, Result

from . import replies
from .failures import Failure, failure_of
from .schema import AnswersRequest, Wanted, fields_of_form, parsed, picture_of, wanted
from .service import Answered, Service
from .uploads import body_of, form_of, media_type, while_connected, wrong_media_type

_TYPES = "application/json or multipart/form-data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request for answers, read and checked as far as that goes without the picture."""

    picture: bytes
    wanted: Wanted
    deadline: float | None
    stream: bool


async def read(request: Request, service: Service) -> Question:
    """What a client sent to /v1/answers.

    Raises:
        Failure: 413, 415, 422, 429, 503 or 408.
    """
    service.check()
    kind = media_type(request)
    if kind == "application/json":
        body = parsed(AnswersRequest, await body_of(request))
        picture = picture_of(body.image)
    elif kind == "multipart/form-data":
        fields, files = await form_of(request, service.settings.max_upload)
        picture = _file(files)
        named = fields_of_form(fields)
        if "image" in named:
            raise Failure(422, "`image` of the form is a text; send the file.", param="image")
        body = parsed(AnswersRequest, {**_lax(named), "image": ""})
    else:
        raise wrong_media_type(kind, _TYPES)
    try:
        asked = wanted(body, service.model.bundle.tasks)
    except RequestError as error:
        raise failure_of(error) from None
    return Question(picture=picture, wanted=asked, deadline=body.deadline, stream=body.stream)


def _file(files: dict[str, bytes]) -> bytes:
    if set(files) != {"image"}:
        named = ", ".join(sorted(files)) or "none"
        raise Failure(422, f"One file is expected, `image`; the form has {named}.", param="image")
    if not files["image"]:
        raise Failure(422, "`image` is empty. Send a picture.", param="image")
    return files["image"]


def _lax(fields: dict[str, Any]) -> dict[str, Any]:
    """Numbers of a form, which are text there."""
    for name in ("deadline", "min_score"):
        if isinstance(fields.get(name), str):
            try:
                fields[name] = float(fields[name])
            except ValueError:
                raise Failure(422, f"`{name}` is not a number.", param=name) from None
    return fields


class Events:
    """The answers of one request as server-sent events, while they are made."""

    def __init__(self, service: Service, question: Question, request_id: str) -> None:
        self._service = service
        self._question = question
        self._request_id = request_id
        self._news: asyncio.Queue[str | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        self._task = asyncio.create_task(self._answer())
        try:
            while (event := await self._news.get()) is not None:
                yield event
        finally:  # also where the client has left
            self._task.cancel()

    async def _answer(self) -> None:
        try:
            answered = await self._service.answer(
                self._question.picture,
                self._question.wanted,
                deadline=self._question.deadline,
                on_text=lambda index, text: self._put("text", {"index": index, "text": text}),
                on_result=self._result,
            )
        except Failure as failure:
            self._put("error", {**failure.body(), "id": self._request_id})
        else:
            self._put("done", self._reply(answered))
        finally:
            self._news.put_nowait(None)

    def _reply(self, answered: Answered) -> dict[str, Any]:
        return replies.reply(answered, request_id=self._request_id, model=self._service.name)

    def _result(self, index: int, result: Result) -> None:
        self._put("answer", {"index": index, "answer": replies.answer_of(result)})

    def _put(self, event: str, content: object) -> None:
        self._news.put_nowait(f"event: {event}\ndata: {replies.encoded(content)}\n\n")


def event_stream(events: AsyncIterator[str]) -> Response:
    """Server-sent events that no proxy keeps back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def router(service: Service, about: dict[str, Any]) -> APIRouter:
    """The route; `about` is its part of the OpenAPI document."""
    routes = APIRouter(tags=["answers"])

    @routes.post("/v1/answers", summary="Answer tasks about a picture", **about)
    async def answers(request: Request) -> Response:
        """One picture, encoded once; all tasks about it are answered.

        The picture comes as a file of a form, or in base64 in JSON. With `stream`, the reply is a
        stream of server-sent events: `text`, `answer`, and `done` with the whole reply.
        """
        question = await read(request, service)
        request_id = request.state.request_id
        request.state.log = {"tasks": question.wanted.tasks}
        if question.stream:
            events = Events(service, question, request_id)
            return event_stream(aiter(events))
        answered = await while_connected(
            request,
            service.answer(question.picture, question.wanted, deadline=question.deadline),
        )
        content = replies.reply(answered, request_id=request_id, model=service.name)
        return replies.json_response(content)

    return routes
