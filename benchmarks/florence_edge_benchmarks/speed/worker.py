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
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TextIO

from florence_edge.errors import FlorenceEdgeError, RequestError

from ..gauges.device_memory import DeviceMemory, open_device_memory
from ..gauges.memory import forget_peak, peak_bytes, resident_bytes
from ..gauges.stages import Timing
from ..systems.system import System
from ..systems.transformers_variants import VARIANTS
from ..systems.workload import Workload

Answer = Callable[[Workload], Timing]
Sizes = dict[str, int | None]


class Opened(NamedTuple):
    """A loaded system; `reader` says who read a checkpoint."""

    answer: Answer
    reader: str | None = None


def open_system(system: System) -> Opened:
    """Load what `system` names; imports what it needs, and nothing of the others.

    Raises:
        FlorenceEdgeError: it cannot be loaded.
    """
    folder = Path(system.bundle)
    if system.kind == "bundle":
        from ..systems.bundle_system import BundleSystem

        return Opened(BundleSystem.load(folder, system.runs_on, system.threads).answer)
    if system.kind == "transformers":
        from ..systems.transformers_system import TransformersSystem

        loaded = TransformersSystem.load(
            VARIANTS[system.variant], folder, system.checkpoint, system.threads, system.runs_on
        )
        return Opened(loaded.answer, loaded.reader)
    raise RequestError(f"{system.label} is not run by this program.")


def device_memory_of(system: System) -> DeviceMemory | None:
    """Before it is loaded: torch is asked where it runs the system, else CUDA; on the CPU none.

    Raises:
        BackendError: there is no CUDA, or no such GPU.
    """
    return open_device_memory(system.runs_on.gpu, by_torch=system.kind == "transformers")


def serve(
    answer: Answer, requests: TextIO, replies: TextIO, device: DeviceMemory | None = None
) -> None:
    """Answer requests until there are no more; one that fails is answered by its error."""
    for line in requests:
        request = json.loads(line)
        if "memory" in request:
            reply: dict[str, Any] = {"memory": _memory(device)}
            if request["memory"] == "forget":
                forget_peak()
        else:
            reply = _answered(answer, Workload.from_json(request["answer"]))
        _say(replies, reply)


def _answered(answer: Answer, workload: Workload) -> dict[str, Any]:
    try:
        return {"timing": asdict(answer(workload))}
    except (FlorenceEdgeError, RuntimeError, ValueError, MemoryError, OSError) as error:
        return {"error": _message(error)}  # of the runtime, or of torch


def _message(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _memory(device: DeviceMemory | None) -> Sizes:
    return {
        "resident_bytes": resident_bytes(),
        "peak_bytes": peak_bytes(),
        "device_bytes": None if device is None else device.taken(),
    }


def _say(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def main() -> int:
    """Load the system that the first argument describes and serve it over stdin and stdout."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not come between the replies
    system = System.from_json(json.loads(sys.argv[1]))
    begin = perf_counter()
    try:
        device = device_memory_of(system)
        opened = open_system(system)
    except (FlorenceEdgeError, ImportError, RuntimeError, MemoryError, OSError) as error:
        _say(replies, {"error": _message(error)})
        return 1
    seconds = perf_counter() - begin
    _say(
        replies,
        {"ready": {"load_seconds": seconds, "reader": opened.reader, **_memory(device)}},
    )
    serve(opened.answer, sys.stdin, replies, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
