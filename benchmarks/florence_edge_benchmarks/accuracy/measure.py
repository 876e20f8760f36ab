"""`measure_accuracy`: ask a bundle everything the data has truth for, and grade the answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from florence_edge import Florence2

from ..machine import describe_machine
from ..results.accuracy import AccuracyResult
from ..results.fingerprints import bundle_fingerprint
from ..systems.devices import CPU, Device
from .captions import TOKENIZER_NOTE
from .detection import detection_figures
from .examine import Examination, Examined, check_gradable, examine
from .grades import Answered, grade
from .questions import VQA
from .truth import Truth

_SHOWN = 5  # messages of what was left out


def measure_accuracy(
    folder: Path,
    truth: Truth,
    examination: Examination,
    *,
    device: Device = CPU,
    threads: int | None = None,
) -> AccuracyResult:
    """Let the bundle in `folder` answer, free-running, and grade the answers task by task.

    Raises:
        FlorenceEdgeError: the answers could not be graded, the bundle cannot be loaded, or nothing
            could be asked.
    """
    check_gradable(truth, examination)
    model = Florence2.load(
        folder, device.engine, threads=threads, engine_precision=device.precision or None
    )
    examined = examine(model, truth, examination)
    answered, options = examined.answered, examination.options
    return AccuracyResult(
        machine=describe_machine(),
        settings=_settings(model, examination, device.name, answered),
        model=model.bundle.model,
        precision=model.bundle.precision,
        device=device.name,
        bundle=folder.resolve().name,
        fingerprint=bundle_fingerprint(folder),
        beams=model.resolve(options).num_beams,
        max_new_tokens=options.max_new_tokens if options else None,
        data=truth.name,
        data_fingerprint=truth.fingerprint,
        images=len({each.asked.image_id for some in answered.values() for each in some}),
        figures=figures_of(truth, answered),
        notes=tuple(_notes(examined)),
    )


def figures_of(
    truth: Truth, answered: Mapping[str, Sequence[Answered]]
) -> dict[str, dict[str, float]]:
    """Figures by task, headline first; for OD with boxes COCO's come before all others."""
    figures = {}
    for task, answers in answered.items():
        graded = grade(task, answers)
        if task == "OD" and truth.has_boxes:
            results = {each.asked.image_id: each.result for each in answers}
            plain = {f"{name} in bins, without scores": value for name, value in graded.items()}
            graded = {**detection_figures(truth, results), **plain}
        figures[task] = graded
    return figures


def _notes(examined: Examined) -> Sequence[str]:
    answers = [each for some in examined.answered.values() for each in some]
    captioned = any(each.asked.references for each in answers)
    return [
        *([TOKENIZER_NOTE] if captioned else []),
        *_left_out("Not read", examined.unread),
        *_left_out("Not asked", examined.unasked),
    ]


def _left_out(what: str, messages: Sequence[str]) -> Sequence[str]:
    """The first messages, and how many more there were."""
    more = len(messages) - _SHOWN
    shown = [f"{what}: {message}" for message in messages[:_SHOWN]]
    return [*shown, *([f"{what}: {more} more."] if more > 0 else [])]


def _settings(
    model: Florence2, examination: Examination, device: str, answered: Mapping[str, object]
) -> dict[str, Any]:
    generation = model.resolve(examination.options)
    return {
        "device": device,
        "beams": generation.num_beams,
        "max-new-tokens": generation.max_new_tokens,
        **({"vqa-prompt": examination.vqa_prompt} if VQA in answered else {}),
    }
