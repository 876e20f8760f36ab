"""What the server says about itself: health, metrics, the model, the tasks; and sessions."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from florence_edge import TASKS, __version__
from florence_edge.video.redact import without_secrets

from .auth import COOKIE, Guard
from .failures import Failure, engine_failed, shutting_down
from .metrics import CONTENT_TYPE
from .replies import json_response, task_list
from .service import Service

_SESSION_DAYS = 30


def info(service: Service, guard: Guard, headers: Any) -> dict[str, Any]:
    """What a page needs to know of a server; little of it without the token."""
    standing = guard.standing(headers)
    public = {"name": "florence-serve", "version": __version__, "token": standing}
    if standing == "required":
        return public
    settings, model = service.settings, service.model
    camera = None
    if settings.source is not None and settings.camera_request is not None:
        tasks = [task.name for task in settings.camera_request.tasks]
        camera = {"name": without_secrets(settings.source), "task": ",".join(tasks)}
    return {
        **public,
        "model": service.name,
        "precision": model.bundle.precision,
        "device": settings.device,
        "image_size": model.bundle.size.image_size,
        "max_upload": settings.max_upload,
        "max_pixels": model.image_options.max_pixels,
        "batch": service.batcher.batch,
        "queue": settings.queue,
        "deadline": settings.deadline,
        "defaults": asdict(model.generation_config()),
        "camera": camera,
        "own_tasks": task_list(model.bundle.tasks),
    }


def router(service: Service, guard: Guard) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["server"])

    @routes.get("/health", summary="Whether the server works")
    async def health() -> Response:
        """200 as long as the engine answers; 503 tells whoever watches to start it again."""
        if (reason := service.batcher.broken) is not None:
            raise engine_failed(reason)
        return json_response({"status": "ok"})

    @routes.get("/ready", summary="Whether requests are answered")
    async def ready() -> Response:
        """200 while requests are taken; 503 while the server shuts down or its engine is broken."""
        if service.closing.is_set():
            raise shutting_down()
        if (reason := service.batcher.broken) is not None:
            raise engine_failed(reason)
        return json_response({"status": "ready", "waiting": service.batcher.waiting})

    @routes.get("/metrics", summary="Counters for Prometheus")
    async def metrics() -> Response:
        """Requests, queue, batch sizes, seconds by stage, tokens and errors, as text."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @routes.get("/v1/info", summary="The server and its model")
    async def get_info(request: Request) -> Response:
        """Limits, defaults and the camera; without the token only whether one is needed."""
        return json_response(info(service, guard, request.headers))

    @routes.get("/v1/tasks", summary="The 15 tasks, and the model's own")
    async def tasks() -> Response:
        """Each with what it takes beside the picture and how its answer is read."""
        own = service.model.bundle.tasks
        return json_response({"tasks": task_list((*TASKS.values(), *own))})

    return routes


def session_router(service: Service, guard: Guard) -> APIRouter:
    """The routes of the cookie in which our own page keeps the token."""
    routes = APIRouter(tags=["server"])

    @routes.post("/v1/session", summary="Keep the token in a cookie", status_code=204)
    async def session(request: Request) -> Response:
        """For the page: what a browser opens by itself (WebSockets, MJPEG) then has the token."""
        if service.settings.token is None:
            return Response(status_code=204)
        _, _, bearer = request.headers.get("authorization", "").partition(" ")
        if not guard.is_token(bearer.strip()):
            raise Failure(401, "The token is wrong. Send `Authorization: Bearer TOKEN`.")
        reply = Response(status_code=204)
        reply.set_cookie(
            COOKIE,
            service.settings.token,
            max_age=_SESSION_DAYS * 86400,
            secure=service.settings.tls,
            httponly=True,
            samesite="strict",
        )
        return reply

    @routes.delete("/v1/session", summary="Forget the cookie", status_code=204)
    async def end_session() -> Response:
        """The token has to be given again."""
        reply = Response(status_code=204)
        reply.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return reply

    return routes
