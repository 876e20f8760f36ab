"""Types of arguments that several commands take, as argparse wants them."""

import argparse
import math

from florence_edge.errors import RequestError
from florence_edge.tasks import find_task

_MAX_BATCH = 256  # at once; more only fills memory


def names(text: str) -> list[str]:
    """`a,b` as a list; what is named twice counts once."""
    found = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; expected a,b,c")
    return [*found]


def tasks(text: str) -> list[str]:
    """`OD,<CAPTION>` as names of tasks."""
    try:
        return [*dict.fromkeys(find_task(name).name for name in names(text))]
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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
