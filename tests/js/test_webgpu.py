"""WebGPU on SwiftShader, a GPU that Chromium computes on the processor: answers, and no speeds.

With FLORENCE_EDGE_RECORD=1, what was found is written to results/javascript/webgpu.json.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ..helpers.circumstances import circumstances
from .machines import NEEDS_CHROMIUM, NEEDS_NODE, NEEDS_PACKAGES, ROOT

pytest.importorskip("florence_edge_calibration.scenes")
from . import asked as asking

pytestmark = [pytest.mark.slow, NEEDS_NODE, NEEDS_PACKAGES, NEEDS_CHROMIUM]
RECORD = ROOT / "results" / "javascript" / "webgpu.json"
COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/js/test_webgpu.py"
FLAGS = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
LIMIT = 1200.0  # seconds
TASKS = ("CAPTION", "OD", "OCR")  # a minute or more each, where a GPU is emulated


def test_webgpu_answers_as_python(miniature_bundle: Path, tmp_path: Path) -> None:
    asked = asking.asked_about(1)
    (questions,) = asked.questions
    few = [question for question in questions if question[0] in TASKS]
    asked = replace(asked, questions=[few], beams=(1,))
    found = asking.answers_in_chromium(
        miniature_bundle, asked, tmp_path, device="webgpu", flags=FLAGS, limit=LIMIT
    )
    expected = asking.answers_in_python(miniature_bundle, asked)
    assert [each["task"] for each in found["answers"]] == [each["task"] for each in expected]
    equal = {
        each["task"]: each["token_ids"] == result["token_ids"]
        for each, result in zip(found["answers"], expected, strict=True)
    }
    if "FLORENCE_EDGE_RECORD" in os.environ:
        content = {
            "command": COMMAND,
            **circumstances(),
            "adapter": "SwiftShader, in Chromium: a GPU that the processor emulates",
            "model": "miniature, fp32; a scene, greedily",
            "same token ids as Python": equal,
        }
        RECORD.write_text(json.dumps(content, indent=1) + "\n")
    assert len(equal) == len(TASKS)
    assert all(equal.values()), (found["answers"], expected)
