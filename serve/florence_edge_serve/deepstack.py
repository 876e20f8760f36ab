"""`/v1/vision/detection`, as DeepStack's clients speak it; Frigate's detector plugin is one."""

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from florence_edge import Region
from florence_edge.tasks import request_for

from . import openapi, replies
from .auth import Guard
from .failures import Failure
from .schema import Wanted
from .service import Service
from .uploads import form_of, media_type, while_connected, wrong_media_type

_MIN_CONFIDENCE = 0.4  # DeepStack's own default
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "min_confidence": {"type": "number", "minimum": 0, "maximum": 1},
                        "api_key": {"type": "string"},
                    },
                }
            }
        },
    }
}


def router(service: Service, guard: Guard) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["DeepStack"])

    @routes.post(
        "/v1/vision/detection",
        summary="Objects as DeepStack finds them",
        openapi_extra=_FORM,
        responses=openapi.failures(),
    )
    async def detection(request: Request) -> Response:
        """The task OD; `predictions` have a label, a confidence and the box in whole pixels."""
        service.check()
        if media_type(request) != "multipart/form-data":
            raise wrong_media_type(media_type(request), "multipart/form-data")
        fields, files = await form_of(request, service.settings.max_upload)
        given = dict(fields)
        late = getattr(request.state, "token_in_body", False)
        if late and not guard.is_token(given.get("api_key")):
            raise Failure(401, "The token is missing or wrong. Give it as `api_key`.")
        asked = Wanted(
            parts=((request_for("OD"), None),), min_score=_confidence(given.get("min_confidence"))
        )
        begin = time.monotonic()
        picture = next(iter(files.values()), b"") if len(files) == 1 else files.get("image", b"")
        if not picture:
            raise Failure(422, "One file is expected, `image`.", param="image")
        answered = await while_connected(request, service.answer(picture, asked))
        found = [_prediction(region) for region in answered.results[0].regions]
        found.sort(key=lambda each: -each["confidence"])  # Frigate stops at the first low one
        duration = round(1000 * (time.monotonic() - begin))
        return replies.json_response({"success": True, "predictions": found, "duration": duration})

    return routes


def _confidence(text: str | None) -> float:
    try:
        value = _MIN_CONFIDENCE if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Failure(
            422, f"min_confidence is {text!r:.40}; expected 0 to 1.", param="min_confidence"
        )
    return value


def _prediction(region: Region) -> dict[str, Any]:
    left, top, right, bottom = (round(edge) for edge in region.box)
    return {
        "label": region.label,
        "confidence": region.score,
        "x_min": left,
        "y_min": top,
        "x_max": right,
        "y_max": bottom,
    }
