"""The export of a checkpoint in onnx-community's layout: files, what they cost, and their card.

    checkpoint       -> float32 bundle               the float model, whose answers count
    float32 bundle   -> what float16 cannot hold     find_overflow
    float32 files    -> what their linears read      observe_inputs, to round 4 bits by
    dtype            -> four files                   write, rung by rung (gate.py)
    four files       -> outputs about probes         finite, and close in float32 and float16
    dtypes that hold -> which file of each graph     recommend

What was found is in fidelity.json, and in README.md, the model card.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from florence_edge import Florence2
from florence_edge.bundle import FIDELITY, TOKENIZER, Bundle
from florence_edge.errors import BundleError, MissingPackageError, RequestError
from florence_edge.extras import pip_install
from florence_edge.image_file import ImageOptions
from florence_edge.tasks import Task
from florence_edge_calibration.overflow import find_overflow, observe
from florence_edge_calibration.probes import Probe, ProbeOutputs, answer, make_probes
from florence_edge_calibration.quantization.agreement import Judged
from florence_edge_calibration.quantization.dataset import (
    HOW_MANY,
    CalibrationSample,
    folder_samples,
    pictures_in,
    scene_samples,
    split,
)

from ..bundle_writer import BundleSource, new_folder, write_contents
from ..checkpoint.adapters import WeightedAdapter
from ..checkpoint.loader import MINIATURE
from ..export import ExportOptions, float_bundle, read_source
from ..float16 import BOUND, log_lifted
from . import files, layout
from .card import model_card
from .fidelity import DtypeFidelity, Fidelity, recommend
from .gate import Gate, open_gate
from .graphs import check_one_embedding
from .layout import DTYPES, Dtype
from .observed import observe_inputs
from .ort_backend import Model, open_files
from .writer import BITS, HALVES, Writer

logger = logging.getLogger(__name__)

_PICTURES = 24  # to judge by, at most: some 5,000 positions, minutes on two cores
_SCENES = 64  # the same of the miniature, which is fast
_SAME = 0.1  # standard deviations that float32 may be off: it adds up in another order


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """What to make of a checkpoint in this layout; `image_size` None means the checkpoint's own.

    `images` is a folder of pictures to judge by, and to round 4 bits by; None is for the miniature,
    which has scenes of its own. `budget` bounds the share of positions, 0 to 1, that a task may
    lose; None leaves the gate out. `first_step` adds decoder_model, which some open beside
    decoder_model_merged. `tasks` are the checkpoint's own, beside the 15.
    """

    dtypes: tuple[Dtype, ...] = DTYPES
    images: Path | None = None
    budget: float | None = 0.01
    image_options: ImageOptions = field(default_factory=ImageOptions)
    image_size: int | None = None
    first_step: bool = False
    overwrite: bool = False
    adapters: tuple[WeightedAdapter, ...] = ()
    tasks: tuple[Task, ...] = ()


def check_layout_options(model: str, options: LayoutOptions) -> None:
    """Refuse what cannot be done, before anything is.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
        RequestError: what is wrong, and what to pass instead.
    """
    if find_spec("onnxruntime") is None:
        raise MissingPackageError(
            "--layout transformers.js runs what it writes with ONNX Runtime, which is not "
            f"installed. Install it with: {pip_install('cpu')}"
        )
    if not options.dtypes:
        raise RequestError(f"--dtypes names none. Choose from {', '.join(DTYPES)}.")
    unknown = [name for name in options.dtypes if name not in DTYPES]
    if unknown:
        raise RequestError(
            f"There is no dtype {unknown[0]!r}. Choose from {', '.join(DTYPES)}, with commas "
            "between them."
        )
    if options.budget is not None and not 0 <= options.budget < 1:
        raise RequestError(f"The budget is {options.budget:g}; it must be at least 0 and below 1.")
    rounded = [name for name in options.dtypes if name in BITS]
    if rounded and options.budget is not None and options.images is None and model != MINIATURE:
        raise RequestError(
            f"{', '.join(rounded)} are judged by pictures: pass --calibration-images DIR. "
            f"{HOW_MANY} Or leave the judging out with --no-gate, or those with --dtypes fp32,fp16."
        )
    if options.images is not None:
        pictures_in(options.images)


def export_layout(model: str, folder: Path, output: Path, options: LayoutOptions) -> None:
    """Export the checkpoint in `folder` as onnx-community's files at `output`.

    Args:
        model: what the user called the checkpoint.
        folder: the checkpoint.
        output: where the files go; there are either all of them or what was there before.
        options: dtypes, and what they are judged by.

    Raises:
        BundleError: the checkpoint cannot be used, no requested dtype serves it, or `output`
            cannot be written.
        MissingPackageError: ONNX Runtime is not installed.
        RequestError: an option does not fit, or `output` exists and may not be replaced.
    """
    check_layout_options(model, options)
    with new_folder(output, overwrite=options.overwrite) as temporary:
        of_bundle = ExportOptions(
            image_size=options.image_size,
            tensorrt_decoders=False,
            adapters=options.adapters,
            tasks=options.tasks,
        )
        source = read_source(model, folder, of_bundle)
        check_one_embedding(source.checkpoint)
        writer = Writer(source, temporary, first_step=options.first_step)
        with float_bundle(source, temporary) as floats:
            fidelity = _write_dtypes(writer, floats, Model(source.size, source.image), options)
        logger.info("Writing %s", output)
        _write_rest(temporary, source, fidelity, writer)
        write_contents(temporary, source, {"layout": "transformers.js"})


def _write_dtypes(writer: Writer, floats: Bundle, model: Model, options: LayoutOptions) -> Fidelity:
    """The files of all dtypes that serve, and what each costs."""
    rounding, samples = _samples(floats, options)
    probes = make_probes(floats, samples)
    logger.info("Running the float model on %d pictures, to compare with", len(probes))
    seen = observe(floats, probes)
    if HALVES.intersection(options.dtypes):
        writer.lifted = find_overflow(floats, seen.records)
        log_lifted("overflows there", writer.lifted.layers())
    if rounding:
        writer.grams = observe_inputs(writer.float_graph, floats, model, rounding, writer.folder)
    compare = _Comparison(floats, model, probes, seen.outputs)
    found: dict[Dtype, DtypeFidelity] = {}
    with _opened_gate(writer, floats, model, samples, options) as gate:
        for dtype in sorted(options.dtypes, key=DTYPES.index):
            found[dtype] = _write_dtype(writer, dtype, gate, compare, found)
        if not any(each.kept for each in found.values()):
            raise BundleError(
                f"None of {', '.join(found)} holds the budget of {options.budget:g}. Allow more "
                "with --budget, or add fp32 to --dtypes."
            )
        usual, webgpu = recommend(found, _judge_of(writer, gate), options.budget or 0.0)
    return Fidelity(
        dtypes=found,
        usual=usual,
        webgpu=webgpu,
        pictures=len(samples) if gate else 0,
        budget=options.budget if gate else None,
        lifted=writer.lifted,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """What the float bundle computed about probes, to compare files with."""

    floats: Bundle
    model: Model
    probes: Sequence[Probe]
    outputs: Sequence[ProbeOutputs]

    def deviations(self, folder: Path, dtype: Dtype) -> dict[str, float]:
        """How far a dtype's outputs are from the bundle's, in standard deviations, at most.

        Raises:
            BundleError: they are not finite, or float32 or float16 are too far off.
        """
        backend = open_files(folder, dict.fromkeys(layout.GRAPHS, dtype), self.model)
        far = [
            answer(self.floats, backend, probe, expected.tokens).deviations(expected)
            for probe, expected in zip(self.probes, self.outputs, strict=True)
        ]
        backend.close()
        worst = {name: max(each[name] for each in far) for name in far[0]}
        bound = {"fp32": _SAME, "fp16": BOUND}.get(dtype, sys.float_info.max)
        name = max(worst, key=worst.__getitem__)
        if worst[name] > bound:
            others = ",".join(each for each in DTYPES if each != dtype)
            raise BundleError(
                f"In {dtype} the {name} of {self.floats.model} are {worst[name]:.2g} standard "
                f"deviations from float32's, expected {bound:.2g} at most. Leave {dtype} out: "
                f"--dtypes {others}."
            )
        return worst


def _write_dtype(
    writer: Writer,
    dtype: Dtype,
    gate: Gate | None,
    compare: _Comparison,
    before: Mapping[Dtype, DtypeFidelity],
) -> DtypeFidelity:
    """The files of a dtype, unless it does not hold the budget."""
    logger.info("Writing %s", dtype)
    alike = [each.passage for name, each in before.items() if BITS.get(name) == BITS.get(dtype)]
    start = alike[-1].rungs if alike and alike[-1] else {}
    passage = writer.write_dtype(dtype, gate, start)
    rungs = dict.fromkeys(layout.GRAPHS, 0) if passage is None else passage.rungs
    stored = writer.stored(dtype, rungs) if dtype in BITS else {}
    if gate is not None and passage is not None and not passage.judged.holds(gate.budget):
        task, loss = passage.judged.worst
        logger.warning(
            "%s is left out: %s loses %s%.4f of its positions, where the budget is %g.",
            *(dtype, task, "at least " if passage.judged.broken_off else "", loss, gate.budget),
        )
        writer.remove(dtype)
        return DtypeFidelity(passage=passage, stored=stored, deviations={}, bytes={})
    return DtypeFidelity(
        passage=passage,
        stored=stored,
        deviations=compare.deviations(writer.folder, dtype),
        bytes={graph: writer.bytes_of(graph, dtype) for graph in layout.GRAPHS},
    )


def _judge_of(writer: Writer, gate: Gate | None) -> Callable[[Mapping[str, Dtype]], Judged] | None:
    """What files of several dtypes cost together."""
    if gate is None:
        return None

    def judge(dtypes: Mapping[str, Dtype]) -> Judged:
        return gate.judge(
            {graph: writer.folder / layout.file_of(graph, name) for graph, name in dtypes.items()}
        )

    return judge


@contextmanager
def _opened_gate(
    writer: Writer,
    floats: Bundle,
    model: Model,
    samples: Sequence[CalibrationSample],
    options: LayoutOptions,
) -> Iterator[Gate | None]:
    """The gate, if there is something to judge by; its float32 files go if nobody wants them."""
    if options.budget is None or not samples:
        if any(dtype in BITS for dtype in options.dtypes):
            logger.warning("The gate is left out: what the dtypes cost was not measured.")
        yield None
        return
    of_float = {graph: writer.write("fp32", graph) for graph in layout.GRAPHS}
    with Florence2.load(floats.folder) as answers:
        yield open_gate(answers, samples, model, of_float, options.budget)
    if "fp32" not in options.dtypes:
        writer.remove("fp32")


def _samples(
    floats: Bundle, options: LayoutOptions
) -> tuple[list[CalibrationSample], list[CalibrationSample]]:
    """Pictures that 4 bits are rounded by, and others to judge by."""
    rounds = any(BITS.get(dtype) == 4 for dtype in options.dtypes)
    if options.images is not None:
        if not rounds:
            return [], folder_samples(options.images, _PICTURES, options.image_options)
        rounding, judging = split(
            folder_samples(options.images, 4 * _PICTURES, options.image_options)
        )
        return rounding[::3], judging
    if floats.model != MINIATURE:
        return [], []
    scenes = scene_samples(_SCENES + _PICTURES, image_size=floats.size.image_size)
    return scenes[_SCENES:] if rounds else [], scenes[:_SCENES]


def _write_rest(folder: Path, source: BundleSource, fidelity: Fidelity, writer: Writer) -> None:
    """All files but the graphs."""
    config = files.config_json(
        source, fidelity.usual.dtypes, fidelity.webgpu.dtypes, external=sorted(writer.external)
    )
    contents = {
        "config.json": config,
        "generation_config.json": files.generation_json(source.defaults.generation),
        "preprocessor_config.json": files.preprocessor_json(source),
        "tokenizer_config.json": files.tokenizer_config_json(source),
        FIDELITY: fidelity.as_json(),
    }
    for name, content in contents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    (folder / TOKENIZER).write_text(files.tokenizer_json(source), encoding="utf-8")
    (folder / "README.md").write_text(model_card(source, fidelity), encoding="utf-8")
