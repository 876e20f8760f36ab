"""A text file with a path or URL a line."""

from collections.abc import Iterator

from florence_edge import RequestError

from ..picture_list import Entry
from ..storage import joined, open_binary, parent


def entries(place: str, pictures: str | None) -> Iterator[Entry]:
    """The pictures of a list, in its order; empty lines and those that begin with # are none.

    Paths count from `pictures`, or else from the folder of the list. None is looked up: what is
    not there becomes an error row.

    Raises:
        OSError: the list cannot be read.
        RequestError: it is not UTF-8, names nothing, or names a picture twice.
    """
    root = pictures or parent(place)
    lines: dict[str, int] = {}
    with open_binary(place) as file:
        for number, raw in enumerate(file, 1):
            name = _text(raw, place, number)
            if not name or name.startswith("#"):
                continue
            if name in lines:
                raise RequestError(
                    f"Line {number} of {place} names {name} again, as line {lines[name]} does. "
                    "Name each picture once."
                )
            lines[name] = number
            yield Entry(name=name, place=joined(root, name))
    if not lines:
        raise RequestError(f"{place} names no picture. Write a path or URL a line.")


def _text(raw: bytes, place: str, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        raise RequestError(
            f"Line {number} of {place} is not UTF-8, so it is not a list of paths."
        ) from None
