"""The float16 export: as much in float16 as a checkpoint bears, and what it does not bear named.

    float32 bundle, probes  -> magnitudes of all values        observe
    magnitudes              -> what would overflow             find_overflow
    float32 bundle, lifted  -> float16 graphs                  to_float16
    float16 bundle, probes  -> finite, and close to float32    deviations
    float32 bundle, probe   -> CUDA's vision encoder is right  check_fused_vision
    not close               -> blocks by the error of each     find_inaccurate

Both ways operators are lifted: they stay float32 with the weights they read, between casts. What
was lifted, why, and what float16 costs goes into the bundle's fidelity.json.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from florence_edge import contract
from florence_edge.backends.ort import open_ort
from florence_edge.bundle import FIDELITY, Bundle
from florence_edge.errors import BundleError
from florence_edge.files import write_whole
from florence_edge_calibration.fp16 import (
    SCORES,
    convert_to_float16,
    half_nodes,
    operator_of,
    with_layers,
)
from florence_edge_calibration.overflow import (
    LIMIT,
    GraphRecord,
    Lifted,
    Observation,
    find_overflow,
    norms_fit,
    observe,
    record,
)
from florence_edge_calibration.probes import (
    Probe,
    ProbeOutputs,
    answer,
    deviation,
    make_probes,
)
from florence_edge_calibration.quantization.observer import open_session

from .bundle_writer import BundleFormat, BundleSource, save_bundle
from .smoke_test import check_fused_vision, other_precision

logger = logging.getLogger(__name__)

# Largest deviation from float32 that passes, in standard deviations of the output. Base with
# outliers of 50 loses 0.03 (results/parity/half_errors.json). With its weights rounded to 4, 3 and
# 2 binary digits, the miniature was 0.21, 0.35 and more off, and another token was best at 0.06 %,
# 0.4 % and more of its 4,929 decided positions about 24 scenes.
BOUND = 0.25
_OF_A_GRAPH = BOUND / len(contract.GRAPHS)  # their errors add up
_MAX_LIFTED = 0.5  # of a graph's blocks: with more the bundle would be float16 by name only
_ROUNDS = 3  # of lifting: each looks at the probe that is worst then
_SHOWN = 8  # layers in the log; fidelity.json has all


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What float16 costs, and what had to be lifted for that.

    `deviations` are the largest differences from float32 by output, in standard deviations.
    """

    probes: int
    deviations: Mapping[str, float]
    overflowing: Lifted
    inaccurate: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """What fidelity.json holds under `against_float`."""
        return {
            "probes": self.probes,
            "deviations": {name: round(each, 5) for name, each in self.deviations.items()},
            "bound": BOUND,
            "float32": {
                "beyond": LIMIT,
                "overflowing": self.overflowing.layers(),
                "features_and_caches": self.overflowing.exchanged,
                "inaccurate": list(self.inaccurate),
            },
        }


def write_float16(floats: Bundle, source: BundleSource, folder: Path) -> None:
    """Put a float16 bundle into `folder`, with what float16 costs.

    Args:
        floats: the float32 bundle of the same checkpoint.
        source: the checkpoint.
        folder: where the new bundle grows.

    Raises:
        BundleError: the checkpoint is not finite in float32, or far from it in float16 even with
            half of its blocks lifted, or the vision encoder for CUDA computes something else.
        MissingPackageError: ONNX Runtime is not installed.
    """
    probes = make_probes(floats)
    logger.info("Running float32 on %d pictures, to find what float16 does not hold", len(probes))
    seen = observe(floats, probes)
    overflowing = lifted = find_overflow(floats, seen.records)
    if source.cuda_graphs and may_be_fused(floats, contract.VISION_ENCODER, lifted, seen.records):
        check_fused_vision(floats, probes[0].pixels, seen.outputs[0].image_features)
    log_lifted("overflows there", overflowing.layers())
    if overflowing.exchanged:
        logger.warning("Features and caches stay float32, too, because float16 overflows there.")
    inaccurate: list[str] = []
    for more in range(_ROUNDS + 1):
        form = portable_form("fp16", exchanged=lifted.exchanged)
        graphs = to_float16(floats, lifted)
        if source.cuda_graphs:
            graphs |= _cuda_graphs(floats, lifted, seen.records)
        bundle = save_bundle(folder, source, form, graphs)
        far = _deviations(bundle, probes, seen)
        worst = max(range(len(probes)), key=lambda index: max(far[index].values()))
        if max(far[worst].values()) <= BOUND:
            break
        if more == _ROUNDS:
            raise _too_far(floats, far[worst])
        records = _record(floats, probes[worst], seen.outputs[worst])
        found = find_inaccurate(floats, records, lifted)
        log_lifted("is too coarse there", found)
        inaccurate += found
        lifted = lifted.adding(_operators(floats, found))
    fidelity = Fidelity(
        probes=len(probes),
        deviations={name: max(each[name] for each in far) for name in far[0]},
        overflowing=overflowing,
        inaccurate=inaccurate,
    )
    content = {"against_float": fidelity.as_json()}
    write_whole(folder / FIDELITY, json.dumps(content, indent=2) + "\n")


def log_lifted(why: str, layers: Sequence[str]) -> None:
    """Name the layers that stay float32, if there are any."""
    if layers:
        more = f" and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else ""
        logger.warning(
            "In float32 stays, because float16 %s: %s%s (see %s).",
            why,
            ", ".join(layers[:_SHOWN]),
            more,
            FIDELITY,
        )


def portable_form(precision: str, *, exchanged: bool) -> BundleFormat:
    """How the graphs of a portable bundle compute; features and caches are float32 if need be."""
    return BundleFormat(precision, floats="float32" if exchanged else "float16")


def may_be_fused(
    floats: Bundle, name: str, lifted: Lifted, seen: Mapping[str, GraphRecord]
) -> bool:
    """Whether a graph may be that of ONNX Runtime's own operators, as far as is known.

    All of it is float16 there, sums in front of norms included, and float16 is all it has.
    """
    graph = ir.load(floats.graph_file(name)).graph
    whole = lifted.operators.isdisjoint(operator_of(node) for node in graph)
    return whole and not lifted.exchanged and norms_fit(graph, seen[name])


def _cuda_graphs(
    floats: Bundle, lifted: Lifted, seen: Mapping[str, GraphRecord]
) -> dict[str, ir.Model]:
    """The graphs for ONNX Runtime's CUDA provider that float16 holds."""
    fused = {
        contract.VISION_ENCODER: contract.VISION_CUDA,
        contract.DECODER: contract.CUDA_DECODER,
    }
    graphs = {
        name: ir.load(floats.graph_file(name))
        for plain, name in fused.items()
        if may_be_fused(floats, plain, lifted, seen)
    }
    for model in graphs.values():
        convert_to_float16(model, SCORES)
    return graphs


def to_float16(floats: Bundle, lifted: Lifted) -> dict[str, ir.Model]:
    """The graphs of a float32 bundle in float16, but for what is lifted."""
    names = [*contract.GRAPHS, *(contract.TENSORRT_DECODERS if floats.tensorrt_decoders else ())]
    graphs = {name: ir.load(floats.graph_file(name)) for name in names}
    for name, model in graphs.items():
        operators = lifted.operators
        if name in contract.TENSORRT_DECODERS:
            operators = with_layers(operators, model.graph)
        convert_to_float16(model, SCORES, lifted=operators, exchanged=lifted.exchanged)
    return graphs


def _deviations(
    bundle: Bundle, probes: Sequence[Probe], seen: Observation
) -> list[dict[str, float]]:
    """How far each output is from float32's, probe by probe."""
    backend = open_ort(bundle)
    found = [
        answer(bundle, backend, probe, expected.tokens).deviations(expected)
        for probe, expected in zip(probes, seen.outputs, strict=True)
    ]
    backend.close()
    return found


def _record(floats: Bundle, probe: Probe, outputs: ProbeOutputs) -> dict[str, GraphRecord]:
    """What the float32 graphs are fed about one probe, and what they give."""
    records = {name: GraphRecord() for name in contract.GRAPHS}
    answer(floats, record(floats, records), probe, outputs.tokens)
    return records


def _too_far(floats: Bundle, deviations: Mapping[str, float]) -> BundleError:
    name, worst = max(deviations.items(), key=lambda item: item[1])
    how = f"{worst:.2g} standard deviations from" if np.isfinite(worst) else "not finite, unlike"
    return BundleError(
        f"In float16 the {name} of {floats.model} are {how} float32's (at most {BOUND} are "
        f"allowed), with all in float32 that was found to matter. {other_precision('fp16')}"
    )


def find_inaccurate(
    floats: Bundle, records: Mapping[str, GraphRecord], lifted: Lifted
) -> list[str]:
    """The blocks that have to stay float32 for each graph to come close to float32's outputs.

    Blocks are lifted in the order of their own errors, twice as many each time.

    Raises:
        BundleError: half of a graph's blocks do not do.
    """
    found: list[str] = []
    for graph, seen in records.items():
        trial = _Trial(floats, graph, seen, lifted)
        if trial.error(()) <= _OF_A_GRAPH:
            continue
        blocks = trial.blocks()
        logger.info("Trying the %d blocks of %s, one in float16 at a time", len(blocks), graph)
        ranked = sorted(blocks, key=lambda block: -trial.error_of(block))
        count, most = 1, max(1, int(len(blocks) * _MAX_LIFTED))
        while not (error := trial.error(ranked[:count])) <= _OF_A_GRAPH:
            if count == most:
                raise BundleError(
                    f"In float16 the {graph} of {floats.model} is {error:.2g} standard deviations "
                    f"from float32's (at most {_OF_A_GRAPH:.2g} are allowed), even with the {most} "
                    f"worst of its {len(blocks)} blocks in float32. "
                    f"{other_precision('fp16')}"
                )
            count = min(2 * count, most)
        found += ranked[:count]
    return found


def _operators(floats: Bundle, blocks: Sequence[str]) -> set[str]:
    """All operators of blocks."""
    wanted = set(blocks)
    graphs = (ir.load(floats.graph_file(name)).graph for name in contract.GRAPHS)
    operators = (operator_of(node) for graph in graphs for node in graph)
    return {name for name in operators if _block_of(name) in wanted}


def _block_of(operator: str) -> str:
    """What is lifted as one, e.g. `vision_encoder.blocks.2.3` or `decoder.layers.0`."""
    return ".".join(operator.rpartition("/")[0].split("/")[:2])


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """One graph by itself, fed what it was fed in float32, with some blocks in float16."""

    floats: Bundle
    graph: str
    seen: GraphRecord
    lifted: Lifted

    def blocks(self) -> list[str]:
        """Those that have something in float16, in order."""
        halves = half_nodes(ir.load(self.floats.graph_file(self.graph)).graph, SCORES)
        names = (operator_of(node) for node in halves)
        return list(dict.fromkeys(_block_of(name) for name in names))

    def error_of(self, block: str) -> float:
        """How far the outputs are off with this block alone in float16."""
        return self.error([each for each in self.blocks() if each != block])

    def error(self, in_float32: Sequence[str]) -> float:
        """How far the outputs are off, in standard deviations, with these blocks in float32."""
        model = ir.load(self.floats.graph_file(self.graph))
        operators = _operators(self.floats, in_float32)
        lifted = self.lifted.adding(operators)
        convert_to_float16(model, SCORES, lifted=lifted.operators, exchanged=lifted.exchanged)
        session = open_session(model, self.floats.folder)
        halves = {value.name for value in model.graph.inputs if value.dtype == ir.DataType.FLOAT16}
        feeds = {
            name: array.astype(np.float16) if name in halves else array
            for name, array in self.seen.feeds.items()
        }
        names = [name for name in self.seen.outputs if name != "top_ids"]
        found = zip(names, session.run(names, feeds), strict=True)
        return max(deviation(array, self.seen.outputs[name]) for name, array in found)
