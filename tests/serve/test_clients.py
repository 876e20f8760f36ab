"""Other servers' protocols, spoken by their own clients."""

import base64
import json
from typing import Any

import pytest
import requests

from florence_edge import Florence2, GenerationOptions

from .serving import OPTIONS, SHORT, Server, picture, said

PICTURE = picture(3)
URL = "data:image/png;base64," + base64.b64encode(PICTURE).decode()


def messages(text: str | None, url: str = URL) -> list[Any]:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}}]
    if text is not None:
        parts.append({"type": "text", "text": text})
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]


# OpenAI.


@pytest.fixture
def openai_client(server: Server) -> Any:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=server.address + "/v1", api_key="any", max_retries=0) as client:
        yield client


def test_openais_client_asks_a_task(openai_client: Any, tiny_model: Florence2) -> None:
    expected = tiny_model.run(PICTURE, "OD", options=OPTIONS)
    reply = openai_client.chat.completions.create(
        model="florence", messages=messages("<OD>"), extra_body={"options": SHORT}
    )
    assert reply.choices[0].message.content == expected.text
    found = reply.choices[0].message.florence2_result
    assert found == json.loads(json.dumps(expected.to_hf()))
    assert reply.choices[0].finish_reason == "length"  # nine tokens do not suffice
    assert reply.usage.completion_tokens == len(expected.token_ids)
    assert reply.usage.total_tokens > reply.usage.completion_tokens + 4


def test_openais_client_gets_the_text_while_it_is_made(
    openai_client: Any, tiny_model: Florence2
) -> None:
    pieces: list[str] = []
    expected = tiny_model.run(PICTURE, "CAPTION", options=OPTIONS, on_text=pieces.append)
    chunks = list(
        openai_client.chat.completions.create(
            model="florence",
            messages=messages("<CAPTION>"),
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"options": {"num_beams": 1}},
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert [delta.content for delta in deltas if delta.content] == pieces
    assert deltas[-1].florence2_result == expected.to_hf()
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == len(expected.token_ids)


@pytest.mark.parametrize(
    ("text", "task", "input_text"),
    [
        ("<CAPTION_TO_PHRASE_GROUNDING> a red car ", "CAPTION_TO_PHRASE_GROUNDING", "a red car"),
        (
            "<REGION_TO_OCR><loc_1><loc_2><loc_300><loc_400>",
            "REGION_TO_OCR",
            "<loc_1><loc_2><loc_300><loc_400>",
        ),
        (None, "MORE_DETAILED_CAPTION", None),
    ],
)
def test_a_chat_names_a_task_with_what_goes_with_it(
    server: Server, tiny_model: Florence2, text: str | None, task: str, input_text: str | None
) -> None:
    body = {"messages": messages(text), "options": SHORT}
    reply = server.post("/v1/chat/completions", json=body).json()
    expected = tiny_model.run(PICTURE, task, input_text, options=OPTIONS)
    assert reply["choices"][0]["message"]["content"] == expected.text


def test_a_chat_asks_in_its_own_words(server: Server, tiny_model: Florence2) -> None:
    for words in ("What is < 3?", "<b>What</b> is it?"):
        body = {"messages": messages(words), "options": SHORT}
        reply = server.post("/v1/chat/completions", json=body).json()
        expected = tiny_model.ask(PICTURE, words, options=OPTIONS)
        assert reply["choices"][0]["message"]["content"] == expected.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": messages("<OD>", "http://example/x.jpg")}, "fetches no URLs"),
        ({"messages": messages("<OD>", "x.jpg")}, "not a `data:` URL"),
        ({"messages": [{"role": "user", "content": "<OD>"}]}, "0 pictures"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no message of the user"),
        ({"messages": []}, "messages"),
        ({"messages": messages("<ODD>")}, "no task 'ODD'"),
        ({"messages": messages("<OD> cars")}, "takes no text"),
        ({"n": 2}, "`n` is 2"),
        ({"options": {"beams": 1}}, "no field `beams`"),
        ({"max_tokens": -1}, "max_new_tokens is -1"),
    ],
)
def test_a_chat_that_cannot_be_answered_says_why(
    server: Server, change: dict[str, Any], says: str
) -> None:
    reply = server.post("/v1/chat/completions", json={"messages": messages("<OD>"), **change})
    assert reply.status_code == 422
    assert says in reply.json()["error"]["message"]


def test_openais_client_raises_its_own_errors(openai_client: Any) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.UnprocessableEntityError, match="fetches no URLs"):
        openai_client.chat.completions.create(
            model="x", messages=messages("<OD>", "https://example/x.jpg")
        )


def test_openais_client_lists_the_model(openai_client: Any, server: Server) -> None:
    (model,) = openai_client.models.list().data
    assert model.id == server.service.name
    assert openai_client.models.retrieve(model.id).owned_by == "florence-edge"
    assert server.get("/v1/models/other").status_code == 404


# DeepStack, and Frigate's way to call it.


def predictions(model: Florence2, least: float) -> list[dict[str, Any]]:
    regions = [each for each in model.run(PICTURE, "OD").regions if each.score >= least]
    found = [
        {
            "label": each.label,
            "confidence": each.score,
            **dict(zip(("x_min", "y_min", "x_max", "y_max"), map(round, each.box), strict=True)),
        }
        for each in regions
    ]
    return sorted(found, key=lambda each: -each["confidence"])


def test_deepstacks_client_detects(server: Server, tiny_model: Florence2) -> None:
    deepstack = pytest.importorskip("deepstack_sdk")
    detection = deepstack.Detection(deepstack.ServerConfig(server.address))
    found = detection.detectObject(PICTURE, min_confidence=0.0)
    fields = ("label", "x_min", "y_min", "x_max", "y_max")
    expected = predictions(tiny_model, 0.0)
    assert [{name: getattr(each, name) for name in fields} for each in found] == [
        {name: each[name] for name in fields} for each in expected
    ]


def test_frigate_gets_the_surest_first(server: Server, tiny_model: Florence2) -> None:
    """Its plugin posts `image` and `api_key`, and stops at the first that is not sure."""
    reply = requests.post(
        server.address + "/v1/vision/detection",
        data={"api_key": ""},
        files={"image": ("image.jpg", PICTURE)},
        timeout=60,
    ).json()
    confidences = [each["confidence"] for each in reply["predictions"]]
    assert confidences == sorted(confidences, reverse=True)
    assert len(confidences) == len(predictions(tiny_model, 0.4))
    assert reply["success"] is True


def test_a_confidence_that_is_none_is_refused(server: Server) -> None:
    reply = server.post(
        "/v1/vision/detection", files={"image": PICTURE}, data={"min_confidence": "high"}
    )
    assert reply.status_code == 422
    assert server.post("/v1/vision/detection", json={}).status_code == 415
    assert server.post("/v1/vision/detection", files={"a": b""}).status_code == 422


# Roboflow; its own client is in test_roboflow_sdk.py.


@pytest.mark.parametrize("path", ["/infer/lmm", "/infer/lmm/florence-2-base"])
def test_roboflows_body_is_answered(server: Server, tiny_model: Florence2, path: str) -> None:
    image = {"type": "base64", "value": base64.b64encode(PICTURE).decode()}
    body = {"image": image, "prompt": "<OD>", "model_id": "florence-2-base", "max_new_tokens": 9}
    reply = server.post(path, json=body).json()
    expected = tiny_model.run(PICTURE, "OD", options=GenerationOptions(max_new_tokens=9))
    assert reply["response"] == json.loads(json.dumps(said(expected)["result"]))
    assert reply["image"] == {"width": 60, "height": 50}
    url = server.post(path, json={**body, "image": {"type": "url", "value": "http://x/y"}})
    assert url.status_code == 422
    both = server.post(path, json={**body, "image": [image, image]})
    assert both.status_code == 422
