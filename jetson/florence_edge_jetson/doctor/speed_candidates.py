"""Which engines `florence-doctor --speed` tries: what is installed here and runs the bundle."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from florence_edge.backends.auto import usual_choice
from florence_edge.backends.openvino import device_capabilities
from florence_edge.bundle import Bundle
from florence_edge.cpu import Cores, usable_cores
from florence_edge.devices import Device, EngineSettings
from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.extras import pip_install

from .speed import Candidate

_CPU, _OPENVINO = Device("cpu"), Device("openvino")
_BFLOAT16 = "BF16"  # as OpenVINO calls it


def candidates(
    bundles: Sequence[Bundle], engine_dir: Path | None, left_out: list[str]
) -> list[Candidate]:
    """Every bundle on every engine that is installed; what is not tried is said in `left_out`.

    Raises:
        RequestError: the bundles are of different checkpoints, which no speed makes up for.
    """
    first = bundles[0]
    for bundle in bundles[1:]:
        if bundle.checkpoint != first.checkpoint:
            raise RequestError(
                f"{bundle.folder} is of another checkpoint than {first.folder}: they answer "
                "differently, whichever is faster. Compare bundles of one checkpoint."
            )
    cores = usable_cores()
    return [each for bundle in bundles for each in _of_bundle(bundle, cores, engine_dir, left_out)]


def _of_bundle(
    bundle: Bundle, cores: Cores, engine_dir: Path | None, left_out: list[str]
) -> Iterator[Candidate]:
    usual = usual_choice(bundle, engine_dir)  # a GPU, where there is one that runs it
    if usual.device.on_nvidia:
        yield Candidate(bundle=bundle, settings=EngineSettings(device=usual.device))
        if usual.device.family == "tensorrt" and bundle.runs_on("cuda"):
            yield Candidate(bundle=bundle, settings=EngineSettings(device=Device("cuda")))
    if find_spec("onnxruntime") is None:
        left_out.append(f"cpu: ONNX Runtime is not installed ({pip_install('cpu')})")
    elif bundle.runs_on("cpu"):
        yield from (Candidate(bundle=bundle, settings=each) for each in _ways_on_cpu(cores))
    if find_spec("openvino") is None:
        left_out.append(f"openvino: it is not installed ({pip_install('openvino')})")
    elif bundle.runs_on("openvino"):
        yield from _on_openvino(bundle, cores, left_out)


def _ways_on_cpu(cores: Cores) -> Iterator[EngineSettings]:
    """All cores without and with threads that wait busily; half of them; and all processors."""
    yield EngineSettings(device=_CPU, threads=cores.count, spinning=False)
    if cores.count > 1:
        yield EngineSettings(device=_CPU, threads=cores.count, spinning=True)
        yield EngineSettings(device=_CPU, threads=cores.count // 2, spinning=False)
    if cores.quota is None and cores.logical > cores.count:
        yield EngineSettings(device=_CPU, threads=cores.logical, spinning=False)


def _on_openvino(bundle: Bundle, cores: Cores, left_out: list[str]) -> Iterator[Candidate]:
    try:
        devices = device_capabilities()
    except FlorenceEdgeError as error:
        left_out.append(f"openvino: {error}")
        return
    for name, able in devices.items():
        device = _OPENVINO if name == "CPU" else Device("openvino", openvino_device=name)
        counts: tuple[int | None, ...] = (None,)
        if name == "CPU":  # its threads wait busily for each other
            counts = (cores.count, cores.count // 2) if cores.count > 1 else (1,)
        for threads in counts:
            settings = EngineSettings(device=device, threads=threads, precision="fp32")
            yield Candidate(bundle=bundle, settings=settings)
        if _BFLOAT16 in able:
            rounding = EngineSettings(device=device, threads=counts[0], precision="bf16")
            yield Candidate(bundle=bundle, settings=rounding, rounds_more=True)
