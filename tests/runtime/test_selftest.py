"""A bundle's own reference: an engine that computes the same passes, damage shows."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from florence_edge import BundleError, Florence2
from florence_edge.bundle import MANIFEST, WEIGHTS, sha256
from florence_edge.selftest import REFERENCE

Weights = npt.NDArray[np.float32]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def change_weights(bundle: Path, change: Callable[[Weights], Weights]) -> None:
    """Other values of the same length; the manifest is made to agree, so that only they tell."""
    path = bundle / WEIGHTS
    change(np.fromfile(path, dtype=np.float32)).astype(np.float32).tofile(path)

    def agree(manifest: dict[str, Any]) -> None:
        manifest["files"][WEIGHTS]["sha256"] = sha256(path)

    edit_manifest(bundle, agree)


def edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    edit(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def errors(bundle: Path) -> dict[str, float]:
    return Florence2.load(bundle, threads=1).self_test()


def test_a_bundle_gives_what_it_gave_when_it_was_exported(tiny_model: Florence2) -> None:
    found = tiny_model.self_test()
    assert set(found) == {"image_features", "top_log_probs"}
    assert max(found.values()) <= 1e-5


def test_the_reference_is_not_of_zeros(tiny_bundle: Path) -> None:
    with np.load(tiny_bundle / REFERENCE) as reference:
        assert all(reference[name].std() > 0.01 for name in reference.files)


def test_other_weights_show_in_every_output(bundle: Path) -> None:
    change_weights(bundle, lambda weights: weights * 2)
    assert min(errors(bundle).values()) > 0.01


def test_one_changed_stretch_of_the_weights_shows(bundle: Path) -> None:
    def change(weights: Weights) -> Weights:
        middle = len(weights) // 2
        weights[middle : middle + 4096] += 1
        return weights

    change_weights(bundle, change)
    assert max(errors(bundle).values()) > 0.01


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bundle: Path, value: float) -> None:
    change_weights(bundle, lambda weights: np.full_like(weights, value))
    with pytest.raises(BundleError, match=r"not finite\. Export .* again with --precision fp32"):
        errors(bundle)


def test_a_bundle_without_a_reference_cannot_be_tested(bundle: Path) -> None:
    (bundle / REFERENCE).unlink()
    edit_manifest(bundle, lambda manifest: manifest["files"].pop(REFERENCE))
    with pytest.raises(BundleError, match=r"no reference\.npz to compare with\. Export it again"):
        errors(bundle)
