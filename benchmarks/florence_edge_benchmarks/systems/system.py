"""A compared system: what its process and a result are given to know it by.

Also on what it runs, as one writes it (`cpu`, `cuda:1`, `openvino+bf16`), and the ways in which
transformers can be run, named without importing torch.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from florence_edge import Device
from florence_edge.errors import RequestError

_PRECISION_MARK = "+"


@dataclass(frozen=True, slots=True)
class SystemDevice:
    """A device, and what its engine computes in where that is a choice (OpenVINO)."""

    device: Device
    precision: str = ""

    @property
    def name(self) -> str:
        """What to call it in tables: `openvino, bf16`."""
        return f"{self.device}, {self.precision}" if self.precision else str(self.device)

    @property
    def gpu(self) -> int | None:
        """The number of the NVIDIA GPU that it computes on."""
        return self.device.index if self.device.on_nvidia else None


CPU = SystemDevice(Device("cpu"))


def parse_device(text: str, *, precision: str | None = None) -> SystemDevice:
    """`openvino+bf16` as a device; `precision` is for an OpenVINO that names none.

    Raises:
        RequestError: there is no such device, or nothing stands behind the +.
    """
    written, plus, own = text.partition(_PRECISION_MARK)
    if (plus and not own) or _PRECISION_MARK in own:
        raise RequestError(f"{text!r} is not a device. Expected cpu, cuda:1 or openvino+bf16.")
    device = Device.parse(written)
    if not own and precision is not None and device.engine == "openvino":
        own = precision
    return SystemDevice(device, own)


@dataclass(frozen=True, slots=True)
class Variant:
    """How transformers is run; float32 is run with its default attention."""

    dtype: str
    compiled: bool = False


VARIANTS = {
    "transformers": Variant("float32"),
    "transformers-bf16": Variant("bfloat16"),
    "transformers-fp16": Variant("float16"),
    "transformers-compile": Variant("float32", compiled=True),
    "transformers-bf16-compile": Variant("bfloat16", compiled=True),
    "transformers-fp16-compile": Variant("float16", compiled=True),
}

# Who read the checkpoint's files.
FROM_PRETRAINED = "its own from_pretrained"
OUR_READER = "florence-export's reader of checkpoints"

SystemKind = Literal["bundle", "transformers", "optimum", "openvino-notebook", "transformersjs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Something that answers workloads, in a process of its own.

    `bundle` is the folder that is run or, for the other kinds, the one that is compared with:
    it gives them image size, prompts and generation settings.
    """

    label: str
    kind: SystemKind
    bundle: str
    threads: int
    device: str = "cpu"
    engine_precision: str = ""
    """What the engine computes in, where that is a choice; empty is its default."""
    variant: str = ""
    checkpoint: str = ""
    python: str = ""
    """The interpreter that runs it; empty means this one."""

    @property
    def runs_on(self) -> SystemDevice:
        """Its device, and what the engine computes in.

        Raises:
            RequestError: there is no such device.
        """
        return SystemDevice(Device.parse(self.device), self.engine_precision)

    def to_argument(self) -> str:
        """The system as one argument of a command line."""
        return json.dumps(asdict(self))
