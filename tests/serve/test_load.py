"""What `florence-bench serve` counts, against servers whose replies are known."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from florence_edge import Florence2
from florence_edge_benchmarks.serve.clients import Ask, Tally, _from, ask_for, under_load
from florence_edge_serve.settings import Settings

from .serving import OPTIONS, SHORT, Gate, Server, picture, serving


def place_of(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.address)
    return str(parts.hostname), int(parts.port or 0)


def asks_for(server: Server, model: Florence2, seeds: range) -> list[Ask]:
    return [
        ask_for(
            place_of(server),
            json.dumps(
                {
                    "image": base64.b64encode(picture(seed)).decode(),
                    "task": "OD",
                    "options": SHORT,
                }
            ).encode(),
            model.run(picture(seed), "OD", options=OPTIONS).token_ids,
        )
        for seed in seeds
    ]


def test_right_answers_are_counted_and_a_wrong_one_is_seen(
    server: Server, tiny_model: Florence2
) -> None:
    right = asks_for(server, tiny_model, range(3))
    tally, seconds = under_load(place_of(server), right, clients=4, seconds=0.3)
    assert set(tally.statuses) == {200}
    assert tally.statuses[200] == tally.asked == len(tally.latencies) >= 4
    assert (tally.wrong, tally.lost) == (0, 0)
    assert 0 < tally.percentile(50) <= tally.percentile(99) <= seconds
    swapped = [Ask(right[0].request, b'"token_ids":[1,2]')]
    tally, _ = under_load(place_of(server), swapped, clients=1, seconds=0.01)
    assert tally.wrong == tally.asked == 1


def test_who_is_told_that_the_queue_is_full_is_counted_apart(
    gate: Gate, tiny_model: Florence2
) -> None:
    with serving(gate, Settings(batch=1, queue=1)) as server:
        asks = asks_for(server, tiny_model, range(1))
        opens = threading.Timer(0.6, gate.open.set)
        gate.open.clear()
        opens.start()
        tally, _ = under_load(place_of(server), asks, clients=5, seconds=0.1)
        opens.join()
    assert tally.statuses[429] >= 3
    assert tally.statuses[200] == len(tally.latencies) <= 2
    assert tally.wrong == 0


@contextmanager
def cut_short() -> Iterator[tuple[str, int]]:
    """A server that promises more than it sends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):  # until the end of the test
                while True:
                    connection, _ = listening.accept()
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        yield listening.getsockname()[:2]


def test_a_reply_that_breaks_off_is_lost() -> None:
    with cut_short() as address:
        ask = ask_for(address, b"{}", [1])
        tally, _ = under_load(address, [ask], clients=1, seconds=0.005)
    assert tally.lost >= 1
    assert tally.statuses == {}


def test_clients_begin_with_different_pictures() -> None:
    asks = [Ask(letter.encode(), b"") for letter in "abc"]
    assert [_from(number, asks)[0].request for number in range(5)] == [b"a", b"b", b"c", b"a", b"b"]


def test_percentiles_of_nothing_are_zero() -> None:
    assert Tally().percentile(99) == 0.0
    assert Tally(latencies=[3.0, 1.0, 2.0]).percentile(50) == 2.0
