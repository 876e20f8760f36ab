"""What a model runs on, as one writes it: `auto`, `cpu`, `cuda:1`, `tensorrt`, `openvino:GPU.0`."""

import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from .errors import RequestError

Engine = Literal["auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx", "openvino"]

WRITTEN = (
    *("auto", "cpu", "cuda", "cuda:N", "tensorrt", "tensorrt:N", "tensorrt-rtx", "tensorrt-rtx:N"),
    *("openvino", "openvino:GPU.N"),
)
_DEVICE = re.compile(
    "auto|cpu|(?P<gpu_engine>cuda|tensorrt|tensorrt-rtx)(:(?P<index>[0-9]+))?"
    r"|openvino(:(?P<openvino>[A-Z]+(\.[0-9]+)?))?"
)


@dataclass(frozen=True, slots=True)
class Device:
    """An engine and the processor that it computes on; `Device.parse` makes it.

    `auto` is whatever is the fastest here, as far as it is known when a model is loaded.
    """

    engine: Engine
    index: int = 0
    """Which NVIDIA GPU, from 0, for cuda, tensorrt and tensorrt-rtx."""
    openvino_device: str = "CPU"
    """OpenVINO's own name of its device: CPU, GPU, GPU.1, NPU, ..."""

    @staticmethod
    def parse(text: "str | Device") -> "Device":
        """Read a device as users write it.

        Raises:
            RequestError: there is no such device; the message lists those there are.
        """
        if isinstance(text, Device):
            return text
        known = _DEVICE.fullmatch(text) if isinstance(text, str) else None
        if known is None:
            raise RequestError(
                f"There is no device {text!r}. The devices are: {', '.join(WRITTEN)}."
            )
        engine = known["gpu_engine"] or text.partition(":")[0]
        return Device(cast(Engine, engine), int(known["index"] or 0), known["openvino"] or "CPU")

    @property
    def on_nvidia(self) -> bool:
        """Whether it computes on an NVIDIA GPU."""
        return self.engine in ("cuda", "tensorrt", "tensorrt-rtx")

    @property
    def family(self) -> str:
        """The engine that a bundle's target names: TensorRT and TensorRT-RTX are of one."""
        return self.engine.removesuffix("-rtx")

    def __str__(self) -> str:
        """The shortest text that `parse` reads as this device."""
        if self.engine == "openvino":
            return (
                self.engine if self.openvino_device == "CPU" else f"openvino:{self.openvino_device}"
            )
        return f"{self.engine}:{self.index}" if self.index else self.engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What a model runs on, and how its engine was set up: `Florence2.engine`."""

    device: Device
    threads: int | None = None
    """Of the CPU; None where the engine has none of its own there."""
    spinning: bool | None = None
    """Whether ONNX Runtime's idle threads wait busily on the CPU; None for other engines."""
    precision: str | None = None
    """What OpenVINO computes in, fp32 or bf16; None where the bundle says it."""
    reason: str = ""
    """Why this was taken, where the choice was left to the runtime."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what does not hold for the engine is left out."""
        values = {"threads": self.threads, "spinning": self.spinning, "precision": self.precision}
        beside = {"reason": self.reason} if self.reason else {}
        known = {name: value for name, value in values.items() if value is not None}
        return {"device": str(self.device), **known, **beside}

    def arguments(self) -> str:
        """What to give florence-run to have the same: `--device openvino --threads 2`."""
        spinning = None if self.spinning is None else ("yes" if self.spinning else "no")
        options = {
            "--device": self.device,
            "--threads": self.threads,
            "--spinning": spinning,
            "--engine-precision": self.precision if self.precision != "fp32" else None,
        }
        return " ".join(f"{name} {value}" for name, value in options.items() if value is not None)
