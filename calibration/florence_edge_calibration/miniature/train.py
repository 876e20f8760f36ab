"""Train the miniature: `python -m florence_edge_calibration.miniature.train --work DIR`.

First the vision tower alone learns what every image token sees (dense.py), then the whole model
learns to answer, with that lesson kept up beside it. Everything comes from one seed, and a run that
is started again goes on where it was last saved.
"""

import argparse
import json
import logging
import signal
import threading
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from florence_edge_calibration.scenes.held_out import load_held_out

from .batches import BatchSource
from .evaluate import evaluate, through_transformers
from .pool import ScenePool
from .saving import write_checkpoint
from .tokenizer import build_tokenizer
from .training import Plan, Training, start_training, take_step

logger = logging.getLogger(__name__)

_STEPS_A_LOG_LINE = 50
_SECONDS_A_SAVE, _SECONDS_AN_EVALUATION = 600, 1200
_SCENES_AN_EVALUATION = 40

# Far from the held-out scenes, which start at 0.
_TOKENIZER_SEED, _POOL_SEED = 900_000_000, 100_000_000


def train(
    plan: Plan, training: Training, source: BatchSource, work: Path, stopping: threading.Event
) -> None:
    """Train to the end of the plan, or until `stopping` is set; the state is saved now and then."""
    saved = evaluated = logged = time.monotonic()
    recent: dict[str, float] = {}
    while training.step < plan.last_step and not stopping.is_set():
        losses = take_step(plan, training, source.batch(training.step))
        for name, value in losses.items():
            recent[name] = 0.98 * recent.get(name, value) + 0.02 * value
        training.step += 1
        now = time.monotonic()
        if training.step % _STEPS_A_LOG_LINE == 0:
            pace = (now - logged) / _STEPS_A_LOG_LINE
            _log(work, {"step": training.step, "seconds a step": pace, **recent})
            logged = now
        if now - saved > _SECONDS_A_SAVE:
            _keep(training, source.tokenizer, work)
            saved = now
        if now - evaluated > _SECONDS_AN_EVALUATION:
            _log(work, {"step": training.step, **_free_running(training, source.tokenizer, work)})
            evaluated = time.monotonic()
    _keep(training, source.tokenizer, work)


def _log(work: Path, entry: dict[str, float]) -> None:
    rounded = {name: round(value, 4) for name, value in entry.items()}
    logger.info("%s", rounded)
    with (work / "training.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(rounded) + "\n")


def _keep(training: Training, tokenizer: Tokenizer, work: Path) -> None:
    training.save(work / "state.pt")
    write_checkpoint(training.average, tokenizer, work / "checkpoint")
    logger.info("saved at step %d", training.step)


def _free_running(training: Training, tokenizer: Tokenizer, work: Path) -> dict[str, float]:
    """Headline figures on held-out scenes: the losses hide a model that does not look."""
    write_checkpoint(training.average, tokenizer, work / "checkpoint")
    answer = through_transformers(work / "checkpoint", beams=1)
    verdicts = evaluate(answer, load_held_out()[:_SCENES_AN_EVALUATION])
    return {f"{task} {verdict.headline}": verdict.value for task, verdict in verdicts.items()}


def _read_or_build_tokenizer(file: Path) -> Tokenizer:
    if not file.exists():
        build_tokenizer(_TOKENIZER_SEED).save(str(file))
    return Tokenizer.from_file(str(file))


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes, state, log")
    parser.add_argument(
        "--steps", type=int, default=Plan().steps, help="steps after the dense phase"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    plan = Plan(steps=arguments.steps)
    tokenizer = _read_or_build_tokenizer(work / "tokenizer.json")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = start_training(plan, tokenizer, device)
    if (work / "state.pt").exists():
        training.load(work / "state.pt")
    pool = ScenePool(work / "scenes", _POOL_SEED, plan.pool_chunks)
    pool.paint_ahead()
    source = BatchSource(
        pool=pool,
        tokenizer=tokenizer,
        seed=plan.seed,
        images=plan.images,
        questions_each=plan.questions_each,
    )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    train(plan, training, source, work, stopping)


if __name__ == "__main__":
    main()
