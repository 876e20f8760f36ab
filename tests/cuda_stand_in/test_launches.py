"""What a step of base's decoders and a look launch in ONNX Runtime's CUDA provider.

Counted over stand-ins for CUDA: nothing is computed or timed. With FLORENCE_EDGE_RECORD=1 it is
written to results/cuda.
"""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from florence_edge import contract

from ..helpers.circumstances import circumstances
from .build import make_site, need_packages
from .test_cuda_stand_in import run

RESULTS = Path(__file__).parents[2] / "results" / "cuda"
_COMMAND = (
    "FLORENCE_EDGE_ORT_CUDA=.venv-ort-cuda FLORENCE_EDGE_RECORD=1 python -m pytest -m slow "
    "tests/cuda_stand_in/test_launches.py"
)
BEAMS = 3
CAPABILITIES = ("7.5", "8.6", "8.9", "9.0", "12.0")
ELEMENTWISE = "_UnaryElementWise"  # a cast, but for one or two of GELU's kind
DECODERS = (contract.DECODER, contract.CUDA_DECODER)
ENCODERS = (contract.VISION_ENCODER, contract.VISION_CUDA)


@pytest.mark.slow
def test_a_step_of_base_is_less_than_half_as_many_launches_by_fused_operators(
    tmp_path: Path,
) -> None:
    found = counted(DECODERS, tmp_path)
    record("decoder_launches", f"one step of {BEAMS} beams about one picture", found)
    for capability in CAPABILITIES:
        fused = found[contract.CUDA_DECODER][capability]
        assert fused["launches"] <= 149
        assert fused["casts and other element by element"] <= 9
        assert fused["copies"] == 0
        assert fused["launches"] < 0.5 * found[contract.DECODER][capability]["launches"]


@pytest.mark.slow
def test_a_look_of_base_is_fewer_launches_and_products_by_fused_operators(tmp_path: Path) -> None:
    found = counted(ENCODERS, tmp_path)
    record("vision_launches", "one picture of 768 pixels", found)
    for capability in CAPABILITIES:
        fused, plain = (found[name][capability] for name in reversed(ENCODERS))
        assert fused["casts and other element by element"] <= 5
        assert fused["launches"] <= 663
        assert fused["launches"] < 0.9 * plain["launches"]
        assert fused["products"] <= plain["products"] - 48  # four in each of 12 blocks


def counted(names: Collection[str], folder: Path) -> dict[str, Any]:
    """What base's graphs of these names launch, by name and compute capability."""
    site = make_site(need_packages(), folder / "site")
    return {
        name: {each: launches(site, graph, each, folder) for each in CAPABILITIES}
        for name, graph in graphs_of_base(names, folder).items()
    }


def graphs_of_base(names: Collection[str], folder: Path) -> Mapping[str, Path]:
    """Base's graphs of these names in float16, with random weights."""
    synthetic = pytest.importorskip("florence_edge_export.synthetic")
    build = pytest.importorskip("florence_edge_export.graphs.build")
    weights = pytest.importorskip("florence_edge_export.graphs.weights")
    config = pytest.importorskip("florence_edge_export.checkpoint.config")
    loader = pytest.importorskip("florence_edge_export.checkpoint.loader")
    fp16 = pytest.importorskip("florence_edge_calibration.fp16")
    onnx_ir = pytest.importorskip("onnx_ir")
    synthetic.write_checkpoint(folder / "base", "base", seed=3)
    checkpoint = loader.read_checkpoint(folder / "base")
    size = config.model_size(checkpoint.config, 768)
    constants = weights.GraphWeights(checkpoint, 768, (0.5,) * 3, (0.5,) * 3)
    models = build.build_graphs(checkpoint.config, size, constants)
    models |= build.build_cuda_graphs(checkpoint.config, size, constants)
    for name in names:
        fp16.convert_to_float16(models[name], fp16.SCORES)
        if name in ENCODERS:
            fp16.drop_island_casts(models[name].graph)
        onnx_ir.save(models[name], folder / f"{name}.onnx", external_data=f"{name}.bin")
    return {name: folder / f"{name}.onnx" for name in names}


def launches(site: Path, graph: Path, capability: str, folder: Path) -> dict[str, int]:
    """What one run enqueues, by kind."""
    log = folder / f"{graph.stem}-{capability}.log"
    program = [str(Path(__file__).with_name("launches.py")), str(graph), f"{BEAMS}"]
    number = capability.replace(".", "")
    done = run(site, program, log, CUDA_STAND_IN_CAPABILITY=number)
    assert done.returncode == 0, done.stderr[-3000:]
    _, _, behind = log.read_text(encoding="utf-8").partition("section step\n")
    lines = behind.partition("section end")[0].splitlines()
    kernels = [line for line in lines if line.startswith("kernel ")]
    return {
        "launches": len(lines),
        "kernels": len(kernels),
        "casts and other element by element": sum(ELEMENTWISE in line for line in kernels),
        "products": sum(line.startswith("product ") for line in lines),
        "transpositions": sum("ranspose" in line for line in kernels),
        "copies": sum(line.startswith("copy ") for line in lines),
    }


def record(name: str, run: str, found: Mapping[str, Any]) -> None:
    """Write what was counted to results/cuda/NAME.json where FLORENCE_EDGE_RECORD asks for that."""
    if not os.environ.get("FLORENCE_EDGE_RECORD"):
        return
    package = next(need_packages().glob("onnxruntime_gpu-*.dist-info")).stem
    content = {
        "command": _COMMAND,
        **circumstances("onnx-ir"),
        "engine": f"the CUDA provider of {package} over stand-ins for CUDA "
        "(tests/cuda_stand_in): what it enqueues; nothing is computed or timed",
        "model": f"base with random weights, float16; {run}",
        "launches by compute capability": found,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
