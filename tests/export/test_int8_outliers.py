"""int8 of a model with planted outliers: what it costs, and what the gate returns to float.

With FLORENCE_EDGE_RECORD=1, what was found is written to results/int8/outliers.json.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from florence_edge.bundle import FIDELITY
from florence_edge.errors import BundleError
from florence_edge_calibration.miniature.evaluate import CHECKPOINT
from florence_edge_calibration.quantization.recipe import TARGETS, Target
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.quantization.export import TABLE, QuantizationOptions

from ..helpers.circumstances import circumstances

pytest.importorskip("torch", reason="outliers are planted with torch: [verify]")

from florence_edge_calibration.miniature.outliers import (
    FACTOR,
    KINDS,
    plant_outliers,
)

RECORD = Path(__file__).parents[2] / "results" / "int8" / "outliers.json"
COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/export/test_int8_outliers.py"
BUDGET = 0.01
PICTURES = 64  # to calibrate with
CLOSE = 0.05  # by truth, free-running on 64 scenes: polygons are that noisy


def export_planted(
    checkpoint: Path, target: Target, output: Path, table: Path | None
) -> dict[str, Any]:
    """What its gate found of a target, or why there is no bundle."""
    quantization = QuantizationOptions(target=target, samples=PICTURES, budget=BUDGET, table=table)
    try:
        export(
            "miniature",
            checkpoint,
            output,
            ExportOptions(precision="int8", quantization=quantization),
        )
    except BundleError as error:
        return {"refused": str(error)}
    return found_of(output)


def found_of(bundle: Path) -> dict[str, Any]:
    found = json.loads((bundle / FIDELITY).read_text())["against_float"]
    return {"gate": found["gate"], "tasks": found["tasks"]}


def record(found: dict[str, Any]) -> None:
    content = {
        "command": COMMAND,
        **circumstances("onnxruntime", "numpy"),
        "planted": f"{', '.join(KINDS)}; {FACTOR:g} times as large, float32's answers unchanged",
        "targets": found,
    }
    RECORD.write_text(json.dumps(content, indent=1) + "\n")


@pytest.mark.slow
def test_the_gate_finds_what_outliers_cost(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    plant_outliers(CHECKPOINT, planted)
    found: dict[str, Any] = {}
    table = None
    for target in ("portable", "cpu", "tensorrt"):
        output = tmp_path / target
        kept = None if target == "tensorrt" else table
        found[target] = export_planted(planted, target, output, kept)
        if (output / TABLE).exists():
            table = output / TABLE
    assert set(found) == set(TARGETS)
    if "FLORENCE_EDGE_RECORD" in os.environ:
        record(found)
    assert "refused" not in found["tensorrt"]  # which rounds no activation
    for each in found.values():
        for task in each.get("tasks", {}).values():
            assert task["loss"] <= BUDGET
            truth = task["against_truth"]
            assert truth["int8"] >= truth["float"] - CLOSE
