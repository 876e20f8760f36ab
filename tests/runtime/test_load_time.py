"""What hashing the weights adds to the time that a full-size bundle takes to load.

With FLORENCE_EDGE_RECORD=1, what was found is written to results/devices/load_verify.json.
"""

import json
import os
import platform
import time
from pathlib import Path
from statistics import median

import pytest

from florence_edge import Florence2
from florence_edge.bundle import Bundle

ROUNDS = 5
DEVICES = ("cpu", "openvino")
COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/runtime/test_load_time.py"
RECORD = Path(__file__).parents[2] / "results" / "devices" / "load_verify.json"


def seconds(folder: Path, device: str, *, verify: bool) -> float:
    started = time.perf_counter()
    model = Florence2.load(folder, device, verify=verify)
    taken = time.perf_counter() - started
    model.close()
    return taken


@pytest.mark.slow
def test_hashing_the_weights_costs_no_more_than_it_takes_alone(tmp_path: Path) -> None:
    exporting = pytest.importorskip("florence_edge_export.export")
    synthetic = pytest.importorskip("florence_edge_export.synthetic")
    synthetic.write_checkpoint(tmp_path / "checkpoint", "base", seed=3)
    folder = tmp_path / "bundle"
    exporting.export("base", tmp_path / "checkpoint", folder, exporting.ExportOptions())
    bundle = Bundle.load(folder)
    started = time.perf_counter()
    bundle.check_weights()
    alone = time.perf_counter() - started
    found: dict[str, object] = {}
    for device in DEVICES:
        pytest.importorskip({"cpu": "onnxruntime"}.get(device, device))
        taken: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(ROUNDS + 1):  # in turns, so that what else runs here is in both
            for verify in (turn % 2 == 0, turn % 2 == 1):
                taken[verify].append(seconds(folder, device, verify=verify))
        with_hash, without = (median(taken[verify][1:]) for verify in (True, False))
        found[device] = {"verify": round(with_hash, 2), "no verify": round(without, 2)}
        assert with_hash < without + 2 * alone + 0.5
    if "FLORENCE_EDGE_RECORD" in os.environ:
        content = {
            "command": COMMAND,
            "model": f"base, random, fp32, {bundle.files['weights.bin'].bytes} bytes of weights",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, other work beside it",
            "seconds to hash the weights alone": round(alone, 2),
            "seconds to load, median": found,
        }
        RECORD.write_text(json.dumps(content, indent=1) + "\n")
