"""`POST /v1/answers`: what is asked, what comes back, and what is refused."""

import base64
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from florence_edge import TASKS, AnswerKind, Florence2, Needs, Result, Task
from florence_edge_serve.settings import Settings

from .serving import OPTIONS, SHORT, Server, answered, picture, said, serving

JSON_OPTIONS = json.dumps(SHORT)
PICTURE = picture(1)


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def ask(server: Server, **body: Any) -> Any:
    return server.post("/v1/answers", json={"image": base64_of(PICTURE), **body})


def test_every_task_is_answered_as_the_runtime_does(server: Server, tiny_model: Florence2) -> None:
    tasks: list[dict[str, Any]] = [
        {
            "task": name,
            **({"text": "a red car"} if task.needs is Needs.TEXT else {}),
            **({"region": [5, 6, 40, 30]} if task.needs is Needs.REGION else {}),
        }
        for name, task in TASKS.items()
    ]
    reply = ask(server, tasks=tasks, options=SHORT)
    assert reply.status_code == 200, reply.text
    view = tiny_model.encode(PICTURE, options=OPTIONS)
    expected = [view.run(t["task"], t.get("text"), region=t.get("region")) for t in tasks]
    found = reply.json()
    assert [answered(each) for each in found["answers"]] == [said(each) for each in expected]
    assert found["image"] == {"width": 60, "height": 50}
    assert set(found["result"]) == {task.token for task in TASKS.values()}
    assert found["id"] == reply.headers["X-Request-Id"]
    assert found["seconds"]["total"] > found["seconds"]["vision"] > 0


def test_a_form_and_json_ask_the_same(server: Server) -> None:
    region = "5,6,40,30"
    form = server.ask(
        PICTURE, task="CAPTION,REGION_TO_OCR", region=region, options=JSON_OPTIONS, min_score="0.0"
    )
    body = ask(server, task=["CAPTION", "<REGION_TO_OCR>"], region=[5, 6, 40, 30], options=SHORT)
    url = server.post(
        "/v1/answers",
        json={
            "image": f"data:image/png;base64,{base64_of(PICTURE)}",
            "task": ["CAPTION", "REGION_TO_OCR"],
            "region": "5, 6, 40, 30",
            "options": SHORT,
        },
    )
    assert form.status_code == 200, form.text
    assert form.json()["result"] == body.json()["result"] == url.json()["result"]


@pytest.mark.parametrize(
    "region", ["10%,20%,50%,60%", [6, 10, 30, 30], "<loc_100><loc_200><loc_500><loc_600>"]
)
def test_a_region_may_be_pixels_percent_or_tokens(server: Server, region: object) -> None:
    reply = ask(server, task="REGION_TO_OCR", region=region, options=SHORT)
    assert reply.status_code == 200, reply.text
    (answer,) = reply.json()["answers"]
    assert answer["text_input"] == "<loc_100><loc_200><loc_500><loc_600>"
    left, top, right, bottom = answer["asked_region"]
    assert abs(left - 6) + abs(top - 10) + abs(right - 30) + abs(bottom - 30) <= 4


def test_a_prompt_in_ones_own_words(server: Server, tiny_model: Florence2) -> None:
    reply = ask(server, prompt="how many cars?", options=SHORT)
    expected = tiny_model.ask(PICTURE, "how many cars?", options=OPTIONS)
    assert reply.json()["answers"][0]["token_ids"] == list(expected.token_ids)


def test_an_answer_that_runs_out_of_time_is_truncated(server: Server) -> None:
    reply = ask(server, task="OD", options={"num_beams": 1, "max_time": 1e-9})
    assert reply.status_code == 200
    assert reply.json()["status"] == reply.json()["answers"][0]["status"] == "truncated"


def test_a_picture_is_turned_upright(server: Server) -> None:
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    reply = server.ask(buffer.getvalue(), task="OD", options=JSON_OPTIONS)
    assert reply.json()["image"] == {"width": 20, "height": 40}


def test_text_is_streamed_and_the_whole_reply_comes_last(server: Server) -> None:
    with server.post(
        "/v1/answers",
        files={"image": PICTURE},
        data={"task": "CAPTION,OD", "options": JSON_OPTIONS, "stream": "true"},
        stream=True,
    ) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = reply.content.decode().strip().split("\n\n")
    read = [
        (event.split("\n")[0].removeprefix("event: "), json.loads(event.split("data: ", 1)[1]))
        for event in events
    ]
    done = read[-1][1]
    assert read[-1][0] == "done"
    whole = ask(server, task=["CAPTION", "OD"], options=SHORT).json()
    assert done["result"] == whole["result"]
    for index, answer in enumerate(done["answers"]):
        pieces = [c["text"] for kind, c in read if kind == "text" and c["index"] == index]
        spoken = answer["raw_text"]
        for marker in ("<s>", "</s>", "<pad>"):
            spoken = spoken.replace(marker, "")
        assert "".join(pieces) == spoken
        given = [c["answer"] for kind, c in read if kind == "answer" and c["index"] == index]
        assert [answered(each) for each in given] == [answered(answer)]


# What is refused.


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "Give `task`, `tasks` or `prompt`"),
        ({"task": "OD", "prompt": "x"}, "got task and prompt"),
        ({"task": "ODD"}, "There is no task 'ODD'"),
        ({"task": []}, "No task is named"),
        ({"task": ["OD"] * 33}, "33 tasks are asked"),
        ({"task": "OD", "text": "car"}, "takes no text"),
        ({"task": "CAPTION_TO_PHRASE_GROUNDING"}, "needs a text"),
        ({"task": "REGION_TO_OCR"}, "needs a region"),
        ({"task": "REGION_TO_OCR", "region": [1, 2, 3]}, "is not a region"),
        ({"task": "REGION_TO_OCR", "region": "a,b"}, "is not a region"),
        ({"task": "REGION_TO_OCR", "region": [5, 5, 900, 40]}, "leaves the picture"),
        ({"task": "OD", "options": {"num_beams": 99}}, "num_beams is 99"),
        ({"task": "OD", "options": {"beams": 1}}, "no field `options.beams`"),
        ({"task": "OD", "options": {"num_beams": "1"}}, "`options.num_beams`"),
        ({"task": "OD", "min_score": 2}, "`min_score`"),
        ({"task": "OD", "deadline": 0}, "`deadline`"),
        ({"task": "OD", "taks": 1}, "no field `taks`"),
        ({"tasks": [{"task": "OD", "prompt": "x"}]}, "one of the two"),
        ({"tasks": [{"task": "OD"}], "text": "x"}, "stand in each"),
        ({"task": "CAPTION_TO_PHRASE_GROUNDING", "text": "w " * 9000}, "Shorten the text"),
        ({"task": "OD", "image": "http://example/x.jpg"}, "fetches no URLs"),
        ({"task": "OD", "image": "&&&"}, "is not base64"),
        ({"task": "OD", "image": ""}, "is empty"),
        ({"task": "OD", "image": "data:image/png,abc"}, "in base64"),
        ({"task": "OD", "image": 5}, "`image`"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(
    server: Server, body: dict[str, Any], says: str
) -> None:
    reply = ask(server, **body)
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert says in error["message"]
    assert error["code"] == 422
    assert error["type"] == "invalid_request"


def test_what_is_not_a_picture_is_415_and_a_damaged_one_422(server: Server) -> None:
    assert server.ask(b"no picture", task="OD").status_code == 415
    assert server.ask(PICTURE[:60], task="OD").status_code == 422


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_422(server: Server, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert server.post("/v1/answers", data=content, headers=headers).status_code == 422


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, b"x", 415),
        ({}, b"x", 415),
        ({"Content-Type": "multipart/form-data"}, b"x", 422),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"x", 422),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--\r\n", 422),
    ],
)
def test_a_body_of_another_type_is_refused(
    server: Server, headers: dict[str, str], content: bytes, status: int
) -> None:
    assert server.post("/v1/answers", data=content, headers=headers).status_code == status


def test_answers_are_cleaned_where_the_client_or_the_server_says_so(
    server: Server, tiny_model: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Result, "clean", lambda self: replace(self, text="cleaned"))

    def cleaned(reply: Any) -> bool:
        assert reply.status_code == 200, reply.text
        return bool(reply.json()["answers"][0]["text"] == "cleaned")

    assert not cleaned(ask(server, task="OD", options=SHORT))
    assert cleaned(ask(server, task="OD", options=SHORT, clean=True))
    assert cleaned(server.ask(PICTURE, task="OD", options=JSON_OPTIONS, clean="true"))
    with serving(tiny_model, Settings(clean=True)) as clean:
        assert cleaned(ask(clean, task="OD", options=SHORT))


def test_a_form_that_is_wrong_is_refused(server: Server) -> None:
    assert server.post("/v1/answers", data={"task": "OD"}).status_code == 415
    twice = {"image": PICTURE, "other": PICTURE}
    assert server.post("/v1/answers", files=twice, data={"task": "OD"}).status_code == 422
    assert server.ask(PICTURE, task="OD", options="{").status_code == 422
    assert server.ask(PICTURE, task="OD", min_score="high").status_code == 422
    assert server.ask(PICTURE, task="OD", stream="maybe").status_code == 422


def test_too_large_a_request_is_refused_before_it_is_read(server: Server) -> None:
    most = server.service.settings.max_upload
    assert server.ask(b"x" * (most + 1), task="OD").status_code == 413
    chunked = server.post(
        "/v1/answers",
        data=(b"x" * 65536 for _ in range(most // 65536 + 2)),
        headers={"Content-Type": "application/json"},
    )
    assert chunked.status_code == 413
    assert chunked.json()["error"]["type"] == "payload_too_large"


def test_another_path_or_method_is_told_in_the_same_shape(server: Server) -> None:
    assert server.get("/nothing").json()["error"]["code"] == 404
    assert server.get("/v1/answers").json()["error"]["code"] == 405


def test_a_mistake_of_the_server_is_told_with_the_id_that_its_log_has(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(server.service, "answer", answer)
    reply = server.ask(PICTURE, task="OD")
    assert reply.status_code == 500
    assert reply.json()["id"] == reply.headers["X-Request-Id"]
    assert reply.json()["error"]["type"] == "internal_error"
    assert "a mistake" not in reply.text
    assert "ZeroDivisionError: a mistake" in caplog.text


def test_a_models_own_task_is_asked_like_the_15(tiny_model: Florence2) -> None:
    own = Task("<FIND>", TASKS["OD"].template, AnswerKind.BOXES_WITH_LABELS)
    bundle = replace(tiny_model.bundle, tasks=(own,))
    tuned = Florence2(bundle, tiny_model.backend, tiny_model._tokenizer)
    with serving(tuned) as server:
        usual = server.ask(PICTURE, task="OD").json()["answers"][0]
        asked = [server.ask(PICTURE, task="FIND").json()["answers"][0]]
        asked += ask(server, tasks=[{"task": "<FIND>"}, {"task": "OD"}]).json()["answers"][:1]
        for answer in asked:
            assert answer["token_ids"] == usual["token_ids"]
            assert set(answer["result"]) == {"<FIND>"}
        url = f"data:image/png;base64,{base64_of(PICTURE)}"
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "<FIND>"},
        ]
        chat = {"messages": [{"role": "user", "content": parts}]}
        found = server.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]
        assert set(found["florence2_result"]) == {"<FIND>"}
        listed = server.get("/v1/tasks").json()["tasks"]
        assert listed[-1]["task"] == "FIND"
        assert server.get("/v1/info").json()["own_tasks"] == listed[-1:]
        assert 'task="FIND"' in server.get("/metrics").text
        assert server.ask(PICTURE, task="FOUND").status_code == 422
