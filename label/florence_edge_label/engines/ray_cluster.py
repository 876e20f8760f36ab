"""Workers on a Ray cluster: an actor each, which supervises one process on its node.

Ray spreads shards and nothing else. It retries nothing (its own retries have no end by default, and
know no picture), keeps no checkpoint and writes no file: parts come back to whoever started the
run. An actor or a node that is lost gives its shards back.
"""

import logging
import os
import platform
import socket
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from florence_edge import BackendError, Device, FlorenceEdgeError, MissingPackageError, RequestError
from florence_edge.cpu import usable_cores
from florence_edge.extras import pip_install

from ..labeller import Part, Shard, WorkerSettings
from ..storage import is_url
from ..supervised import SupervisedWorker
from .capacity import check_cpus

logger = logging.getLogger(__name__)

_AT_ONCE = 2  # shards that an actor has, so that it need not wait while a part is written
_MAX_LOSSES = 5  # of actors over one shard
_POLL = 1.0  # seconds between two looks for free CPUs
_CONNECTING = 10.0  # seconds
_OBJECT_STORE = 256 << 20  # bytes; parts pass through it, and are small


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """Which cluster, and what to take of it."""

    address: str
    """`local` for a cluster of this machine alone, `auto`, `host:port` or `ray://host:10001`."""
    workers: int | None = None
    """By default as many as fit."""
    threads: int | None = None
    """CPUs of a worker; 1 by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that was reached, and how many workers it gets."""

    ray: Any
    workers: int
    cpus: int
    """Of a worker."""
    gpus: int
    """Of a worker: 0 or 1."""
    nodes: int
    dashboard: str = ""
    """Its address; empty without `ray[default]`."""

    @property
    def threads(self) -> int | None:
        """Of a worker's engine; None where that is a GPU's."""
        return None if self.gpus else self.cpus

    def __str__(self) -> str:
        """`4 workers on a Ray cluster of 2 nodes; its dashboard: http://127.0.0.1:8265`."""
        dashboard = f"; its dashboard: http://{self.dashboard}" if self.dashboard else ""
        return f"{self.workers} workers on a Ray cluster of {self.nodes} nodes{dashboard}"


@contextmanager
def joined_cluster(options: RayOptions, device: Device) -> Iterator[Cluster]:
    """Reach the cluster and see whether the workers fit; the connection ends with the block.

    Raises:
        MissingPackageError: Ray is not installed.
        RequestError: more CPUs or GPUs are needed than the cluster has.
        BackendError: there is no cluster at the address.
    """
    ray = _ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    _check_listening(options.address)
    try:
        context = ray.init(options.address, **_init_arguments(options.address))
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        raise _no_cluster(options.address, str(error)) from error
    try:
        yield _fitted(ray, options, device, str(getattr(context, "dashboard_url", "") or ""))
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingPackageError(
            "A cluster needs Ray, which is not installed. Use --no-ray, or --shards for several "
            f"machines, or install it with: {pip_install('ray')}"
        ) from error


def _check_listening(address: str) -> None:
    """Find out whether anybody is at `host:port`: Ray 2.60 ends the whole process otherwise.

    Raises:
        BackendError: nobody is.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECTING).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, why: str) -> BackendError:
    return BackendError(
        f"There is no Ray cluster at {address}: {' '.join(why.split()).rstrip('.')}. Start one "
        "(`ray start --head`), or give --address local or --no-ray."
    )


def _init_arguments(address: str) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address.startswith("ray://"):  # the cluster has its own
        return {}
    if address != "local":
        return quiet
    cores = usable_cores().count  # Ray counts those of the host
    return {**quiet, "num_cpus": cores, "object_store_memory": _OBJECT_STORE}


def _fitted(ray: Any, options: RayOptions, device: Device, dashboard: str) -> Cluster:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = options.threads or 1, int(device.on_nvidia)
    fit = sum(_fit_on(node, cpus, gpus) for node in nodes)
    there = sum(int(node.get("CPU", 0)) for node in nodes)
    where = f"the cluster's {len(nodes)} nodes have {there}"
    check_cpus((options.workers or 1) * cpus, there, where)
    wanted = options.workers or fit
    if not fit or wanted > fit:
        raise RequestError(
            f"{wanted or 1} workers with {cpus} CPUs{' and a GPU' if gpus else ''} each do not fit "
            f"on the cluster: {fit} do. Give fewer --workers or --threads."
        )
    return Cluster(
        ray=ray, workers=wanted, cpus=cpus, gpus=gpus, nodes=len(nodes), dashboard=dashboard
    )


def _fit_on(node: dict[str, float], cpus: int, gpus: int) -> int:
    by_gpu = int(node.get("GPU", 0)) if gpus else int(node.get("CPU", 0))
    return min(int(node.get("CPU", 0)) // cpus, by_gpu)


class _Actor:
    """What runs on a node. What goes wrong comes back as a value: an exception would be Ray's."""

    def __init__(self, settings: WorkerSettings, patience: float) -> None:
        self._worker = SupervisedWorker(settings, patience=patience)
        self._bundle = settings.bundle

    def start(self, picture: str) -> str:
        """Load the model; an empty text, or why it cannot be used.

        Args:
            picture: a file that whoever started the run has; empty where it has none, either.
        """
        for place in filter(None, (self._bundle, picture)):
            if not os.path.exists(place):
                return (
                    f"The node {platform.node()} has no {place}. Bundle and pictures have to be at "
                    "the same path on every node, or pictures behind a URL."
                )
        try:
            self._worker.start()
        except FlorenceEdgeError as error:
            return str(error)
        return ""

    def answer(self, shard: Shard) -> Part | str:
        """The part of a shard, or why there is none."""
        try:
            return self._worker.answer(shard)
        except FlorenceEdgeError as error:
            return str(error)


def answer_on_ray(
    shards: Iterator[Shard],
    settings: WorkerSettings,
    cluster: Cluster,
    *,
    patience: float,
) -> Generator[Part, None, None]:
    """The parts of the shards as they come, not in their order.

    An iterator that is not used up is to be closed, which ends the actors.

    Raises:
        BackendError: a model cannot be loaded, workers keep dying, or the cluster gives none.
    """
    crew = _Crew(shards, _on_any_gpu(settings), cluster, patience)
    try:
        yield from crew.answer()
    finally:
        crew.dismiss()


def _on_any_gpu(settings: WorkerSettings) -> WorkerSettings:
    """Without the number of a GPU: Ray lets each actor see one, which is number 0 there."""
    device = Device.parse(settings.device)
    return replace(settings, device=str(replace(device, index=0))) if device.index else settings


class _Crew:
    """The actors of a run, and what each has in its hands."""

    def __init__(
        self,
        shards: Iterator[Shard],
        settings: WorkerSettings,
        cluster: Cluster,
        patience: float,
    ) -> None:
        self._shards = shards
        self._upcoming = next(shards, None)
        self._picture = _file_here(self._upcoming)
        self._lost: deque[Shard] = deque()
        self._losses: Counter[int] = Counter()
        self._cluster = cluster
        self._patience = patience
        self._actor = cluster.ray.remote(
            num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_restarts=0, max_task_retries=0
        )(_Actor)
        self._settings = settings
        self._starting: dict[Any, Any] = {}  # references to actors
        self._ready: list[Any] = []
        self._at_work: dict[Any, tuple[Any, Shard]] = {}
        self._heard = self._looked = time.monotonic()

    def answer(self) -> Iterator[Part]:
        """Hand out shards and take parts, until all are there."""
        for _ in range(self._cluster.workers):
            self._hire()
        while self._lost or self._upcoming or self._at_work:
            self._hand_out()
            done = self._wait()
            self._replace_lost()
            for reference in done:
                self._heard = time.monotonic()
                part = self._take(reference)
                if part is not None:
                    yield part

    def dismiss(self) -> None:
        """End all actors."""
        for actor in (*self._starting.values(), *self._ready):
            self._cluster.ray.kill(actor)

    def _hire(self) -> None:
        actor = self._actor.remote(self._settings, self._patience)
        self._starting[actor.start.remote(self._picture)] = actor

    def _hand_out(self) -> None:
        """Give every actor what it can have at once, the idle ones first."""
        for load in range(_AT_ONCE):
            for actor in self._ready:
                if self._load_of(actor) > load:
                    continue
                shard = self._next_shard()
                if shard is None:
                    return
                self._at_work[actor.answer.remote(shard)] = actor, shard

    def _next_shard(self) -> Shard | None:
        if self._lost:
            return self._lost.popleft()
        shard, self._upcoming = self._upcoming, next(self._shards, None)
        return shard

    def _wait(self) -> list[Any]:
        """References that are done, or none after a while."""
        references = [*self._starting, *self._at_work]
        if not references:
            time.sleep(_POLL)
            return []
        done: list[Any]
        done, _ = self._cluster.ray.wait(references, num_returns=1, timeout=_POLL)
        return done

    def _load_of(self, actor: Any) -> int:
        return sum(other is actor for other, _ in self._at_work.values())

    def _take(self, reference: Any) -> Part | None:
        """The part behind a reference; None where it was an actor's start, or is lost."""
        ray = self._cluster.ray
        starting = self._starting.pop(reference, None)
        actor, shard = self._at_work.pop(reference, (starting, None))
        try:
            outcome = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FlorenceEdgeError | OSError):
                raise error.cause from error  # Ray's own has a traceback for its message
            raise  # a mistake in our own code
        except ray.exceptions.RayError as error:
            self._lose(actor, shard, error)
            return None
        if isinstance(outcome, Part):
            return outcome
        if outcome:
            raise BackendError(outcome)
        self._ready.append(actor)
        return None

    def _lose(self, actor: Any, shard: Shard | None, error: Exception) -> None:
        """An actor or its node is gone; its shard goes to another one."""
        if actor in self._ready:
            self._ready.remove(actor)
        number = -1 if shard is None else shard.number
        self._losses[number] += 1
        if shard is not None:
            self._lost.append(shard)
        if self._losses[number] > _MAX_LOSSES:
            what = "while they started" if shard is None else f"over shard {number}"
            raise BackendError(
                f"{_MAX_LOSSES + 1} workers were lost {what}: {' '.join(str(error).split())[:300]}"
                ". Look at the nodes; the same command goes on."
            ) from error
        logger.warning("A worker was lost; its shard is answered by another.")

    def _replace_lost(self) -> None:
        """Replace lost actors where there is room; give up where none comes for long."""
        now, cluster = time.monotonic(), self._cluster
        missing = cluster.workers - len(self._ready) - len(self._starting)
        if missing > 0 and now - self._looked > _POLL:
            self._looked = now
            free = cluster.ray.available_resources()
            if free.get("CPU", 0) >= cluster.cpus and free.get("GPU", 0) >= cluster.gpus:
                self._hire()
        if not self._ready and now - self._heard > self._patience:
            raise BackendError(
                f"The cluster gave no worker for {self._patience:g} s: its CPUs or GPUs are taken, "
                "or its nodes are gone. See `ray status`; the same command goes on."
            )


def _file_here(shard: Shard | None) -> str:
    """The first file of a shard that this machine has, by which nodes are checked; or nothing."""
    places = [] if shard is None else [entry.place for entry in shard.entries]
    return next((p for p in places if not is_url(p) and os.path.exists(p)), "")
