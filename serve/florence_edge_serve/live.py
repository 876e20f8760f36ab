"""`WS /v1/live`: pictures in, answers out; a picture that waits gives way to a newer one."""

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import Field, StrictBool

from florence_edge import Florence2, RequestError

from . import replies
from .failures import Failure, failure_of
from .metrics import Metrics
from .schema import Ask, Wanted, parsed, wanted
from .service import Service

GOING_AWAY = 1012
"""Close code: the server stops, or starts again."""
_RECENT = 30  # answers that rate and latency are taken over


class LiveAsk(Ask):
    """What pictures are asked from now on."""

    type: Literal["ask"]
    stream: StrictBool = Field(False, description="send the text while it is made")
    picture: StrictBool = Field(True, description="of the camera: send its frames, too")


@dataclass(slots=True)
class Rate:
    """What a live connection is told about itself."""

    dropped: int = 0
    answered: int = 0
    _ends: "deque[float]" = field(default_factory=lambda: deque(maxlen=_RECENT + 1))
    _latencies: "deque[float]" = field(default_factory=lambda: deque(maxlen=_RECENT))

    def note(self, came: float) -> None:
        """Count a picture that came at `came` (time.monotonic) and is answered now."""
        now = time.monotonic()
        self.answered += 1
        self._ends.append(now)
        self._latencies.append(now - came)

    def stats(self) -> dict[str, float]:
        """As messages carry it; `fps` over the last 30 answers, `latency` in seconds."""
        took = self._ends[-1] - self._ends[0] if self._ends else 0.0
        return {
            "answered": self.answered,
            "dropped": self.dropped,
            "fps": (len(self._ends) - 1) / took if took else 0.0,
            "latency": median(self._latencies) if self._latencies else 0.0,
        }


@dataclass(frozen=True, slots=True)
class CurrentAsk:
    """The ask that holds, and its number."""

    number: int
    wanted: Wanted
    stream: bool
    picture: bool


class Asks:
    """Reads the asks of a connection."""

    def __init__(self, model: Florence2) -> None:
        self._model = model
        self.current: CurrentAsk | None = None
        self._count = 0

    def take(self, message: str) -> dict[str, Any]:
        """The reply to a message; a wrong one leaves the ask before in place."""
        try:
            ask = parsed(LiveAsk, message)
            asked = wanted(ask, self._model.bundle.tasks)
            asked.check(self._model)
        except Failure as failure:
            return {"type": "error", **failure.body()}
        except RequestError as error:
            return {"type": "error", **failure_of(error).body()}
        self._count += 1
        self.current = CurrentAsk(self._count, asked, ask.stream, ask.picture)
        return {"type": "asked", "ask": self._count}


class Outbox:
    """Messages to a client, sent in their order by one task."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._messages: asyncio.Queue[str | bytes] = asyncio.Queue()

    def put(self, message: "dict[str, Any] | bytes") -> None:
        """Send it when those before are sent."""
        ready = message if isinstance(message, bytes) else replies.encoded(message)
        self._messages.put_nowait(ready)

    async def empty(self) -> None:
        """Wait until all is sent: a client that reads slowly gets fewer answers, not later ones.

        After each message that a client can provoke, so that none can fill our memory with replies.
        """
        await self._messages.join()

    async def send(self) -> None:
        """Send what is put, until cancelled."""
        while True:
            message = await self._messages.get()
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(message)
            self._messages.task_done()


class LiveConnection:
    """One client's pictures."""

    def __init__(self, socket: WebSocket, service: Service) -> None:
        self._socket = socket
        self._service = service
        self._asks = Asks(service.model)
        self._outbox = Outbox(socket)
        self._rate = Rate()
        self._newest: tuple[int, float, bytes] | None = None
        self._news = asyncio.Event()
        self._count = 0

    async def run(self, ready: dict[str, Any]) -> None:
        """Serve the client until it leaves, or the server stops."""
        self._outbox.put({"type": "ready", **ready})
        await until_first(
            self._socket,
            self._service,
            [self._read(), self._answer(), self._outbox.send()],
        )

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if (text := message.get("text")) is not None:
                self._outbox.put(self._asks.take(text))
                await self._outbox.empty()
                continue
            number, self._count = self._count, self._count + 1
            if self._newest is not None:
                self._drop("replaced")
            self._newest = number, time.monotonic(), message["bytes"]
            self._news.set()

    async def _answer(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            newest, self._newest = self._newest, None
            if newest is None:
                continue
            if self._asks.current is None:
                missing = 'Say first what to ask: {"type": "ask", "task": "OD"}.'
                self._outbox.put(_error(Failure(422, missing)))
            else:
                await self._answer_one(self._asks.current, *newest)
            await self._outbox.empty()

    async def _answer_one(self, ask: CurrentAsk, number: int, came: float, picture: bytes) -> None:
        def on_text(index: int, piece: str) -> None:
            self._outbox.put({"type": "text", "frame": number, "index": index, "text": piece})

        try:
            answered = await self._service.answer(
                picture, ask.wanted, on_text=on_text if ask.stream else None
            )
        except Failure as failure:
            if failure.status_code in (429, 504):  # a newer picture will have its chance
                self._drop("busy")
            else:
                self._outbox.put({**_error(failure), "frame": number})
            return
        self._rate.note(came)
        frames_counter(self._service.metrics, "live", "answered")
        self._outbox.put(
            {
                "type": "answers",
                "frame": number,
                "ask": ask.number,
                **replies.about(answered),
                "stats": self._rate.stats(),
            }
        )

    def _drop(self, fate: str) -> None:
        self._rate.dropped += 1
        frames_counter(self._service.metrics, "live", fate)


def frames_counter(metrics: Metrics, source: str, fate: str) -> None:
    """Count a frame of `live` or `camera`."""
    metrics.frames.labels(source, fate).inc()


def _error(failure: Failure) -> dict[str, Any]:
    return {"type": "error", **failure.body()}


async def until_first(socket: WebSocket, service: Service, parts: "list[Any]") -> None:
    """Run the parts of a connection until one ends, or the server stops; then close it."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    closing = asyncio.ensure_future(service.closing.wait())
    try:
        done, _ = await asyncio.wait([*tasks, closing], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, closing):
            task.cancel()
        ended = await asyncio.gather(*tasks, closing, return_exceptions=True)
    if closing in done:
        with suppress(RuntimeError, WebSocketDisconnect):  # it may have left just now
            await socket.close(GOING_AWAY, "The server stops.")
        return
    for error in ended:
        if isinstance(error, Exception) and not isinstance(
            error, WebSocketDisconnect | RuntimeError
        ):
            raise error


def router(service: Service, about: Any) -> APIRouter:
    """The route; `about` gives what /v1/info says to a client that has the token."""
    routes = APIRouter()

    @routes.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        service.metrics.viewers.labels("live").inc()
        try:
            await LiveConnection(socket, service).run(about(socket.headers))
        finally:
            service.metrics.viewers.labels("live").dec()

    return routes
