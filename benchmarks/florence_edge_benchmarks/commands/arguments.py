"""What several commands take as arguments, and how their values are kept with a result."""

import argparse
import math
from collections.abc import Collection, Mapping
from pathlib import Path

from florence_edge.errors import RequestError
from florence_edge.tasks import find_task

_MAX_BATCH = 256  # at once; more only fills memory


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare `--data` and `--data-limit` for a command that measures accuracy beside speed."""
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="truth for columns of accuracy, as in `accuracy`"
    )
    parser.add_argument("--data-limit", type=count, metavar="N", help="its first N pictures by id")


def as_settings(values: Mapping[str, object], left_out: Collection[str]) -> dict[str, str]:
    """What a reader needs to measure the same again: all that was given but what is `left_out`."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in values.items()
        if name not in left_out and value not in (None, "", [])
    }


def names(text: str) -> list[str]:
    """`a,b` as a list; what is named twice counts once."""
    found = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; expected a,b,c")
    return [*found]


def tasks(text: str) -> list[str]:
    """`OD,<CAPTION>` as names of tasks.

    Those of a bundle's own are none here: peers would have to know them, too.
    """
    try:
        return [*dict.fromkeys(find_task(name).name for name in names(text))]
    except RequestError as error:
        raise argparse.ArgumentTypeError(
            f"{error} A bundle's own task is measured by one of these with the same kind of "
            "answer, such as OD for boxes: only the number of tokens counts (--new-tokens)."
        ) from error


def counts(text: str) -> list[int]:
    """`1,3` as whole numbers from 1 on."""
    return [*dict.fromkeys(count(part) for part in names(text))]


def batches(text: str) -> list[int]:
    """`1,4` as numbers of pictures at once."""
    found = counts(text)
    if max(found) > _MAX_BATCH:
        raise argparse.ArgumentTypeError(f"{max(found)} pictures at once; {_MAX_BATCH} at most")
    return found


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return found
