"""Weight files: what is read from them, and what is refused as their own libraries refuse it."""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import BundleError, MissingPackageError
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.checkpoint.tensors import read_tensors
from florence_edge_export.export import ExportOptions, export

from ..helpers.assets import Asset
from ..helpers.thorough import examples
from . import folders

_EMBEDDING = "language_model.shared.weight"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("F16", 2e-3), ("BF16", 1e-2), ("F64", 0)], ids=str
)
def test_other_floats_are_read_as_float32(native: Path, dtype: str, tolerance: float) -> None:
    kinds = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
    original = folders.read(native)
    _write_raw(
        native, {name: values.astype(kinds[dtype]) for name, values in original.items()}, dtype
    )
    tensors = read_checkpoint(native).tensors
    for name, values in original.items():
        found = tensors[name.removeprefix("model.")].load()
        assert found.dtype == np.float32
        rounded = values.astype(kinds[dtype]).astype(np.float32)
        np.testing.assert_array_equal(found, rounded)
        np.testing.assert_allclose(found, values, rtol=tolerance, atol=tolerance)


def test_a_pytorch_file_gives_the_same_tensors(microsoft: Path, microsoft_checkpoint: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(values) for name, values in folders.read(microsoft).items()}
    (microsoft / folders.WEIGHTS).unlink()
    torch.save(state, microsoft / "pytorch_model.bin")
    folders.assert_same_tensors(read_checkpoint(microsoft), read_checkpoint(microsoft_checkpoint))


def test_a_half_precision_pytorch_file_is_read_as_float32(microsoft: Path) -> None:
    torch = pytest.importorskip("torch")
    original = folders.read(microsoft)
    state = {name: torch.from_numpy(values).bfloat16() for name, values in original.items()}
    state["position_ids"] = torch.arange(4)
    (microsoft / folders.WEIGHTS).unlink()
    torch.save(state, microsoft / "pytorch_model.bin")
    found = read_checkpoint(microsoft).tensors
    assert "position_ids" not in found
    np.testing.assert_allclose(
        found[_EMBEDDING].load(), original["language_model.model.shared.weight"], rtol=1e-2
    )


def test_the_pytorch_asset_gives_the_tensors_of_the_safetensors(
    asset: Asset, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    source = asset("tiny-microsoft-layout")
    folder = folders.copy(source, tmp_path / "bin", without=(folders.WEIGHTS,))
    checkpoint = read_checkpoint(folder)
    assert checkpoint.weight_files == (folder / "pytorch_model.bin",)
    folders.assert_same_tensors(checkpoint, read_checkpoint(source))


def test_a_pytorch_file_without_torch_says_what_to_do(
    microsoft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (microsoft / folders.WEIGHTS).rename(microsoft / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"Convert the checkpoint.*\[verify\]"):
        read_checkpoint(microsoft)


def test_a_damaged_pytorch_file_is_refused_in_one_line(microsoft: Path) -> None:
    pytest.importorskip("torch")
    (microsoft / folders.WEIGHTS).rename(microsoft / "pytorch_model.bin")
    with pytest.raises(BundleError, match="is damaged, or holds objects") as caught:
        read_checkpoint(microsoft)
    assert "\n" not in str(caught.value)


def test_a_pytorch_file_is_not_allowed_to_run_code(microsoft: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (microsoft / folders.WEIGHTS).unlink()
    torch.save({"a": _Dangerous(tmp_path / "ran")}, microsoft / "pytorch_model.bin")
    with pytest.raises(BundleError, match="holds objects beside tensors") as caught:
        read_checkpoint(microsoft)
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(caught.value)  # PyTorch advises to switch it off


def test_a_pytorch_file_of_something_else_is_refused(microsoft: Path) -> None:
    torch = pytest.importorskip("torch")
    (microsoft / folders.WEIGHTS).unlink()
    contents = {
        "a list": [1, 2],
        "a dict under 'state_dict'": {"state_dict": {}, "step": 3},
        "a Tensor under '7'": {7: torch.zeros(2)},
    }
    for said, content in contents.items():
        torch.save(content, microsoft / "pytorch_model.bin")
        with pytest.raises(BundleError, match=rf"tensors by name: {said}\. Save a model's state"):
            read_checkpoint(microsoft)


def test_what_older_torch_saved_is_read_as_any_other(
    microsoft: Path, microsoft_checkpoint: Path
) -> None:
    """No archive, which cannot be mapped into memory: PyTorch before 1.6, and some savers today."""
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(values) for name, values in folders.read(microsoft).items()}
    (microsoft / folders.WEIGHTS).unlink()
    path = microsoft / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    folders.assert_same_tensors(read_checkpoint(microsoft), read_checkpoint(microsoft_checkpoint))


def test_parameters_are_read_as_tensors_are(microsoft: Path, microsoft_checkpoint: Path) -> None:
    """torch.save(dict(model.named_parameters()))."""
    torch = pytest.importorskip("torch")
    state = {
        name: torch.nn.Parameter(torch.from_numpy(values))
        for name, values in folders.read(microsoft).items()
    }
    (microsoft / folders.WEIGHTS).unlink()
    torch.save(state, microsoft / "pytorch_model.bin")
    folders.assert_same_tensors(read_checkpoint(microsoft), read_checkpoint(microsoft_checkpoint))


def test_tensors_of_other_kinds_are_refused_when_they_are_read(microsoft: Path) -> None:
    torch = pytest.importorskip("torch")
    path = microsoft / "pytorch_model.bin"
    kinds = {
        "int8": torch.zeros(2, dtype=torch.int8),
        "float8_e4m3fn": torch.zeros(2).to(torch.float8_e4m3fn),
        "complex64": torch.zeros(2, dtype=torch.complex64),
        "float32": torch.zeros(2).to_sparse(),
    }
    torch.save(kinds, path)
    for name, tensor in read_tensors(path):
        with pytest.raises(BundleError, match=f"stores {name} as {name}, expected floats"):
            tensor.load()


@pytest.mark.parametrize(
    ("kind", "size"), [("I8", 8), ("F8_E4M3", 8), ("I64", 1), ("BOOL", 8), ("F4", 16)]
)
def test_other_kinds_in_safetensors_are_refused_when_they_are_read(
    tmp_path: Path, kind: str, size: int
) -> None:
    path = tmp_path / folders.WEIGHTS
    header = {"a": {"dtype": kind, "shape": [size], "data_offsets": [0, 8]}}
    folders.write_header(path, header, bytes(8))
    ((name, tensor),) = read_tensors(path)
    assert (name, tensor.kind) == ("a", kind)
    with pytest.raises(BundleError, match=f"stores a as {kind}, .*export the one it was made from"):
        tensor.load()


def _two(begin: int, end: int) -> dict[str, object]:
    """Entries a, of the first eight bytes, and b."""
    return _entry([2], 0, 8) | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [begin, end]}}


# What the safetensors package refuses: all of it, and a reader of our own would take half of it.
_DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a few bytes": lambda path: path.write_bytes(b"\x01\x02\x03"),
    "header cut": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "data cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "data too long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "no data": lambda path: folders.write_header(path, _entry([2], 0, 8)),
    "a web page": lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>" * 9),
    "garbage header": lambda path: folders.write_header(path, b"\xff\xfe{]"),
    "header is a list": lambda path: folders.write_header(path, []),
    "header of text": lambda path: folders.write_header(path, {"a": "b"}),
    "header without end": lambda path: folders.write_header(path, b"[" * 10**6),
    "metadata without end": lambda path: folders.write_header(
        path, b'{"__metadata__":' + b"[" * 10**6
    ),
    "header of 20 GB": lambda path: path.write_bytes((20 * 10**9).to_bytes(8, "little") + b"{"),
    "entry without place": lambda path: folders.write_header(path, {"a": {"dtype": "F32"}}),
    "negative place": lambda path: folders.write_header(path, _entry([2], -8, 0), bytes(8)),
    "reversed place": lambda path: folders.write_header(path, _entry([2], 8, 0), bytes(8)),
    "place as a float": lambda path: folders.write_header(
        path, b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0.0,8.0]}}', bytes(8)
    ),
    "shape beside size": lambda path: folders.write_header(path, _entry([3], 0, 8), bytes(8)),
    "shape beyond counting": lambda path: folders.write_header(
        path, _entry([2**40, 2**40], 0, 8), bytes(8)
    ),
    "overlap": lambda path: folders.write_header(path, _two(4, 12), bytes(12)),
    "hole": lambda path: folders.write_header(path, _two(12, 20), bytes(20)),
    "another kind": lambda path: folders.write_header(
        path, {"a": {"dtype": "F7", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "a name twice": lambda path: folders.write_header(
        path,
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        bytes(16),
    ),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_what_safetensors_refuses_is_refused_with_its_reason(native: Path, damage: str) -> None:
    safetensors = pytest.importorskip("safetensors")
    path = native / folders.WEIGHTS
    _DAMAGES[damage](path)
    with pytest.raises(safetensors.SafetensorError) as theirs:
        safetensors.safe_open(path, framework="numpy")
    with pytest.raises(
        BundleError, match=r"model\.safetensors cannot be read by safetensors"
    ) as ours:
        read_checkpoint(native)
    assert str(theirs.value) in str(ours.value)
    assert "fetch it again" in str(ours.value)


def test_a_header_of_20_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    """The file is as long as it says, and sparse."""
    path = tmp_path / folders.WEIGHTS
    path.write_bytes((20 * 10**9).to_bytes(8, "little") + b"{")
    with path.open("r+b") as file:
        file.truncate(20 * 10**9 + 8)
    with pytest.raises(BundleError, match="header too large"):
        list(read_tensors(path))


def test_a_pointer_of_git_lfs_says_what_it_is(native: Path) -> None:
    (native / folders.WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid ...")
    with pytest.raises(BundleError, match=r"is a pointer of Git LFS.*git lfs pull"):
        read_checkpoint(native)


@pytest.mark.parametrize("name", ["config.json", folders.WEIGHTS, "tokenizer.json"])
def test_a_pipe_is_refused_and_not_waited_for(native: Path, tmp_path: Path, name: str) -> None:
    (native / name).unlink()
    os.mkfifo(native / name)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        export("x", native, tmp_path / "b", ExportOptions())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.vision_tower.blocks.2.1.spatial_block.window_attn.qkv.weight", np.nan),
        ("model.multi_modal_projector.image_position_embed.row_embeddings.weight", np.inf),
        ("model.language_model.shared.weight", -np.inf),
        ("model.language_model.decoder.layers.1.fc2.bias", np.nan),
    ],
)
def test_weights_that_are_not_finite_are_refused_by_name(
    native: Path, tmp_path: Path, name: str, value: float
) -> None:
    tensors = folders.read(native)
    tensors[name].flat[-1] = value
    folders.write(native, tensors)
    inner = re.escape(name.removeprefix("model."))
    with pytest.raises(BundleError, match=f"{inner} has 1 values of .* infinite or not numbers"):
        export("x", native, tmp_path / "b", ExportOptions())
    assert not (tmp_path / "b").exists()


def test_numbers_beyond_float32_are_refused(native: Path, tmp_path: Path) -> None:
    name = "model.language_model.decoder.layers.1.fc2.bias"
    tensors = {key: values.astype(np.float64) for key, values in folders.read(native).items()}
    tensors[name][0] = 1e300
    folders.write(native, tensors)
    with pytest.raises(BundleError, match=r"fc2\.bias has 1 values"):
        export("x", native, tmp_path / "b", ExportOptions())


@settings(max_examples=examples(300))
@given(place=st.floats(0, 1, exclude_max=True), value=st.binary(max_size=3), cut=st.booleans())
def test_any_damage_is_either_harmless_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: float, value: bytes, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "small.safetensors"
    header = _entry([2, 3], 0, 24) | {"b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}}
    folders.write_header(path, header, bytes(range(26)))
    whole = path.read_bytes()
    at = int(place * len(whole))
    path.write_bytes(whole[:at] + value + (b"" if cut else whole[at + len(value) :]))
    with contextlib.suppress(BundleError):
        for _, tensor in read_tensors(path):
            assert tensor.load().shape == tensor.shape


def test_a_folder_in_place_of_the_weights_is_refused(native: Path) -> None:
    (native / folders.WEIGHTS).unlink()
    (native / folders.WEIGHTS).mkdir()
    with pytest.raises(BundleError, match=r"model\.safetensors cannot be read"):
        read_checkpoint(native)


class _Dangerous:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def _entry(shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}}


def _write_raw(folder: Path, tensors: folders.Tensors, dtype: str) -> None:
    """As safetensors do, for dtypes that their numpy door does not know."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        raw = values.tobytes()
        place = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": place}
        data += raw
    folders.write_header(folder / folders.WEIGHTS, header, data)
