"""The arguments of commands that read pictures, and what they mean."""

import argparse
from pathlib import Path
from typing import get_args

from .image_file import MAX_PIXELS, DeepRange, ImageOptions

_MAX_DIGITS = 18  # of a number of pixels


def add_image_arguments(group: argparse._ActionsContainer) -> None:
    """Declare `--max-pixels` and `--deep-range` for a command that reads pictures."""
    group.add_argument(
        "--max-pixels",
        type=_pixels,
        default=MAX_PIXELS,
        metavar="N",
        help=f"refuse pictures whose width times height is more (default {MAX_PIXELS})",
    )
    group.add_argument(
        "--deep-range",
        choices=get_args(DeepRange),
        default="full",
        help="white in grey pictures of 16 bits: 65535 (full, the default) or the picture's own "
        "largest value, for cameras of 10 to 14 bits",
    )


def image_options_from(arguments: argparse.Namespace) -> ImageOptions:
    """What `add_image_arguments` declared."""
    return ImageOptions(max_pixels=arguments.max_pixels, deep_range=arguments.deep_range)


def picture_path(text: str) -> Path:
    """An argument that names a picture or a folder of them.

    The empty one, of a variable that was never set, would be the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; expected a picture or a folder")
    return Path(text)


def source_argument(text: str) -> str:
    """An argument that names pictures, a camera or a video; the empty one as in `picture_path`."""
    picture_path(text)
    return text


def _pixels(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels; expected 1 or more")
    return int(text)
