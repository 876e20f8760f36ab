"""Outliers planted in a trained checkpoint whose function stays: harder ground for int8 and int4.

Three kinds, as they are reported of large models:

- `channels`: channels of the layer norms before DaViT's linears and convolutions stick out, and the
  weights behind shrink (SmoothQuant, arXiv 2211.10438, describes such channels).
- `values`: rows of v_proj stick out, and the columns of the projection behind attention shrink.
- `tokens`: on one token, or on few, two units of a feed-forward layer become huge, where all others
  stay as they are ("massive activations", arXiv 2402.17762: most often on `<s>` and delimiters).
  Here on `<s>`, and on location tokens. What the one unit adds, the other takes away; but they are
  not equally large, so that clipping the one leaves the other's.

Factors are powers of two, and the weights are written in float32: nothing else is rounded.

    python -m florence_edge_calibration.miniature.outliers OUTPUT

writes the planted miniature as a checkpoint, which exports like any other.
"""

import argparse
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from .. import Float32s, Float64s
from ..scenes import Scene, ask_everything, draw_scene, generate_scenes
from .evaluate import CHECKPOINT
from .model import IMAGE_SIZE

logger = logging.getLogger(__name__)

KINDS = ("channels", "values", "tokens")
FACTOR = 64.0  # times as large as the others; reports speak of 50 and more
_SHARE = 50  # one channel of so many
_SCENES_FROM, _SCENES = 600_000, 16  # what tokens are told apart by: no scene of any other use

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_START, _PAD, _BOS = 2, 1, 0
_ADDED_UNITS = 8  # to each feed-forward layer, of which two a kind of token are used
_RATIO = 8.0  # of the two units of a kind of token
_MARGIN = 96.0  # what a unit reads at least where it fires, and at most the negative elsewhere: at
# a _RATIO-th of it GELU is the identity, or zero, to float32's last place

Tensors = dict[str, Float32s]


def plant_outliers(checkpoint: Path, folder: Path, kinds: Sequence[str] = KINDS) -> list[str]:
    """Write a checkpoint that computes what another does, with outliers on the way.

    Args:
        checkpoint: of the miniature, in transformers' layout.
        folder: where the new one goes; it must not exist.
        kinds: some of KINDS.

    Returns:
        Names of the tensors in which something was planted.

    Raises:
        ValueError: there is no such kind, or no layer tells the tokens apart.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"There is no kind {min(unknown)}; choose from {KINDS}.")
    stored = load_file(checkpoint / _WEIGHTS)
    tensors = {name: values.astype(np.float32) for name, values in stored.items()}
    random = np.random.default_rng(0)
    planted: list[str] = []
    if "channels" in kinds:
        planted += _grow_channels(tensors, random)
    if "values" in kinds:
        planted += _grow_values(tensors, random)
    if "tokens" in kinds:
        planted += _add_units(tensors, _directions(checkpoint), random)
    shutil.copytree(checkpoint, folder, copy_function=shutil.copyfile)
    config = json.loads((checkpoint / _CONFIG).read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    if "tokens" in kinds:
        for side in ("encoder", "decoder"):
            config["text_config"][f"{side}_ffn_dim"] += _ADDED_UNITS
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    return planted


def _grow_channels(tensors: Tensors, random: np.random.Generator) -> list[str]:
    """Layer norms of the vision tower before a linear, or before a stage's convolution."""
    pairs = {
        "norm1": "{attention}.qkv.weight",
        "norm2": "ffn.fc1.weight",
        "norm": "conv.weight",
    }
    planted = []
    for name in [name for name in tensors if "vision_tower" in name]:
        module, _, last = name.removesuffix(".weight").rpartition(".")
        if not name.endswith(".weight") or last not in pairs:
            continue
        attention = "window_attn" if "spatial_block" in module else "channel_attn"
        reader = f"{module}.{pairs[last].format(attention=attention)}"
        if tensors[reader].shape[1] != len(tensors[name]):  # the first stage has its norm behind
            continue
        channels = _some(random, len(tensors[name]))
        for part in ("weight", "bias"):
            tensors[f"{module}.{last}.{part}"][channels] *= np.float32(FACTOR)
        tensors[reader][:, channels] /= np.float32(FACTOR)
        planted.append(name)
    return planted


def _grow_values(tensors: Tensors, random: np.random.Generator) -> list[str]:
    """Values of BART's attention, and of DaViT's in windows, before they are averaged."""
    planted = []
    for name in [name for name in tensors if name.endswith(".v_proj.weight")]:
        attention = name.removesuffix(".v_proj.weight")
        rows = _some(random, len(tensors[name]))
        _scale_rows(tensors, f"{attention}.v_proj", rows, f"{attention}.out_proj", rows)
        planted.append(name)
    for name in [name for name in tensors if name.endswith(".window_attn.qkv.weight")]:
        attention = name.removesuffix(".qkv.weight")
        columns = _some(random, tensors[name].shape[1])
        rows = 2 * tensors[name].shape[1] + columns  # queries, keys, values
        _scale_rows(tensors, f"{attention}.qkv", rows, f"{attention}.proj", columns)
        planted.append(name)
    return planted


def _scale_rows(
    tensors: Tensors,
    values: str,
    rows: npt.NDArray[np.int64],
    projection: str,
    columns: npt.NDArray[np.int64],
) -> None:
    for part in ("weight", "bias"):
        tensors[f"{values}.{part}"][rows] *= np.float32(FACTOR)
    tensors[f"{projection}.weight"][:, columns] /= np.float32(FACTOR)


def _some(random: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    return random.choice(count, size=max(1, count // _SHARE), replace=False)


# --- huge tokens


@dataclass(frozen=True, slots=True, eq=False)
class _Direction:
    """A unit that fires on a kind of token: `weight` @ x + `bias` is _MARGIN or more there."""

    weight: Float32s
    bias: float


def _add_units(
    tensors: Tensors, directions: Mapping[str, Sequence[_Direction]], random: np.random.Generator
) -> list[str]:
    """Two units for each direction of a layer, and units of zeros up to _ADDED_UNITS."""
    if not any(directions.values()):
        raise ValueError("No feed-forward layer tells <s> or location tokens from the others.")
    planted = []
    for layer, found in directions.items():
        fc1, fc2 = tensors[f"{layer}.fc1.weight"], tensors[f"{layer}.fc2.weight"]
        rows = np.zeros((_ADDED_UNITS, fc1.shape[1]), dtype=np.float32)
        biases = np.zeros(_ADDED_UNITS, dtype=np.float32)
        columns = np.zeros((fc2.shape[0], _ADDED_UNITS), dtype=np.float32)
        usual = np.float32(np.median(np.abs(fc2)))
        for place, each in enumerate(found):
            unit, other = 2 * place, 2 * place + 1
            rows[unit], biases[unit] = each.weight, each.bias
            rows[other], biases[other] = each.weight / _RATIO, each.bias / _RATIO
            effect = random.choice([-usual, usual], size=len(columns)) / np.float32(_RATIO)
            columns[:, unit], columns[:, other] = effect, -effect * np.float32(_RATIO)
            planted.append(f"{layer}.fc2.weight")
        bias = tensors[f"{layer}.fc1.bias"]
        tensors[f"{layer}.fc1.weight"] = np.concatenate([fc1, rows])
        tensors[f"{layer}.fc1.bias"] = np.concatenate([bias, biases])
        tensors[f"{layer}.fc2.weight"] = np.concatenate([fc2, columns], axis=1)
    return planted


def _directions(checkpoint: Path) -> dict[str, list[_Direction]]:
    """For each feed-forward layer of the text model, what tells `<s>` and location tokens apart."""
    model = Florence2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    processor = Florence2Processor.from_pretrained(checkpoint)
    locations = processor.tokenizer.convert_tokens_to_ids(["<loc_0>", "<loc_999>"])
    found = {}
    for layer, (tokens, inputs) in _read_by_layers(model.eval(), processor).items():
        kinds = (tokens == _BOS, (tokens >= locations[0]) & (tokens <= locations[1]))
        known = [_between(inputs[kind], inputs[~kind]) for kind in kinds]
        found[layer] = [each for each in known if each is not None]
        logger.info("%s: %d of %d kinds of tokens", layer, len(found[layer]), len(kinds))
    return found


def _between(on: Float64s, off: Float64s) -> _Direction | None:
    """Fisher's linear discriminant, scaled; None where it does not part all that was read."""
    within = np.cov(on.T) + np.cov(off.T) + 1e-6 * np.eye(on.shape[1])
    weight = np.linalg.solve(within, on.mean(axis=0) - off.mean(axis=0))
    lowest, highest = float((on @ weight).min()), float((off @ weight).max())
    if lowest <= highest:
        return None
    scale = 2 * _MARGIN / (lowest - highest)
    bias = -scale * (lowest + highest) / 2
    return _Direction((scale * weight).astype(np.float32), bias)


def _read_by_layers(
    model: Florence2ForConditionalGeneration, processor: Any
) -> dict[str, tuple[npt.NDArray[np.int64], Float64s]]:
    """Tokens, and what each feed-forward layer of the text model reads at each of them."""
    read: dict[str, list[Float64s]] = {}
    tokens: dict[str, list[npt.NDArray[np.int64]]] = {}
    prefix = "model.language_model"

    def watch(name: str, kept: list[torch.Tensor]) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            values = inputs[0].reshape(kept[0].shape[0], kept[0].shape[1], -1)
            mask = kept[0] != _PAD
            read.setdefault(name, []).append(values[mask].double().numpy())
            tokens.setdefault(name, []).append(kept[0][mask].numpy())

        return hook

    for batch, answers in _questions(processor):
        sides = {"encoder": [batch["input_ids"]], "decoder": [answers]}
        handles = [
            layer.fc1.register_forward_pre_hook(
                watch(f"{prefix}.{side}.layers.{index}", sides[side])
            )
            for side in sides
            for index, layer in enumerate(getattr(model.model.language_model, side).layers)
        ]
        with torch.inference_mode():
            model(**batch, decoder_input_ids=answers)
        for handle in handles:
            handle.remove()
    return {name: (np.concatenate(tokens[name]), np.concatenate(read[name])) for name in read}


def _questions(processor: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """One task about all scenes at a time: the model's inputs, and answers to be led along."""
    scenes: list[Scene] = list(generate_scenes(_SCENES_FROM, _SCENES))
    pictures = [draw_scene(scene, IMAGE_SIZE) for scene in scenes]
    for questions in zip(*(ask_everything(scene) for scene in scenes), strict=True):
        prompts = [question.prompt for question in questions]
        texts = [question.answer for question in questions]
        batch = processor(text=prompts, images=pictures, padding=True, return_tensors="pt")
        ids = processor.tokenizer(texts, padding=True, return_tensors="pt").input_ids
        yield batch, torch.cat([torch.full((len(ids), 1), _START), ids[:, :-1]], dim=1)


def main() -> None:
    """Write the planted miniature from the command line."""
    parser = argparse.ArgumentParser(description="Plant outliers in the miniature.")
    parser.add_argument("output", type=Path, help="folder of the new checkpoint")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    planted = plant_outliers(CHECKPOINT, arguments.output, arguments.kinds)
    logger.info("Planted in %d tensors", len(planted))


if __name__ == "__main__":
    main()
