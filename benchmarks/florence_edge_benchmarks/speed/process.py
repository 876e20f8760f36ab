"""A compared system in a process of its own, from outside: start it, ask it, notice its death.

`worker.py` or, for those that have an environment of their own, one of `PROGRAMS` runs inside.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from florence_edge.command import how_it_ended
from florence_edge.errors import BackendError
from florence_edge.files import from_json
from florence_edge_jetson.machine import system as machine_facts

from ..systems.system import System
from ..systems.workload import Workload
from ..timing import Timing

_SYSTEMS = Path(__file__).parents[1] / "systems"

# Run by the interpreter of an environment that has nothing of this project.
PROGRAMS = {
    "optimum": _SYSTEMS / "optimum" / "program.py",
    "openvino-notebook": _SYSTEMS / "openvino_notebook" / "program.py",
    "transformersjs": _SYSTEMS / "transformers_js" / "program.mjs",
}


class SystemProcess:
    """A running system. Use it as a context manager, so that its process ends.

    Raises:
        BackendError: on entering, where the system cannot be loaded; on asking, where it fails.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115 - closed with the process
            "w+", encoding="utf-8", errors="replace"
        )
        try:
            self._process = subprocess.Popen(
                command_of(system),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=command_environment(system),
            )
        except OSError as error:
            self._errors.close()
            raise BackendError(f"{system.label} cannot be run: {error}.") from error

    def __enter__(self) -> "SystemProcess":
        try:
            self.loaded: Mapping[str, Any] = self._reply()["ready"]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def answer(self, workload: Workload) -> Timing:
        """Let the system answer once."""
        return from_json(Timing, self._ask({"answer": asdict(workload)})["timing"])

    def memory(self, *, forget: bool = False) -> Mapping[str, int | None]:
        """Resident and peak bytes; with `forget` the peak begins anew."""
        request = {"memory": "forget" if forget else "report"}
        sizes: Mapping[str, int | None] = self._ask(request)["memory"]
        return sizes

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # a dead process does not read what is left
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._death() from None
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        stdout = self._process.stdout
        line = stdout.readline() if stdout is not None else ""
        if not line:
            raise self._death()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BackendError(reply["error"])
        return reply

    def _death(self) -> BackendError:
        """The error for a process that ended without an answer."""
        status = self._process.wait()
        self._errors.seek(0)
        return BackendError(f"its process {how_it_ended(status, self._errors)}")


def command_of(system: System) -> list[str]:
    """The command that runs a system."""
    python = system.python or sys.executable
    if system.kind in PROGRAMS:
        memory = str(machine_facts.__file__)  # its environment cannot import it
        return [python, str(PROGRAMS[system.kind]), system.to_argument(), memory]
    return [python, "-m", "florence_edge_benchmarks.speed.worker", system.to_argument()]


def command_environment(system: System) -> dict[str, str]:
    """Our environment, with the threads in the variable of every library that reads one."""
    threads = {
        name: str(system.threads)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    path = "" if system.python else os.pathsep.join(filter(None, sys.path))
    return {**os.environ, **threads, **({"PYTHONPATH": path} if path else {})}
