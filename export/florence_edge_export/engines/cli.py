"""florence-build: a bundle's graphs become TensorRT engines for this device."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from florence_edge import __version__
from florence_edge.bundle import Bundle
from florence_edge.command import run_command
from florence_edge.engines.flavours import find_tensorrt
from florence_edge.engines.profiles import EngineOptions
from florence_edge.errors import BackendError

from .build import Outcome, Wish, build_engines
from .job import Progress
from .knobs import updates_in_place
from .worker import choose_gpu

_DEFAULT = EngineOptions()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 130 when stopped.
    """
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    level = logging.DEBUG if parsed.verbose else logging.WARNING
    logging.getLogger("florence_edge_export").setLevel(level)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as on Ctrl-C
    return run_command(
        "florence-build",
        lambda: _Command(parsed).run(),
        explain=lambda error: f"{error}. Check the paths and the room there.",
        stopped="stopped; nothing was changed.",
    )


class _Command:
    """One call of the command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        if arguments.compare is not None and arguments.compute_capability is not None:
            raise BackendError(
                "--compare runs the engines and needs their GPU; leave --compute-capability out."
            )
        if arguments.gpu < 0 or (arguments.gpu and arguments.compute_capability is not None):
            raise BackendError(
                f"--gpu is {arguments.gpu}; it names a GPU of this machine, 0 or more (nvidia-smi "
                "lists them), and goes without --compute-capability."
            )
        self._arguments = arguments
        self._bundle = Bundle.load(arguments.bundle)
        self._bundle.check_engine("tensorrt")  # before the search for TensorRT
        self._tensorrt = find_tensorrt(arguments.engine)
        engine = "tensorrt-rtx" if self._tensorrt.is_rtx else "tensorrt"
        self._device = f"{engine}:{arguments.gpu}" if arguments.gpu else engine  # at run time
        self._line = _Line()

    def run(self) -> None:
        options = EngineOptions(
            batch=self._arguments.batch,
            beams=self._arguments.beams,
            max_new_tokens=self._arguments.max_new_tokens,
            workspace_mb=self._arguments.workspace,
        )
        options.check(self._bundle.size)
        wish = Wish(
            options=replace(options, in_place=self._in_place()),
            engine_dir=self._arguments.engine_dir,
            refresh=self._arguments.refresh,
            ahead_of_time=self._arguments.compute_capability,
            gpu=self._arguments.gpu,
        )
        outcome = build_engines(
            self._bundle, self._tensorrt, wish, show=self._line.show, accept=self._accept
        )
        if outcome.built:
            print(f"{outcome.folder} is ready. Try: {self._run_command()}")
            return
        print(f"{outcome.folder} has what was asked for; --refresh builds it again.")
        self._compare(outcome)

    def _in_place(self) -> int:
        """Cache capacity of the in-place decoder if that is to be built, 0 for the portable one."""
        capacity, tokens = self._bundle.in_place, self._arguments.max_new_tokens
        if capacity is None or self._arguments.portable_decoder:
            return 0
        if self._arguments.compare is not None:
            raise BackendError(
                "--compare cannot feed the in-place decoder: Polygraphy gives outputs a memory of "
                "their own. Add --portable-decoder."
            )
        why = None
        if tokens > capacity:
            why = f"the bundle's in-place decoder is for {capacity} tokens"
        elif not updates_in_place(self._tensorrt.module):
            why = f"TensorRT {self._tensorrt.version} does not update caches in place (10.15 does)"
        print(f"decoder: {'in place' if why is None else f'portable, because {why}'}")
        return capacity if why is None else 0

    def _accept(self, outcome: Outcome) -> None:
        """Look at engines that were just built, and refuse them if they compute wrong numbers."""
        self._line.clear()
        for graph, built in outcome.built.items():
            print(f"{graph}: {built.seconds} s, at most {built.peak_mb} MB of memory")
        self._compare(outcome)
        if self._arguments.compute_capability is not None:
            print("self-test not run: built ahead of time, without a GPU")
            return
        from .selftest import check_engines

        errors = check_engines(self._bundle, self._device, outcome.folder.parent)
        told = ", ".join(f"{name} within {error:.2g}" for name, error in errors.items())
        print(f"self-test: {told}")

    def _compare(self, outcome: Outcome) -> None:
        """Print how far each graph is from ONNX Runtime, if that was asked for."""
        if self._arguments.compare is None:
            return
        from .compare import compare, describe
        from .runners import Subject

        if self._arguments.gpu:
            choose_gpu(self._arguments.gpu)
        subject = Subject(self._bundle, outcome.folder, outcome.record, self._tensorrt)
        for comparison in compare(subject, layers=self._arguments.compare == "layers"):
            print(describe(comparison))

    def _run_command(self) -> str:
        place = self._arguments.engine_dir
        extra = f" --engine-dir {place}" if place else ""
        return f"florence-run {self._bundle.folder} IMAGE --task OD --device {self._device}{extra}"


class _Line:
    """One line on the terminal that says how far the build is."""

    def __init__(self) -> None:
        self._visible = sys.stderr.isatty()

    def show(self, progress: Progress) -> None:
        if self._visible:
            share = f" {progress.done}/{progress.total}" if progress.total else ""
            print(f"\r\033[KBuilding {progress.phase}{share}", end="", file=sys.stderr, flush=True)

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
        ("--batch", "N", _DEFAULT.batch, "most images at once"),
        ("--beams", "N", _DEFAULT.beams, "most beams"),
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
        "--portable-decoder", action="store_true", help="leave the bundle's in-place decoder alone"
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
    parser.add_argument("--verbose", action="store_true", help="say all that TensorRT says")
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    return parser
