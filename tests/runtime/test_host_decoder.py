from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from florence_edge import BackendError, contract
from florence_edge.backends.host import HostDecoder, Run
from florence_edge.backends.open import open_engine
from florence_edge.bundle import Bundle
from florence_edge.search import Scores

from ..helpers.engines import TOY_SIZE

IMAGES, BEAMS = 2, 3
SIZE = replace(TOY_SIZE, decoder_layers=2, vocab_size=50, decoder_positions=256)
Arrays = Mapping[str, npt.NDArray[Any]]


class Recorder:
    """A graph whose new row is the token fed, and which keeps what the caches held at each run."""

    def __init__(self) -> None:
        self.capacities: list[int] = []
        self.held: list[npt.NDArray[np.float32]] = []
        self.masks: list[npt.NDArray[np.int64]] = []

    def bind(self, inputs: Arrays, outputs: Arrays) -> Run:
        expected = contract.graphs(SIZE, "float32")[contract.DECODER]
        assert set(inputs) == {tensor.name for tensor in expected.inputs}
        assert set(outputs) == {tensor.name for tensor in expected.outputs}
        for array in (*inputs.values(), *outputs.values()):
            assert array.flags.c_contiguous
        self.capacities.append(inputs["self_key.0"].shape[2])

        def run() -> None:
            caches = [
                inputs[contract.self_cache(layer, part)]
                for layer in range(SIZE.decoder_layers)
                for part in contract.PARTS
            ]
            self.held.append(np.array(caches))
            tokens = inputs["token_ids"]
            rows = tokens.reshape(-1, 1, 1, 1) + inputs["position"][0] * 0.001
            for layer in range(SIZE.decoder_layers):
                outputs[contract.new_row(layer, "key")][:] = rows + 100 * layer
                outputs[contract.new_row(layer, "value")][:] = rows + 100 * layer + 50
            tokens = tokens.reshape(-1)
            outputs["top_ids"][:] = tokens[:, None]
            outputs["top_logits"][:] = -tokens[:, None]
            outputs["log_sum_exp"][:] = tokens
            outputs["logits"][:] = -tokens[:, None] / 2

        return run


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def open_decoder(recorder: Recorder, images: int = IMAGES, beams: int = BEAMS) -> HostDecoder:
    shape = (images, SIZE.decoder_heads, 9, SIZE.head_dim)
    caches = {
        contract.cross_cache(layer, part): np.zeros(shape, np.float32)
        for layer in range(SIZE.decoder_layers)
        for part in contract.PARTS
    }
    mask = np.ones((images, 9), dtype=np.int64)
    return HostDecoder(recorder.bind, SIZE, caches, mask, beams=beams)


def test_caches_hold_the_past_of_each_row_through_three_buckets(recorder: Recorder) -> None:
    decoder, rng, steps = open_decoder(recorder), np.random.default_rng(0), 140
    pasts: list[list[float]] = [[] for _ in range(IMAGES * BEAMS)]
    for position in range(steps):
        tokens = rng.integers(0, 50, (IMAGES, BEAMS))
        parents = rng.integers(0, BEAMS, (IMAGES, BEAMS))
        sources = (parents + np.arange(IMAGES)[:, None] * BEAMS).ravel()
        pasts = [list(pasts[source]) for source in sources]
        decoder.step(tokens, parents)
        for index, cache in enumerate(recorder.held[-1]):
            expected = np.zeros((IMAGES * BEAMS, cache.shape[2]))
            expected[:, :position] = np.array(pasts).reshape(len(expected), position) + 50 * index
            by_row = np.broadcast_to(expected[:, None, :, None], cache.shape)
            # What lies behind a row's past is masked, but has to be a number.
            np.testing.assert_allclose(cache[:, :, :position], by_row[:, :, :position], rtol=1e-6)
            assert not cache[:, :, position:].any()
        for past, token in zip(pasts, tokens.ravel(), strict=True):
            past.append(token + position * 0.001)
    assert recorder.capacities == [64, 128, 256]


def test_a_bucket_is_bound_once(recorder: Recorder) -> None:
    decoder = open_decoder(recorder)
    for _ in range(64):
        decoder.step(np.zeros((IMAGES, BEAMS), np.int64), np.zeros((IMAGES, BEAMS), np.int64))
    assert recorder.capacities == [64]


def test_the_last_bucket_is_as_long_as_the_model_goes(recorder: Recorder) -> None:
    decoder = open_decoder(recorder, images=1, beams=1)
    nobody = np.zeros((1, 1), np.int64)
    for _ in range(SIZE.decoder_positions):
        decoder.step(nobody, nobody)
    assert recorder.capacities == [64, 128, 256]


def test_scores_are_those_of_the_image(recorder: Recorder) -> None:
    decoder = open_decoder(recorder)
    tokens = np.array([[1, 2, 3], [4, 5, 6]])
    scores: list[Scores] = list(decoder.step(tokens, np.zeros_like(tokens)))
    for image, row in enumerate(tokens):
        np.testing.assert_array_equal(scores[image].top_ids[:, 0], row)
        np.testing.assert_array_equal(scores[image].top_log_probs[:, -1], -row)
        np.testing.assert_array_equal(scores[image].logits()[:, 7], -row / 2)
        np.testing.assert_array_equal(scores[image].full()[:, 7], -row / 2)


# Closing.


@pytest.mark.parametrize(("device", "package"), [("cpu", "onnxruntime"), ("openvino", "openvino")])
def test_a_backend_that_was_closed_is_refused(tiny_bundle: Path, device: str, package: str) -> None:
    pytest.importorskip(package)
    bundle = Bundle.load(tiny_bundle)
    backend, size = open_engine(bundle, device, threads=1).backend, bundle.size
    pixels = np.zeros((1, size.image_size, size.image_size, 3), dtype=np.uint8)
    ids, mask = np.full((1, 5), 9), np.ones((1, size.image_tokens + 5), dtype=np.int64)
    features = backend.encode_image(pixels)
    decoder = backend.prefill(features, ids, mask, beams=1)
    token, parent = np.array([[2]]), np.zeros((1, 1), dtype=np.int64)
    decoder.step(token, parent)
    backend.close()
    for use in (
        lambda: backend.encode_image(pixels),
        lambda: backend.prefill(features, ids, mask, beams=1),
        lambda: decoder.step(token, parent),
    ):
        with pytest.raises(BackendError, match=r"^This model was closed\. Load it again\.$"):
            use()
    backend.close()  # once more does nothing
