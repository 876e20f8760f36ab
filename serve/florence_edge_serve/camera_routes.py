"""The routes of the box's camera: `WS /v1/camera`, `/v1/camera.mjpeg`, `/v1/camera.jpg`."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, WebSocket
from starlette.responses import Response, StreamingResponse

from florence_edge import RequestError

from . import openapi, replies
from .camera import Camera, Shown, Viewer
from .failures import Failure, failure_of
from .live import Asks, Outbox, until_first
from .middleware import refuse
from .schema import Ask, Wanted, wanted
from .service import Service

_BOUNDARY = "frame"
_NO_CAMERA = "This server has no camera. Start it with --source."
_RESPONSES: dict[int | str, dict[str, Any]] = {
    404: {"description": _NO_CAMERA, "model": openapi.ErrorBody},
    **openapi.failures(401, 422, 503, 504),
}
_WAIT = 2.0  # seconds without an answer after which a viewer is told to be patient


class CameraConnection:
    """One viewer over a WebSocket."""

    def __init__(self, socket: WebSocket, service: Service, camera: Camera) -> None:
        self._socket = socket
        self._service = service
        self._camera = camera
        self._asks = Asks(service.model)
        self._outbox = Outbox(socket)

    async def run(self, ready: dict[str, Any]) -> None:
        """Serve the viewer until it leaves, or the server stops."""
        self._outbox.put({"type": "ready", **ready})
        with self._camera.watched(self._camera.default) as viewer:
            await until_first(
                self._socket,
                self._service,
                [self._read(viewer), self._show(viewer), self._outbox.send()],
            )

    async def _read(self, viewer: Viewer) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            self._outbox.put(self._asks.take(text if text is not None else ""))
            if self._asks.current is not None:
                viewer.wanted = self._asks.current.wanted
            await self._outbox.empty()

    async def _show(self, viewer: Viewer) -> None:
        while True:
            try:
                shown = await asyncio.wait_for(viewer.next(), _WAIT)
            except (TimeoutError, asyncio.TimeoutError):
                self._outbox.put({"type": "waiting", "message": "No frame has come yet."})
                continue
            if isinstance(shown, str):
                self._outbox.put({"type": "error", **Failure(503, shown, kind="camera").body()})
            else:
                self._put(shown)
            await self._outbox.empty()

    def _put(self, shown: Shown) -> None:
        ask = self._asks.current
        if ask is None or ask.picture:
            self._outbox.put(shown.jpeg)
        rate = self._camera.rate
        rate.dropped = max(rate.dropped, shown.frame.dropped)
        self._outbox.put(
            {
                "type": "answers",
                "frame": shown.frame.index,
                "timestamp": shown.frame.timestamp,
                "ask": ask.number if ask else 0,
                **replies.about(shown.answered),
                "stats": rate.stats(),
            }
        )


def router(service: Service, camera: Camera | None, about: Any) -> APIRouter:
    """The routes; without a camera they say that there is none."""
    routes = APIRouter(tags=["camera"])

    @routes.websocket("/v1/camera")
    async def socket(socket: WebSocket) -> None:
        if camera is None:
            await refuse(Failure(404, _NO_CAMERA), socket.scope, socket.receive, socket.send)
            return
        await socket.accept()
        with _counted(service, "camera"):
            await CameraConnection(socket, service, camera).run(about(socket.headers))

    @routes.get(
        "/v1/camera.mjpeg", summary="The camera with its answers drawn on it", responses=_RESPONSES
    )
    async def mjpeg(
        task: Annotated[str | None, Query(description="one task or several, with commas")] = None,
        text: str | None = None,
        region: Annotated[str | None, Query(description="x1,y1,x2,y2 in pixels")] = None,
        width: Annotated[int | None, Query(ge=16, le=8192)] = None,
    ) -> Response:
        """JPEGs without an end, as an `<img>` shows them and Home Assistant reads them."""
        found = _camera(camera)
        asked = _wanted(service, found, task, text, region)
        frames = _mjpeg(service, found, asked, width)
        return StreamingResponse(
            frames,
            media_type=f"multipart/x-mixed-replace; boundary={_BOUNDARY}",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @routes.get(
        "/v1/camera.jpg", summary="One frame of the camera with its answers", responses=_RESPONSES
    )
    async def jpeg(
        request: Request,
        task: Annotated[str | None, Query(description="one task or several, with commas")] = None,
        text: str | None = None,
        region: Annotated[str | None, Query(description="x1,y1,x2,y2 in pixels")] = None,
        width: Annotated[int | None, Query(ge=16, le=8192)] = None,
    ) -> Response:
        """The next frame that is answered."""
        found = _camera(camera)
        with found.watched(_wanted(service, found, task, text, region)) as viewer:
            shown = await _first(viewer, service)
        picture = await service.in_decoder(lambda: shown.annotated(width))
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    return routes


def _camera(camera: Camera | None) -> Camera:
    if camera is None:
        raise Failure(404, _NO_CAMERA)
    return camera


def _wanted(
    service: Service, camera: Camera, task: str | None, text: str | None, region: str | None
) -> Wanted:
    """What a viewer asks by the address."""
    if task is None:
        if text is not None or region is not None:
            raise Failure(422, "Text and region go with a task.")
        return camera.default
    names = [name for name in task.split(",") if name.strip()]
    try:
        ask = Ask.model_validate({"task": names, "text": text, "region": region})
        asked = wanted(ask, service.model.bundle.tasks)
        asked.check(service.model)
    except RequestError as error:
        raise failure_of(error) from None
    return asked


async def _first(viewer: Viewer, service: Service) -> Shown:
    limit = service.settings.deadline
    try:
        shown = await asyncio.wait_for(viewer.next(), limit)
    except (TimeoutError, asyncio.TimeoutError):
        raise Failure(504, f"The camera gave no frame within {limit:g} s.") from None
    if isinstance(shown, str):
        raise Failure(503, shown, kind="camera", retry_after=5)
    return shown


async def _mjpeg(
    service: Service, camera: Camera, asked: Wanted, width: int | None
) -> AsyncIterator[bytes]:
    yield f"--{_BOUNDARY}\r\n".encode()
    with camera.watched(asked) as viewer, _counted(service, "mjpeg"):
        while (shown := await _next_or_end(viewer, service)) is not None:
            if isinstance(shown, str):
                continue
            picture = await service.in_decoder(partial(shown.annotated, width))
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            # Browsers show a part when the next boundary comes: it comes at once.
            yield head.encode() + picture + f"\r\n--{_BOUNDARY}\r\n".encode()


async def _next_or_end(viewer: Viewer, service: Service) -> Shown | str | None:
    """What is shown next; None once the server stops."""
    news = asyncio.ensure_future(viewer.next())
    closing = asyncio.ensure_future(service.closing.wait())
    try:
        await asyncio.wait({news, closing}, return_when=asyncio.FIRST_COMPLETED)
        return None if closing.done() else news.result()
    finally:
        news.cancel()
        closing.cancel()


@contextmanager
def _counted(service: Service, of: str) -> Iterator[None]:
    """Count a viewer for as long as it watches."""
    service.metrics.viewers.labels(of).inc()
    try:
        yield
    finally:
        service.metrics.viewers.labels(of).dec()
