"""What each picture is asked: tasks, and the phrases of an ontology, one question each.

An ontology is what autodistill calls so: phrases that the model is asked for, and the classes that
they stand for. Several phrases may be one class:

    {"a person": "person", "someone on a ladder": "person", "hard hat": "helmet"}
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from florence_edge import MissingPackageError, Needs, RequestError, Task, TaskLike, request_for
from florence_edge.extras import pip_install
from florence_edge.files import open_plain, read_json
from florence_edge.tasks import find_task

_MAX_BYTES = 1 << 20
_YAML = (".yaml", ".yml")
_USUAL = "OPEN_VOCABULARY_DETECTION"
_ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What every picture is asked once."""

    task: str
    """A task's name, such as `OD`."""
    text: str | None = None
    """The phrase or caption that goes with it."""
    label: str | None = None
    """The class of what is found, in place of the model's own label."""


def read_ontology(path: Path) -> dict[str, str]:
    """The classes by phrase, in the order of the file.

    Raises:
        OSError: it cannot be read.
        RequestError: it does not map phrases to classes.
        MissingPackageError: it is YAML, and PyYAML is not installed.
    """
    content = _yaml(path) if path.suffix.lower() in _YAML else _json(path)
    if not isinstance(content, Mapping) or not content:
        raise _not_an_ontology(path, "it is not a table with a phrase or more")
    found = {}
    for phrase, label in content.items():
        for text in (phrase, label):
            if not isinstance(text, str) or not text.strip():
                raise _not_an_ontology(path, f"{text!r:.60} is not a text")
        found[phrase.strip()] = label.strip()
    return found


def is_about(label: str, phrase: str) -> bool:
    """Whether a region's own label says that it is what a phrase asked for.

    Asked for what is not there, the model may point at something else, and mostly names it: asked
    for a circle, "white moon". The label has to have every word of the phrase but its articles;
    regions without a label (outlines) are taken at their word.
    """
    wanted = set(_words(phrase)) - _ARTICLES
    return not label.strip() or wanted <= set(_words(label))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _json(path: Path) -> Any:
    try:
        return read_json(path, most=_MAX_BYTES)
    except ValueError as error:
        raise _not_an_ontology(path, f"it is not JSON: {error}") from error


def _yaml(path: Path) -> Any:
    try:
        yaml = import_module("yaml")
    except ImportError as error:
        raise MissingPackageError(
            f"{path} is YAML, which PyYAML reads. Write it as JSON, or install it with: "
            f"{pip_install('label')}"
        ) from error
    with open_plain(path) as file:
        content = file.read(_MAX_BYTES)
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError) as error:
        raise _not_an_ontology(path, f"it is not YAML: {' '.join(str(error).split())}") from error


def _not_an_ontology(path: Path, why: str) -> RequestError:
    return RequestError(
        f"{path} is not an ontology: {why}. Expected a class for each phrase, such as "
        '{"a person": "person", "hard hat": "helmet"}.'
    )


def questions_for(
    tasks: Sequence[TaskLike], text: str | None, ontology: Mapping[str, str]
) -> tuple[Question, ...]:
    """What every picture is asked: each task once, and those that take a phrase once a phrase.

    Args:
        tasks: those of a bundle's own as `Task`; none means open-vocabulary detection of the
            ontology.
        text: for the tasks that take one, where there is no ontology.
        ontology: the classes by phrase; may be empty.

    Raises:
        RequestError: a task does not exist, stands twice, asks about a region, or what goes with
            it is missing or too much.
    """
    if ontology and text is not None:
        raise RequestError("--ontology says what to look for: leave --text out.")
    if not tasks and not ontology:
        raise RequestError("There is nothing to ask: give --task, or --ontology.")
    found = tuple(map(find_task, tasks or [_USUAL]))
    _check(found, bool(ontology))
    request_for(found, text or next(iter(ontology), None))
    return tuple(each for task in found for each in _of_task(task, text, ontology))


def _of_task(task: Task, text: str | None, ontology: Mapping[str, str]) -> list[Question]:
    if task.needs is Needs.NOTHING:
        return [Question(task=task.name)]
    if not ontology:
        return [Question(task=task.name, text=text)]
    return [
        Question(task=task.name, text=phrase, label=label) for phrase, label in ontology.items()
    ]


def _check(tasks: Sequence[Task], has_ontology: bool) -> None:
    names = [task.name for task in tasks]
    for task in tasks:
        if task.needs is Needs.REGION:
            raise RequestError(
                f"{task.name} asks about a region, and there is none that fits every picture. Ask "
                "florence-run, picture by picture."
            )
        if names.count(task.name) > 1:
            raise RequestError(f"{task.name} stands twice. Name each task once.")
    if has_ontology and not any(task.needs is Needs.TEXT for task in tasks):
        raise RequestError(
            f"None of {', '.join(names)} asks for phrases. With --ontology give {_USUAL}, "
            "CAPTION_TO_PHRASE_GROUNDING or REFERRING_EXPRESSION_SEGMENTATION, or no --task."
        )
