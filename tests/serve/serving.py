"""A server to test: the application in uvicorn on a port of its own, and what asks it."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import requests
import uvicorn
from PIL import Image

from florence_edge import (
    BackendError,
    EncodedImage,
    Florence2,
    GenerationOptions,
    Question,
    RequestError,
    Result,
)
from florence_edge.questions import Answer
from florence_edge_serve.app import create_app
from florence_edge_serve.service import Service
from florence_edge_serve.settings import Settings

SHORT = {"num_beams": 1, "max_new_tokens": 9}
OPTIONS = GenerationOptions(num_beams=1, max_new_tokens=9)
"""The same for the runtime."""
TIMEOUT = 60


class Server:
    """A running server."""

    def __init__(self, address: str, service: Service) -> None:
        self.address = address
        self.service = service

    @property
    def socket(self) -> str:
        """The address of its WebSockets."""
        return self.address.replace("http", "ws", 1)

    def get(self, path: str, **more: Any) -> requests.Response:
        return requests.get(self.address + path, timeout=TIMEOUT, **more)

    def post(self, path: str, **more: Any) -> requests.Response:
        return requests.post(self.address + path, timeout=TIMEOUT, **more)

    def ask(self, picture: bytes, **fields: Any) -> requests.Response:
        """Ask /v1/answers by a form."""
        return self.post("/v1/answers", files={"image": picture}, data=fields)


@contextmanager
def serving(model: Any, settings: Settings | None = None) -> Iterator[Server]:
    """Serve a model until the end of the block."""
    app = create_app(model, settings)
    config = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, ws="websockets-sansio", lifespan="on"
    )
    config.ws_max_size = (settings or Settings()).max_upload
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    give_up = time.monotonic() + TIMEOUT
    while not running.started and time.monotonic() < give_up:
        time.sleep(0.005)
    port = running.servers[0].sockets[0].getsockname()[1]
    service = app.state.service
    try:
        yield Server(f"http://127.0.0.1:{port}", service)
    finally:
        running.should_exit = True
        service.stop()
        thread.join(TIMEOUT)


class Gate:
    """A model whose engine waits at a gate, and fails where it is told to.

    Everything else is the model's own.
    """

    def __init__(self, model: Florence2) -> None:
        self._model = model
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Semaphore(0)
        self.batches: list[int] = []
        self.fail: Callable[[Sequence[Question]], bool] = lambda _: False
        self.broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_prepared(self, prepared: Any) -> list[EncodedImage]:
        if self.broken:
            raise BackendError("the engine is on fire")
        return self._model.encode_prepared(prepared)

    def answer_questions(
        self, questions: Sequence[Question], *, on_answer: Callable[[int, Answer], None]
    ) -> list[Answer]:
        self.arrived.release()
        if not self.open.wait(TIMEOUT):
            raise RequestError("the gate stayed shut")
        self.batches.append(len(questions))
        if self.broken or self.fail(questions):
            raise BackendError("the engine is on fire")
        return self._model.answer_questions(questions, on_answer=on_answer)

    def self_test(self) -> dict[str, float]:
        if self.broken:
            raise BackendError("the engine is on fire")
        return self._model.self_test()

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Hold the engine at its next batch until the end of the block."""
        self.open.clear()
        try:
            yield
        finally:
            self.open.set()


def picture(seed: int, size: tuple[int, int] = (60, 50)) -> bytes:
    """A PNG of noise: another one for each seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize(size)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def said(result: Result) -> dict[str, Any]:
    """What the server says of an answer that is the same in any batch."""
    found = result.to_json()
    return {name: found[name] for name in ("task", "token_ids", "result", "status", "raw_text")}


def answered(answer: dict[str, Any]) -> dict[str, Any]:
    """The same of a reply."""
    return {name: answer[name] for name in ("task", "token_ids", "result", "status", "raw_text")}


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it holds soon."""
    give_up = time.monotonic() + TIMEOUT
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True
