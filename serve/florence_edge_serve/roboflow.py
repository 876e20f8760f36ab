"""`/infer/lmm`, as Roboflow's inference-sdk speaks it (`InferenceHTTPClient.infer_lmm`)."""

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.responses import Response

from florence_edge import GenerationOptions, RequestError

from . import openapi, replies
from .auth import Guard
from .failures import Failure, failure_of
from .openai import request_of
from .schema import Wanted, picture_of
from .service import Answered, Service
from .uploads import while_connected


class InferenceImage(BaseModel):
    """A picture, as their clients send it."""

    type: StrictStr = Field(description="base64; other kinds are refused", examples=["base64"])
    value: StrictStr | None = None


class LmmRequest(BaseModel):
    """Pictures and a prompt: a task such as `<OD>` with what goes with it."""

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "model_id": "florence-2-base",
                    "image": {"type": "base64", "value": "/9j/4AAQSkZJRg..."},
                    "prompt": "<OD>",
                }
            ]
        },
    )

    image: InferenceImage | list[InferenceImage]
    prompt: StrictStr | None = None
    model_id: StrictStr | None = None
    api_key: StrictStr | None = None
    max_new_tokens: StrictInt | None = None
    id: StrictStr | None = None


def router(service: Service, guard: Guard) -> APIRouter:
    """The route, with the model's name in its path or without."""
    routes = APIRouter(tags=["Roboflow"])

    @routes.post(
        "/infer/lmm",
        summary="A task as Roboflow's inference asks it",
        responses=openapi.failures(),
    )
    @routes.post("/infer/lmm/{model_id:path}", include_in_schema=False)
    async def infer(body: LmmRequest, request: Request) -> Response:
        """`response` is what transformers' processor gives: `{"<OD>": {"bboxes": ...}}`."""
        if getattr(request.state, "token_in_body", False) and not guard.is_token(body.api_key):
            raise Failure(401, "The token is missing or wrong. Give it as `api_key`.")
        service.check()
        images = body.image if isinstance(body.image, list) else [body.image]
        if len(images) != 1:
            raise Failure(422, f"There are {len(images)} pictures; send them one by one.")
        options = GenerationOptions(max_new_tokens=body.max_new_tokens)
        try:
            chosen = request_of(body.prompt or "", service.model.bundle.tasks)
            asked = Wanted(parts=((chosen, options),))
        except RequestError as error:
            raise failure_of(error) from None
        request.state.log = {"tasks": asked.tasks}
        begin = time.monotonic()
        answered = await while_connected(request, service.answer(_picture(images[0]), asked))
        return replies.json_response(
            _reply(answered, time.monotonic() - begin, body.id or request.state.request_id)
        )

    return routes


def _picture(image: InferenceImage) -> bytes:
    if image.type != "base64":
        raise Failure(
            422,
            f"A picture comes as {image.type!r:.40}; expected base64. The server fetches nothing "
            "by itself.",
            param="image",
        )
    return picture_of(image.value or "")


def _reply(answered: Answered, seconds: float, request_id: str) -> dict[str, Any]:
    (result,) = answered.results
    width, height = answered.size
    return {
        "response": result.to_hf(),
        "image": {"width": width, "height": height},
        "inference_id": request_id,
        "time": seconds,
        "scores": list(result.scores),
        "status": result.status,
    }
