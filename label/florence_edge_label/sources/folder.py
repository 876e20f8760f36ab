"""A folder of pictures and those below it, by name; local, or what fsspec lists."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..picture_list import Entry
from ..storage import file_system, is_url, path_below


def is_folder(place: str) -> bool:
    """Whether a path or URL is a folder.

    Raises:
        MissingPackageError, RequestError: see `storage.file_system`.
    """
    if not is_url(place):
        return os.path.isdir(place)
    system, path = file_system(place)
    return bool(system.isdir(path))


def entries(root: str, suffixes: tuple[str, ...], without: Path | None) -> Iterator[Entry]:
    """The files that are called so, with their sizes, whatever the case.

    Links to folders are not followed, and no folder is read that is hidden or is `without`.

    Raises:
        OSError: the folder, or one in it, cannot be read.
    """
    if is_url(root):
        yield from _remote(root, suffixes)
        return
    skipped = None if without is None else os.path.realpath(without)
    yield from _below(root, "", suffixes, skipped)


def first_of(root: str, kinds: Sequence[tuple[str, ...]], without: Path | None) -> tuple[bool, ...]:
    """Whether there is a file of each kind; once one of the first is found, that is enough."""
    found = [False] * len(kinds)
    every = tuple(suffix for kind in kinds for suffix in kind)
    for entry in entries(root, every, without):
        suffix = os.path.splitext(entry.name)[1].lower()
        for place, kind in enumerate(kinds):
            found[place] = found[place] or suffix in kind
        if found[0]:
            break
    return tuple(found)


def of_files(places: Sequence[str], root: str) -> Iterator[Entry]:
    """Pictures that were named one by one; they are called by their path below `root`."""
    for place in places:
        yield Entry(name=_printable(path_below(root, place)), place=place)


def _below(
    root: str, inside: str, suffixes: tuple[str, ...], skipped: str | None
) -> Iterator[Entry]:
    with os.scandir(os.path.join(root, inside)) as found:
        there = sorted(found, key=lambda each: each.name)
    for each in there:
        name = f"{inside}/{each.name}" if inside else each.name
        if each.is_dir(follow_symlinks=False):
            if not each.name.startswith(".") and os.path.realpath(each.path) != skipped:
                yield from _below(root, name, suffixes, skipped)
        elif each.name.lower().endswith(suffixes) and not each.name.startswith("."):
            yield Entry(name=_printable(name), place=os.path.abspath(each.path), size=_size(each))


def _size(entry: "os.DirEntry[str]") -> int | None:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link
        return None


def _printable(name: str) -> str:
    """A name as text; bytes of it that are not UTF-8 are written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _remote(root: str, suffixes: tuple[str, ...]) -> Iterator[Entry]:
    system, path = file_system(root)
    for found, about in sorted(system.find(path, detail=True).items()):
        name = found.removeprefix(path).lstrip("/")
        if name.lower().endswith(suffixes):
            place = str(system.unstrip_protocol(found))
            yield Entry(name=name, place=place, size=about.get("size"))
