"""The package onnxruntime, imported when a graph is opened and never with a module of ours."""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from ..cpu import usable_cores
from ..engine_failures import ENGINE_FAILURES, not_imported
from ..extras import pip_install

Provider: TypeAlias = tuple[str, dict[str, str]]  # its name and settings

CPU: Provider = ("CPUExecutionProvider", {})
CUDA = "CUDAExecutionProvider"


def import_onnxruntime() -> Any:
    """The package onnxruntime, which sends no telemetry unless the user says `0` to it.

    Newer releases do by default, and read the variable when they are imported.

    Raises:
        BackendError: it is installed and does not load.
        MissingPackageError: it is not installed; which extras bring it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ENGINE_FAILURES as error:
        raise not_imported(
            error,
            "onnxruntime",
            f"ONNX Runtime is not installed. Install it with: {pip_install('cpu')} (or [gpu] for "
            "CUDA, one of the two).",
        ) from error
    return onnxruntime


def ort_version() -> tuple[int, ...]:
    """The release of ONNX Runtime, e.g. (1, 28).

    Raises:
        MissingPackageError: it is not installed.
    """
    return tuple(int(part) for part in import_onnxruntime().__version__.split(".")[:2])


def use_cores(options: Any, threads: int | None = None, *, spinning: bool = False) -> None:
    """Set up a session on the CPU: one thread for each core that the process may use, or `threads`.

    `options` are onnxruntime's `SessionOptions`, and `cpu.usable_cores` tells the cores. `spinning`
    says whether threads that wait for the next operator keep their core busy.
    """
    options.intra_op_num_threads = usable_cores().count if threads is None else threads
    options.add_session_config_entry("session.intra_op.allow_spinning", f"{spinning:d}")


def available() -> Sequence[str]:
    """The providers that this ONNX Runtime was built with.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """
    built: Sequence[str] = import_onnxruntime().get_available_providers()
    return built
