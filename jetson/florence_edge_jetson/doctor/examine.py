"""The examination: everything is read once, then judged."""

import importlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.bundle import Bundle
from florence_edge.devices import Device, Engine
from florence_edge.errors import BackendError, FlorenceEdgeError
from florence_edge.tensorrt.driver import GpuInfo, find_gpu
from florence_edge.tensorrt.install import Flavour, TensorRT, find_tensorrt
from florence_edge.tensorrt.manifest import TargetDevice, this_device

from ..machine.board import Board, read_board
from ..machine.clocks import read_gpu_clock, read_power_mode, read_power_modes
from ..machine.system import Tree, read_memory
from ..machine.thermal import active_alerts, over_current_events, read_zones
from ..power.rails import find_rails
from . import checks_bundle, checks_hardware, checks_software
from .checks_software import ProviderTrial, try_providers
from .findings import Finding

_CPU = Device("cpu")
_ENGINES: dict[Flavour, Engine] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What this machine's Python finds: each the thing itself, or why it cannot be had."""

    gpu: GpuInfo | FlorenceEdgeError
    tensorrt: TensorRT | FlorenceEdgeError
    onnxruntime: str
    trials: tuple[ProviderTrial, ...] | FlorenceEdgeError

    @property
    def runs_on_cpu(self) -> bool:
        """Whether ONNX Runtime can answer."""
        trials = () if isinstance(self.trials, FlorenceEdgeError) else self.trials
        return any(trial.provider.startswith("CPU") and not trial.problem for trial in trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How thoroughly to examine. `quick`: no hashing of weights, no self-test.

    `device` is what is to answer; for TensorRT, fitting engines must then be there.
    """

    quick: bool = False
    device: Device = _CPU

    @property
    def needs_engines(self) -> bool:
        """Whether only TensorRT may answer."""
        return self.device.family == "tensorrt"


def examine(
    tree: Tree,
    folder: Path | None = None,
    engine_dir: Path | None = None,
    scope: Scope | None = None,
) -> list[Finding]:
    """All findings about the bundle in `folder`, a machine, and engines in the bundle or elsewhere.

    Of a recorded machine only the files are judged: neither Python nor an engine is run.
    """
    scope = scope or Scope()
    board = read_board(tree)
    bundle, loaded = None, None
    if folder is not None:
        bundle, loaded = checks_bundle.load_bundle(folder, quick=scope.quick)
    needed = 0 if bundle is None else checks_bundle.bundle_bytes(bundle)
    installed = read_installed() if tree.live else None
    findings = [
        loaded,
        *_hardware(tree, board, needed),
        *(_recorded(tree, board) if installed is None else _live(tree, board, installed)),
        checks_software.check_disk(*_free(folder)) if tree.live else None,
    ]
    if bundle is not None and installed is not None:
        findings += _answers(bundle, installed, engine_dir, scope)
    return [finding for finding in findings if finding is not None]


def read_installed() -> Installed:
    """Ask the driver, TensorRT and ONNX Runtime; the last runs a kernel on each provider."""
    version, trials = _providers()
    return Installed(gpu=_gpu(), tensorrt=_tensorrt(), onnxruntime=version, trials=trials)


def _hardware(tree: Tree, board: Board, needed: int) -> list[Finding | None]:
    memory, modes = read_memory(tree), read_power_modes(tree)
    return [
        checks_hardware.check_board(board),
        checks_hardware.check_jetpack(board),
        checks_hardware.check_memory(memory, needed, board),
        checks_hardware.check_swap(memory, board),
        checks_hardware.check_power_mode(read_power_mode(tree), modes, board),
        checks_hardware.check_gpu_clock(read_gpu_clock(tree), modes, board),
        checks_hardware.check_temperature(read_zones(tree)),
        checks_hardware.check_throttling(active_alerts(tree), over_current_events(tree), board),
        checks_hardware.check_rails(find_rails(tree), board),
    ]


def _recorded(tree: Tree, board: Board) -> list[Finding | None]:
    return [
        checks_software.check_cuda(checks_software.cuda_version(tree), board.is_jetson, board),
        checks_software.check_tensorrt_library(checks_software.tensorrt_library(tree), board),
        checks_software.check_cameras(checks_software.read_cameras(tree)),
    ]


def _live(tree: Tree, board: Board, installed: Installed) -> list[Finding | None]:
    driver = tree.text("/proc/driver/nvidia/version") is not None
    has_gpu = isinstance(installed.gpu, GpuInfo) or board.is_jetson or driver
    with_tensorrt = has_gpu and isinstance(installed.tensorrt, TensorRT)
    cameras = checks_software.read_cameras(tree)
    forbidden = [name for name in cameras if not os.access(name, os.R_OK | os.W_OK)]
    return [
        checks_software.check_python(sys.version_info[:2], board),
        checks_software.check_gpu(installed.gpu, board, driver=driver),
        checks_software.check_cuda(checks_software.cuda_version(tree), has_gpu, board),
        checks_software.check_tensorrt(installed.tensorrt, has_gpu, board),
        *checks_software.check_onnxruntime(
            installed.trials, version=installed.onnxruntime, tensorrt=with_tensorrt
        ),
        checks_software.check_cameras(cameras, forbidden),
    ]


def _answers(
    bundle: Bundle, installed: Installed, engine_dir: Path | None, scope: Scope
) -> list[Finding]:
    """The engines that there are, and self-tests on those that this machine can run."""
    device = _device(installed.tensorrt, scope.device.index)
    engines = checks_bundle.check_engines(bundle, device, engine_dir, needed=scope.needs_engines)
    if scope.quick:
        return engines
    tested = []
    if installed.runs_on_cpu:
        tested.append(checks_bundle.check_answers(bundle, _CPU))
    if isinstance(device, TargetDevice) and engines[-1].state == "ok":
        on = Device(_ENGINES[device.flavour], scope.device.index)
        engines.append(checks_bundle.check_answers(bundle, on, engine_dir))
    return tested + engines


def _free(folder: Path | None) -> tuple[int, str]:
    """Free bytes where the bundle lies, or here."""
    place = folder if folder is not None and folder.is_dir() else Path.cwd()
    return shutil.disk_usage(place).free, str(place)


def _gpu() -> GpuInfo | FlorenceEdgeError:
    try:
        return find_gpu()
    except FlorenceEdgeError as error:
        return error


def _tensorrt() -> TensorRT | FlorenceEdgeError:
    try:
        return find_tensorrt()
    except FlorenceEdgeError as error:
        return error


def _device(tensorrt: TensorRT | FlorenceEdgeError, index: int) -> TargetDevice | FlorenceEdgeError:
    if isinstance(tensorrt, FlorenceEdgeError):
        return tensorrt
    try:
        return this_device(tensorrt, index)
    except FlorenceEdgeError as error:
        return error


def _providers() -> tuple[str, tuple[ProviderTrial, ...] | FlorenceEdgeError]:
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:  # OSError: a library of it does not load
        return "", BackendError(f"ONNX Runtime cannot be imported ({error}).")
    return str(onnxruntime.__version__), try_providers(onnxruntime)
