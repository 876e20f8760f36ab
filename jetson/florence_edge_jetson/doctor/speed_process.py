"""An engine of `florence-doctor --speed` in its process, seen from outside."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from florence_edge.command import how_it_ended
from florence_edge.errors import BackendError

from .speed_worker import Job

_PROGRAM = "florence_edge_jetson.doctor.speed_worker"
_PATIENCE = 10.0  # seconds for a process to end by itself


class EngineProcess:
    """A process that loads a job's engine and answers when asked; `close` ends it.

    Raises:
        BackendError: it cannot be started or loaded; on asking, it fails.
    """

    def __init__(self, job: Job) -> None:
        threads = {} if job.threads is None else {"OMP_NUM_THREADS": str(job.threads)}
        path = os.pathsep.join(filter(None, sys.path))  # the same packages as here
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115 - closed with the process
            "w+", encoding="utf-8", errors="replace"
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM, json.dumps(asdict(job))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**os.environ, **threads, "PYTHONPATH": path},
            )
        except OSError as error:
            self._errors.close()
            raise BackendError(f"Python cannot be started once more: {error}.") from error
        try:
            self.loaded = self._reply()
        except BaseException:
            self.close()
            raise

    def answer(self) -> Mapping[str, float]:
        """Seconds of an answer: whole, stages, and of a token."""
        stdin = self._process.stdin
        with suppress(BrokenPipeError, ValueError):  # its death is what the reply says
            if stdin is not None:
                stdin.write("\n")
                stdin.flush()
        return self._reply()

    def close(self) -> None:
        """End the process, once; later calls do nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _reply(self) -> dict[str, Any]:
        stdout = self._process.stdout
        line = stdout.readline() if stdout is not None else ""
        if not line:
            raise BackendError(self._death())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BackendError(str(reply["error"]))
        return reply

    def _death(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        return f"Its process {how_it_ended(status, self._errors)}"
