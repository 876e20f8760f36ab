"""Observers: a float bundle runs over pictures and prompts, and what its linears read is counted.

The observed graph is the float graph with small outputs for each activation, reduced inside the
graph, because full activations of one picture are a gigabyte: the extremes of every channel over
all rows, and the histogram bins (see histogram.py) of some rows.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_edge import contract
from florence_edge.backends.base import NamedArrays
from florence_edge.backends.ort_package import CPU, import_onnxruntime, use_cores
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.errors import BundleError
from florence_edge.image import pixels
from florence_edge.tasks import Prompt
from florence_edge.tokenizer import Tokenizer

from .. import Float32s
from ..graph_edit import Insertion, by_activation, find_linears
from .calibration_table import CalibrationTable
from .dataset import CalibrationSample, ShowProgress
from .histogram import BINS, BINS_AN_OCTAVE, LOWEST_OCTAVE, ChannelHistogram

# Prompts about a picture, the tasks in turn: image features fill most of the text encoder's input,
# and 8 pictures are enough for all 15 tasks.
_PROMPTS_A_PICTURE = 2
_SAMPLED_ROWS = 256  # of each activation of a picture, evenly spread

_OBSERVED = ".observed_"  # in the names of the outputs that are added
_REDUCTIONS = {"min": "ReduceMin", "max": "ReduceMax", "sum": "ReduceSum"}

# kOrtSessionOptionsModelExternalInitializersFileFolderPath of ONNX Runtime 1.20
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def calibrate(
    bundle: Bundle,
    samples: Sequence[CalibrationSample],
    progress: ShowProgress,
    *,
    threads: int | None = None,
) -> CalibrationTable:
    """Observe what the linears of both encoders read; the same samples give the same table.

    Args:
        bundle: a float32 bundle.
        samples: distinct pictures with their prompts.
        progress: called after each picture.
        threads: of ONNX Runtime; None leaves it to that.

    Raises:
        BundleError: the bundle is not float32, or an activation is not finite (it is named).
        MissingPackageError: ONNX Runtime is not installed.
    """
    if bundle.precision != "fp32":
        raise BundleError(
            f"{bundle.folder} is {bundle.precision}; calibration needs the float32 model. It was "
            f"made of the checkpoint {bundle.model}. Run: florence-export CHECKPOINT --output "
            "FLOAT_BUNDLE."
        )
    vision, text = (
        ObservedGraph.open(bundle, graph, threads)
        for graph in (contract.VISION_ENCODER, contract.TEXT_ENCODER)
    )
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    prompts = 0
    for index, sample in enumerate(samples):
        square = pixels(sample.read(), bundle.size.image_size)
        features = vision.run({"pixels": square[None]}, "image_features", sample.name)
        for prompt in _prompts_in_turn(sample, index):
            ids = np.array([tokenizer.prompt_ids(prompt.wording)], dtype=np.int64)
            mask = np.ones((1, bundle.size.image_tokens + ids.shape[1]), dtype=np.int64)
            feeds = {"image_features": features, "input_ids": ids, "encoder_mask": mask}
            text.run(feeds, contract.cross_cache(0, "key"), f"{sample.name}, {prompt.task.token}")
            prompts += 1
        progress(index + 1, len(samples))
    return CalibrationTable(
        model=bundle.model,
        checkpoint=bundle.checkpoint,
        image_size=bundle.size.image_size,
        pictures=len(samples),
        prompts=prompts,
        activations={**vision.histograms(), **text.histograms()},
    )


def _prompts_in_turn(sample: CalibrationSample, index: int) -> Iterator[Prompt]:
    for turn in range(_PROMPTS_A_PICTURE):
        yield sample.prompts[(index * _PROMPTS_A_PICTURE + turn) % len(sample.prompts)]


@dataclass(frozen=True, slots=True)
class ObservedGraph:
    """A session of a graph that also gives what its linears read, and the observers of that."""

    session: Any
    observed: tuple[str, ...]  # the outputs that were added to the graph
    observers: Mapping[str, "Observer"]

    @classmethod
    def open(cls, bundle: Bundle, graph: str, threads: int | None) -> "ObservedGraph":
        """Observe a graph of a bundle; nothing is written."""
        model = ir.load(bundle.graph_file(graph))
        channels = observe(model)
        session = open_session(model, bundle.folder, threads=threads)
        outputs = (value.name for value in session.get_outputs())
        observers = {name: Observer.empty(count) for name, count in channels.items()}
        return cls(session, tuple(name for name in outputs if is_observed(name)), observers)

    def run(self, feeds: NamedArrays, output: str, what: str) -> npt.NDArray[Any]:
        """Run, count what the linears read, and return one of the graph's own outputs.

        Raises:
            BundleError: an activation is not finite; `what` names the input in the message.
        """
        own, *values = self.session.run([output, *self.observed], feeds)
        outputs = dict(zip(self.observed, values, strict=True))
        for name, observer in self.observers.items():
            if not is_finite(name, outputs):
                raise BundleError(
                    f"What {name} reads is not finite for {what}, in float32 already: no precision "
                    "heals these weights. Take a checkpoint from before its training diverged."
                )
            observer.update(name, outputs)
        result: npt.NDArray[Any] = own
        return result

    def histograms(self) -> dict[str, ChannelHistogram]:
        """Of each activation, over all runs so far."""
        return {name: observer.histogram() for name, observer in self.observers.items()}


@dataclass(slots=True)
class Observer:
    """Running extremes and counts of one activation over pictures and prompts."""

    min_values: Float32s  # [channels]
    max_values: Float32s  # [channels]
    counts: npt.NDArray[np.int64]  # [channels, BINS]

    @classmethod
    def empty(cls, channels: int) -> "Observer":
        """Before the first picture."""
        return cls(
            min_values=np.full(channels, np.inf, dtype=np.float32),
            max_values=np.full(channels, -np.inf, dtype=np.float32),
            counts=np.zeros((channels, BINS), dtype=np.int64),
        )

    def update(self, name: str, outputs: NamedArrays) -> None:
        """Add what a run of the observed graph gave for the activation `name`."""
        low, high, bins = (outputs[output_name(name, part)] for part in ("min", "max", "bins"))
        self.min_values = np.minimum(self.min_values, low)
        self.max_values = np.maximum(self.max_values, high)
        channels = self.counts.shape[0]
        places = bins + np.arange(channels, dtype=np.int64) * BINS
        self.counts += np.bincount(places.ravel(), minlength=channels * BINS).reshape(-1, BINS)

    def histogram(self) -> ChannelHistogram:
        """Of everything so far."""
        return ChannelHistogram(
            min_values=self.min_values, max_values=self.max_values, counts=self.counts
        )


def observe(model: ir.Model) -> dict[str, int]:
    """Add outputs to `model`, in place, for what its linears read.

    Returns:
        The number of channels of each activation, which is called after the first linear that
        reads it.
    """
    channels = {}
    for name, (linear, *_) in by_activation(find_linears(model.graph)).items():
        value = linear.activation
        producer = value.producer()
        if linear.node.op_type == "Conv" and producer is not None:
            value = _before_transpose(producer)  # [B, H, W, C]: channels last, as everywhere else
        insertion = Insertion(model.graph, f"{linear.scope}/observed")
        for part, output in _reduce(insertion, value, linear.channels).items():
            output.name = output_name(name, part)
            model.graph.outputs.append(output)
        channels[name] = linear.channels
    return channels


def output_name(activation: str, part: str) -> str:
    """Name of the output with one part of an activation: `min`, `max`, `sum` or `bins`."""
    return f"{activation}{_OBSERVED}{part}"


def is_observed(output: str) -> bool:
    """Whether an output is of an activation, rather than the graph's own."""
    return _OBSERVED in output


def is_finite(name: str, outputs: NamedArrays) -> bool:
    """Whether the whole activation was finite in this run."""
    return bool(np.isfinite(outputs[output_name(name, "sum")].astype(np.float64)).all())


def _before_transpose(producer: ir.Node) -> ir.Value:
    value = producer.inputs[0]
    if producer.op_type != "Transpose" or value is None:
        raise ValueError(f"{producer.name} is not a Transpose of a feature map")
    return value


def _reduce(insertion: Insertion, value: ir.Value, channels: int) -> dict[str, ir.Value]:
    """Extremes and sums [C] of all rows, and bins [sampled rows, C] of some."""
    op, constant, float32 = insertion.op, insertion.constant, ir.DataType.FLOAT
    first = constant(np.array([0]), "first")
    rows = _rows(insertion, value, channels)
    reduced = {
        part: op(reduction, [rows, first], float32, {"keepdims": 0})
        for part, reduction in _REDUCTIONS.items()
    }
    sample = _sampled(insertion, rows, _SAMPLED_ROWS)
    logarithms = op("Log", [op("Abs", [sample], float32)], float32)  # -inf of zeros
    scale = constant(np.float32(BINS_AN_OCTAVE / math.log(2)), "scale")
    origin = constant(np.float32(1 - LOWEST_OCTAVE * BINS_AN_OCTAVE), "origin")
    places = op("Add", [op("Mul", [logarithms, scale], float32), origin], float32)
    limits = (constant(np.float32(0), "lowest"), constant(np.float32(BINS - 1), "highest"))
    inside = op("Clip", [op("Floor", [places], float32), *limits], float32)
    bins = op("Cast", [inside], ir.DataType.UINT8, {"to": ir.DataType.UINT8})
    return {**reduced, "bins": bins}


def sampled_rows(insertion: Insertion, value: ir.Value, channels: int, most: int) -> ir.Value:
    """Some rows [fewer than 2 * most, channels] of an activation [..., channels], evenly spread."""
    return _sampled(insertion, _rows(insertion, value, channels), most)


def _rows(insertion: Insertion, value: ir.Value, channels: int) -> ir.Value:
    """An activation as [rows, channels]."""
    shape = insertion.constant(np.array([-1, channels]), "rows")
    return insertion.op("Reshape", [value, shape], ir.DataType.FLOAT)


def _sampled(insertion: Insertion, rows: ir.Value, most: int) -> ir.Value:
    """Every n-th of [rows, channels], so that fewer than 2 * most are left."""
    op, constant, int64 = insertion.op, insertion.constant, ir.DataType.INT64
    count = op("Shape", [rows], int64, {"start": 0, "end": 1})
    each = op("Div", [count, constant(np.array([most]), "sampled")], int64)
    step = op("Max", [each, constant(np.array([1]), "one")], int64)
    first = constant(np.array([0]), "first_row")
    last = constant(np.array([2**31 - 1]), "last")
    return op("Slice", [rows, first, last, first, step], ir.DataType.FLOAT)


def open_session(model: ir.Model, weights: Path, *, threads: int | None = None) -> Any:
    """A session of ONNX Runtime's CPU with a model in memory, its weights file in a folder.

    Its threads do not spin; None of them is one for each core that the process may use.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights))
    use_cores(options, threads)
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=[CPU[0]]
    )
