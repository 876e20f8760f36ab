import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, BundleError, RequestError
from florence_edge.files import lock
from florence_edge.tensorrt.find import find_engines
from florence_edge.tensorrt.install import TensorRT, find_tensorrt
from florence_edge.tensorrt.manifest import ENGINE_MANIFEST, fingerprint
from florence_edge.tensorrt.profiles import EngineOptions
from florence_edge_export.tensorrt_build import build as build_module
from florence_edge_export.tensorrt_build.build import (
    BuildOutcome,
    BuildRequest,
    build_engines,
    check_int4,
    target_device,
)
from florence_edge_export.tensorrt_build.builder import BuildProgress, Built, Event, Job, Message
from florence_edge_export.tensorrt_build.memory_forecast import FreeMemory
from florence_edge_export.tensorrt_build.worker import why_it_ended

from ..helpers.disk import check_synced_before_it_got_its_name, recorded
from . import folders

pytest.importorskip("tensorrt_rtx_bindings")

GREEDY = EngineOptions(beams=1, max_new_tokens=1)  # one profile of the decoder
FULL = TensorRT(SimpleNamespace(), "tensorrt", "10.16.2")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture(scope="module")
def built(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> BuildOutcome:
    return build(bundle, tmp_path_factory.mktemp("engines"))


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, built: BuildOutcome) -> None:
    """Building copies what was built before: for tests of what happens around it."""

    def copy(_: Bundle, job: Job, *__: object) -> Built:
        shutil.copyfile(built.folder / job.plan.name, job.plan)
        return built.built[job.graph.name]

    monkeypatch.setattr(build_module, "_build", copy)


def ignore(_: object) -> None:
    pass


def build(bundle: Bundle, engine_dir: Path, *, refresh: bool = False) -> BuildOutcome:
    request = BuildRequest(
        options=GREEDY, engine_dir=engine_dir, ahead_of_time="8.6", refresh=refresh
    )
    return build_engines(bundle, find_tensorrt("rtx"), request, show=ignore, accept=ignore)


def test_the_set_lies_under_its_fingerprint_and_is_found(
    bundle: Bundle, built: BuildOutcome
) -> None:
    device = target_device(find_tensorrt("rtx"), "8.6")
    assert built.folder.name == fingerprint(bundle, device, GREEDY)
    assert sorted(path.name for path in built.folder.iterdir()) == [
        *("decoder.plan", ENGINE_MANIFEST, "text_encoder.plan", "vision_encoder.plan")
    ]
    assert [path.name for path in built.folder.parent.iterdir()] == [built.folder.name]
    here = replace(device, gpu="NVIDIA RTX A6000", multiprocessors=84, driver="13.0")
    found = find_engines(bundle, here, engine_dir=built.folder.parent)
    assert found.manifest == built.manifest


def test_each_graph_says_what_it_took(built: BuildOutcome) -> None:
    assert list(built.built) == list(contract.GRAPHS)
    assert all(one.seconds > 0 and 10 < one.peak_mb < 2000 for one in built.built.values())


@pytest.mark.usefixtures("copied")
def test_what_is_there_is_kept_and_refresh_builds_it_again(bundle: Bundle, tmp_path: Path) -> None:
    first = build(bundle, tmp_path)
    plan = first.folder / "decoder.plan"
    before = plan.stat().st_mtime_ns
    again = build(bundle, tmp_path)
    assert (again.folder, again.manifest, again.built) == (first.folder, first.manifest, {})
    assert plan.stat().st_mtime_ns == before
    assert build(bundle, tmp_path, refresh=True).built
    assert plan.stat().st_mtime_ns > before
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_a_damaged_set_is_built_again(
    tmp_path: Path, built: BuildOutcome, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = folders.copy(built.folder, tmp_path / built.folder.name)
    assert build_module._existing(damaged) is not None
    (damaged / "decoder.plan").write_bytes(b"half")
    assert build_module._existing(damaged) is None
    assert "Building them again now" in caplog.text


def test_an_interrupted_build_leaves_what_was_there(
    bundle: Bundle, tmp_path: Path, built: BuildOutcome
) -> None:
    kept = folders.copy(built.folder, tmp_path / "engines" / built.folder.name)

    def interrupt(_: BuildProgress) -> None:
        assert len(list(kept.parent.iterdir())) == 3, "the set under way and its lock lie beside"
        raise KeyboardInterrupt

    request = BuildRequest(
        options=GREEDY, engine_dir=kept.parent, ahead_of_time="8.6", refresh=True
    )
    with pytest.raises(KeyboardInterrupt):
        build_engines(bundle, find_tensorrt("rtx"), request, show=interrupt, accept=ignore)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert len(list(kept.iterdir())) == 4
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("copied")
def test_engines_are_on_the_disk_before_they_get_their_name(bundle: Bundle, tmp_path: Path) -> None:
    for refresh in (False, True):
        with recorded() as events:
            outcome = build(bundle, tmp_path, refresh=refresh)
        check_synced_before_it_got_its_name(events, outcome.folder)


@pytest.mark.usefixtures("copied")
def test_two_builds_of_one_set_are_one_too_many(bundle: Bundle, tmp_path: Path) -> None:
    folder = build(bundle, tmp_path).folder
    with lock(folder), pytest.raises(RequestError, match="is being written by another process"):
        build(bundle, tmp_path, refresh=True)


@pytest.mark.usefixtures("copied")
def test_a_set_that_is_not_accepted_is_dropped(bundle: Bundle, tmp_path: Path) -> None:
    def refuse(outcome: BuildOutcome) -> None:
        assert (outcome.folder / ENGINE_MANIFEST).is_file()
        raise BackendError("not close")

    request = BuildRequest(options=GREEDY, engine_dir=tmp_path, ahead_of_time="8.6")
    with pytest.raises(BackendError, match="not close"):
        build_engines(bundle, find_tensorrt("rtx"), request, show=ignore, accept=refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_is_explained(bundle: Bundle, tmp_path: Path) -> None:
    def kill(_: BuildProgress) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    request = BuildRequest(options=GREEDY, engine_dir=tmp_path / "engines", ahead_of_time="8.6")
    with pytest.raises(BackendError, match=r"vision_encoder was killed.*memory.*add swap"):
        build_engines(bundle, find_tensorrt("rtx"), request, show=kill, accept=ignore)
    assert list((tmp_path / "engines").iterdir()) == []


def test_another_end_of_the_process_names_its_status() -> None:
    assert "ended with status -11" in why_it_ended("decoder", -signal.SIGSEGV)


def test_a_reason_in_the_process_reaches_the_caller(bundle: Bundle, tmp_path: Path) -> None:
    request = BuildRequest(options=GREEDY, engine_dir=tmp_path / "engines", ahead_of_time="9.0")
    with pytest.raises(BackendError, match=r"does not build for compute capability 9\.0"):
        build_engines(bundle, find_tensorrt("rtx"), request, show=ignore, accept=ignore)
    assert list((tmp_path / "engines").iterdir()) == []


def test_errors_that_a_build_survives_are_logged(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def events(job: Job) -> Iterator[Event]:
        job.plan.write_bytes(b"plan")
        yield Message(logging.ERROR, "a tactic ran out of memory")
        yield Message(logging.DEBUG, "details")
        yield Built(1.0, 100)

    monkeypatch.setattr(build_module, "build_in_process", events)
    build(bundle, tmp_path)
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert logged == [f"TensorRT, {graph}: a tactic ran out of memory" for graph in contract.GRAPHS]


def test_too_little_memory_is_refused_before_a_process_starts(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "available_memory", lambda: FreeMemory(100, 0))
    monkeypatch.setattr(build_module, "build_in_process", None)
    with pytest.raises(BackendError, match="100 MB are available"):
        build(bundle, tmp_path)


def test_a_bundle_for_the_cpu_is_refused_with_the_export_to_run(
    bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match=r"made for cpu.*Run: florence-export"):
        build(replace(bundle, target="cpu"), tmp_path)


def test_changed_weights_are_noticed_before_minutes_are_spent(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = folders.copy(tiny_bundle, tmp_path / "bundle")
    weights = copy / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"weights\.bin is not what was exported"):
        build(Bundle.load(copy), tmp_path / "engines")


def test_a_folder_that_cannot_be_written_to_is_refused_with_the_option(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BackendError, match=r"Cannot write engines to .*--engine-dir"):
        build(bundle, tmp_path / "file")


@pytest.mark.parametrize("version", ["10.3.0", "10.7.1.post2"])
def test_int4_on_an_older_tensorrt_is_refused_with_what_to_export(
    bundle: Bundle, tmp_path: Path, version: str
) -> None:
    older = replace(FULL, version=version)
    request = BuildRequest(options=GREEDY, engine_dir=tmp_path)
    int4 = replace(bundle, precision="int4", target="tensorrt")
    with pytest.raises(
        BackendError,
        match=rf"int4.* 10\.8 or newer; here is {version}.*--precision int8 .*--target portable",
    ):
        build_engines(int4, older, request, show=ignore, accept=ignore)
    assert list(tmp_path.iterdir()) == []
    check_int4(bundle, older)
    rtx = TensorRT(SimpleNamespace(), "tensorrt_rtx", "1.2.0")
    for newer in (replace(FULL, version="10.8.0"), FULL, rtx):
        check_int4(int4, newer)


def test_only_rtx_builds_ahead_of_time() -> None:
    with pytest.raises(RequestError, match=r"only TensorRT-RTX builds ahead.*--engine rtx"):
        target_device(FULL, "8.7")


def test_without_a_gpu_rtx_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise BackendError("There is no NVIDIA driver here.")

    monkeypatch.setattr(build_module, "this_device", missing)
    with pytest.raises(BackendError, match=r"no NVIDIA driver here\..*--compute-capability"):
        target_device(find_tensorrt("rtx"), None)
    with pytest.raises(BackendError, match=r"no NVIDIA driver here\.$"):
        target_device(FULL, None)


def test_timings_of_the_same_device_seed_the_next_build(
    bundle: Bundle, tmp_path: Path, built: BuildOutcome
) -> None:
    earlier = folders.copy(built.folder, tmp_path / "engines" / built.folder.name)
    (earlier / "timing.cache").write_bytes(b"measured")
    (tmp_path / "work").mkdir()
    build_module._seed_timings(tmp_path / "engines", built.manifest.device, tmp_path / "work")
    assert (tmp_path / "work" / "timing.cache").read_bytes() == b"measured"
    (tmp_path / "other").mkdir()
    other = replace(built.manifest.device, compute_capability="8.9")
    build_module._seed_timings(tmp_path / "engines", other, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []
