"""A full-size checkpoint with random weights: exported without torch, and compared."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from florence_edge import Florence2, GenerationOptions
from florence_edge.generate import generate
from florence_edge_export import synthetic
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.verify.reference import Reference, generation_config
from florence_edge_jetson.machine.system import peak_bytes

from ..helpers.circumstances import circumstances
from .parity import Answers, Pair, error

LENGTHS = [12]
BEAMS, TOKENS = 3, 12

# torch and transformers cannot be imported in the process that exports.
_EXPORT = """
import json, resource, sys, time

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
from florence_edge_export.cli import main
from florence_edge_jetson.machine.system import peak_bytes

start = time.monotonic()
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
figures = {
    "status": status,
    "seconds": time.monotonic() - start,
    "cpu_seconds": used.ru_utime + used.ru_stime,
    "gigabytes": (peak_bytes() or 0) / 2**30,
}
print(json.dumps(figures))
"""


@dataclass(frozen=True)
class ExportFigures:
    """What an export took; memory is the peak of the process, mapped files included."""

    status: int
    seconds: float
    cpu_seconds: float
    gigabytes: float


def export_without_torch(checkpoint: Path, bundle: Path) -> ExportFigures:
    found = subprocess.run(
        [sys.executable, "-c", _EXPORT, str(checkpoint), "--output", str(bundle)],
        capture_output=True,
        text=True,
        check=True,
    )
    return ExportFigures(**json.loads(found.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Compared:
    """Largest errors in standard deviations, and whether the answer has equal ids."""

    vision_encoder: float
    text_encoder: float
    decoder: float
    answer: str
    answer_tokens: int


@dataclass(frozen=True)
class Parity:
    """`Compared`, and what it took."""

    model: str
    export: ExportFigures
    vision_encoder: float
    text_encoder: float
    decoder: float
    answer: str
    answer_tokens: int
    seconds: float
    gigabytes: float

    def write(self, path: Path, command: str) -> None:
        taken = circumstances("torch", "transformers", "onnxruntime", "numpy")
        found = {"command": command, **taken, **asdict(self)}
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(architecture: str, folder: Path) -> Parity:
    """Write, export and compare; `folder` takes the checkpoint and the bundle."""
    start = time.monotonic()
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    synthetic.write_checkpoint(checkpoint, architecture)
    figures = export_without_torch(checkpoint, bundle)
    compared = compare(checkpoint, bundle)
    return Parity(
        model=f"{architecture}, random weights",
        export=figures,
        **asdict(compared),
        seconds=time.monotonic() - start,
        gigabytes=(peak_bytes() or 0) / 2**30,
    )


def compare(checkpoint: Path, bundle: Path) -> Compared:
    """A float32 bundle's three graphs and an answer beside transformers."""
    read = read_checkpoint(checkpoint)
    with Florence2.load(bundle) as model:
        pair = Pair(model, Reference(read), read)
        pixels = pair.noise(1)
        expected = pair.reference.image_features(pair.normalized(pixels))
        found = pair.model.backend.encode_image(pixels)
        answers = _answer(pair, found, expected)
        return Compared(
            vision_encoder=error(found, expected),
            text_encoder=pair.text_error(LENGTHS, expected),
            decoder=pair.decoder_error(LENGTHS, 2, steps=4, features=expected),
            answer=answers.verdicts[0],
            answer_tokens=answers.lengths[0],
        )


def _answer(pair: Pair, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Answers:
    options = GenerationOptions(num_beams=BEAMS, max_new_tokens=TOKENS)
    generation = pair.model.generation_config(options)
    input_ids, mask = pair.prompts(LENGTHS)
    decoder = pair.model.backend.prefill(found, input_ids, mask, beams=BEAMS)
    (hypothesis,) = generate(decoder, generation, images=1)
    hidden = pair.reference.encode(expected, input_ids[0].tolist())
    answers = Answers([], [])
    answers.add(
        list(hypothesis.token_ids),
        pair.reference.generate(hidden, generation_config(generation)),
        lambda ids: pair.reference.log_probs(hidden, ids),
    )
    return answers
