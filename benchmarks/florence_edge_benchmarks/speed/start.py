"""Before the first answer: import, loading, cold start, memory and size on disk."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError
from florence_edge.files import read_json

from ..results import Start
from ..systems.system import System
from ..systems.workload import Workload
from ..timing import percentile
from .process import PROGRAMS, SystemProcess, command_environment

_IMPORTS = {
    "bundle": "import florence_edge",
    "transformers": "import torch; from transformers import Florence2ForConditionalGeneration",
    "optimum": "from optimum.onnxruntime import ORTModelForSeq2SeqLM",
    "openvino-notebook": "import openvino, torch; "
    "from transformers import Florence2ForConditionalGeneration",
}
_IMPORT_RUNS = 3


def measure_start(system: System, first: Workload, heaviest: Workload) -> Start:
    """Start the system in a process that does nothing else, and let it answer.

    Args:
        system: what to start.
        first: the first answer, which ends the cold start.
        heaviest: answered next, for the memory it takes.

    Raises:
        BackendError: it cannot be started, or does not answer.
    """
    if system.kind in PROGRAMS:
        with SystemProcess(system):  # converts the model first, which a start does not include
            pass
    begin = perf_counter()
    with SystemProcess(system) as running:
        loaded: Mapping[str, Any] = running.loaded
        running.memory(forget=True)
        running.answer(first)
        first_answer = perf_counter() - begin
        if heaviest != first:
            running.answer(heaviest)
        used = running.memory()
    answering = used["peak_bytes"]
    peaks = [peak for peak in (loaded["peak_bytes"], answering) if peak is not None]
    return Start(
        import_seconds=import_seconds(system),
        load_seconds=loaded["load_seconds"],
        first_answer_seconds=first_answer,
        loaded_bytes=loaded["resident_bytes"],
        answering_bytes=answering,
        peak_bytes=max(peaks, default=None),
        disk_bytes=disk_bytes(system),
        device_bytes=used["device_bytes"],
        reader=loaded.get("reader"),
        versions=loaded.get("versions"),
    )


def import_seconds(system: System) -> float:
    """What importing the system's package takes in a fresh interpreter, the median of three.

    Raises:
        BackendError: it cannot be imported.
    """
    command = _import_command(system)
    seconds = []
    for _ in range(_IMPORT_RUNS):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=command_environment(system),
        )
        if done.returncode:
            raise BackendError(f"{command[-1]!r} fails: {done.stderr.splitlines()[-1]}")
        seconds.append(float(done.stdout.splitlines()[-1]))
    return percentile(seconds, 50)


def _import_command(system: System) -> list[str]:
    """A program that imports the system's package and prints how many seconds that took."""
    if system.kind == "transformersjs":
        request = read_json(Path(system.checkpoint) / "request.json")
        package = json.dumps(f"{request['modules']}/@huggingface/transformers/dist/")
        program = (
            "const begin = performance.now(); "
            f'await import(require("node:module").createRequire({package})'
            '.resolve("@huggingface/transformers")); '
            "console.log((performance.now() - begin) / 1000)"
        )
        return [system.python, "-e", f"(async () => {{ {program} }})()"]
    program = (
        "from time import perf_counter; begin = perf_counter(); "
        f"{_IMPORTS[system.kind]}; print(perf_counter() - begin)"
    )
    return [system.python or sys.executable, "-c", program]


def disk_bytes(system: System) -> int | None:
    """Size of the model's files: all of a bundle, or the weights of a checkpoint."""
    if system.kind == "bundle":
        return sum(stored.bytes for stored in Bundle.load(Path(system.bundle)).files.values())
    if system.kind == "transformers":
        from florence_edge_export.checkpoint import loader  # needs the export extra

        checkpoint = loader.read_checkpoint(loader.find_checkpoint(system.checkpoint))
        return sum(path.stat().st_size for path in checkpoint.weight_files)
    return None
