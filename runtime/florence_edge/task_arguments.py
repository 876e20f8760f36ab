"""The arguments of commands that ask about pictures: tasks, and what goes with them."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from .bundle import Bundle
from .errors import RequestError
from .regions import RelativeBox
from .tasks import (
    TASKS,
    Needs,
    Request,
    Task,
    request_for,
    request_for_prompt,
    task_key,
    with_own,
)

_SAYS = {
    Needs.NOTHING: "The picture alone",
    Needs.TEXT: "with --text",
    Needs.REGION: "with --region",
}


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--task` and `--prompt`, of which one is to be given, `--text` and `--region`."""
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--task",
        type=lambda text: text.split(","),
        action="extend",
        help=f"one or more, with commas or again. {tasks_by_needs()}",
    )
    asked.add_argument("--prompt", help="a prompt in your own words (VQA and other fine-tunes)")
    parser.add_argument("--text", help="caption or phrase that a task takes beside the picture")
    parser.add_argument(
        "--region",
        type=_region,
        metavar="X1,Y1,X2,Y2",
        help="region for region tasks, in pixels, or with %% behind each number in percent",
    )


def tasks_by_needs(*needs: Needs) -> str:
    """The tasks that there are, for `--help`, by what they take; by default all of them."""
    groups = [
        f"{_SAYS[each]}: {', '.join(name for name, task in TASKS.items() if task.needs is each)}"
        for each in needs or _SAYS
    ]
    return "; ".join([*groups, "or one of the bundle's own"])


def request_from(arguments: argparse.Namespace) -> Request:
    """What to ask; mistakes that hold for all pictures are found before any is read.

    Args:
        arguments: what `add_task_arguments` declared, and `bundle`, a folder.

    Raises:
        RequestError: see `request_for`.
        BundleError: a task is none of the 15, and there is no bundle that could have it.
    """
    if arguments.prompt is None:
        own = own_tasks(arguments.bundle, arguments.task)
        return request_for(with_own(arguments.task, own), arguments.text, arguments.region)
    if arguments.text or arguments.region:
        raise RequestError("--prompt is the whole prompt: leave --text and --region out.")
    return request_for_prompt(arguments.prompt)


def own_tasks(bundle: str | Path, names: Iterable[str]) -> tuple[Task, ...]:
    """The bundle's own tasks, where a name is none of the 15; else the bundle is not read.

    Raises:
        BundleError: there is no such bundle.
    """
    usual = all(task_key(name) in TASKS for name in names)
    return () if usual else Bundle.load(bundle).tasks


def _region(text: str) -> tuple[float, ...]:
    """Left, top, right, bottom in pixels, or as a `RelativeBox` where all are in percent."""
    parts = text.split(",")
    relative = all(part.strip().endswith("%") for part in parts)
    try:
        numbers = tuple(float(part.strip().removesuffix("%" if relative else "")) for part in parts)
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a region; expected four numbers such as 10,20,200,180, or "
            "10%,20%,50%,60%"
        )
    return RelativeBox(*(number / 100 for number in numbers)) if relative else numbers
