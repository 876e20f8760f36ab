"""What a model runs on, as one writes it: `cpu`, `cuda:1`, `tensorrt`, `openvino:GPU.0`."""

import re
from dataclasses import dataclass
from typing import Literal, cast

from .errors import RequestError

Engine = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx", "openvino"]

WRITTEN = (
    *("cpu", "cuda", "cuda:N", "tensorrt", "tensorrt:N", "tensorrt-rtx", "tensorrt-rtx:N"),
    *("openvino", "openvino:GPU.N"),
)
_DEVICE = re.compile(
    "cpu|(?P<gpu_engine>cuda|tensorrt|tensorrt-rtx)(:(?P<index>[0-9]+))?"
    r"|openvino(:(?P<openvino>[A-Z]+(\.[0-9]+)?))?"
)


@dataclass(frozen=True, slots=True)
class Device:
    """An engine and the processor that it computes on; `Device.parse` makes it."""

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
