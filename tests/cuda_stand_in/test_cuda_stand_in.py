"""The real ONNX Runtime CUDA provider over stand-in libraries: what it calls, without a GPU."""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .build import make_site, need_packages

# What ONNX Runtime computes on the host: shapes, never values.
SHAPES = {"Squeeze", "Concat", "Cast"}
ALLOCATIONS = ("malloc", "free", "host-malloc", "host-free")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a program printed, and the lines of the stand-in's log by section."""

    printed: Any
    errors: str
    sections: dict[str, list[str]]

    def steps(self, since: int) -> dict[str, list[str]]:
        """The lines of each step from this one on, of every answer."""
        named = {name: lines for name, lines in self.sections.items() if name.startswith("step ")}
        return {name: lines for name, lines in named.items() if int(name.split(".")[1]) >= since}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(need_packages(), tmp_path_factory.mktemp("stand-in") / "site")


@pytest.fixture(scope="module")
def fp16_bundle(tiny_half_bundle: Path) -> Path:
    return tiny_half_bundle


def run(
    site: Path, program: list[str], log: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "LD_LIBRARY_PATH": str(site / "driver"),  # the wheels are found without
        "FLORENCE_CUDA": "ctypes",
        "CUDA_STAND_IN_LOG": str(log),
        **variables,
    }
    return subprocess.run(
        [sys.executable, *program], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def trace(
    site: Path, fp16_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trace]:
    """Traces by beams and environment variables, each made once: steps enough for all tests."""

    @functools.cache
    def traced(beams: int, **variables: str) -> Trace:
        log = tmp_path_factory.mktemp("trace") / "log"
        program = [str(Path(__file__).with_name("trace.py")), str(fp16_bundle), f"{beams}", "9"]
        done = run(site, program, log, **variables)
        assert done.returncode == 0, done.stderr[-3000:]
        sections: dict[str, list[str]] = {}
        lines = sections.setdefault("open", [])
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("section "):
                lines = sections.setdefault(line.removeprefix("section "), [])
            else:
                lines.append(line)
        return Trace(printed=json.loads(done.stdout), errors=done.stderr, sections=sections)

    return traced


def test_every_node_of_a_float16_bundle_is_computed_on_the_gpu(trace: Callable[..., Trace]) -> None:
    found = trace(1, FLORENCE_MULTI_STEP="2").printed["providers"]
    assert set(found) == {"vision_encoder.cuda", "text_encoder", "decoder.cuda"}
    for graph, by_provider in found.items():
        assert len(by_provider["CUDAExecutionProvider"]) > 50, graph
        assert set(by_provider.get("CPUExecutionProvider", ())) <= SHAPES, graph


def test_memory_is_taken_as_the_weights_need_it(
    trace: Callable[..., Trace], fp16_bundle: Path
) -> None:
    """ONNX Runtime takes it by powers of two unless told otherwise: here it would be twice that."""
    lines = trace(1, FLORENCE_MULTI_STEP="2").sections["open"]
    sizes = [int(line.split()[1]) for line in lines if line.startswith("malloc ")]
    assert sum(sizes) < 1.5 * (fp16_bundle / "weights.bin").stat().st_size


def test_a_look_allocates_nothing_and_waits_once(trace: Callable[..., Trace]) -> None:
    look = trace(1, FLORENCE_MULTI_STEP="2").sections["look 2"]
    assert len([line for line in look if line.startswith(("kernel", "product", "cudnn"))]) > 100
    assert not [line for line in look if line.split()[0] in ALLOCATIONS]
    assert [line for line in look if line.startswith("wait ")] == ["wait stream"]


# Steps at once, and what the host waits for.
WAYS = {"1": "wait stream", "2": "wait event"}
PLAIN = {"FLORENCE_FUSED_GRAPHS": "0"}  # decoder.onnx, which bundles in float32 have alone
# Beams, steps at once, and which decoder.
of_every_way = pytest.mark.parametrize(
    ("beams", "steps", "decoder"),
    [*((beams, steps, {}) for beams in (1, 3) for steps in WAYS), (3, "2", PLAIN)],
)


@of_every_way
def test_a_step_is_one_launch_and_one_wait(
    trace: Callable[..., Trace], beams: int, steps: str, decoder: dict[str, str]
) -> None:
    traced = trace(beams, FLORENCE_MULTI_STEP=steps, **decoder)
    assert traced.printed["captured"]
    for name, lines in traced.steps(since=3).items():
        launched = [line for line in lines if not line.startswith("captured ")]
        if "begin capture" in launched:  # a kind of step that comes first
            launched = launched[launched.index("end capture") + 1 :]
        assert launched == ["launch graph", WAYS[steps]], name
    kinds = 2 if steps == "2" else min(beams, 2)
    assert sum(lines.count("begin capture") for lines in traced.sections.values()) == kinds


@of_every_way
def test_what_is_captured_leaves_nothing_to_the_host(
    trace: Callable[..., Trace], beams: int, steps: str, decoder: dict[str, str]
) -> None:
    """A graph freezes addresses: of memory that is freed behind the run, it would read anything."""
    captured = captured_by(trace(beams, FLORENCE_MULTI_STEP=steps, **decoder))
    assert len(captured) > 60
    kinds = [" ".join(line.split()[:2]) for line in captured if not line.startswith("kernel ")]
    ours = sum("kernel ours" in line for line in captured)
    if steps == "2":  # the first step and those that follow: what is fed; scores need no copy
        assert kinds.count("copy any") == 2
        places = 2 if decoder else 0  # the fused decoder places its rows itself
        assert ours == places + 2 + (beams > 1)  # advance_beams, follow
    else:
        graphs = min(beams, 2)
        assert kinds.count("copy any") == 2 * graphs  # inputs there, scores back
        assert ours == graphs - 1  # follow
    others = set(kinds) - {"copy any", "copy device-device"}
    # cuDNN's attention: this model's heads of 16 are too narrow for ONNX Runtime's own kernel.
    assert {kind.split()[0] for kind in others} <= {"product", "memset", "cudnn"}


def captured_by(traced: Trace) -> list[str]:
    """What went into CUDA graphs."""
    lines = (line for of_section in traced.sections.values() for line in of_section)
    return [line.removeprefix("captured ") for line in lines if line.startswith("captured ")]


def test_the_fused_decoder_launches_less_than_half_as_often(trace: Callable[..., Trace]) -> None:
    """Two graphs of 2 layers; results/cuda/decoder_launches.json has base's."""
    fused, plain = (
        captured_by(trace(3, FLORENCE_MULTI_STEP="2", **decoder)) for decoder in ({}, PLAIN)
    )
    assert len(fused) <= 2 * 72
    assert len(fused) < 0.55 * len(plain)
    casts = [line for line in fused if "_UnaryElementWise" in line]
    assert len(casts) <= 2 * 12
    assert not any("copy device-device" in line for line in fused if "any" not in line)


@of_every_way
def test_nothing_is_allocated_after_the_first_step(
    trace: Callable[..., Trace], beams: int, steps: str, decoder: dict[str, str]
) -> None:
    traced = trace(beams, FLORENCE_MULTI_STEP=steps, **decoder)
    later = {**traced.steps(since=1), "prefill 1": traced.sections["prefill 1"]}
    later["step 1.0"] = traced.sections["step 1.0"]
    for name, lines in later.items():
        assert not [line for line in lines if line.split()[0] in ALLOCATIONS], name


def test_a_capture_that_is_refused_is_said_once_and_steps_go_on(
    trace: Callable[..., Trace],
) -> None:
    traced = trace(3, CUDA_STAND_IN_CAPTURE="refused")
    assert not traced.printed["captured"]
    assert traced.errors.count("cannot be captured") == 1
    assert sum(lines.count("begin capture") for lines in traced.sections.values()) == 1
    for name, lines in traced.steps(since=2).items():
        assert "launch graph" not in lines, name
        assert [line for line in lines if line.startswith("wait ")] == ["wait event"], name


def test_graphs_can_be_left_off(trace: Callable[..., Trace]) -> None:
    traced = trace(1, FLORENCE_CUDA_GRAPHS="0")
    assert not any("begin capture" in lines for lines in traced.sections.values())
    for name, lines in traced.steps(since=1).items():
        assert [line for line in lines if line.startswith("wait ")] == ["wait event"], name


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        (
            "libcublasLt.so.13",
            r"libcublasLt.so.13 is not found. Run: pip install 'onnxruntime-gpu[",
        ),
        ("libcurand.so.10", r"libcurand.so.10 is not found. Run: pip install 'onnxruntime-gpu["),
        ("libcudnn.so.9", r"libcudnn.so.9 is not found. Run: pip install 'onnxruntime-gpu["),
        (
            "libcuda.so.1",
            r"libcuda.so.1 is not found. It comes with NVIDIA's driver: install that, 580",
        ),
    ],
)
def test_a_library_that_is_missing_is_named_with_what_brings_it(
    site: Path, fp16_bundle: Path, tmp_path: Path, absent: str, said: str
) -> None:
    lacking = tmp_path / "site"
    shutil.copytree(site, lacking, symlinks=True)
    for library in lacking.rglob(absent):
        library.unlink()
    program = f"from florence_edge import Florence2; Florence2.load({str(fp16_bundle)!r}, 'cuda')"
    folders = os.pathsep.join(str(lacking / name) for name in ("driver", "nvidia/cu13/lib"))
    done = run(lacking, ["-c", program], tmp_path / "log", LD_LIBRARY_PATH=folders)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
