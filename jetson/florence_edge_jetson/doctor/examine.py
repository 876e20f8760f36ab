"""The examination: everything is read once, then judged."""

import importlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.bundle import Bundle
from florence_edge.engines import Device, this_device
from florence_edge.engines.flavours import TensorRT, find_tensorrt
from florence_edge.engines.gpu import Gpu, find_gpu
from florence_edge.errors import BackendError

from ..machine.board import Board, read_board
from ..machine.clocks import read_gpu_clock, read_power_mode, read_power_modes
from ..machine.memory import read_memory
from ..machine.thermal import active_alerts, over_current_events, read_zones
from ..machine.tree import Tree
from ..power.rails import find_rails
from . import bundles, hardware, software
from .finding import Finding
from .smoke import Trial, try_providers


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What this machine's Python finds: each the thing itself, or why it is not to be had."""

    gpu: Gpu | BackendError
    tensorrt: TensorRT | BackendError
    onnxruntime: str
    trials: tuple[Trial, ...] | BackendError

    @property
    def runs_on_cpu(self) -> bool:
        """Whether ONNX Runtime can answer."""
        trials = () if isinstance(self.trials, BackendError) else self.trials
        return any(trial.provider.startswith("CPU") and not trial.problem for trial in trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How thoroughly to look. `quick`: no hashing of weights, no self-test.

    `device` is the engine that shall answer; TensorRT's must then be there.
    """

    quick: bool = False
    device: str = "cpu"

    @property
    def needs_engines(self) -> bool:
        """Whether nothing but TensorRT shall answer."""
        return self.device.startswith("tensorrt")


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
        bundle, loaded = bundles.load_bundle(folder, quick=scope.quick)
    needed = 0 if bundle is None else bundles.bundle_bytes(bundle)
    installed = read_installed() if tree.live else None
    findings = [
        loaded,
        *_hardware(tree, board, needed),
        *(_recorded(tree, board) if installed is None else _live(tree, board, installed)),
        software.check_disk(*_free(folder)) if tree.live else None,
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
        hardware.check_board(board),
        hardware.check_jetpack(board),
        hardware.check_memory(memory, needed, board),
        hardware.check_swap(memory, board),
        hardware.check_power_mode(read_power_mode(tree), modes, board),
        hardware.check_gpu_clock(read_gpu_clock(tree), modes, board),
        hardware.check_temperature(read_zones(tree)),
        hardware.check_throttling(active_alerts(tree), over_current_events(tree), board),
        hardware.check_rails(find_rails(tree), board),
    ]


def _recorded(tree: Tree, board: Board) -> list[Finding | None]:
    return [
        software.check_cuda(software.cuda_version(tree), board.is_jetson, board),
        software.check_tensorrt_library(software.tensorrt_library(tree), board),
        software.check_cameras(software.read_cameras(tree)),
    ]


def _live(tree: Tree, board: Board, installed: Installed) -> list[Finding | None]:
    driver = tree.text("/proc/driver/nvidia/version") is not None
    has_gpu = isinstance(installed.gpu, Gpu) or board.is_jetson or driver
    with_tensorrt = has_gpu and isinstance(installed.tensorrt, TensorRT)
    cameras = software.read_cameras(tree)
    forbidden = [name for name in cameras if not os.access(name, os.R_OK | os.W_OK)]
    return [
        software.check_python(sys.version_info[:2], board),
        software.check_gpu(installed.gpu, board, driver=driver),
        software.check_cuda(software.cuda_version(tree), has_gpu, board),
        software.check_tensorrt(installed.tensorrt, has_gpu, board),
        *software.check_onnxruntime(
            installed.trials, version=installed.onnxruntime, tensorrt=with_tensorrt
        ),
        software.check_cameras(cameras, forbidden),
    ]


def _answers(
    bundle: Bundle, installed: Installed, engine_dir: Path | None, scope: Scope
) -> list[Finding]:
    """The engines that lie there, and self-tests on those that this machine has."""
    device = _device(installed.tensorrt)
    engines = bundles.check_engines(bundle, device, engine_dir, needed=scope.needs_engines)
    if scope.quick:
        return engines
    tested = [bundles.check_answers(bundle, "cpu")] if installed.runs_on_cpu else []
    if isinstance(device, Device) and engines[-1].state == "ok":
        name = device.flavour.replace("_", "-")
        engines.append(bundles.check_answers(bundle, name, engine_dir))
    return tested + engines


def _free(folder: Path | None) -> tuple[int, str]:
    """Free bytes where the bundle lies, or here."""
    place = folder if folder is not None and folder.is_dir() else Path.cwd()
    return shutil.disk_usage(place).free, str(place)


def _gpu() -> Gpu | BackendError:
    try:
        return find_gpu()
    except BackendError as error:
        return error


def _tensorrt() -> TensorRT | BackendError:
    try:
        return find_tensorrt()
    except BackendError as error:
        return error


def _device(tensorrt: TensorRT | BackendError) -> Device | BackendError:
    if isinstance(tensorrt, BackendError):
        return tensorrt
    try:
        return this_device(tensorrt)
    except BackendError as error:
        return error


def _providers() -> tuple[str, tuple[Trial, ...] | BackendError]:
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:  # OSError: a library of it does not load
        return "", BackendError(f"ONNX Runtime cannot be imported ({error}).")
    return str(onnxruntime.__version__), try_providers(onnxruntime)
