"""How bundles of each precision answer on each engine, beside float32 in Python.

python -m tests.js.engines --output RESULT.json FP32_BUNDLE [BUNDLE ...]
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from florence_edge import Bundle
from florence_edge.command import run_command
from florence_edge.files import write_whole
from florence_edge_benchmarks.machine import describe_machine
from florence_edge_benchmarks.report.tables import machine_line

from .asked import Asked, answers_in_chromium, answers_in_node, answers_in_python, asked_about

SCENES = 10


def main() -> int:
    """Measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    return run_command("engines", lambda: _measure(arguments))


def _measure(arguments: argparse.Namespace) -> int:
    asked = asked_about(SCENES)
    reference = answers_in_python(arguments.bundles[0], asked)
    rows = [row for path in arguments.bundles for row in _rows(path, asked, reference)]
    result = {
        "machine": machine_line(describe_machine()),
        "answers": len(reference),
        "reference": "float32 in Python, ONNX Runtime on the CPU",
        "rows": rows,
    }
    write_whole(arguments.output, json.dumps(result, indent=1) + "\n")
    return 0


def _rows(path: Path, asked: Asked, reference: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bundle = Bundle.load(path)
    own: list[dict[str, Any]] = answers_in_python(path, asked)
    engines: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        "python": lambda _: own,
        "node": lambda folder: answers_in_node(path, asked, folder)["answers"],
        "wasm": lambda folder: answers_in_chromium(path, asked, folder)["answers"],
    }
    rows = []
    for engine, answers in engines.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = answers(Path(folder))
            except AssertionError as error:  # the program's words
                rows.append(_facts(bundle, engine) | {"refused": str(error)[-300:]})
                continue
        rows.append(
            _facts(bundle, engine)
            | {"as_float32": _equal(found, reference), "as_python": _equal(found, own)}
        )
        print(rows[-1], flush=True)  # noqa: T201 - a command
    return rows


def _facts(bundle: Bundle, engine: str) -> dict[str, Any]:
    return {"precision": bundle.precision, "target": bundle.target, "engine": engine}


def _equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> int:
    pairs = zip(found, expected, strict=True)
    return sum(one["token_ids"] == other["token_ids"] for one, other in pairs)


if __name__ == "__main__":
    raise SystemExit(main())
