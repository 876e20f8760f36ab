"""Bundles whose files are links into a cache: those of the hub and of DVC load, others do not."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from florence_edge import BundleError, Florence2, GenerationOptions
from florence_edge.bundle import Bundle
from florence_edge.selftest import self_test

Layout = Callable[[Path, Path], Path]

SHORT = GenerationOptions(max_new_tokens=8)


def hub(bundle: Path, root: Path, *, inside: str = "") -> Path:
    """A snapshot of the Hugging Face cache, as huggingface_hub makes it."""
    repository = root / "models--someone--florence"
    snapshot = repository / "snapshots" / "0123abcd" / inside
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in bundle.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def hub_subfolder(bundle: Path, root: Path) -> Path:
    return hub(bundle, root, inside="onnx/fp32")


def dvc(bundle: Path, root: Path, *, cache: str = ".dvc/cache/files/md5") -> Path:
    """A workspace of DVC with `cache.type symlink`."""
    workspace = root / "work"
    workspace.mkdir()
    for path in bundle.iterdir():
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        stored = root / cache / digest[:2] / digest[2:]
        stored.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, stored)
        (workspace / path.name).symlink_to(stored)
    return workspace


def dvc_2(bundle: Path, root: Path) -> Path:
    return dvc(bundle, root, cache=".dvc/cache")


def dvc_shared(bundle: Path, root: Path) -> Path:
    return dvc(bundle, root, cache="mnt/shared/files/md5")


def only_weights(bundle: Path, root: Path) -> Path:
    """Of the links only the one that engines refuse."""
    folder = dvc(bundle, root)
    for path in bundle.glob("*.onnx"):
        (folder / path.name).unlink()
        shutil.copy(path, folder)
    return folder


def linked_folder(bundle: Path, root: Path) -> Path:
    """The folder itself may lie anywhere: that is the caller's own choice."""
    (root / "here").symlink_to(bundle)
    return root / "here"


LAYOUTS = (hub, hub_subfolder, dvc, dvc_2, dvc_shared, only_weights, linked_folder)


@pytest.mark.parametrize(
    ("device", "layout"),
    [*(("cpu", layout) for layout in LAYOUTS), ("openvino", hub), ("openvino", only_weights)],
)
def test_a_bundle_of_links_into_a_cache_loads_and_answers_as_the_plain_one(
    tiny_bundle: Path, tmp_path: Path, device: str, layout: Layout
) -> None:
    pytest.importorskip({"cpu": "onnxruntime"}.get(device, device))
    folder = layout(tiny_bundle, tmp_path)
    picture = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    with Florence2.load(folder, device, threads=1) as model:
        assert max(model.self_test().values()) < 1e-4
        found = model.run(picture, "CAPTION", options=SHORT).raw_text
    with Florence2.load(tiny_bundle, device, threads=1) as model:
        assert found == model.run(picture, "CAPTION", options=SHORT).raw_text


@pytest.mark.parametrize("layout", [hub, dvc])
def test_damage_behind_a_link_is_noticed(tiny_bundle: Path, tmp_path: Path, layout: Layout) -> None:
    folder = layout(tiny_bundle, tmp_path)
    path = (folder / "weights.bin").resolve()
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin is not what was exported"):
        Florence2.load(folder)


@pytest.mark.parametrize("name", ["weights.bin", "decoder.onnx", "tokenizer.json", "reference.npz"])
@pytest.mark.parametrize(
    "place",
    [
        "elsewhere/weights.bin",
        "elsewhere/blobs/abc",
        "models--a--b/blobs/abc",
        "elsewhere/.dvc/cache/files/md5/zz/abc",
    ],
)
def test_a_link_that_leads_elsewhere_is_refused_with_how_to_copy(
    fresh_bundle: Path, name: str, place: str
) -> None:
    elsewhere = fresh_bundle.parent / place
    elsewhere.parent.mkdir(parents=True)
    (fresh_bundle / name).rename(elsewhere)
    (fresh_bundle / name).symlink_to(elsewhere)
    with pytest.raises(BundleError, match=rf"{name} is a link to .*: cp -rL {fresh_bundle} NEW\."):
        Florence2.load(fresh_bundle)


def test_a_blob_that_is_a_link_itself_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    snapshot = hub(tiny_bundle, tmp_path)
    blob = (snapshot / "weights.bin").resolve()
    blob.rename(tmp_path / "secret")
    blob.symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"is a link to .*secret, outside of the bundle"):
        Florence2.load(snapshot)


def test_the_blobs_of_another_repository_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    snapshot = hub(tiny_bundle, tmp_path)
    other = tmp_path / "models--someone--else" / "blobs" / "abc"
    other.parent.mkdir(parents=True)
    shutil.copy(tiny_bundle / "weights.bin", other)
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to(other)
    with pytest.raises(BundleError, match="outside of the bundle"):
        Florence2.load(snapshot)


def test_links_in_a_circle_are_missing_files(fresh_bundle: Path) -> None:
    (fresh_bundle / "weights.bin").unlink()
    (fresh_bundle / "weights.bin").symlink_to("weights.bin")
    with pytest.raises(BundleError, match=r"weights\.bin"):
        Florence2.load(fresh_bundle)


def test_a_link_within_the_bundle_is_its_own_affair(fresh_bundle: Path) -> None:
    (fresh_bundle / "weights.bin").rename(fresh_bundle / "kept.bin")
    (fresh_bundle / "weights.bin").symlink_to("kept.bin")
    with Florence2.load(fresh_bundle, threads=1) as model:
        assert max(self_test(Bundle.load(fresh_bundle), model.backend).values()) < 1e-4


def test_tools_that_follow_no_link_say_how_to_copy(tiny_bundle: Path, tmp_path: Path) -> None:
    Bundle.load(tiny_bundle).check_unlinked()
    folder = hub(tiny_bundle, tmp_path)
    with pytest.raises(BundleError, match=rf"is a link, .* cp -rL {folder} NEW\."):
        Bundle.load(folder).check_unlinked()
