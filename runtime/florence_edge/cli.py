"""florence-run: ask a bundle about pictures from the command line."""

import argparse
import io
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from . import __version__
from .bundle import Bundle
from .errors import FlorenceEdgeError, RequestError
from .image import SUFFIXES
from .model import Florence2
from .options import GenerationOptions
from .questions import free_question, question
from .report import describe
from .result import Result
from .tasks import TASKS
from .view import View

Ask = Callable[[View], Result]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 130 on Ctrl-C.
    """
    logging.basicConfig(format="florence-run: %(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names and answers that it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(_parser().parse_args(arguments))
    except FlorenceEdgeError as error:
        print(f"florence-run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("florence-run: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has left (| head)
        _close_stdout()
        return 1
    except OSError as error:  # a full disk, a folder that may not be read
        _close_stdout()
        print(f"florence-run: {error}", file=sys.stderr)
        return 1


def _close_stdout() -> None:
    """Send what is left of the output nowhere, or Python would fail to write it at its exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: argparse.Namespace) -> int:
    """Answer for every picture; one that fails is named, and the rest goes on."""
    ask = _ask(arguments)
    images = list(_find_images(arguments.images))
    pictures = _Pictures(arguments.output, "prompt" if arguments.prompt else arguments.task)
    generation = GenerationOptions(
        num_beams=arguments.beams, max_new_tokens=arguments.max_new_tokens
    )
    if arguments.check:
        Bundle.load(arguments.bundle).check_content()
    model = Florence2.load(
        arguments.bundle,
        arguments.device,
        threads=arguments.threads,
        engine_dir=arguments.engine_dir,
    )
    model.resolve(generation)  # or every picture would be refused for the same options
    failed = 0
    with _Progress(len(images)) as progress:
        for path in images:
            progress.show(path)
            try:
                view = model.look(path, options=generation, convention=arguments.convention)
                result = ask(view).filter(arguments.min_score)
            except RequestError as error:
                progress.clear()
                named = "" if str(path) in str(error) else f"{path}: "
                print(f"florence-run: {named}{error}", file=sys.stderr)
                failed += 1
                continue
            progress.clear()
            _print(path, result, arguments)
            pictures.write(path, view, result)
    if failed and len(images) > 1:
        print(f"florence-run: {failed} of {len(images)} images failed.", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-run", description="Ask a Florence-2 bundle about pictures."
    )
    parser.add_argument("bundle", type=Path, help="folder that florence-export wrote")
    parser.add_argument("images", type=Path, nargs="+", help="pictures, or folders of pictures")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--task", help=f"one of {', '.join(TASKS)}")
    asked.add_argument("--prompt", help="a prompt in your own words (VQA and other fine-tunes)")
    parser.add_argument("--text", help="caption or phrase that the task takes beside the picture")
    parser.add_argument(
        "--region", type=_region, metavar="X1,Y1,X2,Y2", help="region in pixels, for region tasks"
    )
    parser.add_argument("--beams", type=int, metavar="N", help="1 (greedy) to 8; default: model's")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument(
        "--min-score",
        type=_score,
        default=0.0,
        metavar="S",
        help="drop regions that score below, 0 to 1",
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the whole bundle with its hashes first"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="cpu (default), cuda, tensorrt or tensorrt-rtx; cuda:1 is the second GPU",
    )
    parser.add_argument(
        "--engine-dir", type=Path, metavar="DIR", help="where florence-build put TensorRT engines"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU engine")
    parser.add_argument(
        "--convention",
        choices=("native", "microsoft"),
        default="native",
        help="whole-number coordinates of transformers (default) or Microsoft's fractions",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write annotated pictures here")
    parser.add_argument("--json", action="store_true", help="print one JSON object a picture")
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    return parser


def _region(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a region; expected four numbers such as 10,20,200,180"
        )
    return numbers


def _ask(arguments: argparse.Namespace) -> Ask:
    """What to ask each view; mistakes that hold for all pictures are found before any is read."""
    if arguments.prompt is not None:
        if arguments.text or arguments.region:
            raise RequestError("--prompt says it all: leave --text and --region out.")
        free_question(arguments.prompt)
        return lambda view: view.ask(arguments.prompt)
    question(arguments.task, arguments.text, arguments.region, image_size=None)
    return lambda view: view.run(arguments.task, arguments.text, region=arguments.region)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score; expected 0 to 1")
    return score


def _find_images(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        pictures = (file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        found = sorted(file for file in pictures if file.is_file())
        if not found:
            raise RequestError(
                f"There is no picture in {path}. Looked for {', '.join(sorted(SUFFIXES))}."
            )
        yield from found


def _print(path: Path, result: Result, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps({"image": str(path), **result.to_json()}), flush=True)
        return
    if len(arguments.images) > 1 or arguments.images[0].is_dir():
        print(f"{path}:")
    print(describe(result), flush=True)


class _Pictures:
    """Writes annotated pictures, if there is a folder for them, without two of one name."""

    def __init__(self, folder: Path | None, task: str) -> None:
        self._folder = folder
        self._task = task.strip("<>").lower()
        self._written: set[str] = set()

    def write(self, path: Path, view: View, result: Result) -> None:
        if self._folder is None:
            return
        name, count = f"{path.name}.{self._task}.png", 1
        while name in self._written:
            count += 1
            name = f"{path.name}.{self._task}-{count}.png"
        self._written.add(name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            result.draw(view.image).save(self._folder / name)
        except OSError as error:
            raise FlorenceEdgeError(
                f"Cannot write {self._folder / name}: {error}. Choose another --output."
            ) from error


class _Progress:
    """One line on the terminal that says which picture is being looked at."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0
        self._visible = total > 1 and sys.stderr.isatty()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, path: Path) -> None:
        self._count += 1
        if self._visible:
            print(f"\r\033[K{self._count}/{self._total} {path.name}", end="", file=sys.stderr)

    def clear(self) -> None:
        if self._visible:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
