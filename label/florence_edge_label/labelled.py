"""A labelled data set as it lies on the disk: picture by picture, in the order of the list."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from florence_edge import AnswerKind, RequestError

from . import arrow
from .parts import ERROR, Row, part_path, read_part
from .picture_list import Entry, PictureList
from .plan import Plan, RunFolder


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture with all its answers."""

    entry: Entry
    rows: tuple[Row, ...]

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None where it could not be read."""
        width, height = self.rows[0].width, self.rows[0].height
        return None if width is None or height is None else (width, height)

    @property
    def errors(self) -> list[str]:
        """Why answers are missing."""
        return [row.error or "" for row in self.rows if row.status == ERROR]


class LabelledSet:
    """The parts that are there of a run.

    Args:
        folder: the output of florence-label.
        partial: whether shards may be missing.

    Raises:
        RequestError: it is not such a folder, or shards are missing.
        MissingPackageError: pyarrow is not installed.
    """

    def __init__(self, folder: Path, *, partial: bool = False) -> None:
        arrow.check_installed()
        self.folder = RunFolder(folder)
        self.plan: Plan = self.folder.read()
        try:
            self.missing = self.folder.missing(self.plan)
        except FileNotFoundError:
            self.missing = list(range(self.plan.shards))
        if self.missing and not partial:
            raise RequestError(
                f"{len(self.missing):,} of {self.plan.shards:,} shards of {folder} are not labelled"
                " yet. Give the command that labels again, merge the shares of other machines, or "
                "take what is there: --partial."
            )

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that were asked, in their order."""
        return str(self.plan.options["task"]).split(",")

    @property
    def region_tasks(self) -> list[str]:
        """Those whose answers are regions."""
        kinds = {name: self.plan.answer_kind(name) for name in self.tasks}
        return [name for name, kind in kinds.items() if kind is not AnswerKind.PURE_TEXT]

    def pictures(self, columns: Sequence[str] | None = None) -> Iterator[LabelledPicture]:
        """All pictures, shard by shard; few are in memory at a time.

        Args:
            columns: the only ones to read beside `image_id`, `image` and `status`.

        Raises:
            RequestError: a part is damaged, of another run, or does not fit the list.
        """
        missing = set(self.missing)
        with closing(PictureList(self.folder.pictures)) as listed:
            for number in range(self.plan.shards):
                if number not in missing:
                    first = number * self.plan.shard_size
                    yield from self._shard(
                        number, listed.slice(first, self.plan.shard_size), columns
                    )

    def _shard(
        self, number: int, entries: Sequence[Entry], columns: Sequence[str] | None
    ) -> Iterator[LabelledPicture]:
        path = part_path(self.folder.parts, number)
        rows = read_part(path, self.plan.fingerprint, columns)
        waiting = iter(entries)
        for image_id, group in groupby(rows, key=lambda row: row.image_id):
            entry = next(waiting, None)
            if entry is None or entry.image_id != image_id:
                raise RequestError(
                    f"{path} does not hold the pictures of its shard. Delete it, and label again."
                )
            yield LabelledPicture(entry, tuple(group))
        if next(waiting, None) is not None:
            raise RequestError(
                f"{path} has fewer pictures than its shard. Delete it, and label again."
            )
