"""What a run leaves on the disk beside its answers: drawings, crops, label files, a table.

    --output DIR      DIR/a/1.jpg.od.png           the picture with the answer on it
    --save-crops DIR  DIR/car/a/1.jpg-1.jpg        what each region shows, by label
    --save-txt DIR    DIR/a/1.txt, DIR/classes.txt YOLO's label files and the names of their numbers
    --csv FILE                                     a row for each region, or text

a/1.jpg is the path below the folder that was asked about, so that no two pictures share a name. Of
frames, the number comes behind the name: drive.mp4_12-1.jpg, drive_12.txt.
"""

import argparse
import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import FlorenceEdgeError, RequestError
from ..files import short_name, whole_file
from ..regions import Region
from ..results.formats import NAMELESS, ClassIds, table_rows
from ..results.result import Result
from ..tasks import AnswerKind, Request
from .growing_file import has_content, open_new

_COLUMNS = (
    *("image", "frame", "width", "height", "task", "text_input", "text"),
    *("label", "score", "label_score"),
    *("x1", "y1", "x2", "y2", "shape", "track_id"),
)
_FOLDERS = ("output", "save_crops", "save_txt")
_FRESH = ("save_crops", "save_txt")  # folders that are one run's alone
_FILES = ("answers", "csv", "save")
_CLASSES = "classes.txt"
_MAX_NAME = 160  # bytes of a label or a picture in a name, of which systems allow 255
_NOT_IN_NAMES = re.compile(r"[^\w .-]+")


def check_targets(arguments: argparse.Namespace) -> None:
    """Refuse places that another run or another output has, before anything is loaded.

    Raises:
        RequestError: saying which, and what to do.
    """
    taken: dict[str, str] = {}
    for name in (*_FILES, *_FOLDERS):
        path, option = getattr(arguments, name), "--" + name.replace("_", "-")
        if path is None:
            continue
        if (other := taken.setdefault(os.path.realpath(path), option)) != option:
            raise RequestError(
                f"{other} and {option} are both {path}. Give each a place of its own."
            )
        if name in _FOLDERS and path.exists() and not path.is_dir():
            raise RequestError(f"{path} is not a folder. Choose another {option}.")
        if name in _FILES and path.is_dir():
            raise RequestError(f"{path} is a folder. Choose the name of a file for {option}.")
        if name in _FRESH and path.is_dir() and any(path.iterdir()):
            raise RequestError(
                f"{path} is not empty, and files of two runs are not mixed. Choose another "
                f"{option}, or remove the folder."
            )
        if name == "csv" and has_content(path):
            raise RequestError(f"{path} is there already. Choose another {option}, or remove it.")


class Outputs:
    """Writes what was asked for about each picture or frame; `open_outputs` makes it."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        request: Request,
        root: Path | None,
        write_table: Callable[[str], None] | None,
        called: str | None,
    ) -> None:
        self._drawings: Path | None = arguments.output
        self._crops: Path | None = arguments.save_crops
        self._labels: Path | None = arguments.save_txt
        self._csv: Path | None = arguments.csv
        self._line_width: int | None = arguments.line_width
        self._prompted = request.prompt is not None
        self._root = root
        self._class_ids = ClassIds(arguments.classes)
        self._classes: tuple[str, ...] | None = None  # as they are written
        self._write_table = write_table
        self._called = called
        self._headed = False  # the table
        self._counts = {"annotated picture": 0, "crop": 0, "label file": 0, "row": 0}

    def write(
        self, source: Path, image: Image.Image, results: Sequence[Result], frame: int | None = None
    ) -> None:
        """Write about one picture, or one frame of a video.

        Raises:
            FlorenceEdgeError: something cannot be written.
        """
        number = "" if frame is None else f"_{frame}"
        below = _below(self._root, source)
        name = f"{short_name(below.name, _MAX_NAME)}{number}"
        if self._drawings is not None:
            self._draw(self._drawings / below.parent, name, image, results)
        if self._crops is not None:
            self._crop(self._crops, below.parent / name, image, results)
        if self._labels is not None:
            self._label(self._labels, _label_file(self._labels, below, number), results)
        if self._write_table is not None:
            about = {"image": self._called or str(source), "frame": frame}
            rows = [{**about, **row} for row in _rows(results)]
            self._write_table(_as_csv(rows, header=not self._headed))
            self._headed = True
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

    def _draw(self, folder: Path, name: str, image: Image.Image, results: Sequence[Result]) -> None:
        for result in results:
            task = "prompt" if self._prompted else result.task.name.lower()
            picture = result.draw(image, line_width=self._line_width)
            _save(folder / f"{name}.{task}.png", picture)
            self._counts["annotated picture"] += 1

    def _crop(
        self, folder: Path, below: Path, image: Image.Image, results: Sequence[Result]
    ) -> None:
        numbers: Counter[str] = Counter()
        for region in (region for result in results for region in result.regions):
            crop = _crop_of(region, image)
            if crop is not None:
                label = _NOT_IN_NAMES.sub("_", region.label).strip(" .") or NAMELESS
                label = short_name(label, _MAX_NAME)
                numbers[label] += 1
                _save(folder / label / f"{below}-{numbers[label]}.jpg", crop)
                self._counts["crop"] += 1

    def _label(self, folder: Path, file: Path, results: Sequence[Result]) -> None:
        lines = [line for result in results for line in result.to_yolo(self._class_ids)]
        if self._classes != self._class_ids.names:  # before a label file has a number of them
            self._classes = self._class_ids.names
            _write_text(folder / _CLASSES, "".join(f"{name}\n" for name in self._classes))
        _write_text(file, "".join(f"{line}\n" for line in lines))
        self._counts["label file"] += 1


@contextmanager
def open_outputs(
    arguments: argparse.Namespace,
    request: Request,
    images: Sequence[Path] = (),
    called: str | None = None,
) -> Iterator[Outputs]:
    """What the arguments ask for about pictures, or frames; tables grow row by row.

    Args:
        arguments: the command line.
        request: the tasks.
        images: all pictures that will come.
        called: what stands for the source of frames in the table.

    Raises:
        RequestError: what is asked has no regions, or two pictures would have one label file.
        FlorenceEdgeError: something cannot be written.
    """
    _check_regions(arguments, request)
    root = _root(arguments.images, images) if images else None
    if arguments.save_txt is not None and root is not None:
        _check_label_files(arguments.save_txt, root, images)
    with ExitStack() as stack:
        for folder in (getattr(arguments, name) for name in _FOLDERS):
            if folder is not None:
                with _told_as_writing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
        write_table = None
        if arguments.csv is not None:
            write_table = stack.enter_context(open_new(arguments.csv, "--csv"))
        yield Outputs(arguments, request, root, write_table, called)


def _check_regions(arguments: argparse.Namespace, request: Request) -> None:
    """Refuse crops and label files of tasks that have none, or several kinds of them."""
    pointing = [task.token for task in request.tasks if task.answer is not AnswerKind.PURE_TEXT]
    for name in _FRESH:
        if getattr(arguments, name) is not None and not pointing:
            option = "--" + name.replace("_", "-")
            raise RequestError(
                f"{option} needs a task that gives regions, such as OD. Add one, or leave {option} "
                "out."
            )
    if arguments.save_txt is not None and len(pointing) > 1:
        raise RequestError(
            f"--save-txt writes the regions of one task, and {', '.join(pointing)} are asked. Run "
            "it once for each, with a folder of its own."
        )


def _root(words: Sequence[str], images: Sequence[Path]) -> Path:
    """The folder that is mirrored: the one that was named, or what lies above all pictures."""
    folders = [path for path in map(Path, words) if path.is_dir()]
    alone = {path.parent for path in images if not any(map(path.is_relative_to, folders))}
    return Path(os.path.commonpath([os.path.abspath(each) for each in (*folders, *alone)]))


def _below(root: Path | None, source: Path) -> Path:
    """The path of a picture below the folder that is mirrored; of a video its name."""
    return Path(source.name if root is None else os.path.relpath(source, root))


def _label_file(folder: Path, below: Path, number: str = "") -> Path:
    """Where YOLO's tools look for the labels of a picture; `number` is a frame's."""
    stem = short_name(below.stem, _MAX_NAME) if number else below.stem
    return folder / below.parent / f"{stem}{number}.txt"


def _check_label_files(folder: Path, root: Path, images: Sequence[Path]) -> None:
    taken: dict[Path, object] = {folder / _CLASSES: "the names of the classes"}
    for image in images:
        file = _label_file(folder, _below(root, image))
        if (other := taken.setdefault(file, image)) != image:
            raise RequestError(
                f"The label file of {image} would be {file}, which is that of {other} already. "
                "Rename the picture, or leave it out: YOLO's tools find labels by this name alone."
            )


def _crop_of(region: Region, image: Image.Image) -> Image.Image | None:
    """What a region's box shows, whole pixels; None where it has no area in the picture."""
    left, top = (max(math.floor(edge), 0) for edge in region.box[:2])
    right, bottom = map(min, map(math.ceil, region.box[2:]), image.size)
    return image.crop((left, top, right, bottom)) if left < right and top < bottom else None


def _rows(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    for result in results:
        width, height = result.image_size
        size = {"width": width, "height": height}
        asked = {**size, "task": result.task.token, "text_input": result.text_input}
        if result.task.answer is AnswerKind.PURE_TEXT:
            yield {**asked, "text": result.text, "score": result.score}
        for row in table_rows(result.regions):
            yield {**asked, **{name: row[name] for name in row if name in _COLUMNS}}


def _as_csv(rows: Sequence[dict[str, Any]], *, header: bool) -> str:
    file = io.StringIO()
    table = csv.DictWriter(file, _COLUMNS)
    if header:
        table.writeheader()
    table.writerows(rows)
    return file.getvalue().encode(errors="backslashreplace").decode()  # names that are no text


@contextmanager
def _told_as_writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FlorenceEdgeError):
            raise
        raise FlorenceEdgeError(f"Cannot write {path}: {error}. Choose another place.") from error


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
