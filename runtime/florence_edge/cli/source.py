"""What is meant by the words of a command line: pictures, or frames of a camera or a video.

photos/  street.jpg  'photos/**/*.jpg'  list.txt          pictures
drive.mp4  0  /dev/video0  rtsp://camera/stream  pipeline    frames, one source alone
"""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import RequestError
from ..image_file import SUFFIXES, pictures_in
from ..video.sources import names_frames

_LIST = ".txt"


def split_sources(words: Sequence[str], source: str | None) -> tuple[list[str], str | None]:
    """Words and `--source` as pictures and a source of frames, of which one is empty.

    Raises:
        RequestError: both are there, none, or several sources of frames.
    """
    given = [*words, *([] if source is None else [source])]
    if not given:
        raise RequestError("There is nothing to ask about. Give a picture, a folder, or a source.")
    if source is not None and words:
        raise RequestError(f"There are {words[0]} and --source {source}. Give one of the two.")
    if source is not None:
        pictures = not names_frames(source) and _names_pictures(source)
        return ([source], None) if pictures else ([], source)
    frames = [word for word in words if names_frames(word)]
    if frames and len(words) > 1:
        raise RequestError(
            f"{frames[0]} is a camera or a video, and those are answered alone. Give it by itself, "
            "or pictures."
        )
    return ([], frames[0]) if frames else (list(words), None)


def _names_pictures(source: str) -> bool:
    """Whether what stands behind `--source` is more than one picture."""
    return Path(source).is_dir() or _is_list(source) or _is_pattern(source)


def _is_list(word: str) -> bool:
    return Path(word).suffix.lower() == _LIST


def _is_pattern(word: str) -> bool:
    """Whether brackets or stars stand for other names: not where a file is called just so."""
    if "://" in word or "!" in word:
        return False
    return glob.has_magic(word) and not os.path.exists(word)


def find_pictures(words: Sequence[str], left_out: list[str]) -> Iterator[Path]:
    """The pictures; those of folders and below by name, of patterns, and of lists in their order.

    What folders hold beside them is added to `left_out`.

    Raises:
        RequestError: a folder or a pattern has none, or a list cannot be read.
    """
    for word in words:
        path = Path(word)
        if path.is_dir():
            yield from _of_folder(path, left_out)
        elif _is_list(word):
            yield from _of_list(path)
        elif _is_pattern(word):
            yield from _of_pattern(word)
        else:
            yield path


def _of_folder(folder: Path, left_out: list[str]) -> tuple[Path, ...]:
    found = pictures_in(folder, below=True)
    if not found.paths:
        raise RequestError(
            f"There is no picture in {folder}. Looked for {', '.join(sorted(SUFFIXES))}."
        )
    if found.left_out():
        left_out.append(f"{folder}: {found.left_out()}")
    return found.paths


def _of_pattern(word: str) -> list[Path]:
    paths = map(Path, sorted(glob.glob(word, recursive=True)))
    found = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not found:
        raise RequestError(f"No picture is called {word}. Put quotes around it, or name a folder.")
    return found


def _of_list(path: Path) -> list[Path]:
    """A path in each line, from the list's own folder on; empty lines and `#` are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path} is not a list of pictures: {error}. Expected a path in each line."
        ) from error
    named = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not named:
        raise RequestError(f"{path} names no picture. Expected a path in each line.")
    return [path.parent / each for each in named]
