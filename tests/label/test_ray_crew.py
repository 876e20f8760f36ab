"""The actors of a run, on a Ray of our own without processes; a real one: test_cluster.py."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from florence_edge import BackendError, Device, MissingPackageError, RequestError
from florence_edge_label.engines import ray_cluster
from florence_edge_label.engines.ray_cluster import (
    Cluster,
    RayOptions,
    answer_on_ray,
    joined_cluster,
)
from florence_edge_label.labeller import Part, Shard, WorkerSettings
from florence_edge_label.picture_list import Entry

SETTINGS = WorkerSettings(bundle="b", questions=(), run="r")


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::_Actor.answer()\nTraceback (most recent call last):\n{cause}")
        self.cause = cause


class ScriptedRay:
    """Actors answer when they are waited for; `dies` says when one is lost instead."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, dies: Callable[[int, int], bool] = lambda actor, shard: False) -> None:
        self.made: list[Any] = []
        self.killed: list[Any] = []
        self.dies = dies
        self.start = ""
        self.mistake: Exception | None = None
        self.checked: list[str] = []
        self.devices: list[str] = []
        self.free = {"CPU": 1.0}
        self.nodes_there = [{"Alive": True, "Resources": {"CPU": 2.0}}] * 2
        self._numbers = count()
        self._behind: dict[int, tuple[int, Any]] = {}

    def nodes(self) -> list[dict[str, Any]]:
        return self.nodes_there

    def available_resources(self) -> dict[str, float]:
        return self.free

    def init(self, address: str, **_: Any) -> Any:
        return SimpleNamespace(dashboard_url="127.0.0.1:8265")

    def shutdown(self) -> None:
        pass

    def remote(self, **limits: Any) -> Any:
        assert (limits["max_restarts"], limits["max_task_retries"]) == (0, 0)
        return lambda kind: SimpleNamespace(remote=self._make)

    def _started(self, picture: str) -> str:
        self.checked.append(picture)
        return self.start

    def _make(self, settings: WorkerSettings, patience: float) -> Any:
        number = len(self.made)
        self.devices.append(settings.device)

        def refer(to: Any) -> int:
            reference = next(self._numbers)
            self._behind[reference] = (number, to)
            return reference

        actor = SimpleNamespace(
            alive=True,
            start=SimpleNamespace(remote=lambda picture: refer(self._started(picture))),
            answer=SimpleNamespace(remote=refer),
        )
        self.made.append(actor)
        return actor

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        number, what = self._behind[reference]
        if not self.made[number].alive:
            raise RayError("The actor is dead.")
        if isinstance(what, str):
            return what
        if self.mistake is not None:
            raise RayTaskError(self.mistake)
        if self.dies(number, what.number):
            self.made[number].alive = False
            raise RayError("The actor died.")
        return Part(number=what.number, content=b"", pictures=1, failed=0)

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def shards(count: int) -> Iterator[Shard]:
    return (Shard(number=n, entries=(Entry(name=str(n), place=str(n)),)) for n in range(count))


def answer(ray: ScriptedRay, count: int = 9, patience: float = 60.0) -> list[int]:
    cluster = Cluster(ray=ray, workers=2, cpus=1, gpus=0, nodes=2)
    parts = answer_on_ray(shards(count), SETTINGS, cluster, patience=patience)
    return [part.number for part in parts]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_POLL", 0.0)


def test_every_shard_is_answered_once_and_all_actors_end() -> None:
    ray = ScriptedRay()
    assert sorted(answer(ray)) == list(range(9))
    assert ray.killed == ray.made
    assert len(ray.made) == 2


def test_what_a_lost_actor_had_goes_to_another() -> None:
    ray = ScriptedRay(lambda actor, shard: (actor, shard) == (0, 4))
    assert sorted(answer(ray)) == list(range(9))
    assert len(ray.made) == 3


def test_an_error_of_ours_that_ray_wraps_is_told_in_its_own_words() -> None:
    ray = ScriptedRay()
    ray.mistake = BackendError("The engine failed. Do this.")
    with pytest.raises(BackendError) as raised:
        answer(ray)
    assert str(raised.value) == "The engine failed. Do this."
    assert ray.killed == ray.made
    ray.mistake = ZeroDivisionError("a mistake in our own code")
    with pytest.raises(RayTaskError, match="Traceback"):
        answer(ray)


def test_without_room_for_another_the_rest_goes_on_alone() -> None:
    ray = ScriptedRay(lambda actor, shard: actor == 1)
    ray.free = {}
    assert sorted(answer(ray)) == list(range(9))
    assert len(ray.made) == 2


def test_a_shard_that_loses_every_worker_ends_the_run() -> None:
    with pytest.raises(BackendError, match=r"6 workers were lost over shard 3: The actor"):
        answer(ScriptedRay(lambda actor, shard: shard == 3))


def test_a_cluster_that_gives_nothing_is_given_up() -> None:
    ray = ScriptedRay(lambda actor, shard: True)
    ray.free = {}
    with pytest.raises(BackendError, match="The cluster gave no worker for 0 s"):
        answer(ray, patience=0.0)


def test_a_node_that_cannot_load_the_model_ends_the_run_with_its_words() -> None:
    ray = ScriptedRay()
    ray.start = "The node x has no /bundle."
    with pytest.raises(BackendError, match=r"The node x has no /bundle\."):
        answer(ray)


def test_nodes_are_asked_for_the_first_picture_that_is_here(tmp_path: Path) -> None:
    ray, here = ScriptedRay(), tmp_path / "b.png"
    here.touch()
    places = ("s3://bucket/a.png", str(tmp_path / "gone.png"), str(here), __file__)
    shard = Shard(number=0, entries=tuple(Entry(name=each, place=each) for each in places))
    cluster = Cluster(ray=ray, workers=2, cpus=1, gpus=0, nodes=2)
    list(answer_on_ray(iter([shard]), SETTINGS, cluster, patience=60.0))
    assert ray.checked == [str(here)] * 2


def test_a_node_without_the_first_picture_says_so(tmp_path: Path) -> None:
    actor = ray_cluster._Actor(replace(SETTINGS, bundle=str(tmp_path)), 1.0)
    assert "has no /pictures/1.png." in actor.start("/pictures/1.png")


def test_ray_chooses_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay()
    cluster = Cluster(ray=ray, workers=1, cpus=1, gpus=1, nodes=1)
    settings = replace(SETTINGS, device="tensorrt:3")
    list(answer_on_ray(shards(1), settings, cluster, patience=60.0))
    assert ray.devices == ["tensorrt"]


@pytest.mark.parametrize(
    ("options", "device", "message"),
    [
        (RayOptions(address="auto", workers=5), "cpu", "5 CPUs are needed .* 2 nodes have 4"),
        (RayOptions(address="auto", workers=1, threads=3), "cpu", "do not fit .*: 0 do"),
        (RayOptions(address="auto"), "cuda", "1 workers with 1 CPUs and a GPU each do not fit"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_actor(
    monkeypatch: pytest.MonkeyPatch, options: RayOptions, device: str, message: str
) -> None:
    ray = ScriptedRay()
    monkeypatch.setattr(ray_cluster, "_ray", lambda: ray)
    with (
        pytest.raises(RequestError, match=message),
        joined_cluster(options, Device.parse(device)),
    ):
        pass
    assert ray.made == []


def test_as_many_workers_as_cpus_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_ray", ScriptedRay)
    with joined_cluster(RayOptions(address="auto"), Device.parse("cpu")) as cluster:
        assert (cluster.workers, cluster.cpus, cluster.nodes) == (4, 1, 2)
        assert cluster.dashboard == "127.0.0.1:8265"


def test_nobody_at_the_address_is_said_before_ray_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_ray", ScriptedRay)
    with (
        pytest.raises(BackendError, match=r"There is no Ray cluster at ray://127\.0\.0\.1:1: "),
        joined_cluster(RayOptions(address="ray://127.0.0.1:1"), Device.parse("cpu")),
    ):
        pass


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(MissingPackageError, match=r"pip install .*\[ray\]"),
        joined_cluster(RayOptions(address="auto"), Device.parse("cpu")),
    ):
        pass
