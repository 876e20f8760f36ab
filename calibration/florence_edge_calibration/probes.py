"""Probes: pictures with prompts that every export runs its graphs on, and what came out.

A graph that opens may still compute nothing but NaNs. Ramps and noise do not show it: activations
are as large as they get where a picture has objects, edges and words. So probes are generated
scenes, each with the prompt of another task, a picture of noise, and calibration pictures where the
exporter has some. An engine answers a few tokens about each; the tokens are float32's, so that what
two engines give can be compared number by number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.backends.base import Backend
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.image import pixels
from florence_edge.tokenizer import Tokenizer

from . import Float32s
from .quantization.dataset import CalibrationSample, scene_samples

STEPS = 6  # of the decoder: the start, the token that is forced behind it, and some of the answer
_SCENES = 3
_MAX_SAMPLES = 5  # of the calibration's pictures

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A picture and a prompt, as the graphs take them.

    `pixels` is uint8 [1, S, S, 3], `input_ids` int64 [1, T], `mask` ones, int64 [1, image tokens +
    T].
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    input_ids: Ints
    mask: Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeOutputs:
    """What an engine made of a probe.

    `image_features` is float32 [image tokens, d_model], `log_probs` float32 [STEPS, vocabulary],
    `tokens` what was fed, [STEPS].
    """

    image_features: Float32s
    log_probs: Float32s
    tokens: tuple[int, ...]

    def arrays(self) -> dict[str, Float32s]:
        """What can be compared, by the contract's names."""
        return {"image_features": self.image_features, "log_probs": self.log_probs}

    def not_finite(self) -> str:
        """The name of the first output that has a NaN or an infinity; empty where none has."""
        arrays = self.arrays().items()
        return next((name for name, array in arrays if not np.isfinite(array).all()), "")

    def deviations(self, expected: "ProbeOutputs") -> dict[str, float]:
        """How far each output is from another engine's (see `deviation`)."""
        found, others = self.arrays(), expected.arrays()
        return {name: deviation(array, others[name]) for name, array in found.items()}


def make_probes(bundle: Bundle, samples: Sequence[CalibrationSample] = ()) -> list[Probe]:
    """Generated scenes, noise, and some of the samples, as the bundle's graphs take them."""
    side = bundle.size.image_size
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    chosen = [*scene_samples(_SCENES, image_size=side), *samples[:_MAX_SAMPLES]]
    found = [
        _probe(bundle, tokenizer, sample, pixels(sample.read(), side), turn)
        for turn, sample in enumerate(chosen)
    ]
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    found.append(_probe(bundle, tokenizer, chosen[0], noise, len(chosen), name="noise"))
    return found


def _probe(
    bundle: Bundle,
    tokenizer: Tokenizer,
    sample: CalibrationSample,
    square: npt.NDArray[np.uint8],
    turn: int,
    *,
    name: str | None = None,
) -> Probe:
    prompt = sample.prompts[turn * 4 % len(sample.prompts)]  # long and short ones
    room = bundle.size.encoder_positions - bundle.size.image_tokens  # a few of a small model's
    ids = np.array([tokenizer.prompt_ids(prompt.wording)[:room]], dtype=np.int64)
    return Probe(
        name=f"{name or sample.name}, {prompt.task.name}",
        pixels=np.ascontiguousarray(square[None]),
        input_ids=ids,
        mask=np.ones((1, bundle.size.image_tokens + ids.shape[1]), dtype=np.int64),
    )


def answer(
    bundle: Bundle, backend: Backend, probe: Probe, tokens: Sequence[int] = ()
) -> ProbeOutputs:
    """Run all three graphs on a probe.

    Args:
        bundle: whose generation settings say what is fed first.
        backend: an engine of it.
        probe: the picture and its prompt.
        tokens: what to feed; without, what this engine likes best.

    Raises:
        BackendError: the engine failed.
    """
    features = backend.encode_image(probe.pixels)
    decoder = backend.prefill(features, probe.input_ids, probe.mask, beams=1)
    forced = bundle.generation.forced_bos_token_id
    fed: list[int] = [bundle.generation.decoder_start_token_id]
    rows = []
    for step in range(STEPS):
        if tokens:
            fed[step:] = [tokens[step]]
        (scores,) = decoder.step(np.array([[fed[step]]]), np.zeros((1, 1), dtype=np.int64))
        row = np.array(scores.full()[0], dtype=np.float32)
        rows.append(row)
        fed.append(forced if step == 0 and forced >= 0 else int(row.argmax()))
    encoded: Any = np.asarray(features)
    return ProbeOutputs(
        image_features=encoded[0].astype(np.float32),
        log_probs=np.array(rows),
        tokens=tuple(fed[:STEPS]),
    )


def deviation(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Largest difference in standard deviations of `expected` (or as it is, of a constant).

    Infinite for another shape, and where a value of either is not finite.
    """
    if found.shape != expected.shape:
        return float("inf")
    if found.size == 0:
        return 0.0
    exact, other = expected.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(exact).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(other - exact).max() / (exact.std() or 1.0))
