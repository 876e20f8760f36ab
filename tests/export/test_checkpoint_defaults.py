import json
from pathlib import Path
from typing import Any

import pytest

from florence_edge.errors import BundleError
from florence_edge.options import GenerationConfig
from florence_edge_export.checkpoint.config import read_config
from florence_edge_export.checkpoint.defaults import (
    GenerationDefaults,
    read_generation,
    read_image_processing,
)

from ..helpers.assets import DATA, Asset
from . import folders


def _read(folder: Path) -> GenerationDefaults:
    return read_generation(folder, read_config(folder))


def _write_generation(folder: Path, **settings: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(settings))


def test_in_microsofts_layout_the_inner_language_model_decides() -> None:
    """Its generation_config.json says early_stopping false, and its code never reads that."""
    defaults = _read(DATA / "tiny" / "microsoft")
    recorded = json.loads((DATA / "tiny" / "microsoft" / "reference.json").read_text())
    used = recorded["language_model_generation_config"]
    assert defaults.sources == ("text_config",)
    assert defaults.generation.early_stopping is True
    for name in (
        *("num_beams", "early_stopping", "no_repeat_ngram_size", "length_penalty"),
        *("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    ):
        assert getattr(defaults.generation, name) == used[name], name


def test_in_the_native_layout_generation_config_comes_first() -> None:
    defaults = _read(DATA / "tiny" / "native")
    assert defaults.sources == ("generation_config.json", "text_config", "config.json")
    assert defaults.generation == GenerationConfig(
        num_beams=3,
        max_new_tokens=1024,
        no_repeat_ngram_size=3,
        length_penalty=1.0,
        early_stopping=True,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        decoder_start_token_id=2,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


def test_the_twin_has_the_native_checkpoints_settings(
    tiny_checkpoint: Path, microsoft_checkpoint: Path
) -> None:
    assert _read(tiny_checkpoint).generation == _read(microsoft_checkpoint).generation


def test_generation_config_wins_over_text_config_and_that_over_config(native: Path) -> None:
    _write_generation(native, num_beams=5, early_stopping="never")

    def state(config: dict[str, Any]) -> None:
        config.update(num_beams=7, no_repeat_ngram_size=7, length_penalty=0.5)
        config["text_config"].update(num_beams=6, no_repeat_ngram_size=6)

    folders.edit_config(native, state)
    generation = _read(native).generation
    assert generation.num_beams == 5
    assert generation.early_stopping == "never"
    assert generation.no_repeat_ngram_size == 6
    assert generation.length_penalty == 0.5


def test_what_nobody_states_is_hugging_faces_default(native: Path) -> None:
    (native / "generation_config.json").unlink()
    defaults = _read(native)
    assert defaults.sources == ("text_config", "config.json")
    assert defaults.generation.num_beams == 1
    assert defaults.generation.early_stopping is False
    assert defaults.generation.no_repeat_ngram_size == 0
    assert defaults.generation.forced_bos_token_id == -1
    assert defaults.generation.forced_eos_token_id == 2


def test_null_states_nothing(native: Path) -> None:
    _write_generation(native, num_beams=None, forced_bos_token_id=None)
    assert _read(native).generation.num_beams == 1
    assert _read(native).generation.forced_bos_token_id == -1


def test_an_answer_may_fill_the_positions_but_not_more(native: Path) -> None:
    assert _read(native).generation.max_new_tokens == 1024
    folders.edit_config(native, lambda c: c["text_config"].update(max_position_embeddings=128))
    assert _read(native).generation.max_new_tokens == 128
    folders.edit_config(native, lambda c: c["text_config"].update(max_position_embeddings=4096))
    assert _read(native).generation.max_new_tokens == 1024


def test_one_end_token_may_come_as_a_list(native: Path) -> None:
    _write_generation(native, eos_token_id=[2])
    assert _read(native).generation.eos_token_id == 2


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": "three"},
        {"num_beams": 2.5},
        {"num_beams": True},
        {"early_stopping": "sometimes"},
        {"length_penalty": "1.0"},
        {"eos_token_id": [2, 3]},
        {"pad_token_id": {}},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_named(native: Path, setting: dict[str, Any]) -> None:
    _write_generation(native, **setting)
    with pytest.raises(BundleError, match=f"asks for {next(iter(setting))} = .*Correct its"):
        _read(native)


def test_a_garbled_generation_config_is_refused(native: Path) -> None:
    (native / "generation_config.json").write_text("{")
    with pytest.raises(BundleError, match=r"generation_config\.json cannot be read"):
        _read(native)


@pytest.mark.parametrize("layout", ["microsoft", "native"])
def test_both_kinds_of_processor_files_are_read(layout: str) -> None:
    image = read_image_processing(DATA / "tiny" / layout)
    assert image.size == 768
    assert image.mean == (0.485, 0.456, 0.406)
    assert image.std == (0.229, 0.224, 0.225)


def test_the_published_processors_are_read(asset: Asset) -> None:
    for name in ("preprocessor_config.json", "native-processor/processor_config.json"):
        assert read_image_processing(asset(f"florence-2/{name}").parent).size == 768


def test_without_a_processor_file_pictures_are_florence_2s(tmp_path: Path) -> None:
    image = read_image_processing(tmp_path)
    assert (image.size, image.mean) == (768, (0.485, 0.456, 0.406))


def test_another_size_and_normalization_are_taken_over(tmp_path: Path) -> None:
    _write_processor(
        tmp_path,
        size={"height": 512, "width": 512},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[1, 1, 1],
        do_center_crop=None,
        rescale_factor=0.00392156862745098,
    )
    image = read_image_processing(tmp_path)
    assert (image.size, image.mean, image.std) == (512, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 768, "width": 512}},
        {"size": {"shortest_edge": 768}},
        {"size": 768},
        {"size": {"height": "768", "width": "768"}},
    ],
    ids=str,
)
def test_a_processor_that_makes_no_square_is_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    _write_processor(tmp_path, **settings)
    with pytest.raises(BundleError, match="expected a square"):
        read_image_processing(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"resample": 2},
        {"resample": "bicubic"},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_center_crop": True},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": "1/255"},
    ],
    ids=str,
)
def test_a_processor_that_works_otherwise_is_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    _write_processor(tmp_path, **settings)
    with pytest.raises(BundleError, match=f"has {next(iter(settings))} = "):
        read_image_processing(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": 0.5},
        {"image_mean": [0.5]},
        {"image_mean": [0.5, 0.5, "x"]},
        {"image_std": [0.2, 0.2, 0]},
        {"image_std": [0.2, 0.2, 0.2, 0.2]},
    ],
    ids=str,
)
def test_a_normalization_without_three_numbers_is_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    _write_processor(tmp_path, **settings)
    with pytest.raises(BundleError, match="expected three numbers"):
        read_image_processing(tmp_path)


def _write_processor(folder: Path, **settings: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
