"""Results name files and folders, and not where on a machine they were."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

# Folders at the front of an absolute path; in `tokens/s`, `a / b` and `https://x` there are none.
_FOLDERS = re.compile(
    r"(?<![\w.:/~<\\-])(?:~?/(?:[^\s/,;:'\"()<>]+/)*(?=[^\s/])|[A-Za-z]:\\(?:[^\s\\,;'\"]+\\)*)"
)


def without_folders(value: Any) -> Any:
    """Plain JSON in which every absolute path is its last part: `/home/me/base8` is `base8`."""
    if isinstance(value, str):
        whole = value.startswith("/") and "," not in value and ": " not in value
        return PurePosixPath(value).name if whole else _FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [without_folders(each) for each in value]
    return value
