"""What a checkpoint says beside its architecture: how to generate, how to prepare a picture."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.errors import BundleError, RequestError
from florence_edge.options import DEFAULT_MAX_NEW_TOKENS, GenerationConfig, checked_config

from .config import CheckpointConfig, Layout, read_json

logger = logging.getLogger(__name__)

GENERATION_CONFIG = "generation_config.json"

# What Hugging Face's `generate` does where nobody says anything.
_ASSUMED: dict[str, Any] = {
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "bad_words_ids": (),
    "forced_bos_token_id": -1,
    "forced_eos_token_id": -1,
}
# The tokens of BartConfig, which Microsoft's language model takes over. The native class does not;
# but it cannot do without the first four, so they are taken here where nobody names any.
_BART = {
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "forced_eos_token_id": 2,
}
_LENGTHS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens")
_ASKED_ABOUT = (
    "num_beams",
    "max_new_tokens",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "length_penalty",
    "early_stopping",
)
_MOST = 1e9  # far beyond what image processors state
_WRITTEN_MAX_LENGTH = 20  # transformers 4 wrote this default of its own into every config.json

# Settings that change answers and that this runtime does not have, with the values that are off.
# Those of sampling alone (temperature, top_k, ...) are off without do_sample, as in `generate`.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "num_return_sequences": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "constraints": (),
    "force_words_ids": (),
    "sequence_bias": (),
    "guidance_scale": (1,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (),
    "forced_decoder_ids": (),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "watermarking_config": (),
    "token_healing": (False,),
    "stop_strings": (),
    "max_time": (),
    "low_memory": (False,),
    "prompt_lookup_num_tokens": (),
    "assistant_early_exit": (),
    "use_mtp": (False,),
    "is_assistant": (False,),
}


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """How a checkpoint generates, and where that was read from, in order of precedence.

    `origins` has for each setting the file that states it, or None where none does and it is what
    transformers assumes.
    """

    generation: GenerationConfig
    sources: tuple[str, ...]
    origins: Mapping[str, str | None]

    def summary(self) -> str:
        """The settings that people ask about, each with where it comes from, in one line."""
        by_origin: dict[str | None, list[str]] = {}
        for name in _ASKED_ABOUT:
            value = getattr(self.generation, name)
            by_origin.setdefault(self.origins[name], []).append(f"{name} {value}")
        return "; ".join(
            f"{', '.join(named)} ({origin or 'as transformers assumes'})"
            for origin, named in by_origin.items()
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """Settings from one place; `file` is where to correct them."""

    name: str
    file: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Stated:
    """A setting and the file that says so; or, where it is assumed, the one that could."""

    value: Any
    file: Path
    assumed: bool = False


def read_generation(folder: Path, config: CheckpointConfig) -> GenerationDefaults:
    """GenerationConfig defaults as the code of the checkpoint's layout would use them.

    Microsoft's code generates with the inner language model, so text_config alone counts. The
    native class reads generation_config.json alone; without that file, config.json and then its
    text_config. Where no length is stated, an answer may have as many tokens as the decoder has
    positions, at most 1024.

    Raises:
        BundleError: a setting is not what generation can do, or a file cannot be read; the message
            names setting and file.
    """
    sources = _sources(folder, config)
    for source in sources:
        _refuse_what_is_not_done(source)
    stated = _settings(sources, config)
    stated.update(_lengths(sources, config.text.positions))
    try:
        generation = checked_config(
            {name: setting.value for name, setting in stated.items()},
            vocab_size=config.text.vocab_size,
            positions=config.text.positions,
        )
    except RequestError as error:
        name = str(error).partition(" ")[0]
        file = stated[name].file if name in stated else sources[0].file
        raise BundleError(f"{file} cannot be followed: {error}") from error
    return GenerationDefaults(
        generation,
        tuple(source.name for source in sources),
        {name: None if each.assumed else each.file.name for name, each in stated.items()},
    )


def _sources(folder: Path, config: CheckpointConfig) -> list[_Source]:
    """Where the settings of a layout are read, the first to state one winning."""
    text = _Source("text_config", folder / "config.json", config.raw["text_config"])
    file = folder / GENERATION_CONFIG
    own = read_json(file) if file.exists() else None
    if config.layout is Layout.MICROSOFT:
        _warn_of_unread(file, own or {}, text.settings)
        return [text]
    if own is not None:
        return [_Source(GENERATION_CONFIG, file, own)]
    return [_Source("config.json", folder / "config.json", config.raw), text]


def _warn_of_unread(file: Path, own: Mapping[str, Any], used: Mapping[str, Any]) -> None:
    """Say which rules for answers Microsoft's code leaves unread; the published files agree."""
    rules = ("repetition_penalty", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
    unread = [
        name
        for name in (*_LENGTHS, *rules, *_NOT_DONE)
        if own.get(name) not in (None, used.get(name), *_NOT_DONE.get(name, ()))
    ]
    if unread:
        logger.warning(
            "%s states %s, which the code of this checkpoint's layout never reads: it generates "
            "with text_config of config.json, and so will the bundle. Move them there if they are "
            "meant.",
            file,
            ", ".join(unread),
        )


def _refuse_what_is_not_done(source: _Source) -> None:
    """Settings that `generate` would obey and this runtime cannot."""
    for name, off in _NOT_DONE.items():
        value = source.settings.get(name)
        if value is not None and value not in off:
            raise BundleError(
                f"{source.file} asks for {name} = {value!r:.80}, which this runtime does not do: "
                "answers would differ from transformers'. Take it out, if they may."
            )


def _find(sources: list[_Source], name: str) -> _Stated | None:
    """The first value that is not null."""
    for source in sources:
        value = source.settings.get(name)
        if value is not None:
            return _Stated(value, source.file)
    return None


def _settings(sources: list[_Source], config: CheckpointConfig) -> dict[str, _Stated]:
    """All settings but the lengths, as stated or assumed."""
    file, start = sources[0].file, "decoder_start_token_id"
    usual = {**_BART, **_ASSUMED}
    stated = {name: _Stated(value, file, assumed=True) for name, value in usual.items()}
    if config.layout is Layout.MICROSOFT:
        end = _BART["forced_eos_token_id"]
        stated["forced_eos_token_id"] = _Stated(end, file, assumed=True)
    else:  # text_config's tokens are a last resort: they count only where `generate` would refuse
        text = _Source("", file.with_name("config.json"), config.raw["text_config"])
        stated.update(
            {name: _find([text], name) or stated[name] for name in _BART.keys() - _ASSUMED.keys()}
        )
        stated[start] = _find(sources, "bos_token_id") or stated[start]  # as `generate` does
    stated.update({name: _find(sources, name) or setting for name, setting in stated.items()})
    forced = stated["forced_eos_token_id"]
    if isinstance(forced.value, list) and len(forced.value) == 1:
        stated["forced_eos_token_id"] = _Stated(forced.value[0], forced.file)
    return stated


def _lengths(sources: list[_Source], positions: int) -> dict[str, _Stated]:
    """`max_new_tokens` and `min_new_tokens`, which win over the lengths with the start token."""
    file = sources[0].file
    most = _find(sources, "max_new_tokens") or _without_start(sources, "max_length", 2)
    if most is not None and _is_whole(most.value) and most.value > positions:
        logger.warning(
            "%s asks for answers of up to %d tokens; the decoder has %d positions, where they end.",
            most.file,
            most.value,
            positions,
        )
        most = _Stated(positions, most.file)
    least = _find(sources, "min_new_tokens") or _without_start(sources, "min_length", 0)
    if least is not None and _is_whole(least.value) and least.value > positions:
        least = _Stated(positions, least.file)
    return {
        "max_new_tokens": most
        or _Stated(min(DEFAULT_MAX_NEW_TOKENS, positions), file, assumed=True),
        "min_new_tokens": least or _Stated(0, file, assumed=True),
    }


def _without_start(sources: list[_Source], name: str, least: int) -> _Stated | None:
    """A length less the start token, if it is stated."""
    found = _find(sources, name)
    if found is None:
        return None
    if found.file.name != GENERATION_CONFIG and found.value == _WRITTEN_MAX_LENGTH:
        return None
    if not _is_whole(found.value) or found.value < least:
        raise BundleError(
            f"{found.file} cannot be followed: {name} is {found.value!r:.80}; it must be a whole "
            f"number of {least} or more (the start token counts)."
        )
    return _Stated(max(found.value - 1, 0), found.file)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class ImageProcessing:
    """How the checkpoint's image processor prepares a picture; mean and std are of RGB in 0..1."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_image_processing(folder: Path) -> ImageProcessing:
    """Read preprocessor_config.json or processor_config.json; Florence-2's numbers without both.

    Raises:
        BundleError: the processor does what the vision graph does not (another filter or scale,
            no squash to a square).
    """
    settings = {k: v for k, v in _image_processor(folder).items() if v is not None}
    size = settings.get("size", {"height": 768, "width": 768})
    square = isinstance(size, dict) and set(size) == {"height", "width"}
    if not square or not _is_whole(size["height"]) or size["height"] != size["width"]:
        raise BundleError(f"{folder}: the image processor makes {size!s:.80}, expected a square.")
    expected = {
        "resample": 3,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_center_crop": False,
        "rescale_factor": 1 / 255,
    }
    for name, value in expected.items():
        found = settings.get(name, value)
        if not _is_number(found) or not abs(found - value) <= 1e-8:
            raise BundleError(
                f"{folder}: the image processor has {name} = {settings[name]!r:.80}; this tool "
                f"makes pictures as Florence-2 does, with {value!r}."
            )
    return ImageProcessing(
        size=int(size["height"]),
        mean=_colours(folder, settings.get("image_mean", (0.485, 0.456, 0.406))),
        std=_colours(folder, settings.get("image_std", (0.229, 0.224, 0.225)), above=0),
    )


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be computed with: an int may be larger than any float."""
    return isinstance(value, int | float) and -_MOST <= value <= _MOST


def _image_processor(folder: Path) -> Mapping[str, Any]:
    if (folder / "preprocessor_config.json").exists():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").exists():
        nested = read_json(folder / "processor_config.json").get("image_processor", {})
        return nested if isinstance(nested, dict) else {}
    return {}


def _colours(folder: Path, values: Any, *, above: float = -math.inf) -> tuple[float, ...]:
    colours = values if isinstance(values, list | tuple) else ()
    numbers = tuple(float(v) for v in colours if _is_number(v) and v > above)
    if len(numbers) != 3 or len(colours) != 3:
        raise BundleError(
            f"{folder}: the image processor normalizes with {values!s:.80}, expected three numbers."
        )
    return numbers
