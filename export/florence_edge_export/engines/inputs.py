"""One call of every graph, to compare engines with."""

from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.engines.profiles import prompt_buckets

POSITION = 3  # of the decoder's step: some rows of the cache written, most not

Arrays = dict[str, npt.NDArray[Any]]


def inputs(bundle: Bundle, beams: int) -> dict[str, Arrays]:
    """Feeds of every graph for one image: those of a later graph are computed on ONNX Runtime."""
    from florence_edge.backends.ort import open_ort

    size, rng = bundle.size, np.random.default_rng(0)
    backend = open_ort(bundle)
    pixels = rng.integers(0, 256, (1, size.image_size, size.image_size, 3), dtype=np.uint8)
    features = backend.look(pixels)
    prompt = prompt_buckets(size)[0]
    input_ids = rng.integers(4, size.vocab_size, (1, prompt), dtype=np.int64)
    mask = np.ones((1, size.image_tokens + prompt), dtype=np.int64)
    mask[:, -2:] = 0  # as if padded to the bucket
    crossed = backend.cross_caches(features, input_ids, mask)
    return {
        contract.VISION_ENCODER: {"pixels": pixels},
        contract.TEXT_ENCODER: {
            "image_features": features,
            "input_ids": input_ids,
            "encoder_mask": mask,
        },
        contract.DECODER: {
            "token_ids": rng.integers(4, size.vocab_size, (1, beams), dtype=np.int64),
            "position": np.array([POSITION], dtype=np.int64),
            "encoder_mask": mask,
            **_past(bundle, beams, rng),
            **crossed,
        },
    }


def sides_of(graph: contract.Graph, feeds: Arrays) -> dict[str, int]:
    """The values of the graph's symbols in these feeds."""
    return {
        symbol: side
        for tensor in graph.inputs
        for symbol, side in zip(tensor.shape, feeds[tensor.name].shape, strict=True)
        if isinstance(symbol, str)
    }


def _past(bundle: Bundle, beams: int, rng: np.random.Generator) -> Arrays:
    """Self caches with POSITION rows of noise, zeros behind."""
    size = bundle.size
    shape = (beams, size.decoder_heads, contract.MIN_CACHE_CAPACITY, size.head_dim)
    caches = {}
    for layer in range(size.decoder_layers):
        for part in contract.PARTS:
            cache = np.zeros(shape, dtype=bundle.floats)
            cache[:, :, :POSITION] = rng.standard_normal(shape)[:, :, :POSITION]
            caches[contract.self_cache(layer, part)] = cache
    return caches
