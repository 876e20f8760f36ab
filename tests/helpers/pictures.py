"""Small pictures, encoded as somebody sends them."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # EXIF


def noise(width: int = 40, height: int = 30) -> Image.Image:
    random = np.random.default_rng(5)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def paint(folder: Path, count: int, *, suffix: str = ".png") -> Path:
    """A folder of noise, each picture another."""
    folder.mkdir(exist_ok=True, parents=True)
    random = np.random.default_rng(0)
    for index in range(count):
        values = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{index:04}{suffix}")
    return folder


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_equal(found: Image.Image, expected: Image.Image) -> None:
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected.convert("RGB")))


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I4s", len(content), kind)
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )
