"""What is measured of a server: throughput beside direct batches, and an overload."""

import base64
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from florence_edge import Florence2, GenerationOptions, RequestError, run_many
from florence_edge_calibration.scenes import draw_scene, generate_scene
from florence_edge_jetson.machine.system import LIVE

from ..machine import Machine, describe_machine
from .clients import Ask, Tally, ask_for, under_load

_START = 120.0  # seconds that a server may take to be ready
_STOP = 60.0
_SIDE = 640
_WARM = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How a server is asked."""

    task: str = "OD"
    pictures: int = 16
    clients: int = 16
    batch: int = 8
    rounds: int = 5
    round_seconds: float = 10.0
    overload_clients: int = 64
    queue: int = 32
    overload_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A turn of direct batches and one of the server, one after the other."""

    direct: float
    """Answers a second of `run_many` in batches, from the pictures' bytes on."""
    served: float
    """Answers a second over HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """More clients than the queue has places."""

    seconds: float
    asked: int
    statuses: dict[str, int]
    lost: int
    wrong: int
    p50: float
    p99: float
    rss_before: int
    """Bytes of the server's resident memory once it is warm."""
    rss_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeResult:
    """All of it."""

    model: str
    precision: str
    threads: int | None
    plan: LoadPlan
    rounds: list[Round]
    share: float
    """Median over the rounds of served / direct."""
    p50: float
    p99: float
    """Seconds of a request with `clients` clients."""
    lost: int
    wrong: int
    overload: Overload
    machine: Machine = field(default_factory=describe_machine)

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {"florence-bench": "serve", "schema": 1, **asdict(self)}


def measure(bundle: Path, plan: LoadPlan, threads: int | None) -> ServeResult:
    """Start a server, ask it, and have the same answers made without one.

    Raises:
        RequestError: the server does not start.
    """
    pictures = [_picture(seed) for seed in range(plan.pictures)]
    options = GenerationOptions(num_beams=1)
    with Florence2.load(bundle, threads=threads) as model:
        expected = [model.run(picture, plan.task, options=options) for picture in pictures]
        with _server(bundle, plan, threads) as (address, process):
            asks = [
                ask_for(address, _body(picture, plan.task), result.token_ids)
                for picture, result in zip(pictures, expected, strict=True)
            ]
            under_load(address, asks, clients=plan.clients, seconds=_WARM)
            rounds, tally = _rounds(model, pictures, options, address, asks, plan)
            overload = _overload(address, asks, plan, process.pid)
        return ServeResult(
            model=model.bundle.model,
            precision=model.bundle.precision,
            threads=threads,
            plan=plan,
            rounds=rounds,
            share=median(each.served / each.direct for each in rounds),
            p50=tally.percentile(50),
            p99=tally.percentile(99),
            lost=tally.lost,
            wrong=tally.wrong,
            overload=overload,
        )


def _rounds(
    model: Florence2,
    pictures: Sequence[bytes],
    options: GenerationOptions,
    address: tuple[str, int],
    asks: Sequence[Ask],
    plan: LoadPlan,
) -> tuple[list[Round], Tally]:
    """Direct and served by turns, so that what else the machine does meets both."""
    rounds, together = [], Tally()
    for _ in range(plan.rounds):
        direct = _direct(model, pictures, options, plan)
        tally, seconds = under_load(address, asks, clients=plan.clients, seconds=plan.round_seconds)
        together.add(tally)
        rounds.append(Round(direct=direct, served=tally.statuses.get(200, 0) / seconds))
    return rounds, together


def _direct(
    model: Florence2, pictures: Sequence[bytes], options: GenerationOptions, plan: LoadPlan
) -> float:
    begin = time.monotonic()

    def until_time_is_up() -> Iterator[bytes]:
        number = 0
        while time.monotonic() - begin < plan.round_seconds or number % plan.batch:
            yield pictures[number % len(pictures)]
            number += 1

    answers = run_many(model, until_time_is_up(), plan.task, options=options, batch=plan.batch)
    count = sum(1 for _ in answers)
    return count / (time.monotonic() - begin)


def _overload(address: tuple[str, int], asks: Sequence[Ask], plan: LoadPlan, pid: int) -> Overload:
    warm = min(10.0, plan.overload_seconds / 4)
    under_load(address, asks, clients=plan.overload_clients, seconds=warm)
    before = _resident(pid)
    tally, seconds = under_load(
        address, asks, clients=plan.overload_clients, seconds=plan.overload_seconds
    )
    return Overload(
        seconds=seconds,
        asked=tally.asked,
        statuses={str(status): count for status, count in sorted(tally.statuses.items())},
        lost=tally.lost,
        wrong=tally.wrong,
        p50=tally.percentile(50),
        p99=tally.percentile(99),
        rss_before=before,
        rss_after=_resident(pid),
    )


def _resident(pid: int) -> int:
    """Bytes of a process's resident memory; 0 where the system does not say."""
    status = LIVE.text(f"/proc/{pid}/status") or ""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def _server(
    bundle: Path, plan: LoadPlan, threads: int | None
) -> "Iterator[tuple[tuple[str, int], subprocess.Popen[bytes]]]":
    """A server of its own process, ready; SIGTERM ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", free.getsockname()[1])
    command = [sys.executable, "-m", "florence_edge_serve", str(bundle)]
    command += ["--port", str(address[1]), "--batch", str(plan.batch), "--queue", str(plan.queue)]
    command += [] if threads is None else ["--threads", str(threads)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _until_ready(address, process)
        yield address, process
    finally:
        process.terminate()
        process.wait(_STOP)


def _until_ready(address: tuple[str, int], process: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < give_up:
        try:
            socket.create_connection(address, 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RequestError(
        "The server did not start. Try `florence-serve BUNDLE` by hand; it needs the extra `serve`."
    )


def _picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    draw_scene(generate_scene(seed), _SIDE).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _body(picture: bytes, task: str) -> bytes:
    body = {
        "image": base64.b64encode(picture).decode(),
        "task": task,
        "options": {"num_beams": 1},
    }
    return json.dumps(body).encode()
