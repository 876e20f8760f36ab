"""One training of the miniature: its plan, its state, and the step that changes it."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import Florence2ForConditionalGeneration

from florence_edge_calibration.scenes import GRID
from florence_edge_calibration.scenes.words import WORDS

from .batches import Batch
from .dense import DenseHead, dense_losses, dense_sum
from .model import build_config, build_model
from .tokenizer import IMAGE_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
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
        unfinished = path.with_suffix(".part")
        torch.save({**parts, "step": self.step}, unfinished)
        unfinished.rename(path)

    def load(self, path: Path) -> None:
        """Go on from a saved state."""
        state = torch.load(path, map_location=self.neighbours.device, weights_only=True)
        for name in _SAVED:
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


_SAVED = ("model", "head", "optimizer", "average")


def start_training(plan: Plan, tokenizer: Tokenizer, device: torch.device) -> Training:
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


def take_step(plan: Plan, training: Training, batch: Batch) -> dict[str, float]:
    """Learn from a batch; the losses are returned by name."""
    model, device = training.model, training.neighbours.device
    features = model.get_image_features(batch.pixels.to(device)).pooler_output
    seen = dense_losses(training.head(features), batch.dense.to(device))
    losses = {name: loss.item() for name, loss in seen.items()}
    total = dense_sum(seen)
    if training.step >= plan.dense_steps:
        softness = plan.softness_at(training.step)
        spoken = _answer_loss(training, features, batch, softness)
        losses["answers"] = spoken.item()
        total = spoken + plan.dense_weight * total
    total.backward()
    parameters = [value for group in training.optimizer.param_groups for value in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in training.optimizer.param_groups:
        group["lr"] = plan.rate(training.step)
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    _follow(training)
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
    spoken = labels >= 0
    log_probabilities = model.lm_head(decoded[spoken]).log_softmax(dim=-1)
    wanted = labels[spoken]
    exact = log_probabilities.gather(1, wanted[:, None])[:, 0]
    beside = log_probabilities.gather(1, training.neighbours[:, wanted].T).mean(dim=1)
    importance = training.importance[wanted]
    return -(importance * ((1 - softness) * exact + softness * beside)).sum() / importance.sum()


def _importance(tokenizer: Tokenizer) -> torch.Tensor:
    """What a token counts: each of the 300 words is said seldom, and would hardly be learned."""
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
def _follow(training: Training) -> None:
    decay = min(0.999, (1 + training.step) / (20 + training.step))
    averages, values = list(training.average.parameters()), list(training.model.parameters())
    torch._foreach_lerp_(averages, values, 1 - decay)
