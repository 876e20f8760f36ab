"""CUDA through NVIDIA's cuda-bindings."""

from typing import Any

from ..errors import BackendError
from .calls import FUNCTIONS, Call, Enum, Out, failure, results


def open_bindings() -> Call:
    """A `Call` over the package `cuda.bindings`.

    Raises:
        ImportError: it is not installed.
    """
    from cuda.bindings import driver, nvrtc, runtime

    functions: dict[str, Any] = {}
    enumerations: dict[str, list[Any]] = {}
    for name, arguments in FUNCTIONS.items():
        module = nvrtc if name.startswith("nvrtc") else runtime
        if name.startswith("cu") and not name.startswith("cuda"):
            module = driver
        functions[name] = getattr(module, name)
        enumerations[name] = [
            getattr(runtime, kind.name) if isinstance(kind, Enum) else None
            for kind in arguments
            if not isinstance(kind, Out)
        ]

    def call(name: str, *arguments: Any) -> Any:
        converted = [
            value if enumeration is None else enumeration(value)
            for value, enumeration in zip(arguments, enumerations[name], strict=True)
        ]
        try:
            status, *values = functions[name](*converted)
        except RuntimeError as error:  # a library that the bindings open on first use is missing
            raise BackendError(
                f"CUDA failed in {name}: {error}. Install NVIDIA's driver and the CUDA runtime, "
                "or use device='cpu'."
            ) from error
        if int(status):
            raise failure(name, status.name)
        return results([int(value) for value in values])

    return call
