"""Clients that ask a server as fast as it answers, at little cost to the machine they share.

Each is a thread with one connection and requests that were made before; of a reply it reads the
status, the length and whether the token ids are the right ones.
"""

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_TIMEOUT = 120.0
_PAUSE = 0.2  # seconds before one that found the queue full asks again


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as bytes, and the token ids of the only right answer."""

    request: bytes
    token_ids: bytes


@dataclass(slots=True)
class Tally:
    """What one client or all of them counted."""

    statuses: dict[int, int] = field(default_factory=dict)
    wrong: int = 0
    lost: int = 0
    latencies: list[float] = field(default_factory=list)
    """Seconds of the requests that were answered."""
    asked: int = 0

    def add(self, other: "Tally") -> None:
        """Add another's."""
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        self.wrong += other.wrong
        self.lost += other.lost
        self.asked += other.asked
        self.latencies += other.latencies

    def percentile(self, percent: float) -> float:
        """Seconds within which so many of a hundred were answered; 0 if none was."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def ask_for(address: tuple[str, int], body: bytes, token_ids: Sequence[int]) -> Ask:
    """A request to /v1/answers with this JSON."""
    host = f"{address[0]}:{address[1]}"
    head = (
        f"POST /v1/answers HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    ids = ",".join(map(str, token_ids))
    return Ask(head.encode() + body, f'"token_ids":[{ids}]'.encode())


def under_load(
    address: tuple[str, int], asks: Sequence[Ask], *, clients: int, seconds: float
) -> tuple[Tally, float]:
    """Have so many clients ask for so long.

    Returns:
        What they counted together, and the seconds until the last of them had its last reply.
    """
    begin = time.monotonic()
    tallies = [Tally() for _ in range(clients)]
    threads = [
        threading.Thread(target=_ask, args=(address, _from(number, asks), tally, seconds))
        for number, tally in enumerate(tallies)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = Tally()
    for tally in tallies:
        together.add(tally)
    return together, time.monotonic() - begin


def _from(number: int, asks: Sequence[Ask]) -> Sequence[Ask]:
    """The same from another one on, so that clients ask different things at a time."""
    first = number % len(asks)
    return (*asks[first:], *asks[:first])


def _ask(address: tuple[str, int], asks: Sequence[Ask], tally: Tally, seconds: float) -> None:
    end = time.monotonic() + seconds
    number = 0
    connection = socket.create_connection(address, _TIMEOUT)
    try:
        while time.monotonic() < end:
            ask = asks[number % len(asks)]
            number += 1
            tally.asked += 1
            begin = time.monotonic()
            try:
                connection.sendall(ask.request)
                status, body = _read(connection)
            except (OSError, ValueError):
                tally.lost += 1
                connection.close()
                connection = socket.create_connection(address, _TIMEOUT)
                continue
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
            if status == 200:
                tally.latencies.append(time.monotonic() - begin)
                tally.wrong += ask.token_ids not in body
            else:
                time.sleep(_PAUSE)
    finally:
        connection.close()


def _read(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of a reply.

    Raises:
        OSError, ValueError: there is none, or not all of it.
    """
    head, body = b"", b""
    while not body and b"\r\n\r\n" not in head:
        part = connection.recv(65536)
        if not part:
            raise ValueError("the server closed the connection")
        head += part
    head, _, body = head.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        part = connection.recv(65536)
        if not part:
            raise ValueError("the reply is cut short")
        body += part
    return int(head.split(b" ", 2)[1]), body
