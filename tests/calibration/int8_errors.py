"""How far int8 moves the encoders' outputs with and without outlier channels, and the record of it.

Errors are root mean squares as shares of the float32 outputs'. The text encoder reads the float
model's features, so its error is its own. Full-size pictures are generated scenes: weights are
random, and only numerics are at stake.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_edge import Florence2, contract
from florence_edge.bundle import Bundle
from florence_edge.image import pixels
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.dataset import (
    CalibrationSample,
    no_progress,
    scene_samples,
)
from florence_edge_calibration.quantization.observer import calibrate, open_session
from florence_edge_calibration.quantization.quantize import quantize_graph
from florence_edge_calibration.quantization.recipe import Recipe, Target
from florence_edge_export import synthetic
from florence_edge_export.export import ExportOptions, export

from ..helpers.circumstances import circumstances

RECORDED = Path(__file__).parents[2] / "results" / "int8" / "int8_errors.json"
_COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m '' tests/calibration/test_int8_errors.py"

MEASURED = 2  # pictures to measure with, other than those to calibrate with
OUTLIERS = 50.0  # the factor
ROUNDING: tuple[Target, ...] = ("portable", "cpu")  # the targets that round activations
PROMISED = 1.3  # error with outliers, of that without

Errors = dict[str, dict[str, float]]  # variant, e.g. "portable, equalized" -> output -> error


@dataclass(frozen=True)
class Pair:
    """A random architecture, measured plain and with outliers planted at the same seed."""

    architecture: str
    image_size: int
    pictures: int  # to calibrate with


# A few pictures of base have thousands of rows in every activation; tiny's last stage has 36 each,
# and what calibration has not read is clipped: with less, that hides what outliers do.
PAIRS = {"tiny": Pair("tiny", 192, pictures=24), "base": Pair("base", 768, pictures=8)}


def export_floats(pair: Pair, outliers: float, folder: Path) -> Bundle:
    """The float32 bundle of random weights."""
    checkpoint = folder / "checkpoint"
    synthetic.write_checkpoint(
        checkpoint, pair.architecture, seed=3, image_size=pair.image_size, outliers=outliers
    )
    export(pair.architecture, checkpoint, folder / "fp32", ExportOptions())
    return Bundle.load(folder / "fp32")


def int8_errors(floats: Bundle, pictures: int) -> Errors:
    """Errors of both targets, with equalization and without, calibrated with some pictures."""
    side = floats.size.image_size
    samples = scene_samples(pictures, image_size=side)
    measured = Measured.by(floats, scene_samples(MEASURED, image_size=side, skip=pictures))
    table = calibrate(floats, samples, no_progress, threads=1)
    found: Errors = {}
    for target in ROUNDING:
        for label, equalize in (("equalized", True), ("not equalized", False)):
            recipe = Recipe(target=target, equalize=equalize)
            found[f"{target}, {label}"] = measured.errors(floats, table, recipe)
    return found


def ratios(plain: Errors, planted: Errors) -> Errors:
    """Errors with outliers as multiples of those without."""
    return {
        variant: {name: planted[variant][name] / error for name, error in errors.items()}
        for variant, errors in plain.items()
    }


@dataclass(frozen=True)
class Measured:
    """Inputs of both encoders, and what the float model makes of them."""

    feeds: Mapping[str, Mapping[str, npt.NDArray[Any]]]
    expected: Mapping[str, Mapping[str, npt.NDArray[Any]]]

    @staticmethod
    def by(floats: Bundle, samples: list[CalibrationSample]) -> "Measured":
        model = Florence2.load(floats.folder, threads=1)
        squares = np.stack([pixels(sample.read(), floats.size.image_size) for sample in samples])
        ids, mask = model.encode_prompts([sample.prompts[0] for sample in samples])
        features = np.asarray(model.backend.encode_image(squares))
        caches = model.backend.cross_caches(features, ids, mask)  # type: ignore[attr-defined]
        text = {"image_features": features, "input_ids": ids, "encoder_mask": mask}
        return Measured(
            feeds={contract.VISION_ENCODER: {"pixels": squares}, contract.TEXT_ENCODER: text},
            expected={
                contract.VISION_ENCODER: {"image_features": features},
                contract.TEXT_ENCODER: caches,
            },
        )

    def errors(self, floats: Bundle, table: CalibrationTable, recipe: Recipe) -> dict[str, float]:
        """Of image features, and of the cross caches together."""
        found = {}
        for graph, label in (
            (contract.VISION_ENCODER, "image_features"),
            (contract.TEXT_ENCODER, "cross_caches"),
        ):
            model = ir.load(floats.graph_file(graph))
            quantize_graph(graph, model, table, recipe)
            found[label] = self.error(floats, graph, model)
        return found

    def error(self, floats: Bundle, graph: str, model: ir.Model) -> float:
        half = _is_half(model)
        feeds = {
            name: values.astype(np.float16) if half and values.dtype == np.float32 else values
            for name, values in self.feeds[graph].items()
        }
        expected = self.expected[graph]
        session = open_session(model, floats.folder, threads=1)
        outputs = session.run(list(expected), feeds)
        return relative_error(dict(zip(expected, outputs, strict=True)), expected)


def _is_half(model: ir.Model) -> bool:
    return any(value.dtype == ir.DataType.FLOAT16 for value in model.graph.outputs)


def relative_error(
    found: Mapping[str, npt.NDArray[Any]], expected: Mapping[str, npt.NDArray[Any]]
) -> float:
    """Root mean square of the difference, as a share of the expected one's."""
    wrong = power = 0.0
    for name, values in expected.items():
        assert np.isfinite(found[name]).all(), name
        wrong += float(np.square(found[name].astype(np.float64) - values).sum())
        power += float(np.square(values.astype(np.float64)).sum())
    return float(np.sqrt(wrong / power))


def record(name: str, plain: Errors, planted: Errors) -> None:
    """Put one architecture's errors into the file, and keep those of the others."""
    stored = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    measured = {
        **stored.get("errors", {}),
        name: {
            "calibration pictures": PAIRS[name].pictures,
            "without outliers": plain,
            "with outliers": planted,
            "with / without": ratios(plain, planted),
        },
    }
    content = {
        "command": _COMMAND,
        **circumstances("onnxruntime", "numpy"),
        "unit": "root mean square error as a share of the float32 output's root mean square",
        "outliers": f"1 % of channels stick out {OUTLIERS:g} times; the float model is the same",
        "measured": f"on {MEASURED} other pictures, generated scenes like those calibrated with",
        "errors": {kind: measured[kind] for kind in PAIRS if kind in measured},
    }
    RECORDED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def pair_sums(steps: npt.NDArray[np.int8], in_axis: int) -> npt.NDArray[np.int64]:
    """What vpmaddubsw adds up at most, in units of the largest activation: pairs of one sign."""
    along = np.moveaxis(steps.astype(np.int64), in_axis, -1)
    even, odd = along[..., 0::2], along[..., 1::2]
    even = even[..., : odd.shape[-1]]
    return np.maximum(even.clip(min=0) + odd.clip(min=0), -even.clip(max=0) - odd.clip(max=0))
