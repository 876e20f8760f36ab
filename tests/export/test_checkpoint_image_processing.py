"""How a checkpoint's processor files say that pictures are to be prepared."""

import json
from pathlib import Path
from typing import Any

import pytest

from florence_edge.errors import BundleError
from florence_edge_export.checkpoint.defaults import read_image_processing

from ..helpers.assets import DATA, Asset


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
        {"rescale_factor": 10**400},
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
        {"image_mean": [0.5, 0.5, 10**400]},  # an int that no float holds
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
