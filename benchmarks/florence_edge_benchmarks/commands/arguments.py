"""Kinds of arguments that several commands take."""

import argparse

from florence_edge.errors import RequestError
from florence_edge.tasks import find_task


def names(text: str) -> list[str]:
    """`a,b` as a list."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; expected a,b,c")
    return found


def tasks(text: str) -> list[str]:
    """`OD,<CAPTION>` as names of tasks."""
    try:
        return [find_task(name).name for name in names(text)]
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def counts(text: str) -> list[int]:
    """`1,3` as whole numbers from 1 on."""
    return [count(part) for part in names(text)]


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
