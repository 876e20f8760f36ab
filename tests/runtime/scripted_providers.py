"""An ONNX Runtime with providers that do what a test says."""

from types import SimpleNamespace
from typing import Any

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class ScriptedProviders(SimpleNamespace):
    """The package: by provider what is answered, given the sum that would be right."""

    def __init__(self, **providers: Any) -> None:
        of_package = {"__file__": "nowhere/onnxruntime/__init__.py", "__version__": "1.31.1"}
        super().__init__(providers=providers, forbidden=[], **of_package)

    def get_available_providers(self) -> list[str]:
        return [f"{name}ExecutionProvider" for name in self.providers]

    def SessionOptions(self) -> SimpleNamespace:
        return SimpleNamespace(
            add_session_config_entry=lambda key, value: self.forbidden.append((key, value))
        )

    def InferenceSession(
        self, model: bytes, options: object, providers: list[str], enable_fallback: bool
    ) -> Any:
        assert not enable_fallback  # it would print
        answer = self.providers[providers[0].removesuffix("ExecutionProvider")]
        return SimpleNamespace(run=lambda outputs, feeds: answer(feeds["x"] + feeds["y"]))


def no_kernel(_: object) -> object:
    raise RuntimeError("cudaErrorNoKernelImageForDevice:\n no kernel image is available")
