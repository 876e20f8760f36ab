"""On what a system runs, as one writes it: `cpu`, `cuda:1`, `openvino+bf16`."""

import re
from dataclasses import dataclass

from florence_edge.errors import RequestError

_WRITTEN = re.compile(r"(?P<engine>[^+@\s]+)(\+(?P<precision>[^+@\s]+))?")
_NVIDIA = re.compile(r"(cuda|tensorrt|tensorrt-rtx)(:(?P<index>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class Device:
    """An engine with its device, and what it computes in where that is a choice (OpenVINO)."""

    engine: str
    precision: str = ""

    @property
    def name(self) -> str:
        """What to call it in tables: `openvino, bf16`."""
        return f"{self.engine}, {self.precision}" if self.precision else self.engine

    @property
    def gpu(self) -> int | None:
        """The number of NVIDIA's GPU that it runs on."""
        found = _NVIDIA.fullmatch(self.engine)
        return int(found["index"] or 0) if found else None


CPU = Device("cpu")


def device_of(text: str, *, precision: str | None = None) -> Device:
    """`openvino+bf16` as a device; `precision` is for an OpenVINO that says none.

    Raises:
        RequestError: it is written otherwise.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise RequestError(f"{text!r} is no device. Expected cpu, cuda:1 or openvino+bf16.")
    said = found["precision"]
    if said is None and precision is not None and found["engine"].startswith("openvino"):
        said = precision
    return Device(found["engine"], said or "")
