"""One engine of `florence-doctor --speed`: `python -m ...doctor.speed_worker JOB`.

In a process of its own, so that its threads, its memory and its crash are not another engine's. It
speaks JSON lines:

    -> {"load_seconds": 1.2, "settings": {...}}     or {"error": "..."}, and it ends
    <- anything, a line                             -> {"vision": 0.5, "prefill": 0.1, ...}
    end of input: the process ends
"""

import json
import os
import sys
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from florence_edge import DECODE, IMAGE, PREFILL, VISION, Florence2, GenerationOptions
from florence_edge.errors import FlorenceEdgeError
from florence_edge.files import from_json

_TASK = "CAPTION"
_SHAPE = (480, 640)  # of the picture: height and width in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A bundle on one engine, and how long its answers are to be."""

    bundle: str
    device: str
    tokens: int
    threads: int | None = None
    spinning: bool | None = None
    precision: str | None = None
    engine_dir: str | None = None


def load(job: Job) -> Florence2:
    """Open the bundle; its weights were hashed by whoever starts this.

    Raises:
        FlorenceEdgeError: it cannot be opened.
    """
    return Florence2.load(
        job.bundle,
        job.device,
        threads=job.threads,
        spinning=job.spinning,
        engine_dir=job.engine_dir,
        engine_precision=job.precision,
        verify=False,
    )


def answer_seconds(model: Florence2, tokens: int) -> dict[str, float]:
    """Answer once, with exactly so many tokens: seconds of the stages, and of one token.

    `processor` is what all threads of the process took of it.
    """
    options = GenerationOptions(min_new_tokens=tokens, max_new_tokens=tokens)
    begin, used = perf_counter(), process_time()
    result = model.run(_picture(), _TASK, options=options)
    whole, used = perf_counter() - begin, process_time() - used
    steps = max(1, len(result.token_ids) - 1)
    stages = {name: result.seconds[name] for name in (IMAGE, VISION, PREFILL, DECODE)}
    return {"seconds": whole, "processor": used, **stages, "token": stages[DECODE] / steps}


def _picture() -> npt.NDArray[np.uint8]:
    """[height, width, 3]: a slope that repeats; what it shows does not change the time."""
    across = np.indices(_SHAPE).sum(0) % 256
    return np.stack([across] * 3, -1).astype(np.uint8)


def serve(job: Job, requests: TextIO, replies: TextIO) -> int:
    """Load, then answer a line by another until there are no more; 1 where it cannot be loaded."""

    def reply(content: dict[str, Any]) -> None:
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    begin = perf_counter()
    try:
        model = load(job)
    except (FlorenceEdgeError, RuntimeError, MemoryError, OSError) as error:
        reply({"error": str(error) or type(error).__name__})
        return 1
    settings = {} if model.engine_settings is None else model.engine_settings.to_json()
    reply({"load_seconds": perf_counter() - begin, "settings": settings})
    with model:
        for _ in requests:
            try:
                reply(answer_seconds(model, job.tokens))
            except (FlorenceEdgeError, RuntimeError, MemoryError) as error:
                reply({"error": str(error) or type(error).__name__})
    return 0


def main() -> int:
    """Serve the job that the first argument describes over stdin and stdout."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the replies
    return serve(from_json(Job, json.loads(sys.argv[1])), sys.stdin, replies)


if __name__ == "__main__":
    sys.exit(main())
