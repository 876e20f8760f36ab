"""Pictures over a WebSocket, and the box's own camera."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from florence_edge import Florence2, request_for
from florence_edge_serve.live import LiveConnection
from florence_edge_serve.service import Service
from florence_edge_serve.settings import Settings

from .serving import (
    OPTIONS,
    SHORT,
    TIMEOUT,
    Gate,
    Server,
    answered,
    eventually,
    picture,
    said,
    serving,
)

ASK = {"type": "ask", "task": "OD", "options": SHORT}
SIZE = (48, 40)


def receive(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of this type."""
    while True:
        message = socket.recv(timeout=60)
        if isinstance(message, str) and (found := json.loads(message))["type"] == kind:
            return dict(found)


def test_the_newest_picture_is_answered_and_those_before_it_dropped(
    gate: Gate, tiny_model: Florence2
) -> None:
    with serving(gate) as server, connect(server.socket + "/v1/live") as socket:
        socket.send(json.dumps(ASK))
        assert receive(socket, "asked")["ask"] == 1
        with gate.shut():
            socket.send(picture(0))
            gate.arrived.acquire()
            for seed in range(1, 6):
                socket.send(picture(seed))
            dropped = 'florence_frames_total{fate="replaced",from="live"} 4.0'
            assert eventually(lambda: dropped in server.get("/metrics").text)
        first, last = receive(socket, "answers"), receive(socket, "answers")
    assert (first["frame"], last["frame"]) == (0, 5)
    assert last["stats"]["dropped"] == 4
    for message in (first, last):
        expected = tiny_model.run(picture(message["frame"]), "OD", options=OPTIONS)
        assert answered(message["answers"][0]) == said(expected)


def test_mistakes_are_told_and_the_connection_stays(server: Server) -> None:
    with connect(server.socket + "/v1/live") as socket:
        assert receive(socket, "ready")["model"] == server.service.name
        socket.send(picture(0))
        assert "first what to ask" in receive(socket, "error")["error"]["message"]
        for wrong in ("{", json.dumps({"type": "ask", "task": "ODD"}), json.dumps({"task": "OD"})):
            socket.send(wrong)
            assert receive(socket, "error")["error"]["code"] == 422
        socket.send(json.dumps({**ASK, "stream": True}))
        assert receive(socket, "asked")["ask"] == 1
        socket.send(b"no picture")
        assert receive(socket, "error")["error"]["code"] == 415
        socket.send(picture(0))
        assert receive(socket, "text")["index"] == 0
        assert receive(socket, "answers")["frame"] == 2


def test_too_large_a_picture_ends_the_connection(server: Server) -> None:
    with connect(server.socket + "/v1/live") as socket:
        socket.send(b"x" * (server.service.settings.max_upload + 1))
        with pytest.raises(ConnectionClosed, match="1009"):
            receive(socket, "nothing")


@pytest.fixture(scope="module")
def filming(tiny_model: Florence2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("av")
    path = tmp_path_factory.mktemp("camera") / "scene.png"
    path.write_bytes(picture(7, SIZE))
    settings = Settings(source=str(path), camera_request=request_for("OD"))
    with serving(tiny_model, settings) as running:
        yield running


def test_viewers_of_the_camera_get_the_frame_and_their_own_answers(
    filming: Server, tiny_model: Florence2
) -> None:
    address = filming.socket + "/v1/camera"
    with connect(address) as usual, connect(address) as other:
        other.send(json.dumps({"type": "ask", "tasks": [{"task": "CAPTION"}, {"task": "OCR"}]}))
        assert receive(other, "asked")["ask"] == 1
        for socket, tasks in ((usual, ["<OD>"]), (other, ["<CAPTION>", "<OCR>"])):
            while True:
                message = socket.recv(timeout=60)
                if isinstance(message, bytes):
                    frame = message
                    continue
                found = json.loads(message)
                if found["type"] == "answers" and _tasks(found) == tasks:
                    break
            assert Image.open(io.BytesIO(frame)).size == SIZE
            assert found["image"] == {"width": SIZE[0], "height": SIZE[1]}
            for each in found["answers"]:
                assert answered(each) == said(tiny_model.run(picture(7, SIZE), each["task"]))


def _tasks(message: dict[str, Any]) -> list[str]:
    return [each["task"] for each in message["answers"]]


def test_the_camera_as_annotated_jpegs(filming: Server) -> None:
    one = filming.get("/v1/camera.jpg?task=OD&width=24")
    assert one.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(one.content)).width == 24
    with filming.get("/v1/camera.mjpeg", stream=True) as stream:
        assert "multipart/x-mixed-replace" in stream.headers["content-type"]
        some = b"".join(part for part, _ in zip(stream.iter_content(4096), range(3), strict=False))
    assert some.startswith(b"--frame\r\nContent-Type: image/jpeg\r\n")


def test_a_camera_that_is_asked_nonsense_says_so(filming: Server) -> None:
    assert filming.get("/v1/camera.jpg?task=ODD").status_code == 422
    assert filming.get("/v1/camera.jpg?text=car").status_code == 422
    assert filming.get("/v1/camera.jpg?width=0").status_code == 422
    with connect(filming.socket + "/v1/camera") as socket:
        socket.send(json.dumps({"type": "ask", "task": "REGION_TO_OCR", "region": [1, 1, 999, 9]}))
        assert "leaves the picture" in receive(socket, "error")["error"]["message"]


def test_one_viewers_nonsense_is_no_other_viewers_affair(filming: Server) -> None:
    beams = {"type": "ask", "task": "OD", "options": {"num_beams": 99}}
    with connect(filming.socket + "/v1/camera") as usual:
        receive(usual, "answers")
        with connect(filming.socket + "/v1/camera") as other:
            other.send(json.dumps(beams))
            assert "num_beams is 99" in receive(other, "error")["error"]["message"]
            assert receive(other, "answers")["ask"] == 0  # what it asked before
        for _ in range(3):
            message = json.loads(next(m for m in usual if isinstance(m, str)))
            assert message["type"] == "answers"
    assert filming.get("/v1/camera.jpg?task=OPEN_VOCABULARY_DETECTION").status_code == 422


def test_a_client_that_does_not_read_is_not_listened_to(tiny_model: Florence2) -> None:
    """Its asks would pile up as replies that nobody takes."""

    class Deaf:
        received = 0

        async def receive(self) -> dict[str, str]:
            self.received += 1
            return {"type": "websocket.receive", "text": json.dumps(ASK)}

        async def send_text(self, text: str) -> None:
            await asyncio.sleep(TIMEOUT)

    async def received(deaf: Any) -> int:
        connection = LiveConnection(deaf, Service(tiny_model, Settings()))
        parts = [connection._read(), connection._outbox.send()]
        tasks = [asyncio.create_task(part) for part in parts]
        for _ in range(50):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        return int(deaf.received)

    assert asyncio.run(received(Deaf())) == 1


def test_a_server_without_a_camera_says_so(server: Server) -> None:
    assert server.get("/v1/camera.jpg").status_code == 404
    assert server.get("/v1/camera.mjpeg").status_code == 404
    assert server.get("/v1/info").json()["camera"] is None


def test_a_camera_that_is_not_there_is_told_to_viewers(
    tiny_model: Florence2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    monkeypatch.setattr("florence_edge_serve.camera._AGAIN", 0.05)
    path = tmp_path / "scene.mp4"
    path.write_bytes(b"no video")
    settings = Settings(source=str(path), camera_request=request_for("OD"))
    with serving(tiny_model, settings) as server:
        with connect(server.socket + "/v1/camera") as socket:
            assert "scene.mp4" in receive(socket, "error")["error"]["message"]
        assert server.get("/v1/camera.jpg").status_code == 503
