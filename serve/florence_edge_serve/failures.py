"""What a client is told when there is no answer: a status, a kind and one or two sentences."""

import math
from http import HTTPStatus

from starlette.exceptions import HTTPException

from florence_edge import (
    BackendError,
    FlorenceEdgeError,
    ImageFormatError,
    ImageTooLargeError,
    RequestError,
)

KINDS = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "upload_timeout",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "queue_full",
    500: "internal_error",
    503: "unavailable",
    504: "deadline_exceeded",
}
CLIENT_LEFT = 499
"""Status of what nobody waits for any more, in the log and in the metrics (nginx's number)."""


class Failure(HTTPException):
    """Why a request has no answer (FastAPI wants its exceptions to be Starlette's)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        headers = {}
        if retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            headers["Connection"] = "close"  # the rest of the body is not read
        super().__init__(status, message, headers)
        self.kind = kind or KINDS.get(status, "error")
        self.message = message
        self.param = param

    def body(self) -> dict[str, object]:
        """As OpenAI's clients read it."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.status_code,
            }
        }


def failure_of(error: FlorenceEdgeError) -> Failure:
    """How an error of the runtime is told to a client."""
    if isinstance(error, ImageTooLargeError):
        return Failure(413, str(error), param="image")
    if isinstance(error, ImageFormatError):
        return Failure(415, str(error), param="image")
    if isinstance(error, RequestError):
        return Failure(422, str(error))
    if isinstance(error, BackendError):
        return engine_failed(str(error))
    return Failure(503, str(error), kind="unavailable")


def engine_failed(reason: str) -> Failure:
    """The engine has no answer; whoever watches the server sees it in /ready."""
    return Failure(503, f"The engine failed: {reason}", kind="engine_broken", retry_after=5)


def queue_full(waiting: int, retry_after: float) -> Failure:
    """As many requests wait as may."""
    return Failure(
        429,
        f"{waiting} requests wait for the engine already, and no more may. Try again in "
        f"{max(1, math.ceil(retry_after))} s, or ask less often.",
        retry_after=retry_after,
    )


def shutting_down() -> Failure:
    """The server was told to end."""
    return Failure(
        503,
        "The server is shutting down. Try again once it is back.",
        kind="shutting_down",
        retry_after=5,
    )


def deadline_exceeded(seconds: float) -> Failure:
    """The engine had no turn for a request in time."""
    return Failure(
        504,
        f"The engine had no turn for this request within {seconds:g} s. Ask less often, or allow "
        "more with `deadline`.",
    )
