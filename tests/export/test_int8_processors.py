"""int8 computes the same on a processor without VNNI as elsewhere, here an emulated Haswell.

With FLORENCE_EDGE_RECORD=1, what was found is written to results/int8/processors.json. Needs
x86-64 and Debian's qemu-user, which gives the answers of an AVX2 processor and no speeds.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from florence_edge.backends.int8_products import int8_products_saturate
from florence_edge_calibration.miniature.evaluate import CHECKPOINT
from florence_edge_calibration.quantization.recipe import Target
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.quantization.export import TABLE, QuantizationOptions

from ..helpers.circumstances import circumstances
from .emulated_answers import answers, products

RECORD = Path(__file__).parents[2] / "results" / "int8" / "processors.json"
COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/export/test_int8_processors.py"
EMULATOR = "qemu-x86_64"
PROCESSOR = "Haswell"
PICTURES = 4
TASKS = ("OD", "OCR_WITH_REGION", "CAPTION")
TARGETS: tuple[Target, ...] = ("cpu", "portable")  # those that multiply in int8
LEAST_EQUAL = 0.8  # of the answers; nothing saturates where as many are
EXACT = 1e-5  # float32's own rounding of what integers add up to


def emulated(folders: list[Path]) -> dict[str, Any]:
    script = Path(__file__).with_name("emulated_answers.py")
    command = [EMULATOR, "-cpu", PROCESSOR, sys.executable, str(script)]
    command += [str(PICTURES), ",".join(TASKS), *map(str, folders)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def equal_by_task(found: dict[str, list[int]], floats: dict[str, list[int]]) -> dict[str, int]:
    return {
        task: sum(found[key] == floats[key] for key in floats if key.endswith(f" {task}"))
        for task in TASKS
    }


def test_our_products_are_exact_on_this_processor() -> None:
    found = products()
    assert found["ours"] < EXACT
    assert (found["any int8 weights"] > EXACT) is int8_products_saturate()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates an x86-64 processor by one")
@pytest.mark.skipif(shutil.which(EMULATOR) is None, reason="needs qemu-user: apt install qemu-user")
def test_int8_follows_float_on_a_processor_whose_products_saturate(tmp_path: Path) -> None:
    floats = tmp_path / "floats"
    export("miniature", CHECKPOINT, floats, ExportOptions())
    folders = {target: tmp_path / target for target in TARGETS}
    table = None
    for target, folder in folders.items():
        quantization = QuantizationOptions(target=target, samples=64, budget=None, table=table)
        export(
            "miniature",
            CHECKPOINT,
            folder,
            ExportOptions(precision="int8", quantization=quantization),
        )
        table = folder / TABLE
    here = answers(str(floats), PICTURES, set(TASKS))
    there = emulated(list(folders.values()))
    counts = {
        target: {
            "here": equal_by_task(answers(str(folder), PICTURES, set(TASKS)), here),
            PROCESSOR: equal_by_task(found, here),
        }
        for (target, folder), found in zip(folders.items(), there["answers"], strict=True)
    }
    errors = {"here": products(), PROCESSOR: there["products"]}
    saturates = {"here": int8_products_saturate(), PROCESSOR: there["saturates"]}
    if "FLORENCE_EDGE_RECORD" in os.environ:
        content = {
            "command": COMMAND,
            **circumstances("onnxruntime", "numpy"),
            "emulated": f"{PROCESSOR} by {EMULATOR}",
            "int8 products saturate": saturates,
            "largest error of a product, in deviations of what is exact": errors,
            "scenes": PICTURES,
            "greedy answers equal to float32's": counts,
        }
        RECORD.write_text(json.dumps(content, indent=1) + "\n")
    assert saturates[PROCESSOR]  # or this has shown nothing
    assert errors[PROCESSOR]["ours"] < EXACT < errors[PROCESSOR]["any int8 weights"]
    for by_processor in counts.values():
        for equal in by_processor.values():
            assert sum(equal.values()) >= LEAST_EQUAL * PICTURES * len(TASKS), counts
