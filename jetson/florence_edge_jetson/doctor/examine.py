"""The examination: everything is read once, then judged."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from florence_edge.backends.int8_products import int8_products_saturate
from florence_edge.backends.ort_package import import_onnxruntime
from florence_edge.backends.provider_trial import ProviderTrial
from florence_edge.bundle import Bundle
from florence_edge.cpu import usable_cores
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
from .checks_software import try_providers
from .findings import Finding, fail, ok, warn

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
    board = _board(tree)
    bundle: Bundle | None = None
    findings: list[Finding | None] = []
    if folder is not None:
        bundle, loaded = _bundle(folder, scope)
        findings.append(loaded)
    needed = 0 if bundle is None else checks_bundle.bundle_bytes(bundle)
    findings += _hardware(tree, board, needed)
    if not tree.live:
        findings += _attempt("machine", lambda: _recorded(tree, board))
        return [finding for finding in findings if finding is not None]
    installed = read_installed()
    findings += _attempt("machine", lambda: _live(tree, board, installed))
    findings += _attempt("disk", lambda: [checks_software.check_disk(*_free(folder))])
    if bundle is not None:
        findings += _attempt("self-test", partial(_answers, bundle, installed, engine_dir, scope))
    return [finding for finding in findings if finding is not None]


def _attempt(check: str, run: Callable[[], Sequence[Finding | None]]) -> Sequence[Finding | None]:
    """What checks found; where one fails itself, that, so that the others are still told."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001 - a machine in trouble fails in ways nobody foresaw
        why = f"This could not be checked ({type(error).__name__}: {error})."
        return [warn(check, why, "Run it again; if it stays so, report it with --json's output.")]


def _bundle(folder: Path, scope: Scope) -> tuple[Bundle | None, Finding]:
    try:
        return checks_bundle.load_bundle(folder, quick=scope.quick)
    except Exception as error:  # noqa: BLE001 - see `_attempt`; without its bundle it is a failure
        why = f"It could not be read ({type(error).__name__}: {error})."
        return None, fail("bundle", why, "Copy the bundle again.")


def _board(tree: Tree) -> Board:
    try:
        return read_board(tree)
    except Exception:  # noqa: BLE001 - see `_attempt`; then nothing is expected of the board
        return Board(name="a machine that does not say what it is")


def read_installed() -> Installed:
    """Ask the driver, TensorRT and ONNX Runtime; the last runs a kernel on each provider."""
    version, trials = _providers()
    return Installed(gpu=_gpu(), tensorrt=_tensorrt(), onnxruntime=version, trials=trials)


def _hardware(tree: Tree, board: Board, needed: int) -> list[Finding | None]:
    checks: dict[str, Callable[[], Finding | None]] = {
        "board": lambda: checks_hardware.check_board(board),
        "jetpack": lambda: checks_hardware.check_jetpack(board),
        "memory": lambda: checks_hardware.check_memory(read_memory(tree), needed, board),
        "swap": lambda: checks_hardware.check_swap(read_memory(tree), board),
        "power mode": lambda: checks_hardware.check_power_mode(
            read_power_mode(tree), read_power_modes(tree), board
        ),
        "clocks": lambda: checks_hardware.check_gpu_clock(
            read_gpu_clock(tree), read_power_modes(tree), board
        ),
        "temperature": lambda: checks_hardware.check_temperature(read_zones(tree)),
        "throttling": lambda: checks_hardware.check_throttling(
            active_alerts(tree), over_current_events(tree), board
        ),
        "power rails": lambda: checks_hardware.check_rails(find_rails(tree), board),
    }
    return [found for name, check in checks.items() for found in _attempt(name, _one(check))]


def _one(check: Callable[[], Finding | None]) -> Callable[[], Sequence[Finding | None]]:
    return lambda: [check()]


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
        ok("threads", f"{usable_cores()}"),
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
) -> Sequence[Finding | None]:
    """The engines that there are, and self-tests on those that this machine can run."""
    device = _device(installed.tensorrt, scope.device.index)
    engines = checks_bundle.check_engines(bundle, device, engine_dir, needed=scope.needs_engines)
    if scope.quick:
        return engines
    tested: list[Finding | None] = []
    if installed.runs_on_cpu:
        tested.append(checks_bundle.check_answers(bundle, _CPU))
        if bundle.precision in ("int8", "int4"):
            saturate = int8_products_saturate()
            tested.append(checks_bundle.check_int8_products(bundle, saturate=saturate))
    if isinstance(device, TargetDevice) and engines[-1].state == "ok":
        on = Device(_ENGINES[device.flavour], scope.device.index)
        engines.append(checks_bundle.check_answers(bundle, on, engine_dir))
    return [*tested, *engines]


def _free(folder: Path | None) -> tuple[int, str]:
    """Free bytes where the bundle lies, or here."""
    place = folder if folder is not None and folder.is_dir() else Path()  # which may be deleted
    return shutil.disk_usage(place).free, str(place.absolute())


def _gpu() -> GpuInfo | FlorenceEdgeError:
    try:
        return find_gpu()
    except FlorenceEdgeError as error:
        return error
    except Exception as error:  # noqa: BLE001 - drivers of another kind than ever tried
        return BackendError(f"The driver does not answer ({type(error).__name__}: {error}).")


def _tensorrt() -> TensorRT | FlorenceEdgeError:
    try:
        return find_tensorrt()
    except FlorenceEdgeError as error:
        return error
    except Exception as error:  # noqa: BLE001 - half an installation fails in ways of its own
        return BackendError(f"TensorRT does not work ({type(error).__name__}: {error}).")


def _device(tensorrt: TensorRT | FlorenceEdgeError, index: int) -> TargetDevice | FlorenceEdgeError:
    if isinstance(tensorrt, FlorenceEdgeError):
        return tensorrt
    try:
        return this_device(tensorrt, index)
    except FlorenceEdgeError as error:
        return error


def _providers() -> tuple[str, tuple[ProviderTrial, ...] | FlorenceEdgeError]:
    try:
        onnxruntime = import_onnxruntime()  # without its telemetry
        return str(onnxruntime.__version__), try_providers(onnxruntime)
    except FlorenceEdgeError as error:
        return "", error
    except Exception as error:  # noqa: BLE001 - half an installation fails in ways of its own
        return "", BackendError(f"ONNX Runtime does not work ({type(error).__name__}: {error}).")
