"""Answers as JSON lines in a file that a later run can go on with.

    {"florence-run": "0.1.0", "bundle": {...}, "options": {...}}   the origin, in the first line
    {"image": "a.jpg", "task": "<OD>", ...}                        of each task, see `answer_line`
    {"image": "b.jpg", "error": "..."}                             once; tried again by each run

The origin is what answers come from beside picture and prompt: a bundle and options. It comes first
so that no later run adds answers of another kind.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..bundle import TOKENIZER, WEIGHTS, Bundle
from ..contract import GRAPHS
from ..errors import FlorenceEdgeError, RequestError
from ..files import hold, read_json, synced_while_it_grows
from ..options import GenerationOptions, resolve
from ..tasks import Needs, Prompt, Request
from .growing_file import open_new, opened_to_append

KEY = "florence-run"  # marks the line of the origin; `jq 'select(.image)'` leaves it out

_DIGITS = 16  # of a hash; enough to tell bundles apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A bundle and options, as plain JSON; the bundle's names are only for people."""

    bundle: Mapping[str, str]
    options: Mapping[str, Any]

    def line(self) -> dict[str, Any]:
        """The first line of a file of answers."""
        options = dict(self.options)
        return {KEY: __version__, "bundle": dict(self.bundle), "options": options}

    def differences(self, line: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Where `line` is another origin: what it has, and what this one has.

        Raises:
            KeyError, TypeError: it is not such a line.
        """
        then, now = [], []
        if line["bundle"]["sha256"] != self.bundle["sha256"]:
            then.append(_bundle_name(line["bundle"]))
            now.append(_bundle_name(self.bundle))
        options = dict(line["options"])
        for name in dict.fromkeys((*self.options, *options)):
            if options.get(name) != self.options.get(name):
                then.append(_option(name, options.get(name)))
                now.append(_option(name, self.options.get(name)))
        return then, now


def origin_of(bundle: Bundle, options: GenerationOptions, shown: Mapping[str, Any]) -> Origin:
    """The origin of answers.

    Args:
        bundle: identified by the hashes of its graphs, weights and tokenizer.
        options: what they leave to the checkpoint is filled in.
        shown: what else changes answers, such as the convention of coordinates.

    Raises:
        RequestError: an option is out of range.
    """
    generation = resolve(options, bundle.generation, bundle.size)
    filled = {**asdict(generation), "max_time": options.max_time}
    known = {**{field.name: filled[field.name] for field in fields(options)}, **shown}
    names = (TOKENIZER, WEIGHTS, *(f"{graph}.onnx" for graph in GRAPHS))
    content = json.dumps([bundle.files[name].sha256 for name in names])
    return Origin(
        bundle={
            "model": bundle.model,
            "precision": bundle.precision,
            "target": bundle.target,
            "sha256": sha256(content.encode()).hexdigest()[:_DIGITS],
        },
        options=read_json(json.dumps(known).encode()),  # as it will be read again
    )


def _option(name: str, value: object) -> str:
    return f"no {name}" if value is None else f"{name} {value}"


def _bundle_name(bundle: Mapping[str, Any]) -> str:
    named = (bundle.get("model"), bundle.get("precision"), f"for {bundle.get('target')}")
    return f"bundle {' '.join(map(str, named))} ({bundle['sha256']})"


_Key = tuple[str, str, str | None, tuple[float, ...]]  # picture, task, text, region
_Error = tuple[str, str]  # picture, reason


class AnswersFile:
    """A file of answers; see `open_answers`. `first` is written before them, if there is one."""

    def __init__(
        self,
        path: Path,
        file: IO[str],
        known: "_Known",
        request: Request,
        first: Mapping[str, Any] | None,
    ) -> None:
        self._path = path
        self._file = file
        self._answered = known.answers
        self._errors = known.errors
        self._first = first
        self._prompts = request.prompts(None)
        self._region = () if request.region is None else tuple(float(x) for x in request.region)

    def has(self, image: Path) -> bool:
        """Whether all that is asked about a picture is answered."""
        return all(self._key(image, each) in self._answered for each in self._prompts)

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append those of the answers, as `AnswerLines` makes them, that the file does not have.

        Raises:
            FlorenceEdgeError: the disk is full; the lines before are complete.
        """
        for line in lines:
            key = _key_of(line)
            if key not in self._answered:
                self._append(line)
                self._answered.add(key)

    def write_error(self, image: Path, error: Exception) -> None:
        """Append why there is no answer, unless the file has it."""
        reported = str(image), str(error)
        if reported not in self._errors:
            self._append({"image": reported[0], "error": reported[1]})
            self._errors.add(reported)

    def _key(self, image: Path, prompt: Prompt) -> _Key:
        region = self._region if prompt.task.needs is Needs.REGION else ()
        return str(image), prompt.task.token, None if region else prompt.text_input, region

    def _append(self, line: Mapping[str, Any]) -> None:
        lines = [line] if self._first is None else [self._first, line]
        self._first = None
        try:
            self._file.write("".join(json.dumps(each) + "\n" for each in lines))
            self._file.flush()
        except OSError as error:
            with suppress(OSError):  # or closing would try to write the same once more
                self._file.close()
            raise FlorenceEdgeError(
                f"Cannot write {self._path}: {error}. Make room, then go on with --resume."
            ) from error


@contextmanager
def open_answers(
    path: Path, request: Request, origin: Origin, *, resume: bool
) -> Iterator[AnswersFile]:
    """Open a file for answers, new or, with `resume`, after the lines that it has.

    A last line that was torn when a run was killed or the power failed is taken off; its picture is
    answered again. Lines are with the system at once and on the disk within about a second: a
    killed run loses the line it was writing, a power cut the answers of the last second or two.

    Raises:
        RequestError: the file is there and is not to be continued, is not a file of answers, or
            its answers come from another bundle or other options, or another process writes it.
        FlorenceEdgeError: it cannot be read or written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(opened_to_append(path))
            hold(file.fileno(), path)
            known = _begun(path, origin, resume=resume)
            if known.whole < os.fstat(file.fileno()).st_size:
                os.truncate(file.fileno(), known.whole)
        except OSError as error:
            raise FlorenceEdgeError(f"Cannot write {path}: {error}. Choose another.") from error
        stack.enter_context(synced_while_it_grows(file, path))
        yield AnswersFile(path, file, known, request, None if known.whole else origin.line())


@contextmanager
def open_frames(
    path: Path, origin: Origin
) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    """A new file for answers about frames, after a line with their origin; takes their lines.

    Raises:
        RequestError: the file is there and not empty.
        FlorenceEdgeError: it cannot be written.
    """
    with open_new(path, "--answers") as write:
        write(json.dumps(origin.line()) + "\n")
        yield lambda lines: write("".join(json.dumps(line) + "\n" for line in lines))


@dataclass(slots=True)
class _Known:
    """What a file of answers has, and the bytes of its lines but for a torn last one."""

    answers: set[_Key] = field(default_factory=set)
    errors: set[_Error] = field(default_factory=set)
    whole: int = 0


def _begun(path: Path, origin: Origin, *, resume: bool) -> _Known:
    """What a file has that is to be gone on with; a pipe or a device has nothing."""
    if not path.is_file():
        if resume:
            raise RequestError(
                f"{path} is not a file, so there is nothing to go on with. Leave --resume out, or "
                "choose another --answers."
            )
        return _Known()
    if path.stat().st_size == 0:
        return _Known()
    if not resume:
        raise RequestError(
            f"{path} is there already. Add --resume to go on with it, or choose another --answers."
        )
    return _known(path, origin)


def _known(path: Path, origin: Origin) -> _Known:
    known = _Known()
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n") or b"\0" in raw:  # some disks fill with zeros
                _check_torn(raw, path, number)
                break
            known.whole += len(raw)
            line = _line(raw, path, number)
            if KEY in line:
                _check_origin(line, path, origin)
            elif number == 1:
                raise RequestError(
                    f"{path} does not begin with the bundle and the options that its answers come "
                    "from, so it will not be continued. Choose another --answers."
                )
            elif "error" in line:
                known.errors.add((str(line.get("image")), str(line["error"])))
            else:
                known.answers.add(_key_of(line))
    return known


def _check_torn(raw: bytes, path: Path, number: int) -> None:
    """A torn first line must be the beginning of an origin, or another file would be cut."""
    first = f'{{"{KEY}"'.encode()
    raw = raw.partition(b"\0")[0]
    if number == 1 and raw[: len(first)] != first[: len(raw)]:
        raise _not_ours(path, number)


def _line(raw: bytes, path: Path, number: int) -> Mapping[str, Any]:
    """A line as florence-run writes them.

    Raises:
        RequestError: it is not one.
    """
    try:
        line = read_json(raw)
        if not isinstance(line, dict):
            raise TypeError("not an object")
        if KEY not in line and "error" not in line:
            _key_of(line)
    except (ValueError, KeyError, TypeError) as error:
        raise _not_ours(path, number) from error
    return line


def _not_ours(path: Path, number: int) -> RequestError:
    return RequestError(
        f"Line {number} of {path} is not an answer of florence-run, so it will not be continued. "
        "Choose another --answers."
    )


def _key_of(line: Mapping[str, Any]) -> _Key:
    region = tuple(float(edge) for edge in line.get("region") or ())
    return line["image"], line["task"], None if region else line["text_input"], region


def _check_origin(line: Mapping[str, Any], path: Path, origin: Origin) -> None:
    try:
        then, now = origin.differences(line)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            f"This florence-run cannot read where the answers in {path} come from. Choose another "
            "--answers."
        ) from error
    if then:
        raise RequestError(
            f"{path} was begun with {', '.join(then)}; requested now: {', '.join(now)}. Request "
            "the same as then to go on with it, or choose another --answers."
        )
