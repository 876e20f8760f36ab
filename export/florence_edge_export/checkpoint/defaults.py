"""What a checkpoint says beside its architecture: how to generate, how to prepare a picture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.errors import BundleError
from florence_edge.files import from_json
from florence_edge.options import DEFAULT_MAX_NEW_TOKENS, GenerationConfig

from .config import CheckpointConfig, Layout, read_json

# What Hugging Face's GenerationConfig and BART's configuration assume for what is left out.
_ASSUMED: dict[str, Any] = {
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "forced_bos_token_id": -1,
    "forced_eos_token_id": 2,
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """How a checkpoint generates, and where that was read from, in order of precedence."""

    generation: GenerationConfig
    sources: tuple[str, ...]


def read_generation(folder: Path, config: CheckpointConfig) -> GenerationDefaults:
    """GenerationConfig defaults as the code of the checkpoint's layout would use them.

    Microsoft's code generates with the inner language model, so text_config wins; the native class
    reads generation_config.json first.

    Raises:
        BundleError: a setting is not what generation can do, or a file cannot be read.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = [("text_config", config.raw["text_config"])]
    if config.layout is Layout.NATIVE:
        if (folder / "generation_config.json").exists():
            layers.insert(
                0, ("generation_config.json", read_json(folder / "generation_config.json"))
            )
        layers.append(("config.json", config.raw))
    values: dict[str, Any] = dict(_ASSUMED)
    for _, settings in reversed(layers):
        values.update({k: settings[k] for k in _ASSUMED if settings.get(k) is not None})
    for name, value in values.items():
        values[name] = _setting(folder, name, value)
    values["max_new_tokens"] = min(DEFAULT_MAX_NEW_TOKENS, config.text.positions)
    return GenerationDefaults(
        from_json(GenerationConfig, values), tuple(name for name, _ in layers)
    )


def _setting(folder: Path, name: str, value: Any) -> Any:
    """One generation setting, of the kind that it has to be; a refusal shows its value."""
    if name == "eos_token_id" and isinstance(value, list) and len(value) == 1:
        value = value[0]  # Hugging Face's generate takes several; Florence-2 has one
    if name == "early_stopping":
        fits = isinstance(value, bool) or value == "never"
    else:
        kinds = int | float if name == "length_penalty" else int
        fits = isinstance(value, kinds) and not isinstance(value, bool)
    if not fits:
        raise BundleError(
            f"{folder} asks for {name} = {value!r}, which generation cannot do. Correct its "
            "generation_config.json or config.json."
        )
    return value


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
    if not square or not isinstance(size["height"], int) or size["height"] != size["width"]:
        raise BundleError(f"{folder}: the image processor makes {size}, expected a square.")
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
        if not isinstance(found, int | float) or abs(found - value) > 1e-8:
            raise BundleError(
                f"{folder}: the image processor has {name} = {settings[name]!r}; this tool makes "
                f"pictures as Florence-2 does, with {value!r}."
            )
    return ImageProcessing(
        size=int(size["height"]),
        mean=_colours(folder, settings.get("image_mean", (0.485, 0.456, 0.406))),
        std=_colours(folder, settings.get("image_std", (0.229, 0.224, 0.225)), above=0),
    )


def _image_processor(folder: Path) -> Mapping[str, Any]:
    if (folder / "preprocessor_config.json").exists():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").exists():
        nested = read_json(folder / "processor_config.json").get("image_processor", {})
        return nested if isinstance(nested, dict) else {}
    return {}


def _colours(folder: Path, values: Any, *, above: float = -math.inf) -> tuple[float, ...]:
    colours = values if isinstance(values, list | tuple) else ()
    numbers = tuple(float(v) for v in colours if isinstance(v, int | float) and v > above)
    if len(numbers) != 3 or len(colours) != 3:
        raise BundleError(
            f"{folder}: the image processor normalizes with {values}, expected three numbers."
        )
    return numbers
