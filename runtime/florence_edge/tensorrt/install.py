"""The TensorRT that is installed: the full one (Jetson, servers) or TensorRT-RTX (desktop GPUs).

`find_tensorrt` imports it; `make_logger` brings its messages into Python's logging, for building
engines and for running them.
"""

import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..engine_failures import ENGINE_FAILURES, engine_failure
from ..errors import BackendError, MissingPackageError, RequestError
from ..extras import pip_install

Flavour = Literal["tensorrt", "tensorrt_rtx"]
OnMessage: TypeAlias = Callable[[int, str], None]  # (level of the standard library, message)

CHOICE = "FLORENCE_TENSORRT"  # environment variable: tensorrt or rtx, where both are installed
OLDEST_TENSORRT = (10, 3)  # JetPack 6.1 and 6.2; JetPack 6.0 has 8.6

# In the order they are looked for. NVIDIA's package is `tensorrt_rtx`; the wheels on PyPI of one
# CUDA generation (tensorrt-rtx-cu13-bindings) carry their extension under the last name alone.
_MODULES: tuple[tuple[Flavour, str], ...] = (
    ("tensorrt", "tensorrt"),
    ("tensorrt_rtx", "tensorrt_rtx"),
    ("tensorrt_rtx", "tensorrt_rtx_bindings"),
)
_FLAVOURS: dict[str, Flavour] = {
    "tensorrt": "tensorrt",
    "rtx": "tensorrt_rtx",
    "tensorrt_rtx": "tensorrt_rtx",
}


@dataclass(frozen=True, slots=True)
class TensorRT:
    """An imported TensorRT: its module, which of the two it is, and its version."""

    module: Any
    flavour: Flavour
    version: str

    @property
    def is_rtx(self) -> bool:
        """Whether kernels are compiled on first use, and engines can be built without a GPU."""
        return self.flavour == "tensorrt_rtx"


def find_tensorrt(choice: str | None = None) -> TensorRT:
    """Import TensorRT: `tensorrt` or `rtx`; None takes FLORENCE_TENSORRT's, or what there is.

    Raises:
        BackendError: it does not load, or is older than 10.3.
        MissingPackageError: it is not installed.
        RequestError: there is none of this name.
    """
    choice = choice or os.environ.get(CHOICE) or None
    if choice is not None and choice not in _FLAVOURS:
        raise RequestError(f"There is no TensorRT {choice!r}. Expected tensorrt or rtx.")
    broken: Exception | None = None
    for flavour, name in _MODULES:
        if choice is not None and flavour != _FLAVOURS[choice]:
            continue
        try:
            module = importlib.import_module(name)
        except ENGINE_FAILURES as failure:  # OSError: a library of it is missing
            if not (isinstance(failure, ModuleNotFoundError) and failure.name == name):
                broken = failure
            continue
        return _checked(TensorRT(module, flavour, str(module.__version__)))
    if broken is not None:
        raise engine_failure(
            "TensorRT is installed but does not load",
            broken,
            "Check that its libraries are of the same version and fit the driver's CUDA.",
        ) from broken
    if choice is not None and _FLAVOURS[choice] == "tensorrt_rtx":
        raise MissingPackageError(
            "TensorRT-RTX is not installed. It is for desktop GPUs: pip install "
            "tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs."
        )
    raise MissingPackageError(
        "TensorRT is not installed. On a Jetson it comes with JetPack (apt install "
        "python3-libnvinfer; make the venv with --system-site-packages); on x86-64: "
        f"{pip_install('tensorrt-cu13')} (or tensorrt-cu12, as the driver's CUDA is)."
    )


def _checked(found: TensorRT) -> TensorRT:
    if not found.is_rtx and version_numbers(found.version)[:2] < OLDEST_TENSORRT:
        raise BackendError(
            f"TensorRT {found.version} is too old; 10.3 or newer is needed. On a Jetson install "
            "JetPack 6.1 or newer (JetPack 6.0 has TensorRT 8.6)."
        )
    return found


def version_numbers(version: str) -> tuple[int, ...]:
    """(10, 16, 2) of "10.16.2.post1": the leading numbers of a version."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def make_logger(trt: Any, on_message: OnMessage) -> Any:
    """An ILogger that hands messages on; what TensorRT calls verbose is left out.

    TensorRT keeps it without keeping it alive, and the first of a process serves all later
    builders and runtimes: hold it as long as they live.
    """
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.CRITICAL,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,  # TensorRT's INFO is a page a build
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        """TensorRT takes messages by inheritance only."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity in levels:
                on_message(levels[severity], message)

    return Logger()
