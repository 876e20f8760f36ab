"""Probes: what every export is run on, and when what comes out counts as equal."""

from pathlib import Path

import numpy as np
import pytest

from florence_edge.backends.ort import open_ort
from florence_edge.bundle import Bundle
from florence_edge_calibration.probes import STEPS, ProbeOutputs, answer, deviation, make_probes
from florence_edge_calibration.quantization.dataset import scene_samples

INFINITE = float("inf")


def test_deviations_are_in_standard_deviations_of_what_is_expected() -> None:
    expected = np.array([0.0, 2.0, 4.0, 6.0], dtype=np.float32)
    found = expected + np.array([0, 0, 0, np.sqrt(5)], dtype=np.float32)
    assert deviation(found, expected) == pytest.approx(1)
    assert deviation(expected.astype(np.float16), expected) == 0
    assert deviation(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_infinitely_far_on_either_side_and_on_both(value: float) -> None:
    finite = np.ones(3, dtype=np.float32)
    broken = np.array([1, value, 1], dtype=np.float32)
    assert deviation(broken, finite) == INFINITE
    assert deviation(finite, broken) == INFINITE
    assert deviation(broken, broken) == INFINITE
    assert deviation(np.ones(4, dtype=np.float32), finite) == INFINITE


def test_outputs_name_what_is_not_finite() -> None:
    fine, nan = np.zeros((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    assert ProbeOutputs(image_features=fine, log_probs=fine, tokens=()).not_finite() == ""
    assert ProbeOutputs(image_features=fine, log_probs=nan, tokens=()).not_finite() == "log_probs"


def test_probes_are_scenes_noise_and_the_callers_pictures(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    names = [probe.name.split(",")[0] for probe in make_probes(bundle)]
    assert names == ["scene 700000", "scene 700001", "scene 700002", "noise"]
    samples = scene_samples(9, image_size=bundle.size.image_size, skip=100)
    more = make_probes(bundle, samples)
    assert [probe.name.split(",")[0] for probe in more[3:8]] == [each.name for each in samples[:5]]
    assert len({probe.name.split(", ")[1] for probe in more}) > 4  # tasks
    assert {probe.pixels.std() > 10 for probe in more} == {True}


def test_an_engine_is_fed_what_the_other_one_liked_best(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    backend = open_ort(bundle, threads=1)
    probe = make_probes(bundle)[0]
    first = answer(bundle, backend, probe)
    generation = bundle.generation
    assert first.tokens[:2] == (generation.decoder_start_token_id, generation.forced_bos_token_id)
    assert list(first.tokens[2:]) == first.log_probs[1:-1].argmax(axis=1).tolist()
    again = answer(bundle, backend, probe, first.tokens)
    assert again.deviations(first) == {"image_features": 0.0, "log_probs": 0.0}
    other = answer(bundle, backend, probe, (2, 0, 5, 6, 7, 8))
    assert other.tokens == (2, 0, 5, 6, 7, 8)
    assert len(other.log_probs) == STEPS
    assert other.deviations(first)["log_probs"] > 0
