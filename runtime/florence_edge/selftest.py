"""The self-test: whether an engine computes what the exporter computed, on inputs made here.

`reference.npz` in a bundle holds what `sample` gave on ONNX Runtime's CPU when the bundle was made:
a few values of every graph's outputs. An engine that is built later answers the same inputs and
must come close.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .backends.base import Backend, NamedArrays
from .bundle import Bundle
from .errors import BundleError

REFERENCE = "reference.npz"

PROMPT_TOKENS = 8
_ANSWER = (2, 0, 10, 11)  # fed whatever the engine prefers: a near tie must not change the inputs


def sample(bundle: Bundle, backend: Backend) -> NamedArrays:
    """Run all three graphs on made-up inputs and keep a small part of what comes out.

    Returns:
        `image_features` [9 tokens, d_model] and `top_log_probs` [steps, K], float32.
    """
    size = bundle.size
    features = backend.encode_image(_ramps(size.image_size))
    input_ids = np.arange(PROMPT_TOKENS, dtype=np.int64)[None] + 4  # 0 to 3 are special
    mask = np.ones((1, size.image_tokens + PROMPT_TOKENS), dtype=np.int64)
    decoder = backend.prefill(features, input_ids, mask, beams=1)
    rows = []
    for token in _ANSWER:
        (scores,) = decoder.step(np.array([[token]]), np.zeros((1, 1), dtype=np.int64))
        rows.append(scores.top_log_probs[0].copy())
    tokens = np.linspace(0, size.image_tokens - 1, 9).astype(np.int64)
    return {
        "image_features": np.asarray(features)[0, tokens].astype(np.float32),
        "top_log_probs": np.array(rows, dtype=np.float32),
    }


def self_test(bundle: Bundle, backend: Backend) -> dict[str, float]:
    """How far the engine is from the reference: the largest error of each sampled output.

    Raises:
        BundleError: the bundle has no reference, or the engine's values are not finite.
    """
    path = bundle.folder / REFERENCE
    if REFERENCE not in bundle.files:
        raise BundleError(
            f"{bundle.folder} has no {REFERENCE} to compare with. Export it again where ONNX "
            "Runtime is installed (florence-edge[cpu])."
        )
    with np.load(path) as reference:
        expected = {name: reference[name] for name in reference.files}
    found = sample(bundle, backend)
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise BundleError(
                f"{name} has values that are not finite. Export the bundle again with "
                "--precision fp32."
            )
    return {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}


def write_reference(bundle: Bundle, backend: Backend, folder: Path) -> None:
    """Write `reference.npz` from an engine that is trusted."""
    arrays: Any = sample(bundle, backend)  # numpy's stub knows no array called otherwise
    np.savez_compressed(folder / REFERENCE, **arrays)


def _ramps(side: int) -> npt.NDArray[np.uint8]:
    """[1, side, side, 3]: brightness that rises to the right, to the bottom and to both."""
    ramp = np.linspace(0, 255, side)
    across, down = np.meshgrid(ramp, ramp)
    picture = np.stack([across, down, (across + down) / 2], axis=-1)
    return picture.astype(np.uint8)[None]
