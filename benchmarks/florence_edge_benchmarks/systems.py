"""The compared systems: which there are, and how each is told to its process."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from florence_edge.bundle import MANIFEST, Bundle
from florence_edge.errors import FlorenceEdgeError, RequestError

from .transformers_variants import VARIANTS

Kind = Literal["bundle", "transformers", "optimum"]

OPTIMUM = "optimum"
COMPETITORS = (*VARIANTS, OPTIMUM)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Something that answers workloads, as a process of its own is told to be it.

    `bundle` is the folder that is run or, for the other kinds, the one that is compared with:
    it gives them image size, prompts and generation settings.
    """

    label: str
    kind: Kind
    bundle: str
    threads: int
    device: str = "cpu"
    variant: str = ""
    checkpoint: str = ""
    python: str = ""
    """The interpreter that runs it; empty means this one."""

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "System":
        """What `dataclasses.asdict` and JSON made of a system."""
        return System(**found)

    def to_argument(self) -> str:
        """The system as one argument of a command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What bundles are compared with, and on what.

    `checkpoint` empty means the one that a bundle's manifest names.
    """

    devices: Sequence[str] = ("cpu",)
    competitors: Sequence[str] = ()
    threads: int = 1
    checkpoint: str = ""
    bart: str = ""
    """Where `optimum_bart.checkpoint` wrote the language model, for optimum."""
    optimum_python: str = ""


def systems_of(
    bundles: Sequence[Path], comparison: Comparison, failed: Collection[str] = ()
) -> list[System]:
    """Every bundle on every device, then the competitors with the first bundle's checkpoint.

    Args:
        bundles: their folders.
        comparison: on which devices, and beside what.
        failed: folders of bundles that could not be made; nothing is compared with those.

    Raises:
        RequestError: a competitor is not known, or there is no bundle to compare it with.
    """
    ours = _distinct(
        [
            System(
                label=_label(folder, device),
                kind="bundle",
                bundle=str(folder),
                threads=comparison.threads,
                device=device,
            )
            for folder in bundles
            for device in comparison.devices
        ]
    )
    whole = [folder for folder in bundles if str(folder) not in failed]
    return ours + [_competitor(name, whole, comparison) for name in comparison.competitors]


def _label(folder: Path, device: str) -> str:
    """`fp32 on cpu`; a folder that is no bundle is called by its name until it fails."""
    try:
        bundle = Bundle.load(folder)
    except FlorenceEdgeError:
        return f"{folder.name} on {device}"
    return f"{bundle.precision} on {device}"


def _distinct(systems: Sequence[System]) -> list[System]:
    """Systems of one label are told apart by their folders."""
    labels = [system.label for system in systems]
    return [
        system
        if labels.count(system.label) == 1
        else replace(system, label=f"{system.label} ({system.bundle})")
        for system in systems
    ]


def _competitor(name: str, bundles: Sequence[Path], comparison: Comparison) -> System:
    if name not in COMPETITORS:
        raise RequestError(f"There is no {name!r} to compare with: {', '.join(COMPETITORS)}.")
    if not bundles:
        raise RequestError(f"{name} is compared with a bundle: name one, or use --architecture.")
    if name == OPTIMUM and not comparison.optimum_python:
        raise RequestError(
            "optimum needs an environment of its own: --optimum-python PATH/bin/python. "
            "benchmarks/README.md says how to make it."
        )
    alike = System(
        label=name,
        kind="transformers",
        bundle=str(bundles[0]),
        threads=comparison.threads,
        variant=name,
        checkpoint=comparison.checkpoint or stated_checkpoint(bundles[0]),
    )
    if name != OPTIMUM:
        return alike
    python = comparison.optimum_python
    return replace(alike, kind="optimum", checkpoint=comparison.bart, python=python)


def stated_checkpoint(bundle: Path) -> str:
    """What the bundle's manifest calls its model; a wrong one is found out when it is loaded."""
    try:
        return str(json.loads((bundle / MANIFEST).read_text("utf-8"))["model"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
