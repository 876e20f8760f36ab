"""The command: its arguments, its logs, TLS, and how it ends."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from florence_edge import RequestError
from florence_edge_serve.cli import _parser, settings_from
from florence_edge_serve.server import bound_socket
from florence_edge_serve.settings import Settings

from .serving import SHORT, TIMEOUT, eventually, picture

FIELDS = {"task": "OD", "options": json.dumps(SHORT)}


def options(*arguments: str) -> Any:
    return _parser().parse_args(["bundle", *arguments])


@contextmanager
def running(bundle: Path, *arguments: str) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "florence_edge_serve",
            str(bundle),
            "--port",
            str(port),
            "--threads",
            "1",
            *arguments,
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert eventually(lambda: _listens(port) or process.poll() is not None)
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield port, process
    finally:
        process.kill()
        process.communicate()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Ended:
    """What a server with a camera did from its start to a SIGTERM."""

    status: int
    seconds: float
    """From the signal to the end."""
    asked: requests.Response
    in_the_engine: int
    """Status of a request whose first answers were made when the signal came."""
    viewer: int | None
    """Close code of the camera's WebSocket."""
    log: str


@pytest.fixture(scope="module")
def ended(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One server for all that only a process of its own can show."""
    pytest.importorskip("av")
    scene = tmp_path_factory.mktemp("camera") / "scene.png"
    scene.write_bytes(picture(7, (48, 40)))
    with running(tiny_bundle, "--source", str(scene)) as (port, process):
        address = f"http://127.0.0.1:{port}"

        def ask(path: str, **fields: str) -> requests.Response:
            return requests.post(
                address + path,
                files={"image": picture(1)},
                data=fields,
                headers={"X-Request-Id": "my-id.7"},
                timeout=TIMEOUT,
            )

        asked = ask("/v1/answers?secret=1", **FIELDS)
        requests.get(address + "/health", timeout=TIMEOUT)
        with (
            connect(f"ws://127.0.0.1:{port}/v1/camera") as viewer,
            requests.get(address + "/v1/camera.mjpeg", stream=True, timeout=TIMEOUT) as stream,
            ThreadPoolExecutor(1) as pool,
        ):
            viewer.recv(timeout=TIMEOUT)
            tasks = {"task": "OCR,CAPTION,DETAILED_CAPTION,MORE_DETAILED_CAPTION"}
            reply = pool.submit(ask, "/v1/answers", **tasks, options='{"max_new_tokens": 60}')
            metrics = address + "/metrics"
            first = 'task="OCR"'  # it is in the engine, with three tasks to go
            assert eventually(lambda: first in requests.get(metrics, timeout=TIMEOUT).text)
            process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            _read_to_its_end(viewer)
            for _ in stream.iter_content(4096):
                pass
            in_the_engine = reply.result().status_code
        _, log = process.communicate(timeout=TIMEOUT)
        seconds = time.monotonic() - begin
    return Ended(process.returncode, seconds, asked, in_the_engine, viewer.close_code, log)


def _read_to_its_end(viewer: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        while True:
            viewer.recv(timeout=TIMEOUT)


def test_at_sigterm_the_engine_finishes_and_viewers_are_let_go(ended: Ended) -> None:
    assert ended.in_the_engine == 200
    assert ended.viewer == 1012  # the service stops
    assert ended.status == 0
    assert ended.seconds < 25


def test_logs_are_json_with_the_id_of_the_request(ended: Ended) -> None:
    assert ended.asked.headers["X-Request-Id"] == ended.asked.json()["id"] == "my-id.7"
    lines = [json.loads(line) for line in ended.log.splitlines()]
    line = next(each for each in lines if each.get("path") == "/v1/answers")
    assert line["request_id"] == "my-id.7"
    assert (line["method"], line["status"], line["tasks"]) == ("POST", 200, ["OD"])
    assert "secret" not in ended.log
    assert not [each for each in lines if each.get("path") == "/health"]


@pytest.mark.slow
def test_tls_is_spoken_with_a_certificate(tiny_bundle: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    token = tmp_path / "token"
    token.write_text("a-token\n")
    token.chmod(0o600)
    secure = ("--certificate", str(certificate), "--key", str(key), "--token-file", str(token))
    with running(tiny_bundle, *secure) as (port, _):
        reply = requests.post(
            f"https://127.0.0.1:{port}/v1/session",
            headers={"Authorization": "Bearer a-token"},
            verify=str(certificate),
            timeout=TIMEOUT,
        )
        assert reply.status_code == 204
        assert "Secure" in reply.headers["Set-Cookie"]
        context = ssl.create_default_context(cafile=str(certificate))
        with connect(
            f"wss://127.0.0.1:{port}/v1/live",
            ssl=context,
            additional_headers={"Authorization": "Bearer a-token"},
        ) as viewer:
            assert json.loads(viewer.recv())["token"] == "given"


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RequestError, match="cannot listen"):
            bound_socket("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--certificate", "x"), "go together"),
        (("--text", "car"), "needs --source"),
        (("--token-file", "nowhere"), "cannot be read"),
        (("--batch", "0"), "batch is 0"),
        (("--queue", "0"), "queue is 0"),
        (("--deadline", "0"), "deadline is 0"),
        (("--deadline", "nan"), "deadline is nan"),
        (("--max-upload", "0"), "max_upload is 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        settings_from(options(*arguments))


def test_a_task_of_the_camera_that_no_bundle_has_is_refused(tiny_bundle: Path) -> None:
    given = _parser().parse_args([str(tiny_bundle), "--source", "0", "--task", "ODD"])
    with pytest.raises(RequestError, match="no task 'ODD'"):
        settings_from(given)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff", b"x" * 5000])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="holds no token"):
        settings_from(options("--token-file", str(path)))


def test_who_else_can_read_the_token_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text("secret-word\n")
    os.chmod(path, 0o644)
    settings = settings_from(options("--token-file", str(path), "--cors", "https://a.example"))
    assert settings.token == "secret-word"
    assert "chmod 600" in caplog.text
    assert "secret-word" not in caplog.text


def test_a_server_that_others_reach_takes_any_name(tmp_path: Path) -> None:
    assert settings_from(options("--host", "0.0.0.0")).hosts is None
    own = settings_from(options("--allow-host", "box.example")).hosts
    assert own is not None
    assert {"localhost", "box.example"} <= set(own)


def test_the_arguments_have_the_defaults_of_the_settings() -> None:
    found, defaults = settings_from(options()), Settings()
    for name in ("batch", "queue", "deadline", "max_upload", "token", "cors"):
        assert getattr(found, name) == getattr(defaults, name)
