"""A COCO file: its pictures keep their ids, and its categories their numbers."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from florence_edge import RequestError

from ..picture_list import Entry
from ..storage import exists, joined, open_binary, parent

_MAX_ID = 2**63


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Category(msgspec.Struct):
    id: int
    name: str


class _File(msgspec.Struct):
    """What is read; msgspec skips the rest, annotations among it, without keeping it."""

    images: list[_Image]
    categories: list[_Category] = []


@dataclass(frozen=True, slots=True)
class Category:
    """A class of a COCO file."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class CocoSource:
    """A COCO file that was read."""

    images: tuple[_Image, ...]
    categories: tuple[Category, ...]
    root: str


def read(place: str, pictures: str | None) -> CocoSource:
    """Read pictures and categories.

    Raises:
        OSError: it cannot be read.
        RequestError: it is not a COCO file, has an id or a class twice, or its pictures are not
            there.
    """
    try:
        with open_binary(place) as file:
            content = msgspec.json.decode(file.read(), type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{place} is not a COCO file: {error}. Expected a list `images` with `id` and "
            "`file_name`."
        ) from error
    root = pictures or parent(place)
    _check(place, content)
    first = joined(root, content.images[0].file_name)
    if not exists(first):
        raise RequestError(
            f"The first picture of {place} is not there: {first}. Say where its pictures lie: "
            "--pictures DIR."
        )
    categories = tuple(Category(each.id, each.name) for each in content.categories)
    return CocoSource(tuple(content.images), categories, root)


def _check(place: str, content: _File) -> None:
    if not content.images:
        raise RequestError(f"{place} lists no pictures.")
    ids = [each.id for each in content.images]
    if len(set(ids)) < len(ids) or max(map(abs, ids)) >= _MAX_ID:
        raise RequestError(f"{place} gives two pictures the same id, or one that is too large.")
    names = [each.name.strip().casefold() for each in content.categories]
    numbers = {each.id for each in content.categories}
    if len(set(names)) < len(names) or len(numbers) < len(names) or "" in names:
        raise RequestError(f"{place} has a category without a name, or one twice.")


def entries(source: CocoSource) -> Iterator[Entry]:
    """The pictures in the order of the file; what is not there becomes an error row."""
    for image in source.images:
        place = joined(source.root, image.file_name)
        yield Entry(name=image.file_name, place=place, image_id=image.id)
