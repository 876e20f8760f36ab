"""A bundle's own reference: an engine that computes the same passes, damage shows."""

import pickle
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge import BundleError, Florence2
from florence_edge.bundle import WEIGHTS, Bundle
from florence_edge.selftest import REFERENCE, read_reference, self_test

from ..helpers.manifests import edit_manifest, write_hash

Weights = npt.NDArray[np.float32]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def change_weights(bundle: Path, change: Callable[[Weights], Weights]) -> None:
    """Other values of the same length; the manifest is made to agree, so that only they tell."""
    path = bundle / WEIGHTS
    change(np.fromfile(path, dtype=np.float32)).astype(np.float32).tofile(path)
    write_hash(bundle, WEIGHTS)


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
@pytest.mark.parametrize(
    ("precision", "advice"),
    [("fp32", "try device='cpu', and look for values"), ("fp16", "again with --precision fp32")],
)
def test_values_that_are_not_finite_are_refused_with_advice_that_is_possible(
    bundle: Path, value: float, precision: str, advice: str
) -> None:
    change_weights(bundle, lambda weights: np.full_like(weights, value))
    edit_manifest(bundle, lambda manifest: manifest.update(precision=precision))
    with pytest.raises(BundleError, match=rf"not finite .* in image_features\. .*{advice}"):
        errors(bundle)


def _archive(path: Path, **arrays: Any) -> None:
    np.savez_compressed(path, **arrays)


def _raw(path: Path, name: str, content: bytes) -> None:
    """An archive whose member is not what numpy writes."""
    kept = {each: np.load(path)[each] for each in np.load(path).files if each != name}
    np.savez_compressed(path, **kept)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", content)


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


FEATURES, SCORES = np.zeros((9, 64), np.float32), np.zeros((4, 32), np.float32)
HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 64), }"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(path.read_bytes()[:300] + path.read_bytes()[700:]),
        lambda path: _raw(path, "image_features", b"\x93NAMPY\x01\x00" + bytes(300)),
        lambda path: path.write_bytes(_header("{}") + FEATURES.tobytes()),
        lambda path: path.write_bytes(pickle.dumps({"image_features": 1})),
        lambda path: _archive(path, image_features=FEATURES),
        lambda path: _archive(path, image_features=FEATURES, top_log_probs=SCORES, more=SCORES),
        lambda path: _archive(path, other=FEATURES, top_log_probs=SCORES),
        lambda path: _archive(path, image_features=FEATURES.T, top_log_probs=SCORES),
        lambda path: _archive(path, image_features=np.array(None), top_log_probs=SCORES),
        lambda path: _archive(path, image_features=FEATURES.astype("O"), top_log_probs=SCORES),
        lambda path: _archive(path, image_features=FEATURES.astype("<U8"), top_log_probs=SCORES),
        lambda path: _archive(path, image_features=FEATURES.astype(int), top_log_probs=SCORES),
        lambda path: _archive(path, image_features=FEATURES + np.nan, top_log_probs=SCORES),
        lambda path: _archive(path, image_features=FEATURES, top_log_probs=SCORES - np.inf),
        lambda path: _raw(path, "image_features", b""),
        lambda path: _raw(path, "image_features", _header("[" * 60_000)),
        lambda path: _raw(path, "image_features", _header("{}")),
        lambda path: _raw(path, "image_features", _header(HUGE)),
        lambda path: _raw(path, "image_features", bytes(100_000_000)),
        lambda path: _raw(path, "image_features", _header(HUGE) + bytes(10_000_000)),
    ],
)
def test_a_damaged_reference_is_named(
    bundle: Path, tiny_model: Florence2, spoil: Callable[[Path], object]
) -> None:
    spoil(bundle / REFERENCE)
    write_hash(bundle, REFERENCE)
    with pytest.raises(BundleError, match=r"npz is not a reference .* Copy it again, or"):
        self_test(Bundle.load(bundle), tiny_model.backend)


@settings(max_examples=80)
@given(data=st.data())
def test_no_damage_to_a_reference_is_a_traceback(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray((tiny_bundle / REFERENCE).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / REFERENCE).write_bytes(content)
    with suppress(BundleError):
        read_reference(replace(Bundle.load(tiny_bundle), folder=folder))


def test_a_bundle_without_a_reference_cannot_be_tested(bundle: Path) -> None:
    (bundle / REFERENCE).unlink()
    edit_manifest(bundle, lambda manifest: manifest["files"].pop(REFERENCE))
    with pytest.raises(BundleError, match=r"no reference\.npz to compare with\. Export it again"):
        errors(bundle)
