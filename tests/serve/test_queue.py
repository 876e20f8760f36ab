"""The queue: who waits, who is refused, who leaves, and an engine that fails."""

import asyncio
import base64
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from florence_edge import Florence2, ImageOptions, Result, prepare_images
from florence_edge.tasks import prompt_for
from florence_edge_serve.batching import Asked, Batcher, Job
from florence_edge_serve.schema import Ask, parsed, wanted
from florence_edge_serve.service import Service
from florence_edge_serve.settings import Settings

from .serving import OPTIONS as SHORT_OPTIONS
from .serving import (
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

OPTIONS = json.dumps(SHORT)


def ask(server: Server, seed: int, **more: Any) -> requests.Response:
    return server.ask(picture(seed), task="OD", options=OPTIONS, **more)


def expected(model: Florence2, seed: int) -> dict[str, Any]:
    return said(model.run(picture(seed), "OD", options=SHORT_OPTIONS))


def test_what_waits_at_the_same_time_is_answered_together(
    gate: Gate, tiny_model: Florence2
) -> None:
    with serving(gate, Settings(batch=4)) as server, ThreadPoolExecutor(9) as pool:
        with gate.shut():
            first = pool.submit(ask, server, 0)
            gate.arrived.acquire()
            others = [pool.submit(ask, server, seed) for seed in range(1, 7)]
            assert eventually(lambda: len(server.service.batcher._waiting) == 6)
        replies = [each.result() for each in (first, *others)]
    assert gate.batches == [1, 4, 2]
    for seed, reply in enumerate(replies):
        assert answered(reply.json()["answers"][0]) == expected(tiny_model, seed)


def test_who_finds_the_queue_full_is_told_to_come_again(gate: Gate) -> None:
    with serving(gate, Settings(batch=1, queue=2)) as server, ThreadPoolExecutor(9) as pool:
        with gate.shut():
            taken = [pool.submit(ask, server, 0)]
            gate.arrived.acquire()
            taken += [pool.submit(ask, server, seed) for seed in (1, 2)]
            assert eventually(lambda: server.service.batcher.waiting == 2)
            refused = ask(server, 3)
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["type"] == "queue_full"
            assert server.get("/ready").json()["waiting"] == 2
        assert [each.result().status_code for each in taken] == [200] * 3
        assert ask(server, 3).status_code == 200


def test_who_has_no_turn_before_the_deadline_is_told_at_once(gate: Gate) -> None:
    with serving(gate, Settings(batch=1)) as server, ThreadPoolExecutor(2) as pool:
        with gate.shut():
            first = pool.submit(ask, server, 0)
            gate.arrived.acquire()
            begin = time.monotonic()
            late = ask(server, 1, deadline="0.2")
            assert late.status_code == 504
            assert time.monotonic() - begin < 20
            assert server.service.batcher.waiting == 0
        assert first.result().status_code == 200


def test_a_deadline_that_passes_midway_cuts_the_answer_short(gate: Gate) -> None:
    with serving(gate) as server, ThreadPoolExecutor(1) as pool:
        with gate.shut():
            reply = pool.submit(ask, server, 0, deadline="0.3")
            gate.arrived.acquire()
            time.sleep(0.6)
        assert reply.result().status_code == 200
        assert reply.result().json()["status"] == "truncated"


def test_a_client_that_leaves_stops_its_own_row_alone(gate: Gate, tiny_model: Florence2) -> None:
    with serving(gate, Settings(batch=4)) as server, ThreadPoolExecutor(4) as pool:
        with gate.shut():
            first = pool.submit(ask, server, 0)
            gate.arrived.acquire()
            leaving = _open_request(server, 1)
            staying = pool.submit(ask, server, 2)
            assert eventually(lambda: len(server.service.batcher._waiting) == 2)
            leaving.close()
            assert eventually(lambda: server.service.batcher.waiting == 1)
        for seed, reply in ((0, first), (2, staying)):
            found = reply.result().json()["answers"][0]
            assert answered(found) == expected(tiny_model, seed)
        assert eventually(lambda: 'status="499"' in server.get("/metrics").text)


def test_a_client_that_leaves_the_engine_frees_its_place(gate: Gate, tiny_model: Florence2) -> None:
    with serving(gate, Settings(batch=4)) as server, ThreadPoolExecutor(4) as pool:
        with gate.shut():
            leaving = _open_request(server, 1)
            gate.arrived.acquire()
            (job,) = server.service.batcher._active
            leaving.close()
            assert eventually(job.cancel.is_set)
            staying = pool.submit(ask, server, 2)
        assert answered(staying.result().json()["answers"][0]) == expected(tiny_model, 2)


def test_whoever_waits_for_answers_cannot_end_the_engine(tiny_model: Florence2) -> None:
    """A client that leaves just when its answer is complete cancels what it waits for."""
    results: list[bool] = []

    def leave(number: int, result: Result) -> None:
        results.append(leaving.future.cancel())

    prompt = prompt_for("OD", None, None, None)
    options = replace(SHORT_OPTIONS, max_new_tokens=3)
    batcher = Batcher(tiny_model, batch=2, queue=2)
    leaving, staying = (
        Job(
            prepared=prepare_images([picture(seed)], 64).without_pictures(),
            asked=[Asked(prompt=prompt, options=options)],
            on_answer=on_answer,
        )
        for seed, on_answer in ((1, leave), (2, None))
    )
    for job in (leaving, staying):
        batcher.reserve()
        batcher.submit(job)
    batcher.start()
    (found,) = staying.future.result(TIMEOUT)
    batcher.close(TIMEOUT)
    assert results == [False]
    assert said(found) == said(tiny_model.run(picture(2), "OD", options=options))


def test_a_client_that_leaves_the_queue_is_cancelled_and_no_more(gate: Gate) -> None:
    async def leave(service: Service) -> BaseException | None:
        service.start()
        asked = wanted(parsed(Ask, {"task": "OD"}))
        with gate.shut():
            first = asyncio.create_task(service.answer(picture(0), asked))
            await asyncio.to_thread(gate.arrived.acquire)
            leaving = asyncio.create_task(service.answer(picture(1), asked))
            while not service.batcher._waiting:
                await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.wait({leaving})
        await first
        await service.close()
        return None if leaving.cancelled() else leaving.exception()

    assert asyncio.run(leave(Service(gate, Settings(batch=1)))) is None  # type: ignore[arg-type]


def _open_request(server: Server, seed: int) -> http.client.HTTPConnection:
    """A request that waits for its answer."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    body = {
        "image": base64.b64encode(picture(seed)).decode(),
        "task": ["OD", "CAPTION"],
        "options": SHORT,
    }
    connection.request(
        "POST", "/v1/answers", json.dumps(body), {"Content-Type": "application/json"}
    )
    return connection


def test_a_question_that_fails_takes_no_neighbour_along(gate: Gate, tiny_model: Florence2) -> None:
    sizes = {71: (71, 50)}
    gate.fail = lambda questions: any(each.image_size == sizes[71] for each in questions)
    with serving(gate, Settings(batch=4)) as server, ThreadPoolExecutor(4) as pool:
        with gate.shut():
            replies = [pool.submit(ask, server, 0)]
            gate.arrived.acquire()
            bad = pool.submit(server.ask, picture(1, sizes[71]), task="OD", options=OPTIONS)
            replies += [pool.submit(ask, server, seed) for seed in (1, 2)]
            assert eventually(lambda: len(server.service.batcher._waiting) == 3)
        for seed, reply in enumerate(replies):
            assert answered(reply.result().json()["answers"][0]) == expected(tiny_model, seed)
        assert bad.result().status_code == 503
        assert "on fire" in bad.result().json()["error"]["message"]
        assert server.get("/health").status_code == 200  # the engine itself works


def test_a_broken_engine_is_503_until_it_works_again(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("florence_edge_serve.batching._RETRY", 0.05)
    with serving(gate) as server:
        gate.broken = True
        assert ask(server, 0).status_code == 503
        refused = ask(server, 0)
        assert refused.status_code == 503
        assert refused.json()["error"]["type"] == "engine_broken"
        assert "Retry-After" in refused.headers
        assert server.get("/health").status_code == server.get("/ready").status_code == 503
        gate.broken = False
        assert eventually(lambda: server.get("/health").status_code == 200)
        assert ask(server, 0).status_code == 200


def test_many_clients_on_a_small_queue_lose_nothing_and_mix_nothing_up(
    tiny_model: Florence2,
) -> None:
    """The short form of `florence-bench serve`: 64 clients, a queue of 32, two rounds."""
    clients, rounds, kinds = 64, 2, 4
    tasks = ("OD", "CAPTION", "OCR_WITH_REGION")
    options = SHORT_OPTIONS
    right = {
        (seed, task): said(tiny_model.run(picture(seed), task, options=options))
        for seed in range(kinds)
        for task in tasks
    }
    together = threading.Barrier(clients)
    counted: dict[int, int] = {}
    lock = threading.Lock()

    with serving(tiny_model, Settings(queue=32)) as server:

        def client(number: int) -> None:
            together.wait(60)
            for turn in range(rounds):
                seed, task = (number + turn) % kinds, tasks[(number + turn) % len(tasks)]
                reply = server.ask(picture(seed), task=task, options=OPTIONS)
                with lock:
                    counted[reply.status_code] = counted.get(reply.status_code, 0) + 1
                if reply.status_code == 200:
                    assert answered(reply.json()["answers"][0]) == right[seed, task]
                else:
                    assert reply.headers["Retry-After"]

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(client, range(clients)))
        assert server.service.batcher.waiting == server.service.batcher.active == 0
    assert sum(counted.values()) == clients * rounds
    assert set(counted) <= {200, 429}
    assert counted[200] >= clients


def test_a_slow_upload_ends_and_keeps_nobody_waiting(tiny_model: Florence2) -> None:
    with serving(tiny_model, Settings(upload_timeout=0.5)) as server:
        slow = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
        slow.putrequest("POST", "/v1/answers")
        slow.putheader("Content-Type", "application/json")
        slow.putheader("Content-Length", "1000")
        slow.endheaders()
        slow.send(b'{"image": "')
        assert ask(server, 0).status_code == 200
        assert slow.getresponse().status == 408


def test_pictures_of_many_pixels_are_refused_before_they_are_decoded(
    tiny_model: Florence2,
) -> None:
    strict = Florence2(
        tiny_model.bundle,
        tiny_model.backend,
        tiny_model._tokenizer,
        image_options=ImageOptions(max_pixels=60 * 50 - 1),
    )
    with serving(strict) as server:
        refused = server.ask(picture(1)[:200], task="OD")  # its head alone is read
        assert refused.status_code == 413
        assert "3,000 pixels" in refused.json()["error"]["message"]
