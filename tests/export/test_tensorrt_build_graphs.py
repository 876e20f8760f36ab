"""TensorRT's parser and builder take every graph: TensorRT-RTX builds without a GPU.

All of it goes through florence-build's own code, a process a graph.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge.tensorrt.manifest import read_manifest
from florence_edge.tensorrt.profiles import EngineOptions, Profile, Range, profiles
from florence_edge_calibration.quantization.recipe import Target
from florence_edge_calibration.scenes import draw_scene, generate_scenes
from florence_edge_export import synthetic
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.quantization.export import QuantizationOptions
from florence_edge_export.tensorrt_build.build import BuildOutcome, BuildRequest, build_engines
from florence_edge_export.tensorrt_build.builder import Built, Job
from florence_edge_export.tensorrt_build.memory_forecast import Forecast, forecast
from florence_edge_export.tensorrt_build.worker import build_in_process

from ..helpers.circumstances import circumstances

pytest.importorskip("tensorrt_rtx_bindings")

PRECISIONS = ("fp32", "fp16", "int8")
PICTURES = 8  # to calibrate with: what TensorRT makes of the graphs does not hang on scales
RECORDED = Path(__file__).parents[2] / "results" / "tensorrt" / "rtx_builds.json"
_COMMAND = (
    "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/export/test_tensorrt_build_graphs.py"
)

# Two images and several beams, so that no dimension is 1 by chance; few profiles, to be quick.
SMALL = EngineOptions(batch=2, beams=3, max_new_tokens=64)


def build(bundle: Bundle, options: EngineOptions, engine_dir: Path) -> BuildOutcome:
    request = BuildRequest(options=options, engine_dir=engine_dir, ahead_of_time="8.6")
    return build_engines(
        bundle, find_tensorrt("rtx"), request, show=lambda _: None, accept=lambda _: None
    )


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        pytest.param("fp16", "tensorrt", marks=pytest.mark.slow),
        ("int8", "tensorrt"),
        pytest.param("fp32", "tensorrt", marks=pytest.mark.slow),
        pytest.param("int8", "portable", marks=pytest.mark.slow),
        pytest.param("int4", "tensorrt", marks=pytest.mark.slow),
    ],
)
def test_every_graph_of_the_miniature_builds_without_a_warning(
    precision: str, target: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = find_checkpoint(MINIATURE)
    quantization = QuantizationOptions(target=target, samples=PICTURES, budget=None)
    options = ExportOptions(precision=precision, quantization=quantization)
    export(MINIATURE, checkpoint, tmp_path / "bundle", options)
    bundle = Bundle.load(tmp_path / "bundle")
    caplog.clear()  # int8 warns that it was not judged
    outcome = build(bundle, SMALL, tmp_path / "engines")
    assert set(outcome.built) == set(contract.GRAPHS)
    assert read_manifest(outcome.folder) == outcome.manifest
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_base_builds_with_all_its_profiles(precision: str, tmp_path: Path) -> None:
    bundle = base_bundle(precision, tmp_path)
    outcome = build(bundle, EngineOptions(), tmp_path / "engines")
    if os.environ.get("FLORENCE_EDGE_RECORD"):
        record(precision, {graph: figures(bundle, outcome, graph) for graph in contract.GRAPHS})
    assert set(outcome.built) == set(contract.GRAPHS)
    for name, built in outcome.built.items():  # the forecast counts on a GPU's share, too
        assert built.peak_mb < forecast_of(bundle, name).total_mb


@pytest.mark.slow
def test_base_builds_in_place_with_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    bundle = base_bundle("fp16", tmp_path)
    options = EngineOptions(in_place=256)
    outcome = build(bundle, options, tmp_path / "engines")
    if os.environ.get("FLORENCE_EDGE_RECORD"):
        record("fp16, decoder in place", figures(bundle, outcome, contract.DECODER))
    one_capacity = profiles(bundle.size, EngineOptions(max_new_tokens=64))
    portable = decoder_plan_mb(bundle, tmp_path, one_capacity[contract.DECODER][0])
    assert outcome.manifest.plans["decoder.plan"].bytes >> 20 < 1.1 * portable


@pytest.mark.slow
def test_profiles_for_greedy_would_copy_the_weights(tmp_path: Path) -> None:
    """Why one range of beams serves greedy and beam search (see profiles.py)."""
    bundle = base_bundle("fp16", tmp_path)
    of_decoder = profiles(bundle.size, EngineOptions())[contract.DECODER]
    beams = Profile({**of_decoder[0].ranges, "N": Range(2, 3, 3), "R": Range(2, 3, 3)})
    greedy = Profile({**of_decoder[0].ranges, "N": Range(1, 1, 1), "R": Range(1, 1, 1)})
    sizes = {
        "one range of beams": decoder_plan_mb(bundle, tmp_path, of_decoder[0]),
        "greedy apart": decoder_plan_mb(bundle, tmp_path, greedy, beams),
    }
    if os.environ.get("FLORENCE_EDGE_RECORD"):
        record("fp16 decoder plan_mb, one capacity", sizes)
    assert sizes["greedy apart"] > 1.2 * sizes["one range of beams"]


def base_bundle(precision: str, folder: Path) -> Bundle:
    """Full-size base with random weights."""
    synthetic.write_checkpoint(folder / "checkpoint", "base", seed=3)
    pictures = folder / "pictures"
    pictures.mkdir()
    for scene in generate_scenes(0, 2 * PICTURES):  # every fourth is kept for the gate
        draw_scene(scene, 256).save(pictures / f"{scene.seed}.png")
    quantization = QuantizationOptions(target="portable", images=pictures, budget=None)
    options = ExportOptions(precision=precision, quantization=quantization)
    export("base", folder / "checkpoint", folder / "bundle", options)
    return Bundle.load(folder / "bundle")


def decoder_plan_mb(bundle: Bundle, folder: Path, *some: Profile) -> int:
    job = Job(
        graph=contract.graphs(bundle.size, bundle.floats)[contract.DECODER],
        onnx=bundle.graph_file(contract.DECODER),
        plan=folder / "decoder.plan",
        timing_cache=folder / "timing.cache",
        profiles=some,
        workspace_mb=EngineOptions().workspace_mb,
        flavour="tensorrt_rtx",
        ahead_of_time="8.6",
    )
    *_, last = build_in_process(job)
    assert isinstance(last, Built)
    return job.plan.stat().st_size >> 20


def figures(bundle: Bundle, outcome: BuildOutcome, graph: str) -> dict[str, Any]:
    built = outcome.built[graph]
    return {
        "profiles": len(profiles(bundle.size, outcome.manifest.options)[graph]),
        "peak_mb": built.peak_mb,
        "forecast_mb": forecast_of(bundle, graph).total_mb,
        "plan_mb": outcome.manifest.plans[f"{graph}.plan"].bytes >> 20,
    }


def forecast_of(bundle: Bundle, graph: str) -> Forecast:
    options = EngineOptions()
    of_graph = profiles(bundle.size, options)[graph]
    return forecast(bundle, bundle.graph_file(graph), graph, of_graph, options)


def record(name: str, measured: dict[str, Any]) -> None:
    """Put one measurement into the file, and keep the others."""
    stored = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    content = {
        "command": _COMMAND,
        **circumstances(),
        "engine": f"TensorRT-RTX {find_tensorrt('rtx').version}, ahead of time for compute "
        "capability 8.6; built, not run: there was no GPU",
        "model": "base with random weights, 768 pixels, the default options of florence-build",
        "base": {**stored.get("base", {}), name: measured},
    }
    RECORDED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
