"""The host's half of an answer, before and after the engine (Hugging Face calls it a processor).

    images  ──prepare_images──>  PreparedImages (decoded, resized)  ──> vision encoder
    prompts ──encode_prompts──>  input ids, mask                    ──> text encoder
    tokens  ──read_hypothesis──> Result

`prepare_images` needs no engine and may run ahead in a thread.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from .backends.base import Pixels
from .contract import ModelSize
from .errors import RequestError
from .image import ImageLike, Picture, PictureSize, load_pictures, squares
from .image_file import Color, ImageOptions
from .logits_process import forced_token
from .options import GenerationConfig
from .regions import Convention
from .results.result import IMAGE, Result, TokenPiece, read_answer
from .search import Hypothesis, Ints
from .tasks import Prompt
from .tokenizer import Tokenizer


class Timer:
    """Adds up seconds by stage; the stages are those of `Result.seconds`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block and add it to stage `name`."""
        begin = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - begin

    def add(self, other: "Timer") -> None:
        """Add what another timer has measured."""
        for name, seconds in other.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def share(self, parts: int) -> dict[str, float]:
        """The seconds of one of `parts` equal parts."""
        return {name: seconds / parts for name, seconds in self.seconds.items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # arrays have no one truth value
class PreparedImages:
    """Images that are ready for the vision encoder, all on the host or all on the GPU."""

    pictures: Sequence[Picture]
    pixels: Pixels
    timer: Timer

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each picture in pixels."""
        return [picture.size for picture in self.pictures]

    def without_pictures(self) -> "PreparedImages":
        """The same with the sizes of the pictures alone: one that waits long needs little memory.

        Frames on the GPU stay, since the vision encoder resizes them there.
        """
        if not isinstance(self.pixels, np.ndarray):
            return self
        return replace(self, pictures=[PictureSize(size) for size in self.sizes])


def prepare_images(
    images: Sequence[ImageLike],
    side: int,
    options: ImageOptions | None = None,
    *,
    color: Color = "rgb",
) -> PreparedImages:
    """Decode images, as `options` say, and squash them to squares of `side` pixels.

    Arrays are in RGB order, or with `color` "bgr" in OpenCV's.

    Raises:
        ImageError: an image cannot be read.
        RequestError: some are on the host and some on the GPU, or `color` does not fit.
    """
    timer = Timer()
    with timer.stage(IMAGE):
        pictures = load_pictures(images, options or ImageOptions(), color)
        pixels = squares(pictures, side)
    return PreparedImages(pictures=pictures, pixels=pixels, timer=timer)


def join_images(parts: Sequence[PreparedImages]) -> PreparedImages:
    """Images that were prepared one by one as one batch; all on the host or all on the GPU."""
    if len(parts) == 1:
        return parts[0]
    timer = Timer()
    for part in parts:
        timer.add(part.timer)
    arrays = [part.pixels for part in parts if isinstance(part.pixels, np.ndarray)]
    return PreparedImages(
        pictures=[picture for part in parts for picture in part.pictures],
        pixels=np.concatenate(arrays) if arrays else [f for part in parts for f in part.pixels],
        timer=timer,
    )


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: Tokenizer, size: ModelSize, *, pad: int
) -> tuple[Ints, Ints]:
    """Prompts as ids [B, T], padded to the right with `pad`, and the mask [B, image tokens + T].

    Raises:
        RequestError: as `prompt_ids`.
    """
    return pad_prompts([prompt_ids(each, tokenizer, size) for each in prompts], size, pad=pad)


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, size: ModelSize) -> list[int]:
    """The token ids of one prompt.

    Raises:
        RequestError: it is longer than the encoder has room for, or has a token that the model
            does not know.
    """
    ids = tokenizer.prompt_ids(prompt.wording)
    highest = max(ids)
    if highest >= size.vocab_size:  # the engine would read past the embedding
        raise RequestError(
            f"{tokenizer.token(highest)!r} in the prompt is the tokenizer's number {highest}, but "
            f"this model's vocabulary ends at {size.vocab_size - 1}. Leave it out; if it was "
            "trained, export the checkpoint that knows it."
        )
    room = size.encoder_positions - size.image_tokens
    if len(ids) > room:
        raise RequestError(
            f"The prompt has {len(ids)} tokens, but beside the picture this model has room for "
            f"{room}. Shorten the text."
        )
    return ids


def pad_prompts(rows: Sequence[Sequence[int]], size: ModelSize, *, pad: int) -> tuple[Ints, Ints]:
    """Prompts of one batch: ids [B, T], padded to the right, and mask [B, image tokens + T]."""
    longest = max(map(len, rows))
    input_ids = np.full((len(rows), longest), pad, dtype=np.int64)
    mask = np.ones((len(rows), size.image_tokens + longest), dtype=np.int64)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        mask[row, size.image_tokens + len(ids) :] = 0
    return input_ids, mask


def read_hypothesis(
    hypothesis: Hypothesis,
    prompt: Prompt,
    tokenizer: Tokenizer,
    config: GenerationConfig,
    image_size: tuple[int, int],
    convention: Convention,
) -> Result:
    """What the tokens of an answer say about a picture of `image_size` (width, height)."""
    return read_answer(
        prompt.task,
        _pieces(hypothesis, tokenizer, config),
        image_size=image_size,
        text_input=prompt.text_input,
        convention=convention,
        cut_off=hypothesis.cut_off,
    )


def _pieces(
    hypothesis: Hypothesis, tokenizer: Tokenizer, config: GenerationConfig
) -> list[TokenPiece]:
    """The tokens of an answer with their texts; those that no search chose are marked forced."""
    ids = hypothesis.token_ids
    log_probs = (0.0, *hypothesis.log_probs)
    return [
        TokenPiece(
            token_id=token_id,
            text=text,
            log_prob=log_prob,
            forced=length == 0 or forced_token(length, config) is not None,
        )
        for length, (token_id, text, log_prob) in enumerate(
            zip(ids, tokenizer.pieces(ids), log_probs, strict=True)
        )
    ]
