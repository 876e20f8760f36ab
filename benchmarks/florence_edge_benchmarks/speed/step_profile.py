"""Where a decoder's step spends its time, by operator, greedily and with several beams.

    python -m florence_edge_benchmarks.speed.step_profile BUNDLE --output FILE

runs the decoder of a bundle on ONNX Runtime's CPU with its profiler on: a step of one beam and one
of several in turns, on caches of zeros. `results/int8/step_profile*.json` are what it wrote.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge import contract
from florence_edge.backends.ort import session_options
from florence_edge.backends.ort_package import CPU, import_onnxruntime
from florence_edge.bundle import Bundle
from florence_edge.command import run_command
from florence_edge.files import read_json, write_whole
from florence_edge.selftest import PROMPT_TOKENS
from florence_edge_jetson.machine.system import cpu_name

from ..machine import cpu_features

_CAPACITY = 64  # rows of the self-attention caches: an answer of that length
_STEPS, _WARM = 60, 10
_UNDISTURBED = 0.1  # of all steps: other work on the machine only makes them slower
_SHOWN = 0.005  # of a step: operators that take less are left out
_TRACE_BYTES = 1 << 30  # at most: an event a node and step
_LAYER = re.compile(r"^decoder/(layers\.\d+/)?")
_NUMBER = re.compile(r"(_node_\d+)?_kernel_time$")

Feeds = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Milliseconds of a step by operator, those of all layers together.

    `total` is of whole steps, with what ONNX Runtime does between operators.
    """

    total: float
    operators: Mapping[str, float]
    nodes: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """What the file holds of one search."""
        operators = {
            name: {"ms": round(each, 3), "nodes": self.nodes[name]}
            for name, each in sorted(self.operators.items(), key=lambda item: -item[1])
            if each >= _SHOWN * self.total
        }
        return {"ms": round(self.total, 3), "operators": operators}


def profile_steps(bundle: Bundle, beams: int, threads: int) -> dict[str, StepProfile]:
    """A greedy step and one with `beams`, by turns, on one session each."""
    with TemporaryDirectory() as folder:
        searches = {"greedy": 1, f"{beams} beams": beams}
        runs = {
            name: (_open(bundle, Path(folder) / str(count), threads), _feeds(bundle, count))
            for name, count in searches.items()
        }
        for _ in range(_WARM + _STEPS):
            for session, feeds in runs.values():
                session.run(None, feeds)
        return {name: _read(session.end_profiling()) for name, (session, _) in runs.items()}


def _open(bundle: Bundle, prefix: Path, threads: int) -> Any:
    """The decoder as backends/ort.py opens it, and with the profiler on."""
    options = session_options(bundle, contract.DECODER, CPU, threads=threads)
    options.enable_profiling, options.profile_file_prefix = True, str(prefix)
    file = str(bundle.graph_file(contract.DECODER))
    return import_onnxruntime().InferenceSession(file, options, providers=[CPU])


def _feeds(bundle: Bundle, beams: int) -> Feeds:
    """What a step in the middle of an answer about one picture reads."""
    size = bundle.size
    sides = {"B": 1, "N": beams, "R": beams, "S": _CAPACITY}
    sides["E"] = size.image_tokens + PROMPT_TOKENS
    decoder = contract.graphs(size, bundle.floats)[contract.DECODER]
    feeds = {
        tensor.name: np.zeros(
            [sides[side] if isinstance(side, str) else side for side in tensor.shape],
            dtype=tensor.dtype,
        )
        for tensor in decoder.inputs
    }
    feeds["position"][:] = _CAPACITY // 2
    feeds["encoder_mask"][:] = 1
    return feeds


def _read(file: str) -> StepProfile:
    """ONNX Runtime's trace: one event a node and run, in microseconds."""
    totals: list[float] = []
    by_node: dict[str, list[float]] = defaultdict(list)
    for event in read_json(Path(file), most=_TRACE_BYTES):
        name, cat = str(event["name"]), event.get("cat")
        if cat == "Session" and name == "model_run":
            totals.append(event["dur"] / 1e3)
        elif cat == "Node" and name.endswith("_kernel_time"):
            by_node[name].append(event["dur"] / 1e3)
    found: dict[str, float] = defaultdict(float)
    nodes: dict[str, int] = defaultdict(int)
    for name, durations in by_node.items():
        operator = _NUMBER.sub("", _LAYER.sub("", name))
        found[operator] += _undisturbed(durations)
        nodes[operator] += 1
    return StepProfile(total=_undisturbed(totals), operators=found, nodes=nodes)


def _undisturbed(milliseconds: Sequence[float]) -> float:
    return float(np.quantile(milliseconds[_WARM:], _UNDISTURBED))


def as_json(bundle: Bundle, profiles: Mapping[str, StepProfile], threads: int) -> dict[str, Any]:
    """The profiles, with the machine, the model and the version that they are of."""
    greedy, several = profiles.values()
    return {
        "command": "python -m florence_edge_benchmarks.speed.step_profile BUNDLE --output FILE",
        "machine": f"{cpu_name()} ({', '.join(cpu_features()) or 'no such flags'})",
        "threads": threads,
        "onnxruntime": import_onnxruntime().__version__,
        "model": f"{bundle.model}, {bundle.precision}, target {bundle.target}",
        "caches": f"{_CAPACITY} rows",
        "unit": "milliseconds of a step, of the fastest tenth of steps by turns, profiler on",
        "ratio": round(several.total / greedy.total, 2),
        "searches": {name: each.as_json() for name, each in profiles.items()},
    }


def main() -> int:
    """Measure and write the figures; give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--beams", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON")
    arguments = parser.parse_args()

    def run() -> None:
        bundle = Bundle.load(arguments.bundle)
        profiles = profile_steps(bundle, arguments.beams, arguments.threads)
        content = as_json(bundle, profiles, arguments.threads)
        write_whole(arguments.output, json.dumps(content, indent=1) + "\n")

    return run_command(
        "step_profile", run, explain=lambda error: f"{error}. Choose another --output."
    )


if __name__ == "__main__":
    sys.exit(main())
