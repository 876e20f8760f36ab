"""The node's parameters: names, defaults, descriptions, and which values are valid."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from florence_edge.errors import RequestError
from florence_edge.image_file import MAX_PIXELS, ImageOptions
from florence_edge.options import GenerationOptions
from florence_edge.task_arguments import own_tasks
from florence_edge.tasks import Needs, Prompt, Task, find_task, prompt_for

from .message_types import COMPRESSED_IMAGE, IMAGE

_TYPES = {"raw": IMAGE, "compressed": COMPRESSED_IMAGE}


def _parameter(default: Any, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParameters:
    """One field for each parameter."""

    bundle: str = _parameter("bundle", "folder that florence-export wrote; read by configure")
    device: str = _parameter("cpu", "cpu, cuda, cuda:N, tensorrt, ...; read by configure")
    engine_dir: str = _parameter("", "where florence-build put engines, if not into the bundle")
    transport: str = _parameter("raw", "raw or compressed frames; read by configure")
    task: str = _parameter("OD", "one of Florence-2's tasks, or of the bundle's own")
    text: str = _parameter("", "what the task takes beside the picture; ignored if it takes none")
    beams: int = _parameter(0, "1 (greedy) to 8; 0: the bundle's default")
    max_new_tokens: int = _parameter(0, "longest answer in tokens; 0: the bundle's default")
    max_time: float = _parameter(0.0, "seconds that one answer may take; 0.0: what it needs")
    clean: bool = _parameter(
        False, "leave out regions without an area, and location tokens in labels"
    )
    max_pixels: int = _parameter(
        MAX_PIXELS, "largest compressed frame, width times height; read by configure"
    )
    deep_range: str = _parameter(
        "full", "white in 16 bits: 65535 (full) or the frame's largest value (own); by configure"
    )
    rate: float = _parameter(0.0, "at most so many answers a second; 0.0: as many as can be")

    def prompt(self, own: Sequence[Task]) -> Prompt:
        """What every frame is asked; `own` are the bundle's tasks beside the 15.

        A text that the task does not take is left out, so that task and text can be set one after
        the other.

        Raises:
            RequestError: an unknown task, or a text that is missing or does not fit.
        """
        task = find_task(self.task, own)
        takes_text = task.needs is not Needs.NOTHING
        text = self.text if takes_text and self.text else None
        return prompt_for(task, text, None, image_size=None)

    @property
    def options(self) -> GenerationOptions:
        """How to generate."""
        return GenerationOptions(
            num_beams=self.beams or None,
            max_new_tokens=self.max_new_tokens or None,
            max_time=self.max_time or None,
        )

    @property
    def image_options(self) -> ImageOptions:
        """How frames are read.

        Raises:
            RequestError: a limit below 1 or a range that does not exist.
        """
        deep_range: Any = self.deep_range  # checked there
        return ImageOptions(max_pixels=self.max_pixels, deep_range=deep_range)

    @property
    def image_type(self) -> str:
        """Which message type the frames have."""
        return _TYPES[self.transport]

    @property
    def folder(self) -> str:
        """The bundle's folder, `~` spelled out."""
        return os.path.expanduser(self.bundle)

    @property
    def engines(self) -> str | None:
        """The folder of the engines, `~` spelled out; None for the bundle's own."""
        return os.path.expanduser(self.engine_dir) or None


DESCRIPTIONS = {each.name: str(each.metadata["description"]) for each in fields(NodeParameters)}
DEFAULTS = {each.name: each.default for each in fields(NodeParameters)}
CONFIGURED = ("bundle", "device", "engine_dir", "transport", "max_pixels", "deep_range")
"""Parameters whose change takes effect when the node is configured anew."""


def parameters_from(values: Mapping[str, Any]) -> NodeParameters:
    """The node's parameters from values by their names; other names are ignored.

    Raises:
        RequestError: a value that is not valid; beams and tokens are checked by the model.
        BundleError: the task is none of the 15, and there is no bundle that could have it.
    """
    for name, default in DEFAULTS.items():
        expected = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(values.get(name, default), expected):
            raise RequestError(
                f"{name} is {values[name]!r}; it must be of the type {type(default).__name__}."
            )
    parameters = NodeParameters(**{name: values[name] for name in DEFAULTS if name in values})
    if parameters.transport not in _TYPES:
        raise RequestError(
            f"transport is {parameters.transport!r}; it must be one of {', '.join(_TYPES)}."
        )
    for name in ("rate", "max_time"):
        value = getattr(parameters, name)
        if not (math.isfinite(value) and value >= 0):
            raise RequestError(f"{name} is {value}; it must be 0.0 (no limit) or more.")
    own = own_tasks(parameters.folder, [parameters.task])
    _ = parameters.prompt(own), parameters.image_options
    return parameters
