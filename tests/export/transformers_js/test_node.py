"""The exported miniature in transformers.js itself: Node, and Chromium with WASM.

With FLORENCE_EDGE_RECORD the memory of base goes to results/transformersjs/base_memory.json.
"""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from florence_edge import Florence2, GenerationOptions
from florence_edge.files import read_json
from florence_edge.image import pixels
from florence_edge_calibration.quantization.dataset import scene_samples
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.synthetic import write_checkpoint
from florence_edge_export.transformers_js.export import LayoutOptions, export_layout

from ...helpers.circumstances import circumstances

HERE = Path(__file__).parent
RECORDED = Path(__file__).parents[3] / "results" / "transformersjs" / "base_memory.json"
_COMMAND = (
    "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow "
    "tests/export/transformers_js/test_node.py -k base"
)
NODE = shutil.which("node") or ""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), "")
PICTURES = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NODE, reason="no node: apt install nodejs npm"),
    pytest.mark.skipif(
        not (HERE / "node_modules" / "@huggingface" / "transformers").is_dir(),
        reason="no transformers.js: make tests/export/transformers_js/node_modules/installed",
    ),
]


@dataclass(frozen=True)
class Asked:
    """Questions about pictures, squashed beforehand, and our own greedy answers."""

    folder: Path
    questions: list[dict[str, Any]]
    token_ids: list[list[int]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("layout") / "miniature"
    checkpoint = find_checkpoint(MINIATURE)
    export_layout(MINIATURE, checkpoint, output, LayoutOptions(budget=None))
    return output


@pytest.fixture(scope="module")
def asked(miniature_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("pictures")
    questions, expected = [], []
    with Florence2.load(miniature_bundle) as model:
        side = model.bundle.size.image_size
        for index, sample in enumerate(scene_samples(PICTURES, image_size=side, skip=40)):
            picture = sample.read()
            file = folder / f"{index}.rgb"
            file.write_bytes(pixels(picture, side).tobytes())
            for prompt in sample.prompts:
                question = prompt.task.token + (prompt.text_input or "")
                questions.append({"pixels": file.name, "side": side, "prompt": question})
                options = GenerationOptions(num_beams=1)
                answer = model.run(picture, prompt.task, text=prompt.text_input, options=options)
                expected.append(list(answer.token_ids))
    return Asked(folder, questions, expected)


def run_node(script: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    file = folder / "job.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [NODE, str(HERE / script), str(file)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ids_of(found: dict[str, Any]) -> list[list[int]]:
    return [answer["ids"] for answer in found["answers"]]


@pytest.mark.parametrize(
    ("dtype", "share"),
    [("fp32", 1.0), ("fp16", 1.0), ("q8", 0.9), ("q4", 0.5), ("q4f16", 0.5), (None, 0.9)],
)
def test_answers_in_node_are_ours(
    dtype: str | None, share: float, exported: Path, asked: Asked
) -> None:
    job = {"folder": str(exported), "dtype": dtype, "threads": 1, "questions": asked.questions}
    found = run_node("answers.mjs", job, asked.folder)
    same = sum(ours == theirs for ours, theirs in zip(asked.token_ids, ids_of(found), strict=True))
    assert same >= share * len(asked.token_ids), f"{same} of {len(asked.token_ids)}"


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt install chromium")
def test_answers_in_chromium_are_ours_and_nothing_is_fetched_elsewhere(
    exported: Path, asked: Asked, tmp_path: Path
) -> None:
    root = tmp_path / "served"
    (root / "models").mkdir(parents=True)
    (root / "models" / "miniature").symlink_to(exported)
    (root / "tests").symlink_to(HERE)
    for file in asked.folder.glob("*.rgb"):
        (root / file.name).symlink_to(file)
    with served(root) as url:
        for dtype in ("fp32", "q8"):
            job = {
                "chromium": CHROMIUM,
                "url": url,
                "id": "miniature",
                "dtype": dtype,
                "device": "wasm",
                "questions": asked.questions[:15],
            }
            found = run_node("browse.mjs", job, tmp_path)
            assert found["others"] == []
            pairs = zip(asked.token_ids[:15], ids_of(found), strict=True)
            assert sum(ours == theirs for ours, theirs in pairs) >= 14


@contextmanager
def served(root: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {  # noqa: RUF012 - the base class declares it so
            **http.server.SimpleHTTPRequestHandler.extensions_map,
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
        }

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_base_loads_below_two_and_a_half_gigabytes(tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "checkpoint", tmp_path / "base"
    write_checkpoint(checkpoint, "base")
    export_layout("base", checkpoint, output, LayoutOptions(dtypes=("fp32", "q8"), budget=None))
    picture = tmp_path / "grey.rgb"
    picture.write_bytes(bytes([128]) * (768 * 768 * 3))
    question = {"pixels": str(picture), "side": 768, "prompt": "<OD>", "max_new_tokens": 8}
    peaks = {}
    for dtype in ("fp32", "q8"):
        job = {"folder": str(output), "dtype": dtype, "threads": 2, "questions": [question]}
        found = run_node("answers.mjs", job, tmp_path)
        assert len(found["answers"][0]["ids"]) == 9
        peaks[dtype] = found["peak_bytes"]
    if os.environ.get("FLORENCE_EDGE_RECORD"):
        packages = read_json(HERE / "package.json")["devDependencies"]
        content = {
            "command": _COMMAND,
            "model": "base with random weights, 768 pixels; one picture, 8 tokens, two threads",
            **circumstances(),
            "packages": packages,
            "peak_gigabytes_in_node": {name: round(peak / 1e9, 2) for name, peak in peaks.items()},
        }
        RECORDED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    assert max(peaks.values()) < 2.5e9, peaks
