"""`measure_accuracy`: ask a bundle everything the data has truth for, and grade the answers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from florence_edge import Florence2, GenerationConfig
from florence_edge.errors import FlorenceEdgeError
from florence_edge.image_file import ImageOptions

from ..machine import describe_machine
from ..results import AccuracyResult, Failure, SpeedResult
from ..results_io import bundle_fingerprint
from ..systems.system import CPU, SystemDevice
from ..systems.workload import name_beams
from .ask import AskedAnswers, AskOptions, ask_all, check_gradable
from .captions import TOKENIZER_NOTE
from .coco import detection_figures
from .data import VQA, Truth
from .score import GradedAnswer, grade

logger = logging.getLogger(__name__)

_SHOWN = 5  # messages of what was left out


def measure_accuracy(
    folder: Path,
    truth: Truth,
    ask_options: AskOptions,
    *,
    device: SystemDevice = CPU,
    threads: int | None = None,
    image_options: ImageOptions | None = None,
) -> AccuracyResult:
    """Let the bundle in `folder` answer, free-running, and grade the answers task by task.

    Raises:
        FlorenceEdgeError: the answers could not be graded, the bundle cannot be loaded, or nothing
            could be asked.
    """
    check_gradable(truth, ask_options)
    images = image_options or ImageOptions()
    model = Florence2.load(
        folder,
        device.device,
        threads=threads,
        engine_precision=device.precision or None,
        max_pixels=images.max_pixels,
        deep_range=images.deep_range,
    )
    with model:
        config = model.generation_config(ask_options.options)
        asked = ask_all(model, truth, ask_options)
    answered, options = asked.answered, ask_options.options
    return AccuracyResult(
        machine=describe_machine(),
        settings=_settings(config, ask_options, device.name, answered),
        model=model.bundle.model,
        precision=model.bundle.precision,
        device=device.name,
        bundle=folder.resolve().name,
        fingerprint=bundle_fingerprint(folder),
        beams=config.num_beams,
        max_new_tokens=options.max_new_tokens if options else None,
        data=truth.name,
        data_fingerprint=truth.fingerprint,
        images=len({each.question.image_id for some in answered.values() for each in some}),
        figures=figures_of(truth, answered),
        notes=tuple(_notes(asked)),
    )


def with_accuracy(result: SpeedResult, truth: Truth, asked: Sequence[AskOptions]) -> SpeedResult:
    """The result with the accuracy of every bundle that was measured, asked in each of these ways.

    What fails is one of `failures`.
    """
    accuracies, failures = [], []
    bundles = [row.system for row in result.systems if row.error is None]
    for system in bundles:
        if system.kind != "bundle":
            continue
        for ask_options in asked:
            beams = ask_options.options.num_beams if ask_options.options else None
            way = "the model's beams" if beams is None else name_beams(beams)
            logger.info("%s: accuracy, %s", system.label, way)
            folder, where, threads = Path(system.bundle), system.runs_on, system.threads
            try:
                accuracies.append(
                    measure_accuracy(folder, truth, ask_options, device=where, threads=threads)
                )
            except FlorenceEdgeError as error:
                logger.warning("%s: %s", system.label, error)
                failures.append(Failure(system.label, f"accuracy, {way}", str(error)))
    return replace(result, accuracy=tuple(accuracies), failures=tuple(failures))


def figures_of(
    truth: Truth, answered: Mapping[str, Sequence[GradedAnswer]]
) -> dict[str, dict[str, float]]:
    """Figures by task, headline first; for OD with boxes COCO's come before all others."""
    figures = {}
    for task, answers in answered.items():
        graded = grade(task, answers)
        if task == "OD" and truth.has_boxes:
            results = {each.question.image_id: each.result for each in answers}
            plain = {f"{name} in bins, without scores": value for name, value in graded.items()}
            graded = {**detection_figures(truth, results), **plain}
        figures[task] = graded
    return figures


def _notes(asked: AskedAnswers) -> Sequence[str]:
    answers = [each for some in asked.answered.values() for each in some]
    captioned = any(each.question.references for each in answers)
    return [
        *([TOKENIZER_NOTE] if captioned else []),
        *_left_out("Not read", asked.unread),
        *_left_out("Not asked", asked.unasked),
    ]


def _left_out(what: str, messages: Sequence[str]) -> Sequence[str]:
    """The first messages, and how many more there were."""
    more = len(messages) - _SHOWN
    shown = [f"{what}: {message}" for message in messages[:_SHOWN]]
    return [*shown, *([f"{what}: {more} more."] if more > 0 else [])]


def _settings(
    config: GenerationConfig, ask_options: AskOptions, device: str, answered: Mapping[str, object]
) -> dict[str, Any]:
    return {
        "device": device,
        "beams": config.num_beams,
        "max-new-tokens": config.max_new_tokens,
        **({"vqa-prompt": ask_options.vqa_prompt} if VQA in answered else {}),
    }
