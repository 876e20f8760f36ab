"""The dense head: predicts from every image token what the picture shows there.

It trains the vision tower before the model learns to answer. It is a training aid alone, and not
in the checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ..scenes import GRID, Scene
from ..scenes.shapes import COLOURS, SHAPES
from ..scenes.words import WORDS, letter_ends
from .model import IMAGE_TOKENS_A_SIDE

_SHAPE_INDEX = {name: index for index, name in enumerate(SHAPES)}
_COLOUR_INDEX = {name: index for index, name in enumerate(COLOURS)}
_WORD_INDEX = {word: index for index, word in enumerate(WORDS)}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# A token is as wide as one or two letters: its left and its right half are read.
_LETTERS_A_TOKEN = 2

_UNITS = GRID // IMAGE_TOKENS_A_SIDE
_CENTRES = np.arange(IMAGE_TOKENS_A_SIDE) * _UNITS + _UNITS // 2
_ORIGIN = np.stack(
    [np.tile(_CENTRES, IMAGE_TOKENS_A_SIDE), np.repeat(_CENTRES, IMAGE_TOKENS_A_SIDE)], axis=1
)
_TOKENS = len(_ORIGIN)

_CLASSES = {
    "shape": len(SHAPES) + 1,  # the last class of each means: nothing here
    "colour": len(COLOURS) + 1,
    "word": len(WORDS) + 1,
    "letters": len(_LETTERS) + 1,
}
_BOXES = {"object_box": "shape", "word_box": "word"}  # and the class that says whether there is one
_OUTPUTS = {
    **_CLASSES,
    "letters": _LETTERS_A_TOKEN * _CLASSES["letters"],
    **dict.fromkeys(_BOXES, 4),
}
_WEIGHTS = {
    "shape": 1.0,
    "colour": 1.0,
    "word": 0.5,
    "letters": 2.0,
    "object_box": 10.0,
    "word_box": 10.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTruth:
    """What is in front of each image token of a batch, [images, tokens, ...]."""

    shape: torch.Tensor
    colour: torch.Tensor
    word: torch.Tensor
    letters: torch.Tensor  # [images, tokens, 2]
    object_box: torch.Tensor  # corners, in picture widths
    word_box: torch.Tensor

    def to(self, device: torch.device) -> "DenseTruth":
        """The same on a device."""
        return DenseTruth(
            **{part.name: getattr(self, part.name).to(device) for part in fields(self)}
        )


class DenseHead(nn.Module):
    """Reads shape, colour, word, letters and boxes from each projected image token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * width)
        self.outputs = nn.Linear(2 * width, sum(_OUTPUTS.values()))

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map image features [images, 1 + tokens, width], the pooled one first, to outputs."""
        hidden = functional.gelu(self.hidden(features[:, 1:]))
        parts = self.outputs(hidden).split(list(_OUTPUTS.values()), dim=-1)
        return dict(zip(_OUTPUTS, parts, strict=True))


def dense_truth(scenes: Sequence[Scene]) -> DenseTruth:
    """Assign to each image token the thing in front of its centre."""
    count = len(scenes)
    classes = {name: np.full((count, _TOKENS), size - 1) for name, size in _CLASSES.items()}
    classes["letters"] = np.full((count, _TOKENS, _LETTERS_A_TOKEN), len(_LETTERS))
    boxes = {name: np.zeros((count, _TOKENS, 4), dtype=np.float32) for name in _BOXES}
    for index, scene in enumerate(scenes):
        # Twice: a thing that covers no token's centre still gets the token around its own.
        for tokens_of in (_tokens_inside, _token_at_centre):
            for thing in scene.depth_order:
                tokens = tokens_of(thing.box)
                classes["shape"][index, tokens] = _SHAPE_INDEX[thing.shape]
                classes["colour"][index, tokens] = _COLOUR_INDEX[thing.colour]
                boxes["object_box"][index, tokens] = np.array(thing.box) / GRID
        for word in scene.words:
            tokens = _tokens_inside(word.box)
            classes["word"][index, tokens] = _WORD_INDEX[word.text]
            boxes["word_box"][index, tokens] = np.array(word.box) / GRID
            _mark_letters(classes["letters"][index], word.text, word.box)
    truth = {name: torch.from_numpy(values) for name, values in {**classes, **boxes}.items()}
    return DenseTruth(**truth)


def dense_losses(predicted: dict[str, torch.Tensor], truth: DenseTruth) -> dict[str, torch.Tensor]:
    """Each output's entropy or, of boxes, error in picture widths; empty tokens count little."""
    losses = {}
    for name, size in _CLASSES.items():
        target: torch.Tensor = getattr(truth, name).flatten()
        weight = torch.where(target == size - 1, 0.15, 1.0)
        entropy = functional.cross_entropy(
            predicted[name].reshape(-1, size), target, reduction="none"
        )
        losses[name] = (entropy * weight).sum() / weight.sum()
    for name, kind in _BOXES.items():
        present = getattr(truth, kind) < _CLASSES[kind] - 1
        error = (predicted[name] - getattr(truth, name)).abs().mean(dim=-1)
        losses[name] = (error * present).sum() / present.sum().clamp(min=1)
    return losses


def dense_sum(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """What training minimizes: a word is read once its letters are, so these weigh more."""
    return torch.stack([_WEIGHTS[name] * loss for name, loss in losses.items()]).sum()


def _tokens_inside(box: Sequence[int]) -> npt.NDArray[np.intp]:
    x, y = _ORIGIN[:, 0], _ORIGIN[:, 1]
    return np.flatnonzero((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3]))


def _token_at_centre(box: Sequence[int]) -> npt.NDArray[np.intp]:
    column, row = (box[0] + box[2]) // (2 * _UNITS), (box[1] + box[3]) // (2 * _UNITS)
    return np.array([row * IMAGE_TOKENS_A_SIDE + column])


def _mark_letters(letters: npt.NDArray[np.int_], text: str, box: Sequence[int]) -> None:
    """Write into [tokens, 2] which letter stands at the middle of each half token."""
    rows = np.flatnonzero((box[1] < _CENTRES) & (box[3] > _CENTRES))
    half = _UNITS / _LETTERS_A_TOKEN
    middles = (np.arange(IMAGE_TOKENS_A_SIDE * _LETTERS_A_TOKEN) + 0.5) * half
    places = np.searchsorted(letter_ends(text), (middles - box[0]) / (box[2] - box[0]))
    for place, middle in enumerate(middles):
        if box[0] < middle < box[2]:
            column, part = divmod(place, _LETTERS_A_TOKEN)
            letter = text[min(int(places[place]), len(text) - 1)]
            letters[rows * IMAGE_TOKENS_A_SIDE + column, part] = _LETTERS.index(letter)
