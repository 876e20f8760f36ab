"""florence-build: a bundle's graphs become TensorRT engines for this device."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from florence_edge import __version__, contract
from florence_edge.bundle import Bundle
from florence_edge.command import parsed, plain, run_command
from florence_edge.devices import Device
from florence_edge.errors import RequestError
from florence_edge.tensorrt.install import TensorRT, find_tensorrt
from florence_edge.tensorrt.profiles import EngineOptions

from .build import BuildOutcome, BuildRequest, build_engines, check_engines
from .builder import BuildProgress, updates_in_place
from .compare import Subject, compare, describe
from .worker import choose_gpu

_DEFAULT = EngineOptions()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 128 + n when stopped by
        signal n.
    """
    request = parsed(_parser(), arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    level = logging.DEBUG if request.verbose else logging.WARNING
    logging.getLogger("florence_edge_export").setLevel(level)
    return run_command(
        "florence-build",
        lambda: _run(request),
        explain=lambda error: f"{error}. Check the paths and the room there.",
        stopped="stopped; nothing was changed.",
    )


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    bundle = Bundle.load(arguments.bundle)
    bundle.check_engine("tensorrt")  # before the search for TensorRT
    tensorrt = find_tensorrt(arguments.engine)
    device = Device("tensorrt-rtx" if tensorrt.is_rtx else "tensorrt", arguments.gpu)
    options = EngineOptions(
        batch=arguments.batch,
        beams=arguments.beams,
        max_new_tokens=arguments.max_new_tokens,
        workspace_mb=arguments.workspace,
    )
    options.check(bundle.size)
    portable = _why_portable(arguments, bundle, tensorrt)
    capacity = contract.cache_capacity(options.max_new_tokens, bundle.size.decoder_positions)
    request = BuildRequest(
        options=replace(options, in_place=capacity if portable is None else 0),
        engine_dir=arguments.engine_dir,
        refresh=arguments.refresh,
        ahead_of_time=arguments.compute_capability,
        gpu=arguments.gpu,
    )
    line = _ProgressLine()

    def accept(outcome: BuildOutcome) -> None:
        """Look at engines that were just built, and refuse them if they compute wrong numbers."""
        line.clear()
        print(f"decoder: {'in place' if portable is None else f'portable, because {portable}'}")
        for graph, built in outcome.built.items():
            print(f"{graph}: {built.seconds} s, at most {built.peak_mb} MB of memory")
        _print_comparison(arguments, bundle, tensorrt, outcome)
        if arguments.compute_capability is not None:
            print("self-test not run: built ahead of time, without a GPU")
            return
        errors = check_engines(bundle, device, outcome.folder.parent)
        listed = ", ".join(f"{name} within {error:.2g}" for name, error in errors.items())
        print(f"self-test: {listed}")

    outcome = build_engines(bundle, tensorrt, request, show=line.show, accept=accept)
    if outcome.built:
        place = f" --engine-dir {arguments.engine_dir}" if arguments.engine_dir else ""
        command = f"florence-run {bundle.folder} IMAGE --task OD --device {device}{place}"
        print(plain(f"{outcome.folder} is ready. Try: {command}"))
        return
    print(plain(f"{outcome.folder} has what was requested; --refresh builds it again."))
    _print_comparison(arguments, bundle, tensorrt, outcome)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is loaded."""
    if arguments.compare is not None and arguments.compute_capability is not None:
        raise RequestError(
            "--compare runs the engines and needs their GPU; leave --compute-capability out."
        )
    if arguments.gpu < 0 or (arguments.gpu and arguments.compute_capability is not None):
        raise RequestError(
            f"--gpu is {arguments.gpu}; it names a GPU of this machine, 0 or more (nvidia-smi "
            "lists them), and goes without --compute-capability."
        )


def _why_portable(arguments: argparse.Namespace, bundle: Bundle, tensorrt: TensorRT) -> str | None:
    """Why the decoder is not the one that updates its caches in place; None if it is."""
    if arguments.portable_decoder:
        return "--portable-decoder asks for it"
    if not bundle.tensorrt_decoders:
        return "the bundle has no other"
    if not updates_in_place(tensorrt.module):
        return f"TensorRT {tensorrt.version} does not update caches in place (10.15 does)"
    if arguments.compare is not None:
        return "--compare cannot feed the one that updates its caches in place"
    return None


def _print_comparison(
    arguments: argparse.Namespace, bundle: Bundle, tensorrt: TensorRT, outcome: BuildOutcome
) -> None:
    """Print how far each graph is from ONNX Runtime, if that was requested."""
    if arguments.compare is None:
        return
    if arguments.gpu:
        choose_gpu(arguments.gpu)
    subject = Subject(bundle, outcome.folder, outcome.manifest, tensorrt)
    for comparison in compare(subject, layers=arguments.compare == "layers"):
        print(plain(describe(comparison)))


class _ProgressLine:
    """One line on the terminal that says how far the build is."""

    def __init__(self) -> None:
        self._visible = sys.stderr.isatty()

    def show(self, progress: BuildProgress) -> None:
        if self._visible:
            share = f" {progress.done}/{progress.total}" if progress.total else ""
            building = plain(f"Building {progress.phase}{share}")
            print(
                f"\r\033[K{building}",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def clear(self) -> None:
        if self._visible:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-build",
        description="Build TensorRT engines from a bundle, on the device that will run them.",
    )
    parser.add_argument("bundle", type=Path, help="folder that florence-export wrote")
    for flag, metavar, default, meaning in (
        ("--batch", "N", _DEFAULT.batch, "largest number of images at once"),
        ("--beams", "N", _DEFAULT.beams, "largest number of beams"),
        ("--max-new-tokens", "N", _DEFAULT.max_new_tokens, "longest answer"),
        ("--workspace", "MB", _DEFAULT.workspace_mb, "scratch memory of one kernel"),
    ):
        parser.add_argument(
            flag,
            type=int,
            metavar=metavar,
            default=default,
            help=f"{meaning} (default: {default})",
        )
    parser.add_argument(
        "--engine-dir", type=Path, metavar="DIR", help="for bundles that cannot be written to"
    )
    parser.add_argument(
        "--portable-decoder",
        action="store_true",
        help="build the decoder for any TensorRT, where this one could update caches in place",
    )
    parser.add_argument("--refresh", action="store_true", help="build again what is there")
    parser.add_argument(
        "--compare",
        nargs="?",
        const="outputs",
        choices=("outputs", "layers"),
        help="compare each graph with ONNX Runtime; `layers` names the first tensor that drifts",
    )
    parser.add_argument(
        "--engine", choices=("tensorrt", "rtx"), help="which TensorRT, if both are installed"
    )
    parser.add_argument(
        "--gpu", type=int, default=0, metavar="N", help="which GPU builds and runs (default: 0)"
    )
    parser.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="build for such GPUs without one (TensorRT-RTX alone)",
    )
    parser.add_argument("--verbose", action="store_true", help="show every message of TensorRT")
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    return parser
