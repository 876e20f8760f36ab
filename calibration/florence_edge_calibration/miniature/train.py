"""Train the miniature: `python -m florence_edge_calibration.miniature.train --work DIR`.

First the vision tower alone learns what every image token shows (dense_head.py), then the whole
model learns to answer, with the dense head trained on beside it. Everything comes from one seed,
and a run that is started again goes on where it was last saved.
"""

import argparse
import json
import logging
import signal
import threading
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import Florence2ForConditionalGeneration

from florence_edge.files import whole_file

from ..scenes import GRID
from ..scenes.held_out import load_held_out
from ..scenes.words import WORDS
from .data import Batch, BatchSource, ScenePool
from .dense_head import DenseHead, dense_losses, dense_sum
from .evaluate import evaluate, through_transformers
from .model import IMAGE_TOKEN, build_config, build_model, build_tokenizer, write_checkpoint

logger = logging.getLogger(__name__)

_STEPS_A_LOG_LINE = 50
_SECONDS_A_SAVE, _SECONDS_AN_EVALUATION = 600, 1200
_SCENES_AN_EVALUATION = 40

# Far from the held-out scenes, which start at 0.
_TOKENIZER_SEED, _POOL_SEED = 900_000_000, 100_000_000


_SAVED = ("model", "head", "optimizer", "average")  # of a `Training`


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How long and how hard to train."""

    seed: int = 20
    dense_steps: int = 1700
    steps: int = 3_300
    decay_steps: int = 800  # at the end: until then a run can be made longer at any time
    images: int = 12
    questions_each: int = 6
    learning_rate: float = 1e-3
    warmup: int = 150
    dense_weight: float = 0.4
    softness: float = 0.15  # share of a location token's target that its neighbours get
    pool_chunks: int = 20

    @property
    def last_step(self) -> int:
        """Where training ends."""
        return self.dense_steps + self.steps

    def rate(self, step: int) -> float:
        """Learning rate of a step: both phases warm up, and the end decays to nothing."""
        done = step if step < self.dense_steps else step - self.dense_steps
        return self.learning_rate * min(1.0, (done + 1) / self.warmup) * self._left(step)

    def softness_at(self, step: int) -> float:
        """How soft location targets are: exact ones at the end."""
        return self.softness * self._left(step)

    def _left(self, step: int) -> float:
        return min(1.0, (self.last_step - step) / self.decay_steps)


@dataclass(slots=True)
class Training:
    """Everything that changes while training."""

    model: Florence2ForConditionalGeneration
    head: DenseHead
    optimizer: torch.optim.Optimizer
    average: Florence2ForConditionalGeneration  # of the weights over time; this is what ships
    neighbours: torch.Tensor  # [2, vocabulary]
    importance: torch.Tensor  # [vocabulary]
    step: int = 0

    def save(self, path: Path) -> None:
        """Write the state, the old one staying until the new one is complete."""
        parts = {name: getattr(self, name).state_dict() for name in _SAVED}
        with whole_file(path) as unfinished:
            torch.save({**parts, "step": self.step}, unfinished)

    def load(self, path: Path) -> None:
        """Go on from a saved state."""
        state = torch.load(path, map_location=self.neighbours.device, weights_only=True)
        for name in _SAVED:
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def train(
    plan: TrainingPlan, training: Training, source: BatchSource, work: Path, stop: threading.Event
) -> None:
    """Train to the end of the plan, or until `stop` is set; the state is saved now and then."""
    saved = evaluated = logged = time.monotonic()
    recent: dict[str, float] = {}
    while training.step < plan.last_step and not stop.is_set():
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
            _save(training, source.tokenizer, work)
            saved = now
        if now - evaluated > _SECONDS_AN_EVALUATION:
            _log(work, {"step": training.step, **_free_running(training, source.tokenizer, work)})
            evaluated = time.monotonic()
    _save(training, source.tokenizer, work)


def _log(work: Path, entry: dict[str, float]) -> None:
    rounded = {name: round(value, 4) for name, value in entry.items()}
    logger.info("%s", rounded)
    with (work / "training.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(rounded) + "\n")


def _save(training: Training, tokenizer: Tokenizer, work: Path) -> None:
    training.save(work / "state.pt")
    write_checkpoint(training.average, tokenizer, work / "checkpoint")
    logger.info("saved at step %d", training.step)


def _free_running(training: Training, tokenizer: Tokenizer, work: Path) -> dict[str, float]:
    """Headline figures on held-out scenes: the losses hide a model that ignores the picture."""
    write_checkpoint(training.average, tokenizer, work / "checkpoint")
    answer = through_transformers(work / "checkpoint", beams=1)
    verdicts = evaluate(answer, load_held_out()[:_SCENES_AN_EVALUATION])
    return {f"{task} {verdict.headline}": verdict.value for task, verdict in verdicts.items()}


def _read_or_build_tokenizer(file: Path) -> Tokenizer:
    if not file.exists():
        build_tokenizer(_TOKENIZER_SEED).save(str(file))
    return Tokenizer.from_file(str(file))


def start_training(plan: TrainingPlan, tokenizer: Tokenizer, device: torch.device) -> Training:
    """A model with fresh weights and what belongs to its training."""
    torch.manual_seed(plan.seed)
    ids = tokenizer.get_vocab()
    model = build_model(build_config(len(ids), ids[IMAGE_TOKEN]), ids["<loc_0>"]).to(device)
    head = DenseHead(model.config.text_config.d_model).to(device)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.02)
    return Training(
        model=model,
        head=head,
        optimizer=optimizer,
        average=deepcopy(model).requires_grad_(False),
        neighbours=_neighbours(tokenizer).to(device),
        importance=_importance(tokenizer).to(device),
    )


def take_step(plan: TrainingPlan, training: Training, batch: Batch) -> dict[str, float]:
    """Learn from a batch; the losses are returned by name."""
    model, device = training.model, training.neighbours.device
    features = model.get_image_features(batch.pixels.to(device)).pooler_output
    dense = dense_losses(training.head(features), batch.dense.to(device))
    losses = {name: loss.item() for name, loss in dense.items()}
    total = dense_sum(dense)
    if training.step >= plan.dense_steps:
        softness = plan.softness_at(training.step)
        answers = _answer_loss(training, features, batch, softness)
        losses["answers"] = answers.item()
        total = answers + plan.dense_weight * total
    total.backward()
    parameters = [value for group in training.optimizer.param_groups for value in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in training.optimizer.param_groups:
        group["lr"] = plan.rate(training.step)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    _update_average(training)
    return losses


def _answer_loss(
    training: Training, features: torch.Tensor, batch: Batch, softness: float
) -> torch.Tensor:
    """Teacher-forced loss of the answers; a picture is encoded once for all its questions."""
    device = features.device
    model, language = training.model, training.model.model.language_model
    images = features.repeat_interleave(batch.questions_each, dim=0)
    prompts = model.get_input_embeddings()(batch.prompt_ids.to(device))
    mask = functional.pad(batch.prompt_mask, (images.shape[1], 0), value=1).to(device)
    encoded = language.encoder(
        inputs_embeds=torch.cat([images, prompts], dim=1), attention_mask=mask
    ).last_hidden_state
    decoded = language.decoder(
        input_ids=batch.decoder_ids.to(device),
        encoder_hidden_states=encoded,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    labels = batch.labels.to(device)
    present = labels >= 0
    log_probabilities = model.lm_head(decoded[present]).log_softmax(dim=-1)
    expected = labels[present]
    exact = log_probabilities.gather(1, expected[:, None])[:, 0]
    beside = log_probabilities.gather(1, training.neighbours[:, expected].T).mean(dim=1)
    importance = training.importance[expected]
    return -(importance * ((1 - softness) * exact + softness * beside)).sum() / importance.sum()


def _importance(tokenizer: Tokenizer) -> torch.Tensor:
    """What a token counts: each of the 300 words is rare, and would hardly be learned."""
    importance = torch.ones(tokenizer.get_vocab_size())
    for word in WORDS:
        for text in (word, f" {word}"):
            importance[tokenizer.encode(text, add_special_tokens=False).ids] = 5.0
    importance[tokenizer.encode(" ", add_special_tokens=False).ids] = 1.0
    return importance


def _neighbours(tokenizer: Tokenizer) -> torch.Tensor:
    """The two tokens beside each: places one cell away for a location, else itself."""
    token_ids = torch.arange(tokenizer.get_vocab_size()).repeat(2, 1)
    bins = [min(unit * 1000 // GRID, 999) for unit in range(GRID + 1)]
    ids = [tokenizer.token_to_id(f"<loc_{value}>") for value in bins]
    for unit, token_id in enumerate(ids):
        token_ids[0, token_id] = ids[max(unit - 2, unit % 2)]
        token_ids[1, token_id] = ids[min(unit + 2, GRID - unit % 2)]
    return token_ids


@torch.no_grad()
def _update_average(training: Training) -> None:
    decay = min(0.999, (1 + training.step) / (20 + training.step))
    averages, values = list(training.average.parameters()), list(training.model.parameters())
    torch._foreach_lerp_(averages, values, 1 - decay)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes, state, log")
    parser.add_argument(
        "--steps", type=int, default=TrainingPlan().steps, help="steps after the dense phase"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    plan = TrainingPlan(steps=arguments.steps)
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
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    train(plan, training, source, work, stop)


if __name__ == "__main__":
    main()
