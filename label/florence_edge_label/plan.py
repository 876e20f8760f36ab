"""What a run is: bundle, options and list of pictures, as run.json keeps them; and its folder.

DIR/run.json            what the answers depend on; what is resumed has to be the same
DIR/pictures.parquet    the list
DIR/parts/              the answers, a file a shard
DIR/errors.jsonl        pictures that could not be read or answered, with the reason
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from filecmp import cmp
from pathlib import Path
from typing import Any

from florence_edge import TASKS, AnswerKind, FlorenceEdgeError, RequestError, __version__
from florence_edge.cli.answers_file import Origin
from florence_edge.files import from_json, put_in_place, read_json

from .own_file import draft_of, own_file
from .parts import finished
from .picture_list import Entry, check_same, write_list
from .sources.coco import Category
from .sources.find import Source
from .thresholds import Thresholds

OWN_TASKS = "own_tasks"
"""The option that says how answers to a bundle's own tasks are read, by name; absent without."""
CLEAN = "clean"
"""The option that says whether exports are cleaned; absent where they are not."""

_KEY = "florence-label"
_DIGITS = 16  # of a hash

_MIN_SHARDS = 64  # so that many workers have something to do, and little is lost with one
_MIN_BATCHES = 4  # of a shard: decoding does not run ahead into the next one
_MAX_SHARD = 256  # pictures; at 1 picture/s what a power cut costs is 4 minutes
_MAX_SHARDS = 32_768  # files that a folder should hold; shards grow beyond


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that the answers of a run depend on."""

    bundle: Mapping[str, str]
    options: Mapping[str, Any]
    source: str
    pictures: int
    list_sha256: str
    shard_size: int
    categories: tuple[Category, ...] = ()
    """The classes of a COCO source, which exports keep."""

    @property
    def column(self) -> str | None:
        """Of tables: the column that holds the pictures, where it was named."""
        column: str | None = self.options.get("column")
        return column

    def answer_kind(self, task: str) -> AnswerKind:
        """How the answers to a task of the run are read; it may be one of the bundle's own."""
        own: Mapping[str, str] = self.options.get(OWN_TASKS) or {}
        return AnswerKind(own[task]) if task in own else TASKS[task].answer

    @property
    def thresholds(self) -> Thresholds:
        """Which regions exports keep unless they are told otherwise."""
        options, clean = self.options, bool(self.options.get(CLEAN))
        return Thresholds.parse(options["min_score"], options["nms"], clean=clean)

    @property
    def shards(self) -> int:
        """How many there are."""
        return math.ceil(self.pictures / self.shard_size)

    def pictures_of(self, shard: int) -> int:
        """How many pictures a shard has; the last one may have fewer."""
        return min(self.shard_size, self.pictures - shard * self.shard_size)

    @property
    def fingerprint(self) -> str:
        """What every part carries."""
        known = [self.bundle["sha256"], self.options, self.list_sha256, self.shard_size]
        content = json.dumps(known, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]

    def to_json(self) -> dict[str, Any]:
        """The content of run.json."""
        return {_KEY: __version__, **asdict(self)}


def default_shard_size(pictures: int, batch: int) -> int:
    """Pictures of a shard, whole batches: it depends on the list alone, never on the workers."""
    wanted = min(math.ceil(pictures / _MIN_SHARDS), _MAX_SHARD)
    needed = max(wanted, math.ceil(pictures / _MAX_SHARDS), _MIN_BATCHES * batch)
    return math.ceil(needed / batch) * batch


@dataclass(frozen=True, slots=True)
class Slice:
    """Every n-th shard of a run: one of several machines that share it without an engine."""

    number: int = 1
    of: int = 1

    @staticmethod
    def parse(text: str) -> "Slice":
        """Read `3/16`.

        Raises:
            RequestError: it is not two numbers, the first from 1 to the second.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise RequestError(
                f"--shards is {text!r}; expected such as 3/16: the third of sixteen machines."
            )
        return Slice(int(number), int(of))

    def has(self, shard: int) -> bool:
        """Whether a shard is one of this machine's."""
        return shard % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where the things of a run are."""

    path: Path

    @property
    def run_json(self) -> Path:
        """What the run is."""
        return self.path / "run.json"

    @property
    def pictures(self) -> Path:
        """The list."""
        return self.path / "pictures.parquet"

    @property
    def parts(self) -> Path:
        """The folder of the answers."""
        return self.path / "parts"

    @property
    def errors(self) -> Path:
        """What could not be answered."""
        return self.path / "errors.jsonl"

    def read(self) -> Plan:
        """The plan of the run that is here.

        Raises:
            RequestError: there is none, or run.json is damaged.
        """
        try:
            return from_json(Plan, read_json(self.run_json))
        except FileNotFoundError:
            raise RequestError(
                f"{self.path} is not a folder that florence-label wrote: there is no run.json in "
                "it."
            ) from None
        except ValueError as error:
            raise RequestError(
                f"{self.run_json} is damaged: {error}. Fetch it again, or label into another "
                "--output."
            ) from error

    def check_usable(self) -> None:
        """Find out whether a run may begin or go on here.

        Raises:
            RequestError: there is something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RequestError(f"{self.path} is a file. Choose another --output.")
        if not self.path.is_dir() or self.run_json.exists():
            return
        ours = {self.pictures.name, self.parts.name}
        others = [name for name in os.listdir(self.path) if name not in ours and name[0] != "."]
        if others:
            raise RequestError(
                f"{self.path} holds other things ({sorted(others)[0]}) and no run of "
                "florence-label. Choose an empty or new --output."
            )

    def missing(self, plan: Plan) -> list[int]:
        """The shards without a part."""
        done = finished(self.parts)
        return [number for number in range(plan.shards) if number not in done]


def begin(
    folder: RunFolder,
    origin: Origin,
    source: Source,
    *,
    batch: int,
    shard_size: int | None,
) -> Plan:
    """Write the list and the plan of a new run, or see that the one that is here is the same.

    A list that is the same, places of the pictures included, stays the file it is: other machines
    may have it open, and on NFS they could not read on in one that was replaced (ESTALE).

    Raises:
        RequestError: another bundle, other options or other pictures; the difference is named. Or
            the source cannot be read.
        FlorenceEdgeError: the folder cannot be written.
    """
    folder.check_usable()
    try:
        folder.parts.mkdir(parents=True, exist_ok=True)
        with draft_of(folder.pictures) as unfinished:
            found = write_list(unfinished, _entries(source))
            if not found.count:
                raise RequestError(f"There is no picture in {source.given}.")
            plan = Plan(
                bundle=origin.bundle,
                options=origin.options,
                source=source.given,
                pictures=found.count,
                list_sha256=found.sha256,
                shard_size=shard_size or default_shard_size(found.count, batch),
                categories=source.categories,
            )
            if folder.run_json.exists():
                before = folder.read()
                _check_same_answers(folder, before, origin, shard_size)
                if before.list_sha256 != found.sha256:
                    check_same(folder.pictures, unfinished)
                plan = before
            if not (folder.pictures.exists() and cmp(unfinished, folder.pictures, shallow=False)):
                put_in_place(unfinished, folder.pictures)  # new, moved, or damaged before
        if not folder.run_json.exists():
            with own_file(folder.run_json) as unfinished:
                unfinished.write_text(json.dumps(plan.to_json(), indent=1) + "\n", "utf-8")
    except OSError as error:
        raise FlorenceEdgeError(
            f"Cannot write {folder.path}: {error}. Make room, or choose another --output."
        ) from error
    return plan


def _entries(source: Source) -> Iterator[Entry]:
    try:
        yield from source.list_entries()
    except OSError as error:
        if isinstance(error, FlorenceEdgeError):
            raise
        raise RequestError(
            f"The pictures of {source.given} cannot be listed: {error}. See that it is there and "
            "may be read; the same command goes on."
        ) from error


def _check_same_answers(
    folder: RunFolder, before: Plan, origin: Origin, shard_size: int | None
) -> None:
    then, now = origin.differences({"bundle": before.bundle, "options": before.options})
    if shard_size not in (None, before.shard_size):
        then.append(f"shard_size {before.shard_size}")
        now.append(f"shard_size {shard_size}")
    if then:
        raise RequestError(
            f"{folder.path} was begun with {', '.join(then)}; requested now: {', '.join(now)}. "
            "Request the same as then to go on, or label into another --output. Scores, doubles "
            "and clean-up can be chosen anew without labelling: florence-label export --min-score, "
            "--nms, --clean or --no-clean."
        )
