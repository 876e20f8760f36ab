"""What a run leaves on the disk beside its answers: drawings, crops, label files, a table.

    --output DIR      DIR/a.jpg.od.png             the picture with the answer on it
    --save-crops DIR  DIR/car/a.jpg-1.jpg          what each region shows, by label
    --save-txt DIR    DIR/a.txt, DIR/classes.txt   YOLO's label files and the names of their numbers
    --csv FILE                                     a row for each region, or text

Of frames, the number comes behind the name: drive.mp4_12-1.jpg, drive_12.txt.
"""

import argparse
import csv
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import FlorenceEdgeError
from ..files import whole_file
from ..regions import Region
from ..results.formats import ClassIds, table_rows
from ..results.result import Result
from ..tasks import AnswerKind, Request

_COLUMNS = (
    *("image", "frame", "task", "text_input", "text", "label", "score", "label_score"),
    *("x1", "y1", "x2", "y2", "shape", "track_id"),
)
_CLASSES = "classes.txt"
_UNLABELLED = "unlabelled"
_MAX_NAME = 80  # characters of a label that name a folder
_NOT_IN_NAMES = re.compile(r"[^\w .-]+")


class Outputs:
    """Writes what was asked for about each picture or frame; `open_outputs` makes it."""

    def __init__(
        self, arguments: argparse.Namespace, request: Request, table: "csv.DictWriter[str] | None"
    ) -> None:
        self._drawings: Path | None = arguments.output
        self._crops: Path | None = arguments.save_crops
        self._labels: Path | None = arguments.save_txt
        self._csv: Path | None = arguments.csv
        self._line_width: int | None = arguments.line_width
        self._prompted = request.prompt is not None
        self._class_ids = ClassIds(arguments.classes)
        self._table = table
        self._counts = {"annotated picture": 0, "crop": 0, "label file": 0, "row": 0}
        self._names = self._reserved()

    def write(
        self, source: Path, image: Image.Image, results: Sequence[Result], frame: int | None = None
    ) -> None:
        """Write about one picture, or one frame of a video.

        Raises:
            FlorenceEdgeError: something cannot be written.
        """
        number = "" if frame is None else f"_{frame}"
        if frame is not None:  # no two frames have a number, and a camera may run for months
            self._names = self._reserved()
        if self._drawings is not None:
            for result in results:
                self._draw(self._drawings, source, image, result)
        if self._crops is not None:
            for result in results:
                self._crop(self._crops, f"{source.name}{number}", image, result)
        if self._labels is not None:
            self._label(self._labels, f"{source.stem}{number}", results)
        if self._table is not None:
            rows = [{"image": str(source), "frame": frame, **row} for row in _rows(results)]
            with _told_as_writing(self._csv):
                self._table.writerows(rows)
            self._counts["row"] += len(rows)

    def written(self) -> list[str]:
        """What there is, such as "2 crops in DIR"."""
        places = (self._drawings, self._crops, self._labels, self._csv)
        counted = zip(self._counts.items(), places, strict=True)
        return [
            f"{count} {name}{'s' * (count != 1)} in {place}"
            for (name, count), place in counted
            if place is not None and (count or name == "row")
        ]

    def write_classes(self) -> None:
        """Write which number of the label files is which label."""
        if self._labels is not None and self._counts["label file"]:
            content = "".join(f"{name}\n" for name in self._class_ids.names)
            _write_text(self._labels / _CLASSES, content)

    def _reserved(self) -> set[Path]:
        return set() if self._labels is None else {self._labels / _CLASSES}

    def _draw(self, folder: Path, source: Path, image: Image.Image, result: Result) -> None:
        task = "prompt" if self._prompted else result.task.name.lower()
        file = self._unused(folder, f"{source.name}.{task}", ".png")
        _save(file, result.draw(image, line_width=self._line_width))
        self._counts["annotated picture"] += 1

    def _crop(self, folder: Path, name: str, image: Image.Image, result: Result) -> None:
        for region in result.regions:
            crop = _crop_of(region, image)
            if crop is not None:
                named = _NOT_IN_NAMES.sub("_", region.label)[:_MAX_NAME].strip(" .")
                place = folder / (named or _UNLABELLED)
                _save(self._unused(place, name, ".jpg", numbered=True), crop)
                self._counts["crop"] += 1

    def _label(self, folder: Path, name: str, results: Sequence[Result]) -> None:
        lines = [line for result in results for line in result.to_yolo(self._class_ids)]
        _write_text(self._unused(folder, name, ".txt"), "".join(f"{line}\n" for line in lines))
        self._counts["label file"] += 1

    def _unused(self, folder: Path, name: str, suffix: str, *, numbered: bool = False) -> Path:
        """A name that nothing of this run has, with a number behind it where it has to be."""
        file, count = folder / f"{name}{'-1' if numbered else ''}{suffix}", 1
        while file in self._names:
            count += 1
            file = folder / f"{name}-{count}{suffix}"
        self._names.add(file)
        return file


@contextmanager
def open_outputs(arguments: argparse.Namespace, request: Request) -> Iterator[Outputs]:
    """What the arguments ask for; the table and classes.txt get their names at the end.

    Raises:
        FlorenceEdgeError: something cannot be written.
    """
    with ExitStack() as stack:
        table = None
        if arguments.csv is not None:
            with _told_as_writing(arguments.csv):
                arguments.csv.parent.mkdir(parents=True, exist_ok=True)
                unfinished = stack.enter_context(whole_file(arguments.csv))
                file = stack.enter_context(unfinished.open("w", encoding="utf-8", newline=""))
                table = csv.DictWriter(file, _COLUMNS)
                table.writeheader()
        outputs = Outputs(arguments, request, table)
        stack.callback(outputs.write_classes)  # also for what is there of a run that was stopped
        yield outputs


def _crop_of(region: Region, image: Image.Image) -> Image.Image | None:
    """What a region's box shows, whole pixels; None where it has no area in the picture."""
    left, top = (max(math.floor(edge), 0) for edge in region.box[:2])
    right, bottom = map(min, map(math.ceil, region.box[2:]), image.size)
    return image.crop((left, top, right, bottom)) if left < right and top < bottom else None


def _rows(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    for result in results:
        asked = {"task": result.task.token, "text_input": result.text_input}
        if result.task.answer is AnswerKind.PURE_TEXT:
            yield {**asked, "text": result.text, "score": result.score}
        for row in table_rows(result.regions):
            yield {**asked, **{name: row[name] for name in row if name in _COLUMNS}}


@contextmanager
def _told_as_writing(file: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FlorenceEdgeError):
            raise
        raise FlorenceEdgeError(f"Cannot write {file}: {error}. Choose another place.") from error


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    with _told_as_writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as unfinished:
            yield unfinished


def _save(file: Path, picture: Image.Image) -> None:
    with _whole(file) as unfinished:
        picture.save(unfinished)


def _write_text(file: Path, content: str) -> None:
    with _whole(file) as unfinished:
        unfinished.write_text(content, encoding="utf-8")
