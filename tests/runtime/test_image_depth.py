"""Grey and colours of more than 8 bits."""

import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.image import load_image
from florence_edge.image_file import (
    ImageOptions,
)

from ..helpers.pictures import PNG, chunk, encoded, noise


@pytest.fixture
def told() -> Iterator[None]:
    """What is said once was not said yet."""
    from florence_edge import image_file

    before = list(image_file._told_of_darkness)
    image_file._told_of_darkness.clear()
    yield
    image_file._told_of_darkness[:] = before


def grey16(values: Any) -> bytes:
    return encoded(Image.fromarray(np.asarray(values, dtype=np.uint16)), "PNG")


def test_twelve_bits_in_sixteen_are_called_dark_once(
    told: None, caplog: pytest.LogCaptureFixture
) -> None:
    dark = grey16([[0, 1000, 4095]])
    with caplog.at_level(logging.WARNING):
        assert np.asarray(load_image(dark))[0, :, 0].tolist() == [0, 3, 15]
        load_image(dark)
        load_image(grey16([[0, 1]]))
    (record,) = caplog.records
    assert "has 16 bits a channel, but no value above 4095 of 65535" in record.getMessage()
    assert "deep_range='own'" in record.getMessage()


def test_sixteen_bits_that_are_used_are_not_called_dark(
    told: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load_image(grey16([[0, 16384]]))
        load_image(encoded(noise().convert("L"), "PNG"))
    assert not caplog.records


def test_colours_of_twelve_bits_are_called_dark(
    told: None, caplog: pytest.LogCaptureFixture
) -> None:
    row = b"\0" + struct.pack(">6H", *[4095] * 6)
    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    content = PNG + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    with caplog.at_level(logging.WARNING):
        assert np.asarray(load_image(content)).max() == 15
    assert "no value above 4095 of 65535" in caplog.text


def test_own_range_makes_the_largest_value_white_and_the_smallest_black(
    told: None, caplog: pytest.LogCaptureFixture
) -> None:
    own = ImageOptions(deep_range="own")
    values = np.array([[95, 1095, 2095, 4095]])
    with caplog.at_level(logging.WARNING):
        assert np.asarray(load_image(grey16(values), own))[0, :, 0].tolist() == [0, 63, 127, 255]
        floats = Image.fromarray(values.astype(np.float32))
        assert np.asarray(load_image(floats, own))[0, :, 0].tolist() == [0, 63, 127, 255]
        assert np.asarray(load_image(noise(), own)).tolist() == np.asarray(noise()).tolist()
    assert not caplog.records


def test_a_range_of_one_value_is_scaled_as_ever(told: None) -> None:
    flat = load_image(grey16([[25_700, 25_700]]), ImageOptions(deep_range="own"))
    assert np.asarray(flat)[0, :, 0].tolist() == [100, 100]


def test_deep_grey_is_scaled_alike_in_every_order_of_bytes_and_in_stripes() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (1100, 1000), dtype=np.uint16)
    expected = (values // 257).astype(np.uint8)
    for image in (
        Image.fromarray(values),
        Image.frombytes("I;16B", (1000, 1100), values.astype(">u2").tobytes()),
        Image.fromarray(values.astype(np.int32)),
        Image.fromarray(values.astype(np.float32)),
    ):
        np.testing.assert_array_equal(np.asarray(load_image(image))[:, :, 0], expected)


def test_infinite_values_are_white_and_raise_no_warning() -> None:
    image = Image.fromarray(np.array([[np.inf, -np.inf, np.nan, 257.0]], dtype=np.float32))
    assert np.asarray(load_image(image))[0, :, 0].tolist() == [255, 0, 0, 1]
