"""Pictures to calibrate with: which serve, which are chosen, and what is asked about them."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge.errors import RequestError
from florence_edge.image import pixels
from florence_edge.image_file import ImageOptions
from florence_edge.regions import is_location_text
from florence_edge.tasks import TASKS, Needs
from florence_edge_calibration.quantization.dataset import (
    MIN_PICTURES,
    CalibrationSample,
    folder_samples,
    scene_samples,
    split,
)

from ..helpers.pictures import paint


def names(samples: list[CalibrationSample]) -> list[str]:
    return [Path(sample.name).name for sample in samples]


def test_a_missing_folder_is_named_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no folder .*nowhere.*at least 8 pictures.*\.jpg"):
        folder_samples(tmp_path / "nowhere", 16)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    path = paint(tmp_path, 1) / "0000.png"
    with pytest.raises(RequestError, match="There is no folder"):
        folder_samples(path, 16)


@pytest.mark.parametrize("count", [0, 1, MIN_PICTURES - 1])
def test_too_few_pictures_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(RequestError, match=rf"has {count} pictures\. .*at least 8"):
        folder_samples(paint(tmp_path, count), 16)


def test_just_enough_pictures_serve_whatever_their_format(tmp_path: Path) -> None:
    paint(tmp_path, 4)
    paint(tmp_path / "deeper", 4, suffix=".JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    assert len(folder_samples(tmp_path, 16)) == 8


def test_all_formats_are_found_and_the_rest_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in (".jp2", ".jfif", ".JPE", ".pnm"):
        paint(tmp_path / suffix[1:], 2, suffix=suffix)
    (tmp_path / "broken.webp").symlink_to(tmp_path / "gone")
    for name in ("notes.txt", "boxes.json"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING):
        assert len(folder_samples(tmp_path, 16)) == 8
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == f"{tmp_path}: 2 files that are not pictures left out."
    assert len(said) == 2
    assert "broken.webp is a broken link" in said[1]


def test_too_few_pictures_are_said_with_what_else_there_is(tmp_path: Path) -> None:
    paint(tmp_path, 3)
    (tmp_path / "raw.heic").touch()
    with pytest.raises(RequestError, match=r"has 3 pictures \(1 file that is not a picture left"):
        folder_samples(tmp_path, 16)


def test_the_largest_picture_is_the_callers_to_choose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path, 8)
    most = ImageOptions(max_pixels=24 * 24)
    assert len(folder_samples(tmp_path, 16, most)) == 8
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RequestError, match="has 0 pictures that serve"),
    ):
        folder_samples(tmp_path, 16, ImageOptions(max_pixels=24 * 24 - 1))
    assert caplog.text.count("is too large") == 8


def test_pictures_that_cannot_be_read_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path, 10)
    (tmp_path / "0003.png").write_bytes(b"no picture")
    whole = (tmp_path / "0007.png").read_bytes()
    (tmp_path / "0007.png").write_bytes(whole[:100])
    with caplog.at_level(logging.WARNING):
        found = folder_samples(tmp_path, 16)
    assert len(found) == 8
    assert not {"0003.png", "0007.png"} & set(names(found))
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "0003.png" in logged
    assert "0007.png" in logged


def test_pictures_of_one_colour_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path, 8)
    for index, colour in enumerate(["black", "white", "#0cc803"]):
        Image.new("RGB", (9, 9), colour).save(tmp_path / f"flat{index}.png")
    with caplog.at_level(logging.WARNING):
        assert len(folder_samples(tmp_path, 16)) == 8
    flat = [r.getMessage() for r in caplog.records if "is all one colour" in r.getMessage()]
    assert len(flat) == 3


def test_nothing_but_pictures_of_one_colour_is_refused(tmp_path: Path) -> None:
    for index in range(12):
        Image.new("RGB", (9, 9), (index, 0, 0)).save(tmp_path / f"{index}.png")
    with pytest.raises(RequestError, match="has 0 pictures that serve"):
        folder_samples(tmp_path, 16)


@pytest.mark.parametrize(("there", "most"), [(40, 8), (40, 13), (40, 39), (17, 16)])
def test_of_more_pictures_an_even_choice_is_taken(tmp_path: Path, there: int, most: int) -> None:
    found = names(folder_samples(paint(tmp_path, there), most))
    assert len(set(found)) == most
    places = [int(Path(name).stem) for name in found]
    assert places == sorted(places)
    assert max(np.diff([-1, *places, there])) <= -(-there // most) + 1


def test_the_same_folder_gives_the_same_samples(tmp_path: Path) -> None:
    first, second = (folder_samples(paint(tmp_path, 12), 9) for _ in range(2))
    assert names(first) == names(second)
    assert [sample.prompts for sample in first] == [sample.prompts for sample in second]


def test_a_sample_is_read_as_its_own_picture(tmp_path: Path) -> None:
    found = folder_samples(paint(tmp_path, 10), 10)
    for sample in reversed(found):  # late binding would read the last one each time
        with Image.open(sample.name) as picture:
            np.testing.assert_array_equal(np.asarray(sample.read()), np.asarray(picture))


def test_all_fifteen_tasks_are_asked_about_every_picture(tmp_path: Path) -> None:
    for samples in (folder_samples(paint(tmp_path, 9), 9), scene_samples(3, image_size=64)):
        for sample in samples:
            assert [prompt.task.name for prompt in sample.prompts] == list(TASKS)


def test_questions_about_a_folders_pictures_differ(tmp_path: Path) -> None:
    samples = folder_samples(paint(tmp_path, 8), 8)
    regions = set()
    for sample in samples:
        for prompt in sample.prompts:
            if prompt.task.needs is Needs.REGION:
                assert is_location_text(str(prompt.text_input))
                regions.add(prompt.text_input)
    assert len(regions) == 8
    texts = {
        prompt.text_input
        for sample in samples
        for prompt in sample.prompts
        if prompt.text_input is not None
    }
    assert len(texts) > 12


def test_scenes_are_distinct_and_carry_their_truth() -> None:
    samples = scene_samples(6, image_size=64)
    squares = {pixels(sample.read(), 64).tobytes() for sample in samples}
    assert len(squares) == 6
    for sample in samples:
        assert sample.truths is not None
        assert len(sample.truths) == len(sample.prompts)


def test_scenes_to_judge_by_are_others_than_those_to_calibrate_with() -> None:
    first, later = scene_samples(5, image_size=64), scene_samples(5, image_size=64, skip=5)
    assert not {sample.name for sample in first} & {sample.name for sample in later}


@pytest.mark.parametrize("count", [8, 9, 100])
def test_a_split_shares_no_picture_and_loses_none(count: int) -> None:
    samples = scene_samples(1, image_size=64) * count
    marked = [
        CalibrationSample(name=str(i), read=each.read, prompts=each.prompts)
        for i, each in enumerate(samples)
    ]
    calibrating, judging = split(marked)
    both = [sample.name for sample in (*calibrating, *judging)]
    assert sorted(both, key=int) == [str(i) for i in range(count)]
    assert len(judging) == count // 4
