"""Where the files of a folder really lie: in it, or in a cache that links to them by their content.

A stranger's folder must not lead anywhere else. Two tools put links where files belong, on purpose,
to files that are named by a hash of their content:

    Hugging Face hub   REPOSITORY/snapshots/REVISION/.../NAME  ->  REPOSITORY/blobs/HASH
    DVC                NAME  ->  CACHE/files/md5/HA/SH (before DVC 3: .dvc/cache/HA/SH)
"""

import os
import re
import shlex
from pathlib import Path

from .errors import BundleError

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
_OF_DVC = re.compile(r"(?:/files/md5|/\.dvc/cache)/[0-9a-f]{2}/[0-9a-f]{30}\Z")


def place_of(folder: Path, name: str) -> Path:
    """The real path of a file in a folder; `name` has no folders in it.

    Raises:
        BundleError: there is none, or it is a link that leads elsewhere than described above.
    """
    path = folder / name
    try:
        place = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}. Copy it again.") from error
    home = Path(os.path.realpath(folder))
    if place.parent == home or _is_blob(place, home) or _OF_DVC.search(place.as_posix()):
        return place
    raise BundleError(
        f"{path} is a link to {place}, outside of the bundle. If you trust that file, copy the "
        f"bundle with what its links lead to: cp -rL {shlex.quote(str(folder))} NEW."
    )


def _is_blob(place: Path, home: Path) -> bool:
    """Whether it is among the blobs of the repository that `home` is a snapshot of."""
    return any(
        parent.name == _SNAPSHOTS and place.parent == parent.parent / _BLOBS
        for parent in home.parents
    )
