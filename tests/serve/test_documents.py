"""What the server says about itself, and what its OpenAPI document promises."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import requests

from florence_edge import TASKS, GenerationOptions
from florence_edge_serve.openapi import REPLY
from florence_edge_serve.schema import Options

from .serving import SHORT, Server, picture

PAGE = Path(__file__).parents[2] / "serve" / "florence_edge_serve" / "page"
JS = Path(__file__).parents[2] / "js" / "florence_edge_js"


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    return dict(server.get("/openapi.json").json())


def test_every_reference_of_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in schemas
    assert {"AnswersRequest", "ErrorBody", "ChatRequest"} <= set(schemas)


def test_answers_are_documented_with_examples_and_failures(document: dict[str, Any]) -> None:
    route = document["paths"]["/v1/answers"]["post"]
    content = route["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert content["application/json"]["examples"]
    assert {"401", "413", "415", "422", "429", "503", "504"} <= set(route["responses"])


def test_the_example_of_a_reply_has_the_fields_of_one(server: Server) -> None:
    found = server.ask(picture(1), task="OD", options=json.dumps(SHORT)).json()
    assert set(found) == set(REPLY)
    assert set(found["answers"][0]) == set(REPLY["answers"][0])  # type: ignore[index]
    assert set(found["seconds"]) == set(REPLY["seconds"])


def test_options_are_those_of_the_runtime() -> None:
    assert list(Options.model_fields) == [field.name for field in fields(GenerationOptions)]


def test_docs_need_nothing_from_the_network(server: Server) -> None:
    page = server.get("/docs")
    assert page.status_code == 200
    assert "/v1/answers" in page.text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text)
    assert "<script" not in page.text
    assert server.get("/docs.css").headers["content-type"].startswith("text/css")


def test_the_page_is_served_and_nothing_beside_it(server: Server) -> None:
    index = server.get("/")
    assert index.status_code == 200
    assert "default-src 'self'" in index.headers["Content-Security-Policy"]
    assert index.headers["X-Content-Type-Options"] == "nosniff"
    tag = {"If-None-Match": index.headers["ETag"]}
    assert server.get("/", headers=tag).status_code == 304
    for file in PAGE.iterdir():
        assert server.get(f"/page/{file.name}").content == file.read_bytes(), file.name
    for name in ("../app.py", "%2e%2e/app.py", "..%2fapp.py", "/etc/passwd", "x.py", "", "a%00.js"):
        assert server.get(f"/page/{name}").status_code == 404
        assert server.get(f"/js/{name}").status_code == 404
    for name in ("drawing.js", "colours.js"):  # the page imports them from there
        assert server.get(f"/js/{name}").content == (JS / name).read_bytes()
    assert server.get("/js/__init__.py").status_code == 404


def test_tasks_say_what_they_take(server: Server) -> None:
    listed = server.get("/v1/tasks").json()["tasks"]
    assert [each["task"] for each in listed] == list(TASKS)
    assert {each["takes"] for each in listed} == {"nothing", "text", "region"}
    assert all(each["title"] and each["hint"] for each in listed)


def test_info_says_what_a_page_needs(server: Server) -> None:
    info = server.get("/v1/info").json()
    assert info["token"] == "none"
    assert info["image_size"] == 64
    assert info["device"] == "cpu"
    assert info["max_upload"] == 2**20
    assert info["defaults"]["num_beams"] >= 1


def value_of(server: Server, name: str) -> float:
    """A series of /metrics; 0 where it does not exist."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", server.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_what_was_asked(server: Server) -> None:
    def value(name: str) -> float:
        return value_of(server, name)

    names = (
        'florence_requests_total{method="POST",route="/v1/answers",status="200"}',
        'florence_answers_total{status="truncated",task="OCR"}',
        "florence_batch_size_count",
        'florence_stage_seconds_total{stage="decode"}',
        "florence_tokens_total",
        "florence_queue_seconds_count",
    )
    before = [value(name) for name in names]
    server.ask(picture(1), task="OCR", options=json.dumps(SHORT))
    assert all(value(n) > was for n, was in zip(names, before, strict=True))
    assert value("florence_queue_length") == 0.0
    assert value("florence_ready") == 1.0


def test_a_look_is_counted_once_however_many_tasks_it_answers(server: Server) -> None:
    stages = [f'florence_stage_seconds_total{{stage="{name}"}}' for name in ("vision", "decode")]
    before = [value_of(server, name) for name in stages]
    seconds = server.ask(picture(1), task="OD,OCR", options=json.dumps(SHORT)).json()["seconds"]
    vision, decode = (value_of(server, n) - was for n, was in zip(stages, before, strict=True))
    assert vision == pytest.approx(seconds["vision"])
    assert decode == pytest.approx(seconds["decode"])


def test_methods_that_clients_make_up_are_one_series(server: Server) -> None:
    for method in ("MADEUP", "INVENTED"):
        requests.request(method, server.address + "/health", timeout=60)
    assert value_of(server, 'florence_requests_total{method="other",route="/health",status="405"}')
    assert "INVENTED" not in server.get("/metrics").text
