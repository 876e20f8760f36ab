"""Large with 4,096 positions: exported in each precision, and an answer of 3,000 tokens.

Float32 is compared with transformers. Each export and each answer is a process of its own, so that
its memory is its own. With FLORENCE_EDGE_RECORD the figures go to results/memory/large_4096.json.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ..helpers.assets import Asset
from ..helpers.circumstances import circumstances
from .full_size import compare

POSITIONS, TOKENS = 4096, 3000
RECORDED = Path(__file__).parents[2] / "results" / "memory" / "large_4096.json"
_COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/export/test_large_long.py"

# Options of florence-export; int8 is calibrated on photographs, as its encoders are integers.
PRECISIONS = {
    "fp32": [],
    "int8": ["--precision", "int8", "--target", "cpu", "--no-gate", "--samples", "8"],
    "fp16": ["--precision", "fp16"],
}

_EXPORT = """
import json, sys, time
from florence_edge_export.cli import main
from florence_edge_jetson.machine.system import peak_bytes

start = time.monotonic()
status = main(sys.argv[1:])
seconds = time.monotonic() - start
print(json.dumps({"status": status, "seconds": seconds, "peak": peak_bytes()}))
"""

_ANSWER = """
import json, sys, time
import numpy as np
from PIL import Image
from florence_edge import Florence2, GenerationOptions
from florence_edge_jetson.machine.system import peak_bytes

tokens = int(sys.argv[2])
pixels = np.random.default_rng(0).integers(0, 256, (768, 768, 3), dtype=np.uint8)
options = GenerationOptions(
    num_beams=1, min_new_tokens=tokens, max_new_tokens=tokens, no_repeat_ngram_size=0
)
with Florence2.load(sys.argv[1]) as model:
    start = time.monotonic()
    result = model.run(Image.fromarray(pixels), "CAPTION", options=options)
    seconds = time.monotonic() - start
print(json.dumps({
    "tokens": len(result.token_ids) - 1,
    "finite": bool(np.isfinite(result.score)),
    "seconds": seconds,
    "peak": peak_bytes(),
}))
"""


@pytest.mark.slow
def test_large_with_4096_positions_answers_in_3000_tokens(tmp_path: Path, asset: Asset) -> None:
    checkpoint = _checkpoint(tmp_path / "large-4k")
    photos = asset("photos/coco_cc")
    found: dict[str, dict[str, Any]] = {}
    for precision, options in PRECISIONS.items():
        bundle = tmp_path / precision
        pictures = ["--calibration-images", str(photos)] if precision == "int8" else []
        exported = _run(_EXPORT, str(checkpoint), "--output", str(bundle), *options, *pictures)
        assert exported["status"] == 0
        size = sum(file.stat().st_size for file in bundle.iterdir())
        answered = _run(_ANSWER, str(bundle), str(TOKENS))
        found[precision] = _figures(size, exported, answered)
        if precision == "fp32":
            compared = compare(checkpoint, bundle)
            found[precision]["beside_transformers"] = asdict(compared)
            assert max(compared.vision_encoder, compared.text_encoder, compared.decoder) < 1e-4
            assert compared.answer in ("equal", "tie")
        for file in bundle.iterdir():  # three of them do not fit everywhere
            file.unlink()
        if os.environ.get("FLORENCE_EDGE_RECORD"):
            _record(found)
        assert answered["tokens"] == TOKENS
        assert answered["finite"]


def _checkpoint(folder: Path) -> Path:
    """Random weights, stored in float16 as Microsoft publishes them."""
    synthetic = pytest.importorskip("florence_edge_export.synthetic")
    safetensors = pytest.importorskip("safetensors.numpy")
    synthetic.write_checkpoint(folder, "large", positions=POSITIONS)
    path = folder / "model.safetensors"
    halves = {name: each.astype("float16") for name, each in safetensors.load_file(path).items()}
    path.unlink()
    safetensors.save_file(halves, path, metadata={"format": "pt"})
    return folder


def _run(program: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _figures(size: int, exported: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
    return {
        "bundle_gigabytes": round(size / 1e9, 2),
        "export_seconds": round(exported["seconds"]),
        "export_peak_gigabytes": round(exported["peak"] / 1e9, 2),
        "answer_tokens": answered["tokens"],
        "answer_seconds": round(answered["seconds"]),
        "answer_peak_gigabytes": round(answered["peak"] / 1e9, 2),
    }


def _record(found: dict[str, dict[str, Any]]) -> None:
    content = {
        "model": f"large with random weights and {POSITIONS} positions, 768 pixels",
        "answer": "greedy, one picture; ONNX Runtime's CPU",
        "command": _COMMAND,
        **circumstances("onnxruntime"),
        "precisions": found,
    }
    RECORDED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
