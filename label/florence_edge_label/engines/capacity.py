"""How many workers a machine takes: more than it has cores or GPUs are refused at once."""

import os
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from florence_edge import Device, RequestError
from florence_edge.cpu import Cores, usable_cores

_NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder a GPU; Jetsons have none, and one GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many, and what each gets."""

    count: int
    threads: int | None
    """Of the CPU; None where the engine has none of its own there."""
    gpus: tuple[str, ...] = ()
    """Which GPU each worker sees, as CUDA_VISIBLE_DEVICES names it; empty for all of them."""

    def __str__(self) -> str:
        return f"{self.count} {'process' if self.count == 1 else 'processes'} on this machine"


def plan_workers(
    device: Device,
    count: int | None,
    threads: int | None,
    cores: Cores | None = None,
    *,
    one_gpu: bool = False,
) -> Workers:
    """What to start on this machine.

    On CPUs a worker computes with one thread unless `threads` says otherwise, and there are as many
    as cores allow; on GPUs there is one a GPU, or a single one where the device names one
    (`one_gpu`).

    Raises:
        RequestError: there are not as many cores or GPUs, or the device is not known yet.
    """
    check_known(device)
    if device.on_nvidia:
        return _on_gpus(device, count, threads, one_gpu=one_gpu)
    usable = cores or usable_cores()
    if device.engine == "openvino" and device.openvino_device != "CPU":
        return Workers(count=count or 1, threads=threads)
    each = threads or 1
    check_cpus((count or 1) * each, usable.count, f"this machine may use {usable}")
    return Workers(count=count or usable.count // each, threads=each)


def check_known(device: Device) -> None:
    """Refuse `auto`: what it is turns out when a model is loaded, behind all planning.

    Raises:
        RequestError: saying what to give instead.
    """
    if device.engine == "auto":
        raise RequestError(
            "--device auto is decided when a model is loaded, and workers are planned before: one "
            "a core, or one a GPU. Name the device: cpu, cuda, ...; florence-doctor BUNDLE --speed "
            "says which is the fastest here."
        )


def check_cpus(wanted: int, there: int, where: str) -> None:
    """Refuse more threads than there are CPUs: they would take each other's time, or never start.

    Raises:
        RequestError: saying how many there are.
    """
    if wanted > there:
        raise RequestError(
            f"{wanted} CPUs are needed (--workers times --threads), and {where}. Give fewer "
            "--workers or --threads."
        )


def _on_gpus(device: Device, count: int | None, threads: int | None, *, one_gpu: bool) -> Workers:
    gpus = visible_gpus()
    if not gpus:
        raise RequestError(
            f"There is no GPU for --device {device}: this process may use none "
            f"(CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')!r}). Let "
            "it see one, or give --device cpu."
        )
    if one_gpu or device.index:  # found by its number among all of them
        gpus = ()
    most = len(gpus) or 1
    if count is not None and count > most:
        raise RequestError(
            f"{count} workers need as many GPUs, and there {'is 1' if most == 1 else f'are {most}'}"
            ". Give fewer --workers: one fills its GPU."
        )
    chosen = count or most
    return Workers(count=chosen, threads=threads, gpus=gpus[:chosen])


def visible_gpus() -> tuple[str, ...]:
    """The GPUs of NVIDIA that this process may use, as CUDA_VISIBLE_DEVICES names them.

    As CUDA reads it, names count up to the first that is none, such as -1
    (CUDA C++ Programming Guide, CUDA Environment Variables).
    """
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        names = (name.strip() for name in told.split(","))
        return tuple(takewhile(lambda name: name and not name.startswith("-"), names))
    found = len(list(_NVIDIA.iterdir())) if _NVIDIA.is_dir() else 1
    return tuple(map(str, range(found)))
