import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge.errors import BundleError, BundleNotFoundError
from florence_edge_export.checkpoint.config import model_size, read_config
from florence_edge_export.checkpoint.loader import Checkpoint, read_checkpoint
from florence_edge_export.checkpoint.tensors import StoredTensor
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
    folders.assert_same_tensors(
        read_checkpoint(tiny_checkpoint), read_checkpoint(microsoft_checkpoint)
    )


def test_the_asset_folders_give_the_same_tensors(asset: Asset) -> None:
    """One was converted from the other by transformers' own script."""
    native = read_checkpoint(asset("tiny-native-layout"))
    microsoft = read_checkpoint(asset("tiny-microsoft-layout"))
    folders.assert_same_tensors(native, microsoft)


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


def test_shards_are_read_as_one(native: Path, tiny_checkpoint: Path) -> None:
    _shard(native)
    sharded = read_checkpoint(native)
    assert len(sharded.weight_files) == 3
    folders.assert_same_tensors(sharded, read_checkpoint(tiny_checkpoint))


def test_a_missing_shard_is_named(native: Path) -> None:
    _shard(native)
    (native / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BundleError, match=r"model-00002-of-00003.*Finish the download"):
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


def test_a_folder_without_weights_says_what_was_expected(native: Path) -> None:
    (native / folders.WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"expected model\.safetensors .* pytorch_model\.bin"):
        read_checkpoint(native)


def test_a_lora_adapter_is_to_be_named_beside_its_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match=r"florence-export MODEL --adapter"):
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
    folders.assert_same_tensors(read_checkpoint(microsoft), read_checkpoint(microsoft_checkpoint))


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
    folders.assert_same_tensors(read_checkpoint(native), read_checkpoint(tiny_checkpoint))


def test_all_four_names_at_once_count_as_one(native: Path) -> None:
    tensors = folders.read(native)
    for name in ("lm_head", "model.language_model.encoder.embed_tokens"):
        tensors[f"{name}.weight"] = tensors[f"model.{_EMBEDDING}"]
    folders.write(native, tensors)
    names = read_checkpoint(native).tensors.keys()
    assert [name for name in names if "embed_tokens" in name or "lm_head" in name] == []


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
