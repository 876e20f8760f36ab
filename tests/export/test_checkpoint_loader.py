import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import BundleError, BundleNotFoundError, MissingPackageError
from florence_edge_export.checkpoint.config import model_size, read_config
from florence_edge_export.checkpoint.loader import Checkpoint, read_checkpoint
from florence_edge_export.checkpoint.tensors import StoredTensor, read_tensors
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.graphs.build import build_graphs
from florence_edge_export.graphs.weights import GraphWeights
from florence_edge_export.synthetic import native_shapes

from ..helpers.assets import Asset
from . import folders, stubs

_EMBEDDING = "language_model.shared.weight"


def test_both_layouts_give_the_same_tensors(
    tiny_checkpoint: Path, microsoft_checkpoint: Path
) -> None:
    _assert_same_tensors(read_checkpoint(tiny_checkpoint), read_checkpoint(microsoft_checkpoint))


def test_the_asset_folders_give_the_same_tensors(asset: Asset) -> None:
    """One was converted from the other by transformers' own script."""
    native = read_checkpoint(asset("tiny-native-layout"))
    microsoft = read_checkpoint(asset("tiny-microsoft-layout"))
    _assert_same_tensors(native, microsoft)


@pytest.mark.parametrize("architecture", ["base", "large"])
def test_every_published_key_has_its_place_in_transformers(
    asset: Asset, tmp_path: Path, architecture: str
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    listed = json.loads(asset(f"florence-2/state_dict.{architecture}.original.json").read_text())[
        "keys"
    ]
    published = asset(f"florence-2/config.{architecture}.json")
    (tmp_path / "config.json").write_text(published.read_text())
    _write_stub(tmp_path, {name: tuple(shape) for name, shape in listed.items()})
    checkpoint = read_checkpoint(tmp_path)

    from florence_edge_export.verify.reference import _transformers_config

    config = transformers.Florence2Config(**_transformers_config(checkpoint.config))
    with torch.device("meta"):
        model = transformers.Florence2ForConditionalGeneration(config)
    expected = {
        name.removeprefix("model."): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    assert found.keys() - expected.keys() <= {"final_logits_bias"}
    assert expected.keys() <= found.keys()
    assert all(found[name] == shape for name, shape in expected.items())


@pytest.mark.parametrize("architecture", ["base", "large"])
def test_the_graphs_ask_for_every_published_tensor_and_no_other(
    asset: Asset, tmp_path: Path, architecture: str
) -> None:
    published = asset(f"florence-2/config.{architecture}.json")
    (tmp_path / "config.json").write_text(published.read_text())
    listed = json.loads(asset(f"florence-2/state_dict.{architecture}.original.json").read_text())[
        "keys"
    ]
    _write_stub(tmp_path, {name: tuple(shape) for name, shape in listed.items()})
    checkpoint = read_checkpoint(tmp_path)
    asked = dict(native_shapes(checkpoint.config))
    stored = {
        name: tensor.shape
        for name, tensor in checkpoint.tensors.items()
        if name != "final_logits_bias" and "visual_temporal_embed" not in name
    }
    assert stored == asked


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


def test_shards_are_read_as_one(native: Path, tiny_checkpoint: Path) -> None:
    _shard(native)
    sharded = read_checkpoint(native)
    assert len(sharded.weight_files) == 3
    _assert_same_tensors(sharded, read_checkpoint(tiny_checkpoint))


def test_a_missing_shard_is_named(native: Path) -> None:
    _shard(native)
    (native / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BundleError, match=r"model-00002-of-00003.*Download the checkpoint again"):
        read_checkpoint(native)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_shards_is_refused(native: Path, weight_map: object) -> None:
    (native / folders.WEIGHTS).unlink()
    index = native / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BundleError, match="names no shards"):
        read_checkpoint(native)


def test_a_whole_file_beside_a_stale_index_is_read_like_transformers_does(native: Path) -> None:
    index = native / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    assert read_checkpoint(native).weight_files == (native / folders.WEIGHTS,)


def test_a_pytorch_file_gives_the_same_tensors(microsoft: Path, microsoft_checkpoint: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(values) for name, values in folders.read(microsoft).items()}
    (microsoft / folders.WEIGHTS).unlink()
    torch.save(state, microsoft / "pytorch_model.bin")
    _assert_same_tensors(read_checkpoint(microsoft), read_checkpoint(microsoft_checkpoint))


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
    _assert_same_tensors(checkpoint, read_checkpoint(source))


def test_a_pytorch_file_without_torch_says_what_to_do(
    microsoft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (microsoft / folders.WEIGHTS).rename(microsoft / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"Install florence-edge\[verify\], or convert"):
        read_checkpoint(microsoft)


def test_a_damaged_pytorch_file_is_refused_in_one_line(microsoft: Path) -> None:
    pytest.importorskip("torch")
    (microsoft / folders.WEIGHTS).rename(microsoft / "pytorch_model.bin")
    with pytest.raises(BundleError, match="cannot be read by PyTorch") as caught:
        read_checkpoint(microsoft)
    assert "\n" not in str(caught.value)


def test_a_pytorch_file_is_not_allowed_to_run_code(microsoft: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (microsoft / folders.WEIGHTS).unlink()
    torch.save({"a": _Dangerous(tmp_path / "ran")}, microsoft / "pytorch_model.bin")
    with pytest.raises(BundleError, match="cannot be read by PyTorch") as caught:
        read_checkpoint(microsoft)
    assert not (tmp_path / "ran").exists()
    assert "weights_only=False" not in str(caught.value)


def test_a_pytorch_file_of_something_else_is_refused(microsoft: Path) -> None:
    torch = pytest.importorskip("torch")
    (microsoft / folders.WEIGHTS).unlink()
    for content in ([1, 2], {"state_dict": {}, "step": 3}):
        torch.save(content, microsoft / "pytorch_model.bin")
        with pytest.raises(BundleError, match="something else than named tensors"):
            read_checkpoint(microsoft)


_DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "a few bytes": lambda path: path.write_bytes(b"\x01\x02\x03"),
    "header cut": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "data cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no data": lambda path: folders.write_header(path, _entry([2], 0, 8)),
    "a web page": lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>" * 9),
    "git lfs pointer": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"),
    "garbage header": lambda path: folders.write_header(path, b"\xff\xfe{]"),
    "header is a list": lambda path: folders.write_header(path, []),
    "header of text": lambda path: folders.write_header(path, {"a": "b"}),
    "entry without place": lambda path: folders.write_header(path, {"a": {"dtype": "F32"}}),
    "negative place": lambda path: folders.write_header(path, _entry([2], -8, 0), bytes(8)),
    "reversed place": lambda path: folders.write_header(path, _entry([2], 8, 0), bytes(8)),
    "shape beside size": lambda path: folders.write_header(path, _entry([3], 0, 8), bytes(8)),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_damaged_file_is_named_and_to_be_downloaded_again(native: Path, damage: str) -> None:
    _DAMAGES[damage](native / folders.WEIGHTS)
    with pytest.raises(BundleError, match=r"model\.safetensors is damaged.*Download it again"):
        read_checkpoint(native)


@settings(max_examples=300)
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


def test_a_folder_without_weights_says_what_was_expected(native: Path) -> None:
    (native / folders.WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"expected model\.safetensors .* pytorch_model\.bin"):
        read_checkpoint(native)


def test_a_lora_adapter_is_to_be_merged_first(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match=r"Merge it first: .*merge_and_unload"):
        read_checkpoint(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="is not a folder"):
        read_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "tied",
    [
        "language_model.model.shared.weight",
        "language_model.model.encoder.embed_tokens.weight",
        "language_model.model.decoder.embed_tokens.weight",
        "language_model.lm_head.weight",
    ],
)
def test_the_embedding_is_found_under_each_of_its_names(
    microsoft: Path, microsoft_checkpoint: Path, tied: str
) -> None:
    tensors = folders.read(microsoft)
    tensors[tied] = tensors.pop("language_model.model.shared.weight")
    folders.write(microsoft, tensors)
    _assert_same_tensors(read_checkpoint(microsoft), read_checkpoint(microsoft_checkpoint))


@pytest.mark.parametrize(
    "tied",
    [
        "lm_head.weight",
        "model.language_model.encoder.embed_tokens.weight",
        "model.language_model.decoder.embed_tokens.weight",
    ],
)
def test_native_names_of_the_embedding_are_found_too(
    native: Path, tiny_checkpoint: Path, tied: str
) -> None:
    tensors = folders.read(native)
    tensors[tied] = tensors.pop(f"model.{_EMBEDDING}")
    folders.write(native, tensors)
    _assert_same_tensors(read_checkpoint(native), read_checkpoint(tiny_checkpoint))


def test_all_four_names_at_once_count_as_one(native: Path) -> None:
    tensors = folders.read(native)
    for name in ("lm_head", "model.language_model.encoder.embed_tokens"):
        tensors[f"{name}.weight"] = tensors[f"model.{_EMBEDDING}"]
    folders.write(native, tensors)
    names = read_checkpoint(native).tensors.keys()
    assert [name for name in names if "embed_tokens" in name or "lm_head" in name] == []


def test_a_head_of_its_own_is_refused_where_config_does_not_tie_it(native: Path) -> None:
    tensors = folders.read(native)
    tensors["lm_head.weight"] = tensors[f"model.{_EMBEDDING}"] + 1
    folders.write(native, tensors)
    read_checkpoint(native)  # transformers ties them when it loads, whatever was saved
    folders.edit_config(native, lambda c: c.update(tie_word_embeddings=False))
    with pytest.raises(BundleError, match=r"lm_head\.weight differs from the embedding"):
        read_checkpoint(native)
    tensors["lm_head.weight"] = tensors[f"model.{_EMBEDDING}"]
    folders.write(native, tensors)
    read_checkpoint(native)


def test_weights_without_an_embedding_are_refused(native: Path) -> None:
    tensors = folders.read(native)
    del tensors[f"model.{_EMBEDDING}"]
    folders.write(native, tensors)
    with pytest.raises(BundleError, match="no token embedding"):
        read_checkpoint(native)


@pytest.mark.parametrize(
    "name",
    [
        "model.vision_tower.blocks.2.1.channel_block.ffn.fc1.weight",
        "model.multi_modal_projector.image_position_embed.row_embeddings.weight",
        "model.language_model.decoder.layers.1.encoder_attn.k_proj.bias",
    ],
)
def test_a_missing_tensor_is_named(native: Path, tmp_path: Path, name: str) -> None:
    tensors = folders.read(native)
    del tensors[name]
    folders.write(native, tensors)
    with pytest.raises(BundleError, match=r"has no tensor for .*Is the download complete"):
        export("x", native, tmp_path / "bundle", ExportOptions())
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "name",
    [
        "model.vision_tower.convs.2.conv.weight",
        "model.language_model.encoder.layers.0.fc1.weight",
        "model.language_model.shared.weight",
        "model.multi_modal_projector.image_position_embed.column_embeddings.weight",
    ],
)
def test_a_tensor_of_another_shape_is_named(native: Path, tmp_path: Path, name: str) -> None:
    tensors = folders.read(native)
    tensors[name] = tensors[name][1:, ..., 1:]
    folders.write(native, tensors)
    with pytest.raises(BundleError, match="do not belong together"):
        export("x", native, tmp_path / "bundle", ExportOptions())


def test_a_position_table_shorter_than_config_says_is_refused(native: Path, tmp_path: Path) -> None:
    tensors = folders.read(native)
    for part in ("row", "column"):
        name = f"model.multi_modal_projector.image_position_embed.{part}_embeddings.weight"
        tensors[name] = tensors[name][:1]
    folders.write(native, tensors)
    with pytest.raises(BundleError, match="do not belong together"):
        export("x", native, tmp_path / "bundle", ExportOptions())


def test_a_bias_of_another_length_is_refused(microsoft: Path, tmp_path: Path) -> None:
    tensors = folders.read(microsoft)
    tensors["language_model.final_logits_bias"] = np.zeros((1, 7), dtype=np.float32)
    folders.write(microsoft, tensors)
    with pytest.raises(BundleError, match="do not belong together"):
        export("x", microsoft, tmp_path / "bundle", ExportOptions())


def test_integer_tensors_are_passed_over(native: Path) -> None:
    tensors = folders.read(native)
    tensors["model.language_model.encoder.position_ids"] = np.arange(9)
    folders.write(native, tensors)
    names = read_checkpoint(native).tensors.keys()
    assert "language_model.encoder.position_ids" not in names


def test_the_hash_changes_with_a_single_weight(native: Path, tiny_checkpoint: Path) -> None:
    before = read_checkpoint(native).sha256()
    assert before == read_checkpoint(tiny_checkpoint).sha256()
    tensors = folders.read(native)
    tensors[f"model.{_EMBEDDING}"][3, 3] += 1
    folders.write(native, tensors)
    assert read_checkpoint(native).sha256() != before


def test_graphs_can_be_built_without_reading_a_tensor(asset: Asset, tmp_path: Path) -> None:
    """Weights stay on disk until they are written: large fits a small board's memory."""
    published = asset("florence-2/config.large.json")
    (tmp_path / "config.json").write_text(published.read_text())
    config = read_config(tmp_path)

    def refuse() -> Any:
        raise AssertionError("a tensor was read")

    stored = {
        # The table of image positions is computed, and small.
        name: stubs.zeros(shape) if "image_position_embed" in name else StoredTensor(shape, refuse)
        for name, shape in native_shapes(config)
    }
    checkpoint = Checkpoint(tmp_path, config, stored, ())
    weights = GraphWeights(checkpoint, 768, (0.5,) * 3, (0.5,) * 3)
    assert len(build_graphs(config, model_size(config, 768), weights)) == 3


class _Dangerous:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def _assert_same_tensors(one: Checkpoint, other: Checkpoint) -> None:
    extra = {"final_logits_bias", "multi_modal_projector.visual_temporal_embed.pos_idx_to_embed"}
    assert one.tensors.keys() - extra == other.tensors.keys() - extra
    for name in one.tensors.keys() - extra:
        left, right = one.tensors[name], other.tensors[name]
        values, expected = left.load(), right.load()
        assert values.shape == left.shape, name
        assert expected.shape == right.shape, name
        if name == _EMBEDDING:  # transformers pads the vocabulary
            shared = min(len(values), len(expected))
            values, expected = values[:shared], expected[:shared]
        np.testing.assert_array_equal(values, expected, err_msg=name)


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


def _write_stub(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A sparse file of zeros: the header of a real checkpoint without its gigabyte."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    folders.write_header(folder / folders.WEIGHTS, header)
    with (folder / folders.WEIGHTS).open("r+b") as file:
        file.truncate(file.seek(0, 2) + end)


def _shard(folder: Path) -> None:
    tensors = folders.read(folder)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(3):
        shard = f"model-0000{number + 1}-of-00003.safetensors"
        part = names[number::3]
        folders.write(folder, {name: tensors[name] for name in part})
        (folder / folders.WEIGHTS).rename(folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
