"""webdataset's tars: each picture by where its bytes begin, so that any shard can be read alone."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from florence_edge import RequestError
from florence_edge.image_file import SUFFIXES

from ..picture_list import Entry
from ..storage import archive_names, open_binary


def entries(places: Sequence[str], root: str) -> Iterator[Entry]:
    """The pictures of all tars, in the order of their members; other members are left out.

    They are called by the path of their tar below `root` and by their path in it.

    Raises:
        OSError: a tar cannot be read.
        RequestError: a file is not a tar, is compressed or cut off, or holds a picture twice.
    """
    for place, called in zip(places, archive_names(root, places), strict=True):
        yield from _members(place, called)


def _members(place: str, called: str) -> Iterator[Entry]:
    names = set[str]()
    try:
        with open_binary(place) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                suffix = PurePosixPath(member.name).suffix.lower()
                if not member.isreg() or suffix not in SUFFIXES:
                    continue
                name = member.name.removeprefix("./")
                if name in names:
                    raise RequestError(f"{place} holds {name} twice. Keep one of them.")
                names.add(name)
                yield Entry(
                    name=f"{called}/{name}",
                    place=place,
                    size=member.size,
                    offset=member.offset_data,
                )
    except tarfile.TarError as error:
        raise RequestError(
            f"{place} is not a whole tar without compression ({error}). Fetch it again, or unpack "
            "a .tar.gz to .tar: pictures are read from where they lie in it."
        ) from error
