"""How far float16 moves the outputs of each graph, and the file that keeps the figures.

Errors are the largest absolute difference from float32 in standard deviations of the output.
ONNX Runtime computes half matrix products in float32 and rounds their results, so these are errors
of storage; a GPU adds its own.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge import Florence2, contract
from florence_edge_export import synthetic
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export

from ..helpers.circumstances import circumstances

RECORDED = Path(__file__).parents[2] / "results" / "parity" / "half_errors.json"
_COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m '' tests/calibration/test_fp16.py -k close"

Models = dict[str, Florence2]


@dataclass(frozen=True)
class Kind:
    """A checkpoint to measure, and the error that its tests allow."""

    tolerance: float
    architecture: str = "tiny"
    image_size: int = 96
    outliers: float = 1.0

    def find(self, folder: Path) -> Path:
        if self.architecture == MINIATURE:
            return find_checkpoint(MINIATURE)
        synthetic.write_checkpoint(
            folder, self.architecture, seed=3, image_size=self.image_size, outliers=self.outliers
        )
        return folder


# Twice to five times what is measured: see half_errors.json.
KINDS = {
    "tiny": Kind(0.02),
    "tiny, outliers of 50": Kind(0.06, outliers=50),
    "tiny, outliers of 200": Kind(0.06, outliers=200),
    MINIATURE: Kind(0.02, MINIATURE),
    "base": Kind(0.02, "base", 768),
    "base, outliers of 50": Kind(0.12, "base", 768, 50),
}


def export_both(kind: Kind, folder: Path) -> Models:
    """The same checkpoint as fp32 and as fp16."""
    checkpoint, found = kind.find(folder / "checkpoint"), {}
    for precision in ("fp32", "fp16"):
        export("test", checkpoint, folder / precision, ExportOptions(precision=precision))
        found[precision] = Florence2.load(folder / precision, threads=1)
    return found


def half_errors(models: Models) -> dict[str, float]:
    """Largest errors of each graph: vision alone, text from the same (rounded) features.

    The decoder reads what its own text encoder made of them, so its error includes that one's.
    """
    exact, half = models["fp32"], models["fp16"]
    size = exact.bundle.size
    features = exact.backend.encode_image(pixels(size))
    rounded = features.astype(np.float16)
    exact_caches, half_caches = caches(exact, features), caches(half, rounded)
    rows: dict[str, list[Any]] = {"fp32": [], "fp16": []}
    for name, model, image_features in (("fp32", exact, features), ("fp16", half, rounded)):
        input_ids, mask = _prompts(size)
        decoder = model.backend.prefill(image_features, input_ids, mask, beams=2)
        tokens = np.random.default_rng(1).integers(3, size.vocab_size, (8, 2, 2))
        for step in tokens:
            scores = decoder.step(step, np.tile([0, 1], (2, 1)))
            rows[name] += [of_image.full().copy() for of_image in scores]
    return {
        "vision_encoder": _error(half.backend.encode_image(pixels(size)), features),
        "text_encoder": max(_error(half_caches[name], exact_caches[name]) for name in half_caches),
        "decoder": _error(np.array(rows["fp16"]), np.array(rows["fp32"])),
    }


def record(name: str, errors: dict[str, float]) -> None:
    """Put the errors of one checkpoint into the file, and keep those of the others."""
    stored = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    measured = {**stored.get("errors", {}), name: errors}
    content = {
        "command": _COMMAND,
        **circumstances("onnxruntime", "numpy"),
        "unit": "largest difference from fp32 in standard deviations of the output",
        "errors": {kind: measured[kind] for kind in KINDS if kind in measured},
    }
    RECORDED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def caches(model: Florence2, features: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = model.backend.cross_caches(  # type: ignore[attr-defined]
        features, *_prompts(model.bundle.size)
    )
    return found


def pixels(size: contract.ModelSize) -> npt.NDArray[np.uint8]:
    shape = (2, size.image_size, size.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    assert np.isfinite(found).all()
    return float(np.abs(found.astype(np.float64) - expected).max() / expected.std())


def _prompts(size: contract.ModelSize) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    input_ids = np.random.default_rng(2).integers(3, size.vocab_size, (2, 9))
    mask = np.ones((2, size.image_tokens + 9), dtype=np.int64)
    mask[1, -3:] = 0
    return input_ids, mask
