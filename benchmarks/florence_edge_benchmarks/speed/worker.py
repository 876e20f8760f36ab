"""A compared system in its own process: `python -m florence_edge_benchmarks.speed.worker SYSTEM`.

A process a system keeps thread pools, memory and crashes apart, and lets each have its own
environment. It speaks JSON lines:

    -> {"ready": {"load_seconds": 1.2, "reader": null, memory}}
    <- {"answer": {workload}}      -> {"timing": {...}}        or {"error": "..."}
    <- {"memory": "forget"}        -> {"memory": {memory}}
    end of input: the process ends

where `memory` is resident_bytes, peak_bytes and, on an NVIDIA GPU, device_bytes beyond its context.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TextIO

from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.files import from_json
from florence_edge_jetson.machine.system import forget_peak, peak_bytes, resident_bytes

from ..memory import DeviceMemory, open_device_memory
from ..systems.system import VARIANTS, System
from ..systems.workload import TimedAnswer, Workload


class OpenedSystem(NamedTuple):
    """A loaded system; `reader` is who read a checkpoint."""

    answer: TimedAnswer
    reader: str | None = None


def open_system(system: System) -> OpenedSystem:
    """Load what `system` names; imports what it needs, and nothing of the others.

    Raises:
        FlorenceEdgeError: it cannot be loaded.
    """
    folder = Path(system.bundle)
    if system.kind == "bundle":
        from ..systems.bundle import BundleSystem

        return OpenedSystem(BundleSystem.load(folder, system.runs_on, system.threads).answer)
    if system.kind == "transformers":
        from ..systems.transformers import TransformersSystem

        loaded = TransformersSystem.load(
            VARIANTS[system.variant], folder, system.checkpoint, system.threads, system.runs_on
        )
        return OpenedSystem(loaded.answer, loaded.reader)
    raise RequestError(f"{system.label} is not run by this program.")


def device_memory_of(system: System) -> DeviceMemory | None:
    """Before it is loaded: torch counts where it runs the system, else CUDA; on the CPU nobody.

    Raises:
        BackendError: there is no CUDA, or no such GPU.
    """
    return open_device_memory(system.runs_on.gpu, by_torch=system.kind == "transformers")


def serve(
    answer: TimedAnswer, requests: TextIO, replies: TextIO, device: DeviceMemory | None = None
) -> None:
    """Answer requests until there are no more; one that fails is answered by its error."""
    for line in requests:
        request = json.loads(line)
        if "memory" in request:
            reply: dict[str, Any] = {"memory": _memory(device)}
            if request["memory"] == "forget":
                forget_peak()
        else:
            reply = _reply_to(answer, from_json(Workload, request["answer"]))
        _send(replies, reply)


def _reply_to(answer: TimedAnswer, workload: Workload) -> dict[str, Any]:
    try:
        return {"timing": asdict(answer(workload))}
    except (FlorenceEdgeError, RuntimeError, ValueError, MemoryError, OSError) as error:
        return {"error": _message(error)}  # of the runtime, or of torch


def _message(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _memory(device: DeviceMemory | None) -> dict[str, int | None]:
    return {
        "resident_bytes": resident_bytes(),
        "peak_bytes": peak_bytes(),
        "device_bytes": None if device is None else device.taken(),
    }


def _send(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def main() -> int:
    """Load the system that the first argument describes and serve it over stdin and stdout."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the replies
    system = from_json(System, json.loads(sys.argv[1]))
    begin = perf_counter()
    try:
        device = device_memory_of(system)
        opened = open_system(system)
    except (FlorenceEdgeError, ImportError, RuntimeError, MemoryError, OSError) as error:
        _send(replies, {"error": _message(error)})
        return 1
    seconds = perf_counter() - begin
    ready = {"load_seconds": seconds, "reader": opened.reader, **_memory(device)}
    _send(replies, {"ready": ready})
    serve(opened.answer, sys.stdin, replies, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
