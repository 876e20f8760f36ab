"""Who may come in: the token, names, origins; and what a page is told."""

import json
from collections.abc import Iterator

import pytest
import requests
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from florence_edge import Florence2
from florence_edge_serve.auth import Guard
from florence_edge_serve.hosts import host_name, local_names
from florence_edge_serve.settings import Settings

from .serving import SHORT, Server, picture, serving

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FIELDS = {"task": "OD", "options": json.dumps(SHORT)}


@pytest.fixture(scope="module")
def locked(tiny_model: Florence2) -> Iterator[Server]:
    settings = Settings(token=TOKEN, cors=("https://panel.example",))
    with serving(tiny_model, settings) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Cookie": "florence_token=wrong"},
        {"Cookie": f"florence_token={TOKEN}", "Origin": "https://evil.example"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/tasks", "/metrics", "/v1/models", "/v1/camera.mjpeg"])
def test_nobody_comes_in_without_the_token(
    locked: Server, path: str, headers: dict[str, str]
) -> None:
    reply = locked.get(path, headers=headers)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in reply.text


def test_with_the_token_everything_is_open(locked: Server) -> None:
    assert locked.get("/v1/tasks", headers=BEARER).status_code == 200
    reply = locked.post("/v1/answers", files={"image": picture(1)}, data=FIELDS, headers=BEARER)
    assert reply.status_code == 200
    assert locked.post("/v1/answers", files={"image": picture(1)}, data=FIELDS).status_code == 401


def test_the_page_and_health_need_no_token_and_say_little(locked: Server) -> None:
    for path in ("/health", "/ready", "/docs", "/openapi.json"):
        assert locked.get(path).status_code == 200
    assert locked.get("/v1/info").json() == {
        "name": "florence-serve",
        "version": locked.get("/v1/info").json()["version"],
        "token": "required",
    }
    assert locked.get("/v1/info", headers=BEARER).json()["token"] == "given"


def test_a_session_keeps_the_token_where_scripts_cannot_read_it(locked: Server) -> None:
    wrong = locked.post("/v1/session", headers={"Authorization": "Bearer x"})
    assert wrong.status_code == 401
    browser = requests.Session()
    reply = browser.post(locked.address + "/v1/session", headers=BEARER, timeout=60)
    assert reply.status_code == 204
    for part in ("HttpOnly", "SameSite=strict"):
        assert part in reply.headers["Set-Cookie"]
    assert browser.get(locked.address + "/v1/tasks", timeout=60).status_code == 200
    cookie = f"florence_token={browser.cookies['florence_token']}"
    with connect(locked.socket + "/v1/live", additional_headers={"Cookie": cookie}) as socket:
        assert json.loads(socket.recv())["token"] == "given"
    browser.delete(locked.address + "/v1/session", timeout=60)
    assert browser.get(locked.address + "/v1/tasks", timeout=60).status_code == 401


def test_sockets_want_the_token_and_no_foreign_page(locked: Server) -> None:
    with pytest.raises(InvalidStatus, match="401"), connect(locked.socket + "/v1/live"):
        pass
    foreign = Origin("https://evil.example")
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(locked.socket + "/v1/live", additional_headers=BEARER, origin=foreign),
    ):
        pass
    allowed = Origin("https://panel.example")
    with connect(locked.socket + "/v1/live", additional_headers=BEARER, origin=allowed) as socket:
        assert json.loads(socket.recv())["type"] == "ready"


def test_a_page_that_is_allowed_gets_the_headers_of_cors(locked: Server) -> None:
    origin = {"Origin": "https://panel.example"}
    preflight = requests.options(
        locked.address + "/v1/answers",
        headers={**origin, "Access-Control-Request-Method": "POST"},
        timeout=60,
    )
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://panel.example"
    reply = locked.get("/v1/tasks", headers={**BEARER, **origin})
    assert reply.headers["Access-Control-Allow-Origin"] == "https://panel.example"
    evil = locked.get("/v1/tasks", headers={**BEARER, "Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in evil.headers
    refused = locked.get("/v1/tasks", headers=origin)
    assert refused.status_code == 401  # and the page can read why
    assert refused.headers["Access-Control-Allow-Origin"] == "https://panel.example"


def test_api_keys_in_bodies_are_compared(locked: Server) -> None:
    files = {"image": picture(1)}
    assert locked.post("/v1/vision/detection", files=files).status_code == 401
    wrong = locked.post("/v1/vision/detection", files=files, data={"api_key": "x"})
    assert wrong.status_code == 401
    given = locked.post("/v1/vision/detection", files=files, data={"api_key": TOKEN})
    assert given.status_code == 200
    body = {"image": {"type": "base64", "value": ""}, "prompt": "<OD>"}
    assert locked.post("/infer/lmm", json=body).status_code == 401
    assert locked.post("/infer/lmm", json={**body, "api_key": TOKEN}).status_code == 422


def test_a_server_of_this_machine_alone_is_called_by_its_own_names(tiny_model: Florence2) -> None:
    """Or a page whose name was made to point here (DNS rebinding) would be of its own origin."""
    settings = Settings(hosts=local_names(["box.example:8000"]))
    with serving(tiny_model, settings) as server:
        assert server.get("/v1/tasks", headers={"Host": "evil.example"}).status_code == 403
        for name in ("localhost:1", "127.0.0.1", "[::1]:8000", "box.example", "BOX.example:9"):
            assert server.get("/v1/tasks", headers={"Host": name}).status_code == 200


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("florence_edge_serve.auth.hmac.compare_digest", compare)
    guard = Guard(Settings(token=TOKEN))
    assert not guard.is_token("x")
    assert guard.is_token(TOKEN)
    assert len(compared) == 2


@pytest.mark.parametrize(
    ("netloc", "name"), [("A.b:80", "a.b"), ("[::1]:80", "::1"), ("[::1", "invalid"), ("", "")]
)
def test_names_are_read_from_hosts(netloc: str, name: str) -> None:
    assert host_name(netloc) == name
