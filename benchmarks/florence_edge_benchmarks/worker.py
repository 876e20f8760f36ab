"""A compared system in a process of its own: `python -m florence_edge_benchmarks.worker SYSTEM`.

A process a system keeps thread pools, memory and crashes apart, and lets each have its own
environment. It speaks JSON lines:

    -> {"ready": {"load_seconds": 1.2, "resident_bytes": ..., "peak_bytes": ...}}
    <- {"answer": {workload}}      -> {"timing": {...}}        or {"error": "..."}
    <- {"memory": "forget"}        -> {"memory": {"resident_bytes": ..., "peak_bytes": ...}}
    end of input: the process ends
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from florence_edge.errors import FlorenceEdgeError, RequestError

from .memory import forget_peak, peak_bytes, resident_bytes
from .stages import Timing
from .systems import System
from .transformers_variants import VARIANTS
from .workload import Workload

Answer = Callable[[Workload], Timing]


def open_system(system: System) -> Answer:
    """Load what `system` names; imports what it needs, and nothing of the others.

    Raises:
        FlorenceEdgeError: it cannot be loaded.
    """
    folder = Path(system.bundle)
    if system.kind == "bundle":
        from .bundle_system import BundleSystem

        return BundleSystem.load(folder, system.device, system.threads).answer
    if system.kind == "transformers":
        from .transformers_system import TransformersSystem

        variant = VARIANTS[system.variant]
        return TransformersSystem.load(variant, folder, system.checkpoint, system.threads).answer
    raise RequestError(f"{system.label} is not run by this program.")


def serve(answer: Answer, requests: TextIO, replies: TextIO) -> None:
    """Answer requests until there are no more; one that fails is answered by its error."""
    for line in requests:
        request = json.loads(line)
        if "memory" in request:
            reply = {"memory": _memory(forget=request["memory"] == "forget")}
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


def _memory(*, forget: bool) -> dict[str, int | None]:
    found = {"resident_bytes": resident_bytes(), "peak_bytes": peak_bytes()}
    if forget:
        forget_peak()
    return found


def _say(replies: TextIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def main() -> int:
    """Load the system that the first argument describes and serve it over stdin and stdout."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not come between the replies
    begin = perf_counter()
    try:
        answer = open_system(System.from_json(json.loads(sys.argv[1])))
    except (FlorenceEdgeError, ImportError, RuntimeError, MemoryError, OSError) as error:
        _say(replies, {"error": _message(error)})
        return 1
    loaded = {"load_seconds": perf_counter() - begin, **_memory(forget=False)}
    _say(replies, {"ready": loaded})
    serve(answer, sys.stdin, replies)
    return 0


if __name__ == "__main__":
    sys.exit(main())
