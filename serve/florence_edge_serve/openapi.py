"""The OpenAPI document: what FastAPI cannot know of bodies that are read here, and examples."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from .schema import AnswersRequest

_REF = "#/components/schemas/{model}"

_REGION = {
    "label": "car",
    "shape": "box",
    "box": [34, 160, 597, 371],
    "rings": [[34, 160, 597, 371]],
    "score": 0.93,
    "label_score": 0.81,
}
_ANSWER = {
    "task": "<OD>",
    "text_input": None,
    "raw_text": "</s><s>car<loc_53><loc_333><loc_932><loc_774></s>",
    "token_ids": [2, 0, 5901, 50322, 50602, 51201, 51043, 2],
    "result": {"<OD>": {"bboxes": [[34, 160, 597, 371]], "labels": ["car"]}},
    "scores": [0.93],
    "label_scores": [0.81],
    "status": "ok",
    "cut_off": None,
    "image_size": [640, 480],
    "seconds": {"image": 0.01, "vision": 0.2, "prefill": 0.05, "decode": 0.3, "parse": 0.001},
    "text": "car<loc_53><loc_333><loc_932><loc_774>",
    "score": 0.9,
    "asked_region": None,
    "regions": [_REGION],
}
REPLY = {
    "id": "req-3f1c9a0d5e7b4f22",
    "model": "florence-2-base-ft",
    "image": {"width": 640, "height": 480},
    "answers": [_ANSWER],
    "result": {"<OD>": {"bboxes": [[34, 160, 597, 371]], "labels": ["car"]}},
    "status": "ok",
    "seconds": {
        "queue": 0.0,
        "image": 0.01,
        "vision": 0.2,
        "prefill": 0.05,
        "decode": 0.3,
        "parse": 0.001,
        "total": 0.58,
    },
}
"""An example of a reply of /v1/answers."""


class ErrorDetail(BaseModel):
    """Why there is no answer."""

    message: str = Field(examples=["<OD> takes no text, but got 'car'. Leave the text out."])
    type: str = Field(examples=["invalid_request"])
    param: str | None
    code: int = Field(examples=[422])


class ErrorBody(BaseModel):
    """What every failure looks like."""

    error: ErrorDetail
    id: str = Field(examples=["req-3f1c9a0d5e7b4f22"])


_FAILURES = {
    401: "The token is missing or wrong.",
    403: "The server is not called so, or a page of another origin asks.",
    408: "The request was not complete in time.",
    413: "The request has too many bytes, or the picture too many pixels.",
    415: "The body is of another type, or the picture of a format that is not opened.",
    422: "The request cannot be answered; the message says what is wrong.",
    429: "The queue is full: see Retry-After.",
    503: "The engine is broken, or the server shuts down.",
    504: "The engine had no turn for it before the deadline.",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The failures of a route, for its `responses`; without `statuses` all that there are."""
    return {
        status: {"description": _FAILURES[status], "model": ErrorBody}
        for status in (statuses or _FAILURES)
    }


def _form() -> dict[str, Any]:
    """The fields of /v1/answers as a form has them."""
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "string", "format": "binary", "description": "the picture's file"},
            "task": {**text, "description": "one task; several with commas, or the field again"},
            "tasks": {**text, "description": "JSON, in place of `task`"},
            "prompt": {**text, "description": "in place of `task`: in your own words"},
            "text": text,
            "region": {**text, "description": "x1,y1,x2,y2 in pixels, or percent, or tokens"},
            "options": {**text, "description": 'JSON, such as {"num_beams": 1}'},
            "min_score": {"type": "number", "minimum": 0, "maximum": 1},
            "clean": {"type": "boolean"},
            "deadline": {"type": "number", "exclusiveMinimum": 0},
            "stream": {"type": "boolean"},
        },
    }


def answers_route() -> dict[str, Any]:
    """What FastAPI is told of /v1/answers, whose body is a form or JSON."""
    examples = AnswersRequest.model_config.get("json_schema_extra")
    shown = examples["examples"] if isinstance(examples, dict) else []
    named = {f"example {n}": {"value": value} for n, value in enumerate(shown, 1)}  # type: ignore[arg-type]
    return {
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": _REF.format(model="AnswersRequest")},
                        "examples": named,
                    },
                    "multipart/form-data": {"schema": _form()},
                },
            }
        },
        "responses": {
            200: {
                "description": "All answers; `status` is `truncated` where one was cut short.",
                "content": {
                    "application/json": {"example": REPLY},
                    "text/event-stream": {
                        "example": 'event: text\ndata: {"index":0,"text":"A red"}\n\n'
                    },
                },
            },
            **failures(),
        },
    }


def document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What makes the application's OpenAPI document, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            _, shapes = models_json_schema([(AnswersRequest, "validation")], ref_template=_REF)
            schemas = found.setdefault("components", {}).setdefault("schemas", {})
            schemas |= shapes.get("$defs", {})
            found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{}, {"token": []}]
            app.openapi_schema = found
        return app.openapi_schema

    return openapi
