"""Pictures as people have them: open files, batches in one array, generators; and drawn on."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from florence_edge import (
    Florence2,
    GenerationOptions,
    ImageError,
    RequestError,
    prepare_images,
    run_many,
    watch,
)
from florence_edge.video.sources import source_of

SHORT = GenerationOptions(num_beams=1, max_new_tokens=9)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A PNG that its EXIF turns by a quarter."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = Image.effect_noise((60, 40), 60).convert("RGB")
    picture.save(tmp_path / "photo.png", exif=exif)
    return tmp_path / "photo.png"


def test_an_open_file_is_read(tiny_model: Florence2, photo: Path) -> None:
    expected = tiny_model.run(photo, "OD", options=SHORT)
    with photo.open("rb") as file:
        assert tiny_model.run(file, "OD", options=SHORT).token_ids == expected.token_ids
    content = io.BytesIO(photo.read_bytes())
    assert tiny_model.run(content, "OD", options=SHORT).image_size == (40, 60)
    with pytest.raises(ImageError, match="cannot be read"):
        tiny_model.run(file, "OD")
    with photo.open(encoding="latin-1") as text, pytest.raises(ImageError, match="binary mode"):
        tiny_model.run(text, "OD")  # type: ignore[arg-type]


def test_a_generator_and_an_array_of_several_are_batches(tiny_model: Florence2) -> None:
    rng = np.random.default_rng(3)
    several = rng.integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    alone = [tiny_model.run(each, "OD", options=SHORT).token_ids for each in several]
    given: Any
    for given in (several, (each for each in several)):
        found: Any = tiny_model.run(given, "OD", options=SHORT)
        assert [each.token_ids for each in found] == alone


def test_an_answer_is_drawn_on_whatever_was_asked_about(tiny_model: Florence2, photo: Path) -> None:
    result = tiny_model.run(photo, "CAPTION", options=SHORT)
    expected = result.draw(tiny_model.encode(photo).image)
    with Image.open(photo) as opened:
        for given in (photo, str(photo), photo.read_bytes(), opened):
            assert result.draw(given) == expected
    upright = np.asarray(tiny_model.encode(photo).image)
    assert result.draw(upright) == expected
    with pytest.raises(RequestError, match="40 x 60 pixels, this one has"):
        result.draw(np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(ImageError, match="no file gone"):
        result.draw("gone.jpg")


def test_nothing_to_detect_is_said(tiny_model: Florence2, photo: Path) -> None:
    with pytest.raises(RequestError, match="detect got no phrase"):
        tiny_model.encode(photo).detect([])


def test_arrays_of_opencv_are_said_to_be_bgr(tiny_model: Florence2) -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    bgr = rgb[..., ::-1]
    expected = tiny_model.run(rgb, "OD", options=SHORT)
    asked = tiny_model.ask(rgb, "What is this?", options=SHORT)
    assert tiny_model.run(bgr, "OD", color="bgr", options=SHORT) == expected
    assert tiny_model.run([bgr, bgr], "OD", color="bgr", options=SHORT) == [expected] * 2
    assert tiny_model.ask(bgr, "What is this?", color="bgr", options=SHORT) == asked
    view = tiny_model.encode(bgr, color="bgr", options=SHORT)
    assert np.array_equal(np.asarray(view.image), rgb)
    (many,) = run_many(tiny_model, [bgr], "OD", color="bgr", options=SHORT)
    assert many.results == (expected,)
    (watched,) = watch(tiny_model, [bgr], "OD", color="bgr", options=SHORT)
    assert watched.results == (expected,)
    assert np.array_equal(np.asarray(watched.frame.image), rgb)
    assert expected.draw(bgr, color="bgr") == expected.draw(rgb)
    (prepared,) = prepare_images([bgr], 32, color="bgr").pictures
    assert np.array_equal(np.asarray(prepared), rgb)


def test_sources_of_watch_know_their_own_order() -> None:
    assert source_of([], color="bgr").color == "bgr"
    assert source_of(__file__, color="bgr").color == "rgb"
    assert source_of(0, color="bgr").color == "rgb"


def test_an_order_of_channels_that_does_not_exist_is_refused(tiny_model: Florence2) -> None:
    array: Any = np.zeros((9, 9, 3), np.uint8)
    wrong: Any = "gbr"
    asks: tuple[Any, ...] = (tiny_model.run, tiny_model.ask)
    for ask in asks:
        with pytest.raises(RequestError, match="color is 'gbr'; it must be 'rgb', or 'bgr'"):
            ask(array, "OD", color="gbr")
    for ask_each in (run_many, watch):
        with pytest.raises(RequestError, match="color is 'gbr'"):
            ask_each(tiny_model, [array], "OD", color=wrong)


def test_what_is_no_array_in_rgb_order_is_told_so(tiny_model: Florence2) -> None:
    with pytest.raises(ImageError, match=r"HxWx3 uint8 in RGB order \(OpenCV's BGR: color='bgr'\)"):
        tiny_model.run(np.zeros((9, 9, 4), np.uint8), "OD")
    wrong: Any = 7
    with pytest.raises(ImageError, match="HxWx3 uint8 array in RGB order, got int"):
        tiny_model.run(wrong, "OD")


def test_pictures_that_are_no_arrays_know_their_own_order(
    tiny_model: Florence2, photo: Path
) -> None:
    expected = tiny_model.run(photo, "OD", options=SHORT)
    assert tiny_model.run(photo, "OD", color="bgr", options=SHORT) == expected
