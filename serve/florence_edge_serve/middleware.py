"""What stands around every request: its id and its log line, limits of its body, the guard.

    RequestLog ──> CORS ──> Gate (name, origin, token) ──> BodyLimit (size, time) ──> routes

Plain ASGI: Starlette's base class for middleware would hide from routes that a client has left.
"""

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import logs
from .auth import OPEN_FOLDERS, OPEN_PATHS, TOKEN_IN_BODY, Guard
from .failures import CLIENT_LEFT, Failure
from .metrics import Metrics
from .replies import json_response
from .settings import Settings

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UPLOADS_AT_ONCE = 8  # times the largest body: what bodies that are not complete may hold together
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    ),
}
# Those that are counted by name: each that a client makes up would be a series of the metrics.
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "WS")
_QUIET = ("/health", "/ready", "/metrics")  # asked every few seconds; logged when they fail


def request_id_of(scope: Scope) -> str:
    """The id that a request was given."""
    return str(scope.get("state", {}).get("request_id", ""))


async def refuse(failure: Failure, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a failure, also before a WebSocket is open."""
    body = {**failure.body(), "id": request_id_of(scope)}
    await json_response(body, failure.status_code, failure.headers)(scope, receive, send)


@dataclass(frozen=True, slots=True)
class RequestLog:
    """Gives each request an id, logs it when it is over, and counts it.

    A mistake of ours is told here, so that its reply, too, has the id that the log has.
    """

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex[:16]}"
        scope.setdefault("state", {})["request_id"] = request_id
        token = logs.request_id.set(request_id)
        begin, status = time.monotonic(), CLIENT_LEFT

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"].endswith("response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            if status != CLIENT_LEFT:  # its reply has begun: the connection can only be broken off
                raise
            logger.exception("The server failed at this request")
            failure = Failure(500, "The server failed at this request; its log says why.")
            await refuse(failure, scope, receive, send_with_headers)
        finally:
            self._note(scope, status, time.monotonic() - begin)
            logs.request_id.reset(token)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope.get("method", "WS")
        counted = method if method in _METHODS else "other"
        self.metrics.requests.labels(counted, route, str(status)).inc()
        if scope["type"] == "http":
            self.metrics.request_seconds.labels(route).observe(seconds)
        quiet = scope["path"] in _QUIET and status < 400
        client = scope.get("client")
        logger.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %s",
            method,
            scope["path"],
            status,
            extra=logs.fields(
                method=method,
                path=scope["path"],
                status=status,
                seconds=round(seconds, 4),
                client=client[0] if client else None,
                **scope["state"].get("log", {}),
            ),
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """Refuses who comes by a wrong name, from a foreign page, or without the token."""

    app: ASGIApp
    guard: Guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            failure = self._failure(scope)
            if failure is not None:
                await refuse(failure, scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _failure(self, scope: Scope) -> Failure | None:
        headers, path = Headers(scope=scope), scope["path"]
        if not self.guard.is_name_of_ours(headers):
            return Failure(
                403,
                "This server is not called so. Use its address, or start it with "
                "`--allow-host NAME`.",
            )
        if scope["type"] == "websocket" and self.guard.is_foreign(headers):
            return Failure(
                403,
                "A page of another origin may not open this. Start the server with "
                "`--cors ORIGIN` to allow it.",
            )
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDERS) or self.guard.admits(headers):
            return None
        has_token = "authorization" in headers
        if path.startswith(TOKEN_IN_BODY) and not has_token:
            scope["state"]["token_in_body"] = True
            return None
        wrong = "The token is wrong" if has_token else "A token is missing"
        return Failure(401, f"{wrong}. Send `Authorization: Bearer TOKEN`.")


class BodyLimit:
    """Refuses bodies that are too large, take too long, or are too many at once."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._held = 0  # bytes of bodies that are not complete

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._settings.max_upload:
            await refuse(self._too_large(), scope, receive, send)
            return
        body = _Body(deadline=time.monotonic() + self._settings.upload_timeout)

        async def limited() -> Message:
            if body.complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), body.deadline - time.monotonic())
            except (TimeoutError, asyncio.TimeoutError):
                raise Failure(
                    408,
                    f"The request was not complete after {self._settings.upload_timeout:g} s.",
                ) from None
            size = len(message.get("body", b""))
            body.size += size
            self._held += size
            if not message.get("more_body", False):
                body.complete = True
                self._held -= body.size
            self._check(body)
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            if not body.complete:
                self._held -= body.size

    def _check(self, body: "_Body") -> None:
        if body.size > self._settings.max_upload:
            raise self._too_large()
        if self._held > _UPLOADS_AT_ONCE * self._settings.max_upload:
            raise Failure(429, "Too many uploads at once. Try again in 1 s.", retry_after=1)

    def _too_large(self) -> Failure:
        return Failure(
            413,
            f"The request is larger than {self._settings.max_upload / 2**20:g} MB. Send a smaller "
            "picture, or start the server with `--max-upload MB`.",
        )


@dataclass(slots=True)
class _Body:
    deadline: float
    size: int = 0
    complete: bool = False
