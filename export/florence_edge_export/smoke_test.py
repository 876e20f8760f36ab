"""The smoke test of every export: its graphs are run once, and what they give is finite.

    fp32         on ONNX Runtime's CPU, about probes (see florence_edge_calibration.probes)
    fp16         the same, and compared with float32 (float16.py)
    int8, int4   the same; the gate compares (quantization/gate.py)

The decoders for one engine are fed a step of the portable one, and must give its scores. The vision
encoder for CUDA must give the plain one's features in float32: nothing but CUDA computes its
float16.
"""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_edge import contract
from florence_edge.backends.base import Backend, NamedArrays
from florence_edge.bundle import Bundle
from florence_edge.engine_failures import engine_failure, is_shortage
from florence_edge.errors import BundleError
from florence_edge_calibration.overflow import observe
from florence_edge_calibration.probes import answer, deviation, make_probes
from florence_edge_calibration.quantization.observer import open_session

logger = logging.getLogger(__name__)

# Standard deviations between the scores of a bundle's decoders on the made-up step. In float16,
# where they add up in another order, those of the int8 miniature were up to 0.11 apart; without
# the mask of the prompt they would be 0.46, without a layer's cache 1.7, a position further 4.3.
_SAME = 0.25
# The same of the vision encoders' features, in float32. The miniature's are the same, bit by bit;
# with one of its five attentions in windows scaled 1.1 times as much, they would be 0.015 apart.
_SAME_FEATURES = 0.01


def smoke_test(bundle: Bundle, backend: Backend) -> None:
    """Run the three graphs of a bundle about probes.

    Raises:
        BundleError: a graph gives values that are not finite.
    """
    for probe in make_probes(bundle):
        broken = answer(bundle, backend, probe).not_finite()
        if not broken:
            continue
        if bundle.precision == "fp32":
            observe(bundle, [probe])  # raises, and names the layer
        raise BundleError(
            f"{broken} has values that are not finite about {probe.name}: {bundle.precision} does "
            f"not hold what {bundle.model} computes. {other_precision(bundle.precision)}"
        )


def other_precision(precision: str) -> str:
    """What to do where a precision does not serve a checkpoint."""
    if precision == "fp32":
        return "Take a checkpoint from before its training diverged."
    return "Export it with --precision fp32."


def check_decoders(bundle: Bundle) -> None:
    """Feed the decoders for one engine a step of the portable one, and compare their scores.

    The step is made up: it has two beams, and a prompt with padding.

    Raises:
        BundleError: they differ, or are not finite.
        BackendError: this machine ran out of memory or threads.
    """
    step = _made_up_step(bundle)
    fed = {
        contract.TENSORRT_DECODER: step,
        contract.IN_PLACE: _in_place_feeds(bundle, step),
        contract.CUDA_DECODER: step,
    }
    there = {name: feeds for name, feeds in fed.items() if bundle.graph_file(name).exists()}
    if not there:
        return
    expected = _run(bundle, contract.DECODER, "logits", step)
    for name, feeds in there.items():
        logits = _run(bundle, name, "logits", feeds)
        if expected is None or logits is None:
            continue
        apart = deviation(logits, expected)
        if not apart <= _SAME:
            raise BundleError(
                f"The scores of {name} are {apart:.3g} standard deviations from the portable "
                f"decoder's, expected at most {_SAME}. Add --portable-decoder, and report it "
                "please."
            )


def check_fused_vision(
    floats: Bundle, pixels: npt.NDArray[np.uint8], expected: npt.NDArray[np.float32]
) -> None:
    """Run the vision encoder for ONNX Runtime's CUDA provider in float32, on its CPU.

    Args:
        floats: the float32 bundle, with that encoder.
        pixels: a picture, uint8 [1, S, S, 3].
        expected: what the plain encoder makes of it, float32 [image tokens, d_model].

    Raises:
        BundleError: the features differ, or are not finite.
        BackendError: this machine ran out of memory or threads.
    """
    found = _run(floats, contract.VISION_CUDA, "image_features", {"pixels": pixels})
    if found is None:
        return
    apart = deviation(found[0], expected)
    if not apart <= _SAME_FEATURES:
        raise BundleError(
            f"The features of {contract.VISION_CUDA} in float32 are {apart:.3g} standard "
            f"deviations from the plain encoder's, expected at most {_SAME_FEATURES}. Add "
            "--portable-decoder, which leaves it out, and report it please."
        )


def _made_up_step(bundle: Bundle) -> NamedArrays:
    """What a decoder is fed in its fourth step."""
    size, rng = bundle.size, np.random.default_rng(0)
    images, beams, position, prompt = 1, 2, 3, 8  # few rows: some caches have all positions
    encoded = min(size.image_tokens + prompt, size.encoder_positions)
    feeds: dict[str, npt.NDArray[Any]] = {
        "token_ids": rng.integers(0, size.vocab_size, (images, beams)),
        "position": np.array([position]),
        "encoder_mask": np.ones((images, encoded), dtype=np.int64),
    }
    feeds["encoder_mask"][:, size.image_tokens + 2 :] = 0
    capacity = contract.cache_capacity(position + 1, size.decoder_positions)
    caches = (images * beams, size.decoder_heads, capacity, size.head_dim)
    crossed = (images, size.decoder_heads, encoded, size.head_dim)
    for layer in range(size.decoder_layers):
        for part in contract.PARTS:
            past = rng.standard_normal(caches).astype(bundle.floats)
            past[:, :, position:] = 0
            feeds[contract.self_cache(layer, part)] = past
            cross = rng.standard_normal(crossed).astype(bundle.floats)
            feeds[contract.cross_cache(layer, part)] = cross
    return feeds


def _run(bundle: Bundle, name: str, output: str, feeds: NamedArrays) -> npt.NDArray[Any] | None:
    """What a graph gives; None, and a warning, where this ONNX Runtime does not open it."""
    try:
        session = open_session(ir.load(bundle.graph_file(name)), bundle.folder)
    except Exception as error:  # ONNX Runtime's classes have no other base
        if is_shortage(error):
            raise engine_failure(f"{name} was not run", error) from error
        logger.warning("%s was not run, only built: %s", name, error)
        return None
    (found,) = session.run([output], dict(feeds))
    return np.asarray(found)


def _in_place_feeds(bundle: Bundle, feeds: NamedArrays) -> NamedArrays:
    """A step's inputs, with caches of all positions, and the rows to attend to."""
    size = bundle.size
    attended = feeds[contract.self_cache(0, "key")].shape[2]
    caches = [
        contract.self_cache(layer, part)
        for layer in range(size.decoder_layers)
        for part in contract.PARTS
    ]
    longer = {}
    for name in caches:
        cache = feeds[name]
        shape = (*cache.shape[:2], size.decoder_positions, cache.shape[3])
        longer[name] = np.zeros(shape, cache.dtype)
        longer[name][:, :, :attended] = cache
    return {**feeds, **longer, "rows": np.arange(attended)}
