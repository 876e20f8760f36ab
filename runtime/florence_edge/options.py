"""How to generate: what the caller asks for, and what the checkpoint fills in."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

from .contract import MAX_BEAMS, ModelSize
from .errors import RequestError

EarlyStopping = Literal[True, False, "never"]
"""When beams stop; the meaning is that of Hugging Face's `early_stopping`."""

DEFAULT_MAX_NEW_TOKENS = 1024
# A score is the sum of up to 4,096 log-probabilities, over the length to this power. Below -1 it
# can fall under -1e9, at which transformers' beam search loses its own answers: its lists begin
# with that. Above 10 the power leaves float32.
LENGTH_PENALTIES = (-1, 10)
REPETITION_PENALTIES = (0.01, 100)  # far beyond what is used, and far within float32


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """GenerationConfig settings under Hugging Face's names; None means what the checkpoint says.

    `num_beams` is 1 (greedy) to 8. `max_new_tokens` is at most the number of decoder positions;
    left open, it is what the checkpoint states or else that number or 1024, whichever is less, and
    no more than TensorRT engines were built for. An answer of fewer than `min_new_tokens` does not
    end. Hugging Face's `max_length` and `min_length` are one more: they count the start token.

    `repetition_penalty`, 0.01 to 100, weakens tokens that were said before (1 is off);
    `no_repeat_ngram_size` forbids saying so many tokens in a row twice (0 is off).
    `length_penalty`, -1 to 10, is for beams. A forced token id of -1 is off. `suppress_tokens`
    never come, `begin_suppress_tokens` not as the first one that is not forced, and the last token
    of a sequence in `bad_words_ids` not behind its others. Each of `eos_token_id`, one or several,
    ends an answer.

    `max_time` is how many seconds one answer may take, from its turn on; None means no limit.
    The step at hand is finished, what is complete by then is parsed, and the status is `truncated`.
    Bundles say nothing about it.
    """

    num_beams: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    eos_token_id: int | Sequence[int] | None = None
    max_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """GenerationConfig settings with nothing left open, as a bundle's manifest carries them."""

    num_beams: int
    max_new_tokens: int
    min_new_tokens: int
    no_repeat_ngram_size: int
    repetition_penalty: float
    length_penalty: float
    early_stopping: EarlyStopping
    forced_bos_token_id: int
    forced_eos_token_id: int
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    bad_words_ids: tuple[tuple[int, ...], ...]
    decoder_start_token_id: int
    bos_token_id: int
    eos_token_id: tuple[int, ...]
    pad_token_id: int

    @property
    def max_length(self) -> int:
        """Longest sequence, the start token included."""
        return 1 + self.max_new_tokens

    @property
    def begin_length(self) -> int:
        """How many tokens stand before the one that `begin_suppress_tokens` hold for."""
        return 1 if self.forced_bos_token_id < 0 else 2


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
    if options is not None:
        _check_time(options.max_time)
    return checked_config(values, vocab_size=size.vocab_size, positions=size.decoder_positions)


def checked_config(values: dict[str, Any], *, vocab_size: int, positions: int) -> GenerationConfig:
    """The settings of these values, one for every field of GenerationConfig, each in its range.

    Args:
        values: by name; whole numbers and numbers of any kind, sequences of any.
        vocab_size: token ids are below it.
        positions: how many tokens the decoder can be fed, the longest answer.

    Raises:
        RequestError: the first value that is of another kind or out of range, and the range.
    """
    last = vocab_size - 1
    token = _Whole(0, last, f"a token id from 0 to {last}")
    or_off = _Whole(-1, last, f"a token id up to {last}, or -1 (off)")
    readers: dict[str, Callable[[str, Any], Any]] = {
        "num_beams": _Whole(1, MAX_BEAMS, f"1 (greedy) to {MAX_BEAMS}"),
        "max_new_tokens": _Whole(1, positions, f"1 to {positions}, this model's decoder positions"),
        "min_new_tokens": _Whole(0, positions, f"0 (off) to {positions}"),
        "no_repeat_ngram_size": _Whole(0, math.inf, "0 (off) or more"),
        "repetition_penalty": _Number(*REPETITION_PENALTIES),
        "length_penalty": _Number(*LENGTH_PENALTIES),
        "early_stopping": _early_stopping,
        "forced_bos_token_id": or_off,
        "forced_eos_token_id": or_off,
        "suppress_tokens": lambda name, value: _tokens(name, value, token),
        "begin_suppress_tokens": lambda name, value: _tokens(name, value, token),
        "bad_words_ids": lambda name, value: _words(name, value, token),
        "bos_token_id": token,
        "decoder_start_token_id": token,
        "eos_token_id": lambda name, value: _ends(name, value, token),
        "pad_token_id": token,
    }
    config = GenerationConfig(**{name: read(name, values[name]) for name, read in readers.items()})
    _check_forced(config)
    return config


def _check_time(max_time: float | None) -> None:
    if max_time is not None and not (_is_number(max_time) and float(max_time) > 0):
        raise RequestError(f"max_time is {max_time!r}; it must be a number of seconds above 0.")


@dataclass(frozen=True, slots=True)
class _Whole:
    """Reads a whole number of a range; `expected` says which."""

    lowest: int
    highest: float
    expected: str

    def __call__(self, name: str, value: Any) -> int:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not self.lowest <= int(value) <= self.highest:
            raise RequestError(
                f"{name} is {value!r:.80}; it must be a whole number: {self.expected}."
            )
        return int(value)


def _is_number(value: Any) -> bool:
    """Whether it is a real number; a truth value is none, and nor is what is not finite."""
    try:
        return (
            isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
        )
    except OverflowError:  # an int that no float holds
        return False


@dataclass(frozen=True, slots=True)
class _Number:
    """Reads a number of a range, both ends of it included."""

    lowest: float
    highest: float

    def __call__(self, name: str, value: Any) -> float:
        if not _is_number(value) or not self.lowest <= float(value) <= self.highest:
            raise RequestError(
                f"{name} is {value!r:.80}; it must be a number from {self.lowest} to "
                f"{self.highest}."
            )
        return float(value)


def _early_stopping(name: str, value: Any) -> EarlyStopping:
    if value is True or value is False or (isinstance(value, str) and value == "never"):
        return value  # type: ignore[return-value]  # just compared
    raise RequestError(f"{name} is {value!r:.80}; it must be True, False or 'never'.")


def _items(name: str, value: Any, expected: str) -> list[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise RequestError(f"{name} is {value!r:.80}; it must be {expected}.")
    return list(value)


def _tokens(name: str, value: Any, token: _Whole) -> tuple[int, ...]:
    return tuple(token(name, item) for item in _items(name, value, "a list of token ids"))


def _words(name: str, value: Any, token: _Whole) -> tuple[tuple[int, ...], ...]:
    words = tuple(
        _tokens(name, word, token) for word in _items(name, value, "a list of lists of token ids")
    )
    if not all(words):
        raise RequestError(f"{name} has an empty list; each must hold token ids.")
    return words


def _ends(name: str, value: Any, token: _Whole) -> tuple[int, ...]:
    if isinstance(value, Integral):
        value = [value]
    ends = tuple(dict.fromkeys(_tokens(name, value, token)))
    if not ends or len(ends) > token.highest:
        raise RequestError(
            f"{name} has {len(ends)} tokens; it must have one or more, and leave others."
        )
    return ends


def _check_forced(config: GenerationConfig) -> None:
    """A token cannot be forced and forbidden in one place: nothing would be left."""
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        if getattr(config, name) in config.suppress_tokens:
            raise RequestError(
                f"{name} is {getattr(config, name)}, which suppress_tokens forbid. Leave it out of "
                "one of them; min_new_tokens keeps an answer from ending early."
            )
    end, suppressed = config.forced_eos_token_id, config.begin_suppress_tokens
    if config.max_new_tokens == config.begin_length and end in suppressed:
        raise RequestError(
            f"max_new_tokens is {config.max_new_tokens}, where forced_eos_token_id {end} comes "
            "first, and begin_suppress_tokens forbid it. Ask for a longer answer."
        )
