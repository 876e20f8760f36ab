"""Which systems take part: every bundle on its devices, and what they are compared with.

What can be known before anything is measured is checked here: whether some bundle could answer at
all, and whether a bundle and a checkpoint are the same model.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge import Device
from florence_edge.bundle import MANIFEST, Bundle
from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.files import read_json
from florence_edge.image import load_image
from florence_edge.options import resolve

from ..systems.system import CPU, VARIANTS, System, SystemDevice, SystemKind, parse_device
from ..systems.workload import Workload


def check_some_can_answer(
    folders: Sequence[Path], workloads: Sequence[Workload], failed: Mapping[str, str]
) -> None:
    """Refuse a measurement that would have nothing but failures.

    One bundle that can be opened and can answer one of the workloads is enough: what fails beside
    it becomes a row.

    Args:
        folders: of the bundles, at least one.
        workloads: at least one, all about one picture.
        failed: bundles that could not be made, by their folder, and why.

    Raises:
        RequestError: no bundle can answer, or the picture cannot be read.
    """
    load_image(workloads[0].image)
    problems = []
    for folder in folders:
        problem = failed.get(str(folder)) or _problem(folder, workloads)
        if problem is None:
            return
        problems.append(problem)
    raise RequestError(f"No bundle was measured. {problems[0]}")


def _problem(folder: Path, workloads: Sequence[Workload]) -> str | None:
    """Why a bundle can answer none of the workloads; None if it can answer one."""
    try:
        bundle = Bundle.load(folder)
    except FlorenceEdgeError as error:
        return str(error)
    problems = []
    for workload in workloads:
        try:
            resolve(workload.options, bundle.generation, bundle.size)
        except FlorenceEdgeError as error:
            problems.append(str(error))
        else:
            return None
    return problems[0]


OPTIMUM = "optimum"
NOTEBOOK = "openvino-notebook"
TRANSFORMERS_JS = "transformersjs"
_OWN_ENVIRONMENTS = (OPTIMUM, NOTEBOOK, TRANSFORMERS_JS)
COMPETITORS = (*VARIANTS, *_OWN_ENVIRONMENTS)


@dataclass(frozen=True, slots=True)
class BundleOnDevices:
    """A bundle's folder, and the devices to run it on."""

    folder: Path
    devices: tuple[SystemDevice, ...] = (CPU,)


def parse_bundle(text: str, devices: Sequence[SystemDevice]) -> BundleOnDevices:
    """`BUNDLE`, on all of `devices`, or `BUNDLE@cpu,openvino+bf16`.

    Raises:
        RequestError: what stands behind the @ is not a device.
    """
    folder, at, written = text.rpartition("@")
    if not at or Path(text).exists():  # a folder may have an @ in its name
        return BundleOnDevices(Path(text), tuple(devices))
    return BundleOnDevices(Path(folder), tuple(map(parse_device, written.split(","))))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonPlan:
    """What bundles are compared with: `NAME`, or `NAME@cuda:1` for transformers elsewhere.

    `checkpoint` empty means the one that a bundle's manifest names.
    """

    competitors: Sequence[str] = ()
    threads: int = 1
    checkpoint: str = ""
    bart: str = ""
    """Where `systems.optimum.checkpoint` writes the language model, for optimum."""
    optimum_python: str = ""
    notebook: str = ""
    """Where `systems.openvino_notebook` writes its models."""
    notebook_python: str = ""
    transformers_js: str = ""
    """Where `systems.transformers_js` writes its model."""
    node: str = ""


def compared_systems(
    bundles: Sequence[BundleOnDevices], plan: ComparisonPlan, failed: Collection[str] = ()
) -> list[System]:
    """Every bundle on its devices, then the competitors with the first bundle's checkpoint.

    transformers runs on the first NVIDIA GPU that a bundle runs on, else on the CPU.

    Args:
        bundles: what is measured.
        plan: beside what.
        failed: folders of bundles that could not be made; nothing is compared with those.

    Raises:
        RequestError: a competitor is not known, or there is no bundle to compare it with.
    """
    ours = [
        System(
            label=_label(bundle.folder, on),
            kind="bundle",
            bundle=str(bundle.folder),
            threads=plan.threads,
            device=str(on.device),
            engine_precision=on.precision,
        )
        for bundle in bundles
        for on in bundle.devices
    ]
    whole = [bundle.folder for bundle in bundles if str(bundle.folder) not in failed]
    gpus = [on.gpu for bundle in bundles for on in bundle.devices if on.gpu is not None]
    torch_device = SystemDevice(Device("cuda", gpus[0])) if gpus else CPU
    theirs = [_competitor(name, whole, plan, torch_device) for name in plan.competitors]
    return [*_distinct(_once(ours)), *_once(theirs)]


def _once(systems: Sequence[System]) -> list[System]:
    return list(dict.fromkeys(systems))


def _label(folder: Path, on: SystemDevice) -> str:
    """`fp32 on cpu`; a folder that is not a bundle is called by its name until it fails."""
    try:
        bundle = Bundle.load(folder)
    except FlorenceEdgeError:
        return f"{folder.name} on {on.name}"
    return f"{bundle.precision} on {on.name}"


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
    text: str, bundles: Sequence[Path], plan: ComparisonPlan, torch_device: SystemDevice
) -> System:
    name, at, device = text.partition("@")
    if name not in COMPETITORS:
        raise RequestError(f"There is no {name!r} to compare with: {', '.join(COMPETITORS)}.")
    if not bundles:
        raise RequestError(f"{name} is compared with a bundle: name one, or use --architecture.")
    if name in _OWN_ENVIRONMENTS:
        return _in_own_environment(name, bundles[0], plan, device)
    on = _torch_device(text, device) if at else torch_device
    return System(
        label=name if on.gpu is None else f"{name} on {on.name}",
        kind="transformers",
        bundle=str(bundles[0]),
        threads=plan.threads,
        device=str(on.device),
        variant=name,
        checkpoint=plan.checkpoint or named_checkpoint(bundles[0]),
    )


def _torch_device(text: str, device: str) -> SystemDevice:
    on = parse_device(device)
    if on.device.engine not in ("cpu", "cuda"):
        raise RequestError(f"{text}: transformers runs on cpu, cuda or cuda:N.")
    return on


def _in_own_environment(name: str, bundle: Path, plan: ComparisonPlan, device: str) -> System:
    if device not in ("", "cpu"):
        raise RequestError(f"{name}@{device}: {name} is run on the CPU alone.")
    places: dict[str, tuple[SystemKind, str, str, str]] = {
        OPTIMUM: ("optimum", plan.bart, plan.optimum_python, "--optimum-python PATH/bin/python"),
        NOTEBOOK: (
            "openvino-notebook",
            plan.notebook,
            plan.notebook_python,
            "--notebook-python PATH/bin/python",
        ),
        TRANSFORMERS_JS: (
            "transformersjs",
            plan.transformers_js,
            plan.node,
            "--transformersjs-modules PATH/node_modules",
        ),
    }
    kind, folder, interpreter, option = places[name]
    if not interpreter:
        raise RequestError(
            f"{name} needs an environment of its own: {option}. "
            "benchmarks/README.md says how to make it."
        )
    return System(
        label=name,
        kind=kind,
        bundle=str(bundle),
        threads=plan.threads,
        variant=name,
        checkpoint=folder,
        python=interpreter,
    )


def named_checkpoint(bundle: Path) -> str:
    """What the bundle's manifest calls its model; a wrong one is found out when it is loaded."""
    try:
        return str(read_json(bundle / MANIFEST)["model"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
