"""What the programs of peers do alike: each loads this file by its path.

Their environment has nothing of florence-edge, so this imports the standard library alone. The
lines are those of `speed/worker.py`.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from time import perf_counter
from typing import Any


def answer_lines(
    open_system: Callable[[dict[str, Any]], Any], packages: Sequence[str], memory: Any
) -> None:
    """Load the system of the first argument, then answer one JSON line by another until the end.

    Args:
        open_system: gives what has `answer`, of the system as `System.to_argument` describes it.
        packages: whose versions stand with the result.
        memory: the module `florence_edge_jetson.machine.system`, loaded by its path.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    def sizes() -> dict[str, Any]:
        host = {"resident_bytes": memory.resident_bytes(), "peak_bytes": memory.peak_bytes()}
        return {**host, "device_bytes": None}

    begin = perf_counter()
    system = open_system(json.loads(sys.argv[1]))
    loaded = {"load_seconds": perf_counter() - begin, **sizes()}
    send({"ready": {**loaded, "versions": {name: version(name) for name in packages}}})
    for line in sys.stdin:
        request = json.loads(line)
        if "memory" in request:
            send({"memory": sizes()})
            if request["memory"] == "forget":
                memory.forget_peak()
            continue
        try:
            send({"timing": system.answer(request["answer"])})
        except (RuntimeError, ValueError, KeyError) as error:
            send({"error": str(error).strip().splitlines()[0]})
