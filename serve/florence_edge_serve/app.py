"""The ASGI application: routes, what stands around them, and how failures are told."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from florence_edge import Florence2, FlorenceEdgeError, __version__

from . import answers, camera_routes, deepstack, live, openai, openapi, pages, roboflow, status
from .auth import Guard
from .camera import Camera
from .failures import CLIENT_LEFT, Failure, failure_of
from .middleware import BodyLimit, Gate, RequestLog
from .replies import json_response
from .schema import Wanted, invalid
from .service import Service
from .settings import Settings

logger = logging.getLogger(__name__)


def create_app(model: Florence2, settings: Settings | None = None) -> FastAPI:
    """The server of a loaded model; `app.state.service` is what it runs on.

    The model stays the caller's: it is to be closed after the application's end.
    """
    settings = settings or Settings()
    service, guard = Service(model, settings), Guard(settings)

    camera = _camera(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        filming = None if camera is None else asyncio.create_task(camera.run())
        try:
            yield
        finally:
            if filming is not None:
                filming.cancel()
            await service.close()

    def about(headers: Headers) -> dict[str, Any]:
        return status.info(service, guard, headers)

    app = FastAPI(
        title="florence-serve",
        version=__version__,
        description="Florence-2 on this machine: 15 tasks about pictures.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    for routes in (
        answers.router(service, openapi.answers_route()),
        openai.router(service),
        roboflow.router(service, guard),
        deepstack.router(service, guard),
        live.router(service, about),
        camera_routes.router(service, camera, about),
        status.router(service, guard),
        status.session_router(service, guard),
        pages.router(),
    ):
        app.include_router(routes)
    app.openapi = openapi.document(app)  # type: ignore[method-assign]  # FastAPI's own way
    _add_handlers(app)
    # The last one added stands outermost.
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(Gate, guard=guard)
    if settings.cors:  # around the gate: a page that may come in can read why it was refused
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(RequestLog, metrics=service.metrics)
    return app


def _camera(service: Service) -> Camera | None:
    """The camera of a server that has one; a source that cannot be one is refused at once."""
    settings = service.settings
    if settings.source is None or settings.camera_request is None:
        return None
    camera = Camera(service, settings.source, Wanted(parts=((settings.camera_request, None),)))
    camera.check()
    return camera


def _add_handlers(app: FastAPI) -> None:
    """Every failure in one shape: `{"error": {...}, "id": ...}`."""

    async def failed(request: Request, error: Exception) -> Response:
        failure = _as_failure(error)
        if failure.status_code == CLIENT_LEFT:
            return Response(status_code=CLIENT_LEFT)
        body = {**failure.body(), "id": request.state.request_id}
        return json_response(body, failure.status_code, failure.headers)

    for kind in (HTTPException, RequestValidationError, FlorenceEdgeError):
        app.add_exception_handler(kind, failed)


def _as_failure(error: Exception) -> Failure:
    if isinstance(error, Failure):
        return error
    if isinstance(error, FlorenceEdgeError):
        return failure_of(error)
    if isinstance(error, RequestValidationError):
        return invalid(error.errors())
    if isinstance(error, HTTPException):
        return Failure(error.status_code, f"{error.detail}. Look at /docs.")
    raise error
