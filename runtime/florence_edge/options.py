"""How to generate: what the caller asks for, and what the checkpoint fills in."""

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Literal

from .contract import MAX_BEAMS, ModelSize
from .errors import RequestError

EarlyStopping = Literal[True, False, "never"]
"""When beams stop; the meaning is that of Hugging Face's `early_stopping`."""

DEFAULT_MAX_NEW_TOKENS = 1024
MAX_LENGTH_PENALTY = 10  # beyond it, the length to this power leaves float32


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """GenerationConfig settings under Hugging Face's names; None means what the checkpoint says.

    `num_beams` is 1 (greedy) to 8. `no_repeat_ngram_size` 0 and a forced token id of -1 switch the
    rule off. `max_new_tokens` is at most the number of decoder positions; left open, it is that
    number or 1024, whichever is less, and no more than TensorRT engines were built for.

    `max_time` is how many seconds one answer may take, from its turn on; None means no limit.
    The step at hand is finished, what is complete by then is parsed, and the status is `truncated`.
    Bundles say nothing about it.
    """

    num_beams: int | None = None
    max_new_tokens: int | None = None
    no_repeat_ngram_size: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    max_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """GenerationConfig settings with nothing left open, as a bundle's manifest carries them."""

    num_beams: int
    max_new_tokens: int
    no_repeat_ngram_size: int
    length_penalty: float
    early_stopping: EarlyStopping
    forced_bos_token_id: int
    forced_eos_token_id: int
    decoder_start_token_id: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    @property
    def max_length(self) -> int:
        """Longest sequence, the start token included."""
        return 1 + self.max_new_tokens


def resolve(
    options: GenerationOptions | None, defaults: GenerationConfig, size: ModelSize
) -> GenerationConfig:
    """Fill what `options` leaves open from `defaults`, and check it against the model.

    Raises:
        RequestError: a value is out of range; the message says which range.
    """
    if options is not None and not isinstance(options, GenerationOptions):
        raise RequestError(
            f"options are {options!r}; expected GenerationOptions(num_beams=..., ...)."
        )
    values = {field.name: getattr(defaults, field.name) for field in fields(defaults)}
    for name in values.keys() & {field.name for field in fields(GenerationOptions)}:
        requested = getattr(options, name) if options is not None else None
        if requested is not None:
            values[name] = requested
    config = GenerationConfig(**values)
    _check(config, size)
    if options is not None:
        _check_time(options.max_time)
    return config


def _check_time(max_time: float | None) -> None:
    if max_time is not None and not (isinstance(max_time, Real) and float(max_time) > 0):
        raise RequestError(f"max_time is {max_time!r}; it must be a number of seconds above 0.")


def _check(generation: GenerationConfig, size: ModelSize) -> None:
    positions, last_token = size.decoder_positions, size.vocab_size - 1
    token = f"a token id up to {last_token}, or -1 (off)"
    for name, lowest, highest, expected in (
        ("num_beams", 1, MAX_BEAMS, f"1 (greedy) to {MAX_BEAMS}"),
        ("max_new_tokens", 1, positions, f"1 to {positions}, this model's decoder positions"),
        ("no_repeat_ngram_size", 0, math.inf, "0 (off) or more"),
        ("forced_bos_token_id", -1, last_token, token),
        ("forced_eos_token_id", -1, last_token, token),
    ):
        value = getattr(generation, name)
        if not isinstance(value, Integral) or not lowest <= int(value) <= highest:
            raise RequestError(f"{name} is {value!r}; it must be a whole number: {expected}.")
    penalty, most = generation.length_penalty, MAX_LENGTH_PENALTY
    if not isinstance(penalty, Real) or not -most <= float(penalty) <= most:
        raise RequestError(
            f"length_penalty is {penalty!r}; it must be a number from {-most} to {most}."
        )
    early = generation.early_stopping
    if early is not True and early is not False and early != "never":
        raise RequestError(f"early_stopping is {early!r}; it must be True, False or 'never'.")
