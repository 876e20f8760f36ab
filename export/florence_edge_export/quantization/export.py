"""int8 and int4: calibrate a float32 bundle, then quantize, save and judge until one passes.

    float32 bundle, pictures  -> calibration table, and what float16 cannot hold
    float32 bundle, recipe    -> quantized graphs    quantize_graphs
    quantized graphs          -> bundle              save_bundle
    bundle                    -> trial               Gate.judge
    trials                    -> blocks to return to float in the next recipe, or enough

What was found is written into the bundle: calibration.json, fidelity.json and fidelity.md.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir

from florence_edge import Florence2, contract
from florence_edge.bundle import FIDELITY, Bundle
from florence_edge.errors import MissingPackageError, RequestError
from florence_edge.extras import pip_install
from florence_edge.image_file import ImageOptions
from florence_edge.processing import Timer
from florence_edge_calibration.fp16 import with_layers
from florence_edge_calibration.overflow import find_overflow, observe
from florence_edge_calibration.probes import make_probes
from florence_edge_calibration.quantization.calibration_table import CalibrationTable, empty_table
from florence_edge_calibration.quantization.dataset import (
    HOW_MANY,
    MIN_PICTURES,
    CalibrationSample,
    folder_samples,
    pictures_in,
    scene_samples,
    split,
)
from florence_edge_calibration.quantization.observer import calibrate
from florence_edge_calibration.quantization.quantize import check_patterns, quantize, quantize_graph
from florence_edge_calibration.quantization.range_selection import DEFAULT_METHOD, METHODS
from florence_edge_calibration.quantization.recipe import (
    TARGETS,
    IntegerPrecision,
    KeptPrecision,
    Recipe,
    Target,
    locations_from,
)
from florence_edge_calibration.quantization.sensitivity import variant
from florence_edge_jetson.machine.system import peak_bytes

from ..bundle_writer import BundleFormat, BundleSource, save_bundle
from ..checkpoint.loader import MINIATURE
from ..float16 import log_lifted, portable_form
from ..progress import log_progress
from .gate import (
    Gate,
    Passage,
    StepSpeed,
    Trial,
    compare_steps,
    lift,
    next_count,
    on_cpu,
    open_gate,
    saves_time,
)
from .report import Effort, FidelityReport, compare_tasks

logger = logging.getLogger(__name__)

TABLE = "calibration.json"
FIDELITY_PAGE = "fidelity.md"
_MAX_JUDGING = 24  # pictures: some 6,000 positions, minutes on two cores
_JUDGING_SCENES = 64  # of the miniature, which is fast


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationOptions:
    """How to make an int8 or int4 bundle.

    `images` is a folder of pictures; None is for the miniature, which has scenes of its own.
    `table` is a calibration made before, for targets that round activations. `budget` bounds the
    share of positions, 0 to 1, that a task may lose (see gate.py); None leaves the gate out.
    """

    target: Target = "tensorrt"
    images: Path | None = None
    samples: int = 256
    method: str = DEFAULT_METHOD
    kept: Mapping[str, KeptPrecision] = field(default_factory=dict)
    budget: float | None = 0.01
    table: Path | None = None
    image_options: ImageOptions = field(default_factory=ImageOptions)


def check_quantization_options(
    model: str, options: QuantizationOptions, precision: IntegerPrecision
) -> None:
    """Refuse what cannot be done, before anything is.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
        RequestError: what is wrong, and what to pass instead.
    """
    if find_spec("onnxruntime") is None:
        raise MissingPackageError(
            f"--precision {precision} calibrates with ONNX Runtime, which is not installed. "
            f"Install it with: {pip_install('cpu')}"
        )
    if options.target not in TARGETS:
        raise RequestError(f"There is no target {options.target!r}. Choose from {TARGETS}.")
    if options.method not in METHODS:
        raise RequestError(f"There is no method {options.method!r}. Choose from {tuple(METHODS)}.")
    calibrates = Recipe(target=options.target, precision=precision).rounds_activations
    if options.table is not None and not calibrates:
        raise RequestError(
            f"--target {options.target} rounds no activations, so it takes no --calibration. Leave "
            "that out, or choose another --target."
        )
    needed = (calibrates and options.table is None) or options.budget is not None
    if needed and options.images is None and model != MINIATURE:
        raise RequestError(f"--precision {precision} needs --calibration-images DIR. {HOW_MANY}")
    if options.images is not None:
        pictures_in(options.images)
    _check_kept(options, precision)
    if options.budget is not None and not 0 <= options.budget < 1:
        raise RequestError(f"The budget is {options.budget:g}; it must be at least 0 and below 1.")
    if options.samples < MIN_PICTURES:
        raise RequestError(f"--samples is {options.samples}; it must be {MIN_PICTURES} or more.")


def _check_kept(options: QuantizationOptions, precision: IntegerPrecision) -> None:
    """Refuse layers in a precision that the target has not."""
    kept = options.kept.values()
    if options.target == "cpu" and "fp16" in kept:
        raise RequestError(
            f"The cpu target is float32 where it is not {precision}: use --keep PATTERN=fp32."
        )
    if precision == "int8" and "int8" in kept:
        raise RequestError(
            "--keep PATTERN=int8 is for --precision int4. In int8 everything else is int8 already: "
            "use fp16 or fp32, or leave it out."
        )


def write_quantized(
    floats: Bundle,
    source: BundleSource,
    folder: Path,
    options: QuantizationOptions,
    precision: IntegerPrecision = "int8",
) -> None:
    """Put an int8 or int4 bundle into `folder`, with its calibration and what it costs.

    Args:
        floats: the float32 bundle of the same checkpoint.
        source: the checkpoint.
        folder: where the new bundle grows.
        options: checked ones.
        precision: of the weights.

    Raises:
        RequestError: pictures, table or patterns do not serve.
        BundleError: activations are not finite, or the gate's budget cannot be held.
    """
    recipe = _recipe(floats, source, options, precision)
    timer = Timer()
    calibrating, judging = _samples(floats, options)
    if recipe.target != "cpu":
        recipe = lift_overflow(floats, recipe, calibrating)
    table = empty_table(floats)
    if recipe.rounds_activations:
        with timer.stage("calibration"):
            calibrated(floats, calibrating, options).save(folder / TABLE)
        table = CalibrationTable.load(folder / TABLE)  # what is used is what is written down
    passage = None
    if options.budget is None:
        with timer.stage("quantization"):
            save_bundle(folder, source, form(recipe), quantize_graphs(floats, table, recipe))
        logger.warning(
            "The gate is left out: what %s costs in accuracy was not measured.", precision
        )
    else:
        with timer.stage("quantization and gate"), Florence2.load(floats.folder) as model:
            gate = open_gate(model, table, judging, options.budget)
            passage = pass_gate(gate, recipe, source, folder)
        _warn_of_undecided(passage)
    steps = None
    if precision == "int4" and recipe.target != "tensorrt":
        with timer.stage("step beside int8's"):
            steps = _steps_beside_int8(floats, table, folder)
    report = FidelityReport(
        recipe=recipe,
        table=table,
        pictures=len(judging),
        budget=options.budget,
        passage=passage,
        tasks=compare_tasks(floats.folder, folder, judging) if passage else {},
        steps=steps,
        effort=Effort(seconds=timer.seconds, peak_bytes=peak_bytes()),
    )
    _write_report(report, floats.model, folder)


def _warn_of_undecided(passage: Passage) -> None:
    undecided = passage.trial.judged.undecided
    if undecided:
        logger.warning(
            "The float model is decided nowhere in its answers to %s: nothing was judged by them.",
            ", ".join(undecided),
        )


def _recipe(
    floats: Bundle,
    source: BundleSource,
    options: QuantizationOptions,
    precision: IntegerPrecision,
) -> Recipe:
    """What the options ask for.

    Raises:
        RequestError: a pattern matches no layer.
    """
    recipe = Recipe(
        target=options.target,
        precision=precision,
        method=options.method,
        kept=options.kept,
        locations_from=locations_from(source.tokenizer, floats.size.vocab_size),
    )
    check_patterns(floats, recipe)
    return recipe


def _write_report(report: FidelityReport, model: str, folder: Path) -> None:
    content = {"against_float": report.as_json()}
    (folder / FIDELITY).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / FIDELITY_PAGE).write_text(report.as_markdown(model), encoding="utf-8")


def _steps_beside_int8(
    floats: Bundle, table: CalibrationTable, folder: Path
) -> Mapping[str, StepSpeed]:
    """How many times as fast a step of the decoder is as int8's here, by search; it is said."""
    decoder = ir.load(floats.graph_file(contract.DECODER))
    quantize_graph(contract.DECODER, decoder, table, Recipe(target="cpu"))  # the fastest there
    with variant(floats, contract.DECODER, decoder) as int8, on_cpu(Bundle.load(folder)) as int4:
        steps = compare_steps(int8, int4)
    said = ", ".join(f"{name} {speed}" for name, speed in steps.items())
    if saves_time(steps):
        logger.info("A step of the decoder beside int8's here, as many times as fast: %s.", said)
    else:
        logger.warning(
            "A step of the decoder beside int8's here, as many times as fast (and the quartiles): "
            "%s. So on this CPU int4 saves memory and disk, and time not for certain. For speed "
            "take --precision int8.",
            said,
        )
    return steps


def lift_overflow(floats: Bundle, recipe: Recipe, samples: Sequence[CalibrationSample]) -> Recipe:
    """The recipe with what float16 cannot hold in float32 (see overflow.py).

    Raises:
        BundleError: the checkpoint is not finite in float32.
    """
    logger.info("Looking for what float16 cannot hold")
    seen = observe(floats, make_probes(floats, samples))
    found = find_overflow(floats, seen.records)
    log_lifted("overflows there", found.layers())
    return replace(recipe, lifted=found.operators, exchanged=found.exchanged)


def pass_gate(gate: Gate, recipe: Recipe, source: BundleSource, folder: Path) -> Passage:
    """Quantize, save and judge, with as few blocks returned as hold the gate's budget.

    They return to float, and in int4 those of the text models to int8 (`Recipe.lifted_to`).

    The bundle that `folder` holds in the end is the one that passed.

    Raises:
        BundleError: even with half of the blocks returned, the budget is not held, or no search for
            such blocks makes sense.
    """
    ranked: list[str] = []  # blocks that may return to float, the most sensitive first
    trials: dict[int, Trial] = {}  # by the number of blocks returned
    count: int | None = 0
    while count is not None:
        graphs = quantize_graphs(gate.floats, gate.table, lift(recipe, ranked[:count]))
        bundle = save_bundle(folder, source, form(recipe), graphs)
        trials[count] = trial = gate.judge(bundle, whole=count == 0)
        if count == 0 and not trial.judged.holds(gate.budget):
            gate.check_trained(trial)
            logger.info("%s. Ranking the blocks by their errors", trial.judged.verdict(gate.budget))
            ranked = gate.rank_blocks(recipe)
        elif len(trials) > 2:  # neither without blocks returned nor with as many as may be
            logger.info("%d blocks returned: %s", count, trial.judged.verdict(gate.budget))
        last, count = count, next_count(trials, len(ranked), gate.budget)

    fewest = min(count for count, trial in trials.items() if trial.judged.holds(gate.budget))
    passed = lift(recipe, ranked[:fewest])
    if last != fewest:  # the last one that was tried lost too much
        save_bundle(folder, source, form(recipe), quantize_graphs(gate.floats, gate.table, passed))
    return Passage(
        recipe=passed,
        trial=trials[fewest],
        lifted=tuple(ranked[:fewest]),
        before=trials[0] if fewest else None,
    )


def quantize_graphs(floats: Bundle, table: CalibrationTable, recipe: Recipe) -> dict[str, ir.Model]:
    """The graphs of a quantized bundle, with the decoders for TensorRT where `floats` has them.

    Raises:
        RequestError: the table is another model's, or a pattern of the recipe matches nothing.
    """
    logger.info("Quantizing")
    graphs = dict(quantize(floats, table, recipe).graphs)
    for name in contract.TENSORRT_DECODERS if floats.tensorrt_decoders else ():
        decoder = ir.load(floats.graph_file(name))
        lifted = with_layers(recipe.lifted, decoder.graph)
        quantize_graph(contract.DECODER, decoder, table, replace(recipe, lifted=lifted))
        graphs[name] = decoder
    return graphs


def form(recipe: Recipe) -> BundleFormat:
    """How the graphs of a recipe compute, and which engines run them."""
    if recipe.target == "cpu":
        return BundleFormat(recipe.precision, target="cpu")
    portable = portable_form(recipe.precision, exchanged=recipe.exchanged)
    if recipe.target == "tensorrt":
        return replace(portable, target="gpu")
    return portable if recipe.for_tensorrt else replace(portable, target="onnxruntime")


def calibrated(
    floats: Bundle, samples: Sequence[CalibrationSample], options: QuantizationOptions
) -> CalibrationTable:
    """The table that was passed, or a new one.

    Raises:
        RequestError: the table is another model's, or cannot be read.
    """
    if options.table is None:
        return calibrate(floats, samples, log_progress("Calibrating"))
    table = CalibrationTable.load(options.table)
    table.check(floats)
    return table


def _samples(
    floats: Bundle, options: QuantizationOptions
) -> tuple[list[CalibrationSample], list[CalibrationSample]]:
    """Pictures to calibrate with, and others to judge by."""
    if options.images is not None:
        found = folder_samples(options.images, options.samples, options.image_options)
        if options.budget is None:
            return found, []
        calibrating, judging = split(found)
        return calibrating, judging[:_MAX_JUDGING]
    if floats.model != MINIATURE:
        return [], []  # a table and no gate
    side = floats.size.image_size
    calibrating = scene_samples(options.samples, image_size=side)
    return calibrating, scene_samples(_JUDGING_SCENES, image_size=side, skip=options.samples)
