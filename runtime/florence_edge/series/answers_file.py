"""Answers as JSON lines in a file that a later run can go on with.

One line a picture and task; a picture that failed has a line with its error and is tried again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..answers.result import Result
from ..errors import FlorenceEdgeError, RequestError
from .asking import Asked

_Key = tuple[str, str, str | None, tuple[float, ...]]  # picture, task, text, region


class AnswersFile:
    """A file of answers; see `open_answers`."""

    def __init__(self, path: Path, file: IO[str], answered: set[_Key], asked: Asked) -> None:
        self._path = path
        self._file = file
        self._answered = answered
        self._asked = asked
        self._questions = asked.questions(None)
        self._region = () if asked.region is None else tuple(float(x) for x in asked.region)

    def has(self, image: Path) -> bool:
        """Whether all that is asked about a picture is answered."""
        return all(
            self._key(image, each.task.token, each.text) in self._answered
            for each in self._questions
        )

    def write(self, image: Path, results: Sequence[Result]) -> None:
        """Append the answers about a picture.

        Raises:
            FlorenceEdgeError: the disk is full; the lines before are complete.
        """
        beside = {"region": list(self._region)} if self._region else {}
        for result in results:
            self._append({"image": str(image), **result.to_json(), **beside})

    def write_error(self, image: Path, error: Exception) -> None:
        """Append why there is no answer."""
        self._append({"image": str(image), "error": str(error)})

    def _key(self, image: Path, task: str, text: str | None) -> _Key:
        return str(image), task, None if self._region else text, self._region

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            with suppress(OSError):  # or closing would try to write the same once more
                self._file.close()
            raise FlorenceEdgeError(
                f"Cannot write {self._path}: {error}. Make room, then go on with --resume."
            ) from error


@contextmanager
def open_answers(path: Path, asked: Asked, *, resume: bool) -> Iterator[AnswersFile]:
    """Open a file for answers, new or, with `resume`, after the lines that it has.

    A last line that was torn when a run was killed is taken off; its picture is answered again.

    Raises:
        RequestError: the file is there and is not to be continued, or is none of answers.
        FlorenceEdgeError: it cannot be read or written.
    """
    if path.is_file() and not resume:
        raise RequestError(
            f"{path} is there already. Add --resume to go on with it, or choose another --answers."
        )
    try:
        answered = _mended(path) if path.is_file() else set()
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise FlorenceEdgeError(f"Cannot write {path}: {error}. Choose another.") from error
    with file:
        yield AnswersFile(path, file, answered, asked)


def _mended(path: Path) -> set[_Key]:
    """What is answered in a file; a torn last line is cut off."""
    answered: set[_Key] = set()
    good = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                break
            answered |= _keys(raw, path, number)
            good += len(raw)
    if good < path.stat().st_size:
        with path.open("rb+") as file:
            file.truncate(good)
    return answered


def _keys(raw: bytes, path: Path, number: int) -> set[_Key]:
    try:
        line = json.loads(raw)
        if "error" in line:
            return set()
        region = tuple(float(edge) for edge in line.get("region", ()))
        text = None if region else line["text_input"]
        return {(line["image"], line["task"], text, region)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"Line {number} of {path} is no answer of florence-run, so it will not be continued. "
            "Choose another --answers."
        ) from error
