"""florence-run: ask a bundle about pictures, a camera or a video from the command line."""

import argparse
import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..batch import Answered, run_many
from ..bundle import Bundle
from ..command import plain, printable, run_command
from ..devices import Device
from ..errors import FlorenceEdgeError, RequestError
from ..files import whole_file
from ..model import EncodedImage, Florence2
from ..results.result import Result
from ..selftest import finite_sample
from ..tasks import Request
from ..video.capture import end_soon_with
from .answers_file import open_answers
from .arguments import options_from, origin_from, parse_arguments, request_from
from .progress import Pace, StatusLine
from .source import find_pictures
from .video import run_video


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 128 + n where
        signal n ended it.
    """
    logging.basicConfig(format="florence-run: %(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names and answers that it cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    status = run_command(
        "florence-run", lambda: _run(parse_arguments(arguments)), explain=_explained
    )
    end_soon_with(status)
    return status


def _explained(error: OSError) -> str:
    if error.filename is not None:
        return str(error)
    return (
        f"Cannot write the answers to the standard output: {error.strerror}. "
        "Make room where it goes, or send it elsewhere."
    )


def _run(arguments: argparse.Namespace) -> int:
    request = request_from(arguments)
    if arguments.source is not None:
        return run_video(lambda: _load(arguments), request, arguments)
    left_out: list[str] = []
    images = list(find_pictures(arguments.images, left_out))
    status = _run_pictures(images, request, arguments)
    for line in left_out:
        print(f"florence-run: {printable(line)}", file=sys.stderr)
    return status


def _load(arguments: argparse.Namespace) -> Florence2:
    # Loading verifies the weights, but for TensorRT the engines in their place.
    family = Device.parse(arguments.device).family
    beside = arguments.check and family == "tensorrt"
    if beside:
        Bundle.load(arguments.bundle).check_weights()
    if family == "auto":  # what was taken, and why
        logging.getLogger("florence_edge.backends.auto").setLevel(logging.INFO)
    model = Florence2.load(
        arguments.bundle,
        arguments.device,
        convention=arguments.convention,
        threads=arguments.threads,
        spinning=None if arguments.spinning is None else arguments.spinning == "yes",
        engine_dir=arguments.engine_dir,
        engine_precision=arguments.engine_precision,
        max_pixels=arguments.max_pixels,
        deep_range=arguments.deep_range,
        verify=arguments.verify or (arguments.check and not beside),
    )
    if arguments.check:
        if family == "auto" and _runs_on(model).get("device", "").startswith("tensorrt"):
            model.bundle.check_weights()
        finite_sample(model.bundle, model.backend)
    return model


def _runs_on(model: Florence2) -> dict[str, Any]:
    """What the model runs on, as plain JSON."""
    return {} if model.engine_settings is None else model.engine_settings.to_json()


def _run_pictures(images: Sequence[Path], request: Request, arguments: argparse.Namespace) -> int:
    """Answer for every picture; one that fails is named, and the rest goes on."""
    failed = 0
    with ExitStack() as stack:
        answers = None
        if arguments.answers is not None:
            origin = origin_from(arguments)
            opened = open_answers(arguments.answers, request, origin, resume=arguments.resume)
            answers = stack.enter_context(opened)
            images = [image for image in images if not answers.has(image)]
        model = stack.enter_context(_load(arguments))
        line = stack.enter_context(StatusLine(shown=len(images) > 1))
        pace, pictures = Pace(len(images)), _Pictures(arguments.output, request)
        options = options_from(arguments)
        for answered in run_many(model, images, request, options=options, batch=arguments.batch):
            path = Path(str(answered.image))
            results = [result.filter(arguments.min_score) for result in answered.results]
            line.clear()
            if answered.error is not None:
                _complain(path, answered.error)
                failed += 1
            _print(path, results, arguments, _runs_on(model))
            pictures.write(path, answered, results)
            if answers is not None and answered.error is not None:
                answers.write_error(path, answered.error)
            elif answers is not None:
                answers.write(path, results)
            line.show(pace.after_one_more())
    if failed and len(images) > 1:
        print(f"florence-run: {failed} of {len(images)} images failed.", file=sys.stderr)
    if written := _written(arguments, pictures.count):
        print(f"florence-run: {printable(written)}", file=sys.stderr)
    return 1 if failed else 0


def _written(arguments: argparse.Namespace, pictures: int) -> str:
    """What a run has left on the disk, in a sentence; may be empty."""
    kinds = "an annotated picture" if pictures == 1 else f"{pictures} annotated pictures"
    drawn = f"{kinds} in {arguments.output}" if pictures else ""
    answers = f"the answers in {arguments.answers}" if arguments.answers is not None else ""
    both = " and ".join(filter(None, (drawn, answers)))
    return f"Wrote {both}." if both else ""


def _complain(path: Path, error: RequestError) -> None:
    named = "" if str(path) in str(error) else f"{path}: "
    print(f"florence-run: {printable(f'{named}{error}')}", file=sys.stderr)


def _print(
    path: Path,
    results: Sequence[Result],
    arguments: argparse.Namespace,
    engine: Mapping[str, Any],
) -> None:
    """Answers on the standard output, unless they go to a file and no JSON is asked for."""
    if arguments.json:
        for result in results:
            line = {"image": str(path), **result.to_json(), "engine": dict(engine)}
            print(json.dumps(line), flush=True)
        return
    if arguments.answers is not None or not results:
        return
    if len(arguments.images) > 1 or Path(arguments.images[0]) != path:
        print(printable(f"{path}:"))
    for result in results:
        if len(results) > 1:
            print(f"{printable(result.task.token)}:")
        print(plain(result.describe()), flush=True)


class _Pictures:
    """Writes annotated pictures, if there is a folder for them, without two of one name."""

    def __init__(self, folder: Path | None, request: Request) -> None:
        self._folder = folder
        self._prompted = request.prompt is not None
        self._written: set[str] = set()

    @property
    def count(self) -> int:
        """How many were written."""
        return len(self._written)

    def write(self, path: Path, answered: Answered, results: Sequence[Result]) -> None:
        if self._folder is not None and answered.view is not None:
            for result in results:
                self._write(self._folder / self._name(path, result), answered.view, result)

    def _name(self, path: Path, result: Result) -> str:
        task = "prompt" if self._prompted else result.task.name.lower()
        name, count = f"{path.name}.{task}.png", 1
        while name in self._written:
            count += 1
            name = f"{path.name}.{task}-{count}.png"
        self._written.add(name)
        return name

    @staticmethod
    def _write(file: Path, view: EncodedImage, result: Result) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as unfinished:
                result.draw(view.image).save(unfinished)
        except OSError as error:
            raise FlorenceEdgeError(
                f"Cannot write {file}: {error}. Choose another --output."
            ) from error
