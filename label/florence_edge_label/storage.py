"""Files of this machine, and those behind URLs that fsspec opens (s3://, gs://, hf://, http://)."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from florence_edge import MissingPackageError, RequestError
from florence_edge.extras import pip_install
from florence_edge.files import open_plain

_URL = re.compile(r"[a-z][a-z0-9+.-]*(?:://|::)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}")
_GLOB = re.compile(r"[*?\[]")


def is_url(place: str) -> bool:
    """Whether a place is a URL, and not a path."""
    return _URL.match(place) is not None


def open_binary(place: str) -> BinaryIO:
    """Open a file or a URL for reading, at any position.

    Raises:
        OSError: it is missing, may not be read, or is not a file.
        MissingPackageError: a URL, and fsspec or what it needs for this kind is not installed.
    """
    if not is_url(place):
        return open_plain(place)
    system, path = file_system(place)
    return cast(BinaryIO, system.open(path, "rb"))


def file_system(url: str) -> tuple[Any, str]:
    """The file system of fsspec that a URL belongs to, and its path there.

    Raises:
        MissingPackageError: fsspec or what it needs for this kind of URL is not installed.
        RequestError: fsspec does not know such URLs.
    """
    try:
        core = import_module("fsspec.core")
    except ImportError as error:
        raise MissingPackageError(
            f"{url} is a URL, and URLs need fsspec. Install it with: {pip_install('label')}"
        ) from error
    try:
        found: tuple[Any, str] = core.url_to_fs(url)
    except ImportError as error:
        raise MissingPackageError(f"{url} needs another package. {error}") from error
    except ValueError as error:
        raise RequestError(f"{url} is not a URL that can be opened: {error}.") from error
    return found


def expanded(pattern: str) -> list[str]:
    """The places that a pattern names: `{000..012}` and `{a,b}` in order, then `*` by name, once.

    Raises:
        RequestError: no file fits.
    """
    found = [place for each in _braces(pattern) for place in _globbed(each)]
    if not found:
        raise RequestError(f"There is no file {pattern}.")
    return list(dict.fromkeys(found))


def is_pattern(text: str) -> bool:
    """Whether `expanded` has something to do; a file that is called so is that file."""
    return bool(_GLOB.search(text) or _BRACES.search(text)) and not os.path.lexists(text)


def _braces(pattern: str) -> Iterator[str]:
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    for choice in _choices(found[1]):
        yield from _braces(pattern[: found.start()] + choice + pattern[found.end() :])


def _choices(text: str) -> list[str]:
    first, dots, last = text.partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        return [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    return text.split(",")


def _globbed(place: str) -> list[str]:
    if not _GLOB.search(place):
        return [place]
    if not is_url(place):
        return sorted(glob.glob(place, recursive=True))
    system, path = file_system(place)
    return [str(system.unstrip_protocol(found)) for found in sorted(system.glob(path))]


def exists(place: str) -> bool:
    """Whether there is something at a place; a URL is looked up.

    Raises:
        MissingPackageError, RequestError: see `file_system`.
    """
    if not is_url(place):
        return Path(place).exists()
    system, path = file_system(place)
    return bool(system.exists(path))


def joined(root: str, name: str) -> str:
    """The place of a name below a root; a name that is a URL or absolute is its own place."""
    if is_url(name) or os.path.isabs(name):
        return name
    return f"{root.rstrip('/')}/{name}" if is_url(root) else os.path.join(root, name)


def parent(place: str) -> str:
    """The folder of a place."""
    return place.rpartition("/")[0] if is_url(place) else os.path.dirname(os.path.abspath(place))


def absolute(place: str) -> str:
    """A place that means the same in every folder and to every process; URLs do so already."""
    return place if is_url(place) else os.path.abspath(place)


def common_parent(places: Sequence[str]) -> str:
    """The innermost folder that all places, absolute or URLs, lie in."""
    folders = [place.split("/")[:-1] for place in places]
    alike = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in alike)


def path_below(root: str, place: str) -> str:
    """The path of a place below a folder that it lies in."""
    return place.removeprefix(root).lstrip("/")


def archive_names(root: str, places: Sequence[str]) -> list[str]:
    """What the archives are called in the names of their pictures: the path without its suffix.

    Where that could give two pictures one name (`x.tar` with `y/1.png`, `x/y.tar` with `1.png`),
    all keep the suffix.
    """
    paths = [path_below(root, place) for place in places]
    short = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    known = set(short)
    inside = any(str(above) in known for path in short for above in PurePosixPath(path).parents)
    return paths if inside or len(known) < len(short) else short
