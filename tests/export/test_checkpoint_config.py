import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import BundleError, RequestError
from florence_edge_export.checkpoint.adapter_files import read_adapter
from florence_edge_export.checkpoint.config import CheckpointConfig, Layout, model_size, read_config
from florence_edge_export.checkpoint.loader import read_checkpoint

from ..helpers.assets import DATA, Asset
from ..helpers.thorough import examples
from . import folders


def test_both_layouts_state_the_same_model(
    tiny_checkpoint: Path, microsoft_checkpoint: Path
) -> None:
    native, microsoft = read_config(tiny_checkpoint), read_config(microsoft_checkpoint)
    assert native.layout is Layout.NATIVE
    assert microsoft.layout is Layout.MICROSOFT
    assert native.vision == microsoft.vision
    assert native.text == microsoft.text


def test_the_recorded_configs_of_both_layouts_state_the_same_model() -> None:
    native = read_config(DATA / "tiny" / "native")
    microsoft = read_config(DATA / "tiny" / "microsoft")
    assert (native.layout, microsoft.layout) == (Layout.NATIVE, Layout.MICROSOFT)
    assert native.vision == microsoft.vision
    assert native.text.vocab_size == 51328  # padded to a multiple of 64
    assert microsoft.text.vocab_size == 51289


@pytest.mark.parametrize(
    ("name", "positions", "largest"),
    [("base", 1024, 992), ("large", 1024, 992), ("large-4k", 4096, 1600)],
)
def test_published_configs_are_read(
    asset: Asset, tmp_path: Path, name: str, positions: int, largest: int
) -> None:
    config = _published(asset, tmp_path, name)
    assert config.text.positions == positions
    assert config.vision.image_tokens(768) == 577
    assert config.vision.sides(768) == (192, 96, 48, 24)
    assert model_size(config, largest).image_size == largest
    with pytest.raises(RequestError, match=f"at most {largest} pixels"):
        model_size(config, largest + 32)


def test_image_sizes_beside_the_stride_are_refused(asset: Asset, tmp_path: Path) -> None:
    config = _published(asset, tmp_path, "base")
    for size in (-32, 0, 31, 33, 770):
        with pytest.raises(RequestError, match="multiple of 32"):
            model_size(config, size)
    assert model_size(config, 32).image_tokens == 2


@pytest.mark.parametrize("model_type", ["davit", "", None])
def test_a_fine_tune_saved_by_microsofts_code_is_recognized(
    microsoft: Path, model_type: str | None
) -> None:
    """That code forgets the vision model's type when it saves (`only DaViT is supported`)."""
    folders.edit_config(microsoft, lambda c: c["vision_config"].update(model_type=model_type))
    assert read_config(microsoft).layout is Layout.MICROSOFT


def test_a_converted_config_with_the_fields_of_both_layouts_is_native(native: Path) -> None:
    folders.edit_config(
        native, lambda c: c["vision_config"].update(dim_embed=c["vision_config"]["embed_dim"])
    )
    assert read_config(native).layout is Layout.NATIVE


def test_fields_that_transformers_leaves_out_have_its_defaults(native: Path) -> None:
    """Up to 4.56 it saved of a text model only what differs from BART-large."""
    folders.edit_config(
        native,
        lambda c: c.update(
            text_config={"model_type": "bart", "vocab_size": 51289},
            vision_config={"model_type": "florence_vision"},
        ),
    )
    config = read_config(native)
    assert (config.text.d_model, config.text.encoder_layers, config.text.decoder_ffn) == (
        1024,
        12,
        4096,
    )
    assert config.vision.depths == (1, 1, 9, 1)
    assert config.vision.window_size == 12
    transformers = pytest.importorskip("transformers")
    expected = transformers.Florence2Config(
        text_config={"model_type": "bart"}, vision_config={}
    ).to_dict()
    assert list(config.vision.dims) == list(expected["vision_config"]["embed_dim"])
    assert config.text.positions == expected["text_config"]["max_position_embeddings"]
    assert config.text.decoder_heads == expected["text_config"]["decoder_attention_heads"]


def test_image_feature_sources_of_microsofts_layout_count_tokens(microsoft: Path) -> None:
    for sources, tokens in (
        (["spatial_avg_pool"], 1),
        (["last_frame"], 4),
        (["temporal_avg_pool", "spatial_avg_pool", "last_frame"], 9),
    ):
        folders.edit_config(microsoft, partial(_set_sources, sources=sources))
        assert read_config(microsoft).vision.image_tokens(64) == tokens


_BY_STAGE = (
    *("embed_dim", "depths", "num_heads", "num_groups"),
    *("patch_size", "patch_stride", "patch_padding"),
)
_SPOILS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other architecture": (lambda c: c.update(model_type="llava"), "expected 'florence2'"),
    "no architecture": (lambda c: c.pop("model_type"), "expected 'florence2'"),
    "no vision": (
        lambda c: c.pop("vision_config"),
        "there is no .vision_config",
    ),
    "vision is null": (lambda c: c.update(vision_config=None), "does not describe"),
    "text is a list": (lambda c: c.update(text_config=[]), "does not describe"),
    "no vocabulary": (lambda c: c["text_config"].pop("vocab_size"), "vocab_size"),
    "text for a number": (lambda c: c["text_config"].update(d_model="wide"), "d_model"),
    "uneven stages": (lambda c: c["vision_config"].update(depths=[1, 1]), "each stage"),
    "uneven heads": (lambda c: c["vision_config"].update(num_heads=[3, 4, 4, 8]), "3 heads"),
    "uneven text heads": (lambda c: c["text_config"].update(decoder_attention_heads=7), "7"),
    "no layers": (
        lambda c: c["text_config"].update(decoder_layers=0),
        "layers is 0",
    ),
    "no stride": (
        lambda c: c["vision_config"].update(patch_stride=[0, 2, 2, 2]),
        "stride is 0",
    ),
    "no heads": (lambda c: c["text_config"].update(decoder_attention_heads=0), "heads is 0"),
    "no vision heads": (lambda c: c["vision_config"].update(num_heads=[0, 4, 4, 8]), "heads is 0"),
    "layers without end": (
        lambda c: c["text_config"].update(decoder_layers=10**9),
        "decoder_layers is 1000000000, expected 1 to 256",
    ),
    "layers as a float": (lambda c: c["text_config"].update(encoder_layers=1e9), "got `float`"),
    "blocks without end": (
        lambda c: c["vision_config"].update(depths=[1, 1, 10**9, 1]),
        "depths is 1000000000",
    ),
    "stages without end": (
        lambda c: c["vision_config"].update(
            {name: [16] * 10**5 for name in _BY_STAGE}, patch_prenorm=[True] * 10**5
        ),
        "number of stages is 100000",
    ),
    "a vocabulary without end": (
        lambda c: c["text_config"].update(vocab_size=10**12),
        "vocab_size is 1000000000000",
    ),
    "positions without end": (
        lambda c: c["text_config"].update(max_position_embeddings=10**18),
        "max_position_embeddings is 10",
    ),
    "an image table without end": (
        lambda c: c["vision_config"].update(max_position_embeddings=10**9),
        "max_position_embeddings is 10",
    ),
    "a ratio of nothing": (lambda c: c["vision_config"].update(mlp_ratio=0), "mlp_ratio is 0"),
    "a negative ratio": (lambda c: c["vision_config"].update(mlp_ratio=-4), "mlp_ratio is -4"),
    "a ratio without end": (
        lambda c: c["vision_config"].update(mlp_ratio=1e308),
        r"mlp_ratio is 1e\+308",
    ),
    "a feed-forward without end": (
        lambda c: c["text_config"].update(encoder_ffn_dim=10**10),
        "ffn_dim is 10000000000",
    ),
    "widths apart": (lambda c: c["vision_config"].update(projection_dim=32), "d_model 64"),
    "grey pictures": (lambda c: c["vision_config"].update(in_channels=1), "pictures have 3"),
}


@pytest.mark.parametrize("spoil", _SPOILS)
def test_a_config_that_makes_no_model_is_refused(native: Path, spoil: str) -> None:
    edit, message = _SPOILS[spoil]
    folders.edit_config(native, edit)
    with pytest.raises(BundleError, match=message):
        read_config(native)


def test_an_unknown_feature_source_is_refused(microsoft: Path) -> None:
    folders.edit_config(microsoft, lambda c: _set_sources(c, ["clip_tokens"]))
    with pytest.raises(BundleError, match="clip_tokens"):
        read_config(microsoft)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"florence2"', "\x00"])
def test_a_file_that_is_no_json_object_is_refused(native: Path, content: str) -> None:
    (native / "config.json").write_text(content)
    with pytest.raises(BundleError, match=r"config\.json"):
        read_config(native)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(native: Path, number: str) -> None:
    path = native / "config.json"
    text = path.read_text().replace('"projection_dim"', f'"mlp_ratio": {number}, "projection_dim"')
    path.write_text(text)
    with pytest.raises(BundleError, match=r"config\.json is not JSON"):
        read_config(native)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_file_nested_without_end_is_refused(native: Path, name: str) -> None:
    (native / "model.safetensors").unlink()
    (native / name).write_text('{"vision_config":' + "[" * 10**6)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        read_checkpoint(native)


@pytest.mark.parametrize("side", [10**12, 2**63])
def test_an_image_size_without_end_is_refused_at_once(native: Path, side: int) -> None:
    with pytest.raises(RequestError, match="this model takes at most"):
        model_size(read_config(native), side - side % 32)


def test_a_vision_encoder_that_leaves_nothing_of_a_picture_is_refused(native: Path) -> None:
    folders.edit_config(native, lambda c: c["vision_config"].update(patch_size=[65536, 3, 3, 3]))
    with pytest.raises(BundleError, match="leaves nothing of a picture: 64 pixels become"):
        model_size(read_config(native), 64)


def test_a_folder_without_config_is_refused(native: Path) -> None:
    (native / "config.json").unlink()
    with pytest.raises(BundleError, match="checkpoint folder has it"):
        read_config(native)


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 4), max_size=5),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


@settings(max_examples=examples(300))
@given(data=st.data())
def test_any_value_in_any_field_is_read_or_refused(
    tiny_checkpoint: Path,
    microsoft_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    source = data.draw(st.sampled_from([tiny_checkpoint, microsoft_checkpoint]))
    config = json.loads((source / "config.json").read_text())
    part = data.draw(st.sampled_from(["vision_config", "text_config"]))
    field = data.draw(st.sampled_from(sorted(config[part])))
    config[part][field] = data.draw(_JUNK)
    folder = tmp_path_factory.getbasetemp() / "junk"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    with contextlib.suppress(BundleError, RequestError):
        model_size(read_config(folder), 64)


def _published(asset: Asset, tmp_path: Path, name: str) -> CheckpointConfig:
    content = asset(f"florence-2/config.{name}.json").read_text()
    (tmp_path / "config.json").write_text(content)
    return read_config(tmp_path)


def _set_sources(config: dict[str, Any], sources: list[str]) -> None:
    config["vision_config"]["image_feature_source"] = sources


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_of_a_trainers_folder_the_last_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    for inside in ("checkpoint-500", "checkpoint-1000", "runs"):
        (tmp_path / inside).mkdir()
    for inside in ("checkpoint-500", "checkpoint-1000"):
        (tmp_path / inside / name).write_text("{}")
    with pytest.raises(BundleError, match=r"Trainer's output .*/checkpoint-1000$"):
        read_config(tmp_path)
    with pytest.raises(BundleError, match=r"not an adapter .* wrote: .*/checkpoint-1000$"):
        read_adapter(tmp_path)
    for inside in ("checkpoint-500", "checkpoint-1000"):
        (tmp_path / inside / name).unlink()
    with pytest.raises(BundleError, match=r"config\.json is missing"):
        read_config(tmp_path)
