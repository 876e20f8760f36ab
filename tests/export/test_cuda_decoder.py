"""The decoder of ONNX Runtime's own operators: what the portable one computes, in float16 alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.contract import ModelSize
from florence_edge_calibration.fp16 import SCORES, convert_to_float16
from florence_edge_calibration.overflow import LIMIT, GraphRecord, Lifted
from florence_edge_calibration.quantization.observer import open_session
from florence_edge_export.checkpoint.config import model_size, read_config
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint, read_checkpoint
from florence_edge_export.export import ExportOptions, read_source
from florence_edge_export.float16 import may_be_fused
from florence_edge_export.graphs.build import build_cuda_graphs, build_graphs
from florence_edge_export.graphs.weights import GraphWeights

from .stored_graphs import assert_has_the_tensors_of, places

Arrays = dict[str, Any]

IMAGES, BEAMS, ROWS, STEPS = 2, 3, 64, 5
CLOSE = {"float32": 2e-5, "float16": 0.03}  # another order of sums, in half
FILE = f"{contract.CUDA_DECODER}.onnx"


def decoders(floats: str) -> tuple[ModelSize, dict[str, ir.Model]]:
    """The miniature's, and what its shapes depend on."""
    folder = find_checkpoint(MINIATURE)
    config = read_config(folder)
    size = model_size(config, 64)
    weights = GraphWeights(read_checkpoint(folder), 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    models = {
        contract.DECODER: build_graphs(config, size, weights)[contract.DECODER],
        contract.CUDA_DECODER: build_cuda_graphs(config, size, weights)[contract.CUDA_DECODER],
    }
    if floats == "float16":
        for model in models.values():
            convert_to_float16(model, SCORES)
    return size, models


def steps(session: Any, size: ModelSize, floats: str) -> Iterator[tuple[Arrays, Arrays]]:
    """Scores and caches of some steps; the second image has a shorter prompt."""
    rng, caches = np.random.default_rng(0), []
    feeds: Arrays = {"encoder_mask": np.ones((IMAGES, 20), dtype=np.int64)}
    feeds["encoder_mask"][1, -7:] = 0
    for of in ((i, part) for i in range(size.decoder_layers) for part in contract.PARTS):
        crossed = rng.standard_normal((IMAGES, size.decoder_heads, 20, size.head_dim))
        feeds[contract.cross_cache(*of)] = crossed.astype(floats)
        rows = (IMAGES * BEAMS, size.decoder_heads, ROWS, size.head_dim)
        feeds[contract.self_cache(*of)] = np.zeros(rows, dtype=floats)
        caches.append((contract.self_cache(*of), contract.kept_cache(*of), contract.new_row(*of)))
    names = [output.name for output in session.get_outputs()]
    for position in range(STEPS):
        feeds["position"] = np.array([position])
        feeds["token_ids"] = rng.integers(4, size.vocab_size, (IMAGES, BEAMS))
        out = dict(zip(names, session.run(None, feeds), strict=True))
        for cache, kept, row in caches:
            if kept in out:
                feeds[cache] = out[kept]
            else:
                feeds[cache][:, :, position] = out[row][:, :, 0]
        yield out, {cache: feeds[cache].copy() for cache, _, _ in caches}


@pytest.mark.parametrize("floats", CLOSE)
def test_it_computes_what_the_portable_decoder_does(floats: str, tmp_path: Path) -> None:
    size, models = decoders(floats)
    fused, portable = (
        steps(open_session(models[name], tmp_path), size, floats)
        for name in (contract.CUDA_DECODER, contract.DECODER)
    )
    for (found, kept), (expected, placed) in zip(fused, portable, strict=True):
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=CLOSE[floats])
        np.testing.assert_allclose(
            found["log_sum_exp"], expected["log_sum_exp"], atol=CLOSE[floats]
        )
        if floats == "float32":
            np.testing.assert_array_equal(found["top_ids"][:, :8], expected["top_ids"][:, :8])
        for name, cache in kept.items():
            np.testing.assert_allclose(cache, placed[name], atol=CLOSE[floats])


@pytest.fixture
def halves(tiny_half_bundle: Path) -> Bundle:
    return Bundle.load(tiny_half_bundle)


def test_a_float16_bundle_has_it_on_the_same_weights(halves: Bundle, tiny_bundle: Path) -> None:
    assert FILE in halves.files
    assert FILE not in Bundle.load(tiny_bundle).files
    model = onnx.load(halves.folder / FILE, load_external_data=False)
    expected = contract.cuda_decoder(halves.size, halves.floats)
    assert_has_the_tensors_of(model, expected)
    others = {
        place
        for name in (contract.DECODER, contract.TENSORRT_DECODER)
        for place in places(onnx.load(halves.graph_file(name), load_external_data=False))
    }
    own = places(model) - others
    assert sum(length for _, length in own) < 0.02 * halves.files["weights.bin"].bytes


def test_what_float16_does_not_hold_is_computed_by_the_portable_decoder(
    tiny_bundle: Path, halves: Bundle
) -> None:
    floats = Bundle.load(tiny_bundle)
    graph = ir.load(floats.graph_file(contract.DECODER)).graph
    norm = next(node for node in graph if node.op_type == "LayerNormalization")
    read = norm.inputs[0]
    assert read is not None
    small, large = (
        {contract.DECODER: GraphRecord(magnitudes={str(read.name): value})}
        for value in (LIMIT / 2, LIMIT * 2)
    )
    decoder = contract.DECODER
    assert may_be_fused(floats, decoder, Lifted(), small)
    assert not may_be_fused(floats, decoder, Lifted(), large)
    assert not may_be_fused(floats, decoder, Lifted(exchanged=True), small)
    lifted = Lifted(operators=frozenset({"decoder/layers.1/fc1/MatMul"}))
    assert not may_be_fused(floats, decoder, lifted, small)
    encoder = Lifted(operators=frozenset({"text_encoder/layers.1/fc1/MatMul"}))
    assert may_be_fused(floats, decoder, encoder, small)


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (ExportOptions(precision="fp16"), True),
        (ExportOptions(precision="fp16", tensorrt_decoders=False), False),
        (ExportOptions(), False),
        (ExportOptions(precision="int8"), False),
    ],
)
def test_such_graphs_are_made_for_float16_unless_only_portable_ones_are_wanted(
    tiny_checkpoint: Path, options: ExportOptions, made: bool
) -> None:
    assert read_source("tiny", tiny_checkpoint, options).cuda_graphs is made
