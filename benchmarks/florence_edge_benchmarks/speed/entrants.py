"""Who takes part: every bundle on its devices, and what they are compared with."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge.bundle import MANIFEST, Bundle
from florence_edge.errors import FlorenceEdgeError, RequestError

from ..systems.devices import CPU, Device, device_of
from ..systems.system import System
from ..systems.transformers_variants import VARIANTS

OPTIMUM = "optimum"
COMPETITORS = (*VARIANTS, OPTIMUM)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A bundle's folder, and the devices to run it on."""

    folder: Path
    devices: tuple[Device, ...] = (CPU,)


def entrant_of(text: str, devices: Sequence[Device]) -> Entrant:
    """`BUNDLE`, on all of `devices`, or `BUNDLE@cpu,openvino+bf16`.

    Raises:
        RequestError: what stands behind the @ is no device.
    """
    folder, at, said = text.rpartition("@")
    if not at or Path(text).exists():  # a folder may have an @ in its name
        return Entrant(Path(text), tuple(devices))
    return Entrant(Path(folder), tuple(device_of(part) for part in said.split(",")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What bundles are compared with: `NAME`, or `NAME@cuda:1` for transformers elsewhere.

    `checkpoint` empty means the one that a bundle's manifest names.
    """

    competitors: Sequence[str] = ()
    threads: int = 1
    checkpoint: str = ""
    bart: str = ""
    """Where `optimum_bart.checkpoint` wrote the language model, for optimum."""
    optimum_python: str = ""


def systems_of(
    entrants: Sequence[Entrant], comparison: Comparison, failed: Collection[str] = ()
) -> list[System]:
    """Every bundle on its devices, then the competitors with the first bundle's checkpoint.

    transformers runs on the first NVIDIA GPU that a bundle runs on, else on the CPU.

    Args:
        entrants: the bundles.
        comparison: beside what.
        failed: folders of bundles that could not be made; nothing is compared with those.

    Raises:
        RequestError: a competitor is not known, or there is no bundle to compare it with.
    """
    ours = [
        System(
            label=_label(entrant.folder, device),
            kind="bundle",
            bundle=str(entrant.folder),
            threads=comparison.threads,
            device=device.engine,
            engine_precision=device.precision,
        )
        for entrant in entrants
        for device in entrant.devices
    ]
    whole = [entrant.folder for entrant in entrants if str(entrant.folder) not in failed]
    gpus = [system.runs_on.gpu for system in ours if system.runs_on.gpu is not None]
    place = _cuda(gpus[0]) if gpus else CPU
    theirs = [_competitor(name, whole, comparison, place) for name in comparison.competitors]
    return [*_distinct(_once(ours)), *_once(theirs)]


def _once(systems: Sequence[System]) -> list[System]:
    return list(dict.fromkeys(systems))


def _label(folder: Path, device: Device) -> str:
    """`fp32 on cpu`; a folder that is no bundle is called by its name until it fails."""
    try:
        bundle = Bundle.load(folder)
    except FlorenceEdgeError:
        return f"{folder.name} on {device.name}"
    return f"{bundle.precision} on {device.name}"


def _cuda(index: int) -> Device:
    return Device(f"cuda:{index}" if index else "cuda")


def _distinct(systems: Sequence[System]) -> list[System]:
    """Systems of one label are told apart by their folders' names, or by the whole paths."""
    labels = [system.label for system in systems]
    named = [
        system
        if labels.count(system.label) == 1
        else replace(system, label=f"{system.label} ({Path(system.bundle).name})")
        for system in systems
    ]
    names = [system.label for system in named]
    return [
        new if names.count(new.label) == 1 else replace(old, label=f"{old.label} ({old.bundle})")
        for old, new in zip(systems, named, strict=True)
    ]


def _competitor(
    asked: str, bundles: Sequence[Path], comparison: Comparison, place: Device
) -> System:
    name, at, said = asked.partition("@")
    if name not in COMPETITORS:
        raise RequestError(f"There is no {name!r} to compare with: {', '.join(COMPETITORS)}.")
    if not bundles:
        raise RequestError(f"{name} is compared with a bundle: name one, or use --architecture.")
    if name == OPTIMUM:
        return _optimum(bundles[0], comparison, said)
    device = _place_of_torch(asked, said) if at else place
    return System(
        label=name if device.gpu is None else f"{name} on {device.name}",
        kind="transformers",
        bundle=str(bundles[0]),
        threads=comparison.threads,
        device=device.engine,
        variant=name,
        checkpoint=comparison.checkpoint or stated_checkpoint(bundles[0]),
    )


def _place_of_torch(asked: str, said: str) -> Device:
    device = device_of(said)
    if device.engine == "cpu" or (device.engine.startswith("cuda") and device.gpu is not None):
        return device
    raise RequestError(f"{asked}: transformers runs on cpu, cuda or cuda:N.")


def _optimum(bundle: Path, comparison: Comparison, said: str) -> System:
    if said not in ("", "cpu"):
        raise RequestError(f"optimum@{said}: optimum is run on the CPU alone.")
    if not comparison.optimum_python:
        raise RequestError(
            "optimum needs an environment of its own: --optimum-python PATH/bin/python. "
            "benchmarks/README.md says how to make it."
        )
    return System(
        label=OPTIMUM,
        kind="optimum",
        bundle=str(bundle),
        threads=comparison.threads,
        variant=OPTIMUM,
        checkpoint=comparison.bart,
        python=comparison.optimum_python,
    )


def stated_checkpoint(bundle: Path) -> str:
    """What the bundle's manifest calls its model; a wrong one is found out when it is loaded."""
    try:
        return str(json.loads((bundle / MANIFEST).read_text("utf-8"))["model"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
