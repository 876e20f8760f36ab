"""An int8 bundle from a float one: calibrate, quantize, judge, and write down what was found."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from florence_edge import contract
from florence_edge.bundle import FIDELITY, Bundle
from florence_edge.stopwatch import Stopwatch
from florence_edge_calibration.int8.ranges import calibrate
from florence_edge_calibration.int8.recipe import (
    Recipe,
    check_patterns,
    quantize,
    quantize_graph,
)
from florence_edge_calibration.int8.samples import Sample, folder_samples, scene_samples, split
from florence_edge_calibration.int8.table import CalibrationTable

from ..checkpoint.source import MINIATURE
from .cost import peak_megabytes
from .gate import Gate, log_progress
from .judgement import Judgement, Took, judge_tasks
from .options import Int8Options

logger = logging.getLogger(__name__)

WriteGraphs = Callable[[Mapping[str, ir.Model]], Bundle]

TABLE = "calibration.json"
FIDELITY_TABLE = "fidelity.md"
_MOST_JUDGING = 24  # pictures: some 6,000 positions, minutes on two cores
_JUDGING_SCENES = 64  # of the miniature, which is fast


def write_int8(
    floats: Bundle, folder: Path, options: Int8Options, write_graphs: WriteGraphs
) -> None:
    """Put graphs, weights, calibration and fidelity of an int8 bundle into `folder`.

    Args:
        floats: the float32 bundle of the same checkpoint.
        folder: where the new bundle grows.
        options: checked ones.
        write_graphs: writes graphs, tokenizer and manifest there, in place of those before.

    Raises:
        RequestError: pictures, table or patterns do not serve.
        BundleError: activations are not finite, or the gate's budget cannot be held.
    """
    recipe = Recipe(target=options.target, method=options.method, kept=options.kept)
    check_patterns(floats, recipe)
    watch = Stopwatch()
    seen, judging = _samples(floats, options)
    with watch.stage("calibration"):
        calibrated(floats, seen, options).save(folder / TABLE)
    table = CalibrationTable.load(folder / TABLE)  # what is used is what is written down

    def write(recipe: Recipe) -> Bundle:
        logger.info("Quantizing")
        graphs = dict(quantize(floats, table, recipe).graphs)
        if floats.in_place is not None:
            decoder = ir.load(floats.graph_file(contract.IN_PLACE))
            quantize_graph(contract.DECODER, decoder, table, recipe)
            graphs[contract.IN_PLACE] = decoder
        return write_graphs(graphs)

    passage = None
    if options.budget is None:
        with watch.stage("quantization"):
            write(recipe)
        logger.warning("The gate is left out: what int8 costs in accuracy was not measured.")
    else:
        gate = Gate(floats=floats, table=table, samples=judging, write=write, budget=options.budget)
        with watch.stage("quantization and gate"):
            passage = gate.find(recipe)
    judgement = Judgement(
        recipe=recipe,
        table=table,
        pictures=len(judging),
        budget=options.budget,
        passage=passage,
        tasks=judge_tasks(floats.folder, folder, judging) if passage else {},
        took=Took(seconds=watch.seconds, peak_megabytes=peak_megabytes()),
    )
    found = {"against_float": judgement.as_json()}
    (folder / FIDELITY).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (folder / FIDELITY_TABLE).write_text(judgement.as_markdown(floats.model), encoding="utf-8")


def calibrated(floats: Bundle, samples: Sequence[Sample], options: Int8Options) -> CalibrationTable:
    """The table that was passed, or a new one.

    Raises:
        RequestError: the table is another model's, or cannot be read.
    """
    if options.table is None:
        return calibrate(floats, samples, log_progress("Calibrating"))
    table = CalibrationTable.load(options.table)
    table.check(floats)
    return table


def _samples(floats: Bundle, options: Int8Options) -> tuple[list[Sample], list[Sample]]:
    """Pictures to calibrate with, and others to judge by."""
    if options.images is not None:
        found = folder_samples(options.images, options.samples)
        if options.budget is None:
            return found, []
        seen, judging = split(found)
        return seen, judging[:_MOST_JUDGING]
    if floats.model != MINIATURE:
        return [], []  # a table and no gate
    side = floats.size.image_size
    seen = scene_samples(options.samples, image_size=side)
    return seen, scene_samples(_JUDGING_SCENES, image_size=side, skip=options.samples)
