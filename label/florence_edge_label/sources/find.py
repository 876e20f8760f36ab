"""Which kind of source a path, a URL or a pattern is.

photos/  s3://bucket/photos        a folder of pictures, and of the folders in it (imagefolder)
list.txt                           a path or URL a line
data-{000..012}.tar  shards/       webdataset's tars
train-*.parquet  dataset/          tables with pictures, as Hugging Face stores them
instances.json                     a COCO file
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from florence_edge import RequestError
from florence_edge.image_file import SUFFIXES

from ..picture_list import Entry
from ..storage import absolute, common_parent, exists, expanded, is_pattern, parent
from . import coco, folder, tables, tars, text_list

_LISTS = (".txt", ".list", ".lst")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What may be said about a source beside its path."""

    pictures: str | None = None
    """Where the files that a list or a COCO file names lie; by default beside it."""
    column: str | None = None
    """The column of tables that holds the pictures; by default found by its type."""
    without: Path | None = None
    """A folder that is not looked into: the output of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Pictures to be labelled; `find_source` makes it."""

    kind: str
    given: str
    """As it was written; the places of entries are absolute, whatever it was."""
    list_entries: Callable[[], Iterator[Entry]]
    """Goes through the source; each call begins anew."""
    categories: tuple[coco.Category, ...] = ()
    """The classes that a COCO file names."""


def find_source(given: str, options: SourceOptions) -> Source:
    """Look at what was given, without going through it.

    Raises:
        RequestError: there is nothing, or it is not a source; the message lists what is.
        MissingPackageError: a URL, and fsspec is not installed.
        OSError: it cannot be read.
    """
    if not given:
        raise RequestError(
            "The source is empty. Name a folder, a list, tars, tables or a COCO file."
        )
    if is_pattern(given):
        found = [absolute(each) for each in expanded(given)]
        return _of_files(given, found, common_parent(found), options)
    place, suffix = absolute(given), Path(given).suffix.lower()
    pictures = None if options.pictures is None else absolute(options.pictures)
    if folder.is_folder(place):
        return _of_folder(given, place, options)
    if not exists(place):
        raise RequestError(f"There is no {given}. Name a folder or a file with pictures.")
    if suffix in _LISTS:
        return Source(
            kind="list",
            given=given,
            list_entries=lambda: text_list.entries(place, pictures),
        )
    if suffix == ".json":
        read = coco.read(place, pictures)
        return Source(
            kind="coco",
            given=given,
            list_entries=lambda: coco.entries(read),
            categories=read.categories,
        )
    return _of_files(given, [place], parent(place), options)


def _of_folder(given: str, root: str, options: SourceOptions) -> Source:
    """Pictures go first; without any, tars; without those, tables."""
    kinds = folder.first_of(root, (tuple(SUFFIXES), (".tar",), (".parquet",)), options.without)
    if kinds[0]:
        return Source(
            kind="folder",
            given=given,
            list_entries=lambda: folder.entries(root, tuple(SUFFIXES), options.without),
        )
    for suffix, found in zip((".tar", ".parquet"), kinds[1:], strict=True):
        if found:
            places = [each.place for each in folder.entries(root, (suffix,), options.without)]
            return _of_files(given, places, _root_of(root, places), options)
    raise RequestError(
        f"There is no picture in {given}, nor a .tar or .parquet file. Pictures are called "
        f"{', '.join(sorted(SUFFIXES))}."
    )


def _root_of(root: str, places: list[str]) -> str:
    """The root as the places write it: fsspec may write `memory://bucket` as `memory:///bucket`."""
    return root if all(place.startswith(root) for place in places) else common_parent(places)


def _of_files(given: str, places: list[str], root: str, options: SourceOptions) -> Source:
    suffixes = {Path(place).suffix.lower() for place in places}
    if suffixes == {".tar"}:
        return Source(kind="tars", given=given, list_entries=lambda: tars.entries(places, root))
    if suffixes == {".parquet"}:
        return Source(
            kind="tables",
            given=given,
            list_entries=lambda: tables.entries(places, root, options.column),
        )
    if suffixes <= SUFFIXES:
        return Source(kind="files", given=given, list_entries=lambda: folder.of_files(places, root))
    raise RequestError(
        f"{given} is not a source of pictures: expected a folder, a text file of paths "
        f"({', '.join(_LISTS)}), .tar, .parquet, a COCO .json, or a picture."
    )
