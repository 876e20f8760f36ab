"""What TensorRT-RTX reports for engines that were built for other GPUs, on the GPU at hand.

    python tests/gpu/engine_validity.py OUTPUT.json

It names compute capabilities 7.5, 8.0, 8.6, 8.9 and 12.x and not 9.0 (H100, H200): this asks
`Runtime.get_engine_validity` of the miniature's decoder for each, and tries one built here. Not run
on a GPU yet.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError
from florence_edge.tensorrt.driver import find_gpu
from florence_edge.tensorrt.install import TensorRT, find_tensorrt, make_logger
from florence_edge.tensorrt.profiles import EngineOptions, profiles
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.tensorrt_build.builder import Built, Job
from florence_edge_export.tensorrt_build.worker import build_in_process

from_tensorrt: list[str] = []


def main(output: Path) -> None:
    tensorrt = find_tensorrt("rtx")
    found: dict[str, Any] = {"tensorrt_rtx": tensorrt.version, "gpu": gpu(), "engines": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        export(MINIATURE, find_checkpoint(MINIATURE), folder, ExportOptions(precision="fp16"))
        for target in (*targets(tensorrt), None):
            name = target or "this GPU"
            found["engines"][name] = asked(tensorrt, Bundle.load(folder), target, Path(scratch))
            output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def gpu() -> dict[str, str]:
    try:
        one = find_gpu()
    except BackendError as error:
        return {"none": str(error)}
    return {"name": one.name, "compute_capability": one.compute_capability, "driver": one.driver}


def targets(tensorrt: TensorRT) -> list[str]:
    names = tensorrt.module.ComputeCapability.__members__
    return [f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM")]


def asked(tensorrt: TensorRT, bundle: Bundle, target: str | None, scratch: Path) -> dict[str, Any]:
    """Build for `target` (None: the GPU here), and ask whether it is valid here and loads."""
    options = EngineOptions(max_new_tokens=64)
    job = Job(
        graph=contract.graphs(bundle.size, bundle.floats)[contract.DECODER],
        onnx=bundle.graph_file(contract.DECODER),
        plan=scratch / "decoder.plan",
        timing_cache=scratch / "timing.cache",
        profiles=profiles(bundle.size, options)[contract.DECODER],
        workspace_mb=options.workspace_mb,
        flavour="tensorrt_rtx",
        ahead_of_time=target,
    )
    try:
        built = [event for event in build_in_process(job) if isinstance(event, Built)]
    except BackendError as error:
        return {"built": False, "why": str(error)}
    from_tensorrt.clear()
    trt, plan = tensorrt.module, job.plan.read_bytes()
    log = make_logger(trt, on_message)
    runtime = trt.Runtime(log)
    try:
        validity: object = runtime.get_engine_validity(plan)
        loads = runtime.deserialize_cuda_engine(plan) is not None
    except RuntimeError as error:  # without a driver there is no runtime to ask
        validity, loads = str(error), False
    found = {"validity": str(validity), "loads": loads, "log": list(from_tensorrt)}
    return {"built": bool(built), **found}


def on_message(level: int, message: str) -> None:
    if level >= logging.WARNING:
        from_tensorrt.append(message)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
