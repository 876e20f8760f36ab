"""florence-run: ask a bundle about pictures, a camera or a video from the command line."""

import argparse
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..batch import run_many
from ..bundle import Bundle
from ..command import plain, printable, run_command
from ..devices import Device
from ..errors import RequestError
from ..model import Florence2
from ..results.result import Result
from ..selftest import finite_sample
from ..task_arguments import request_from
from ..tasks import Request
from ..video.capture import end_soon_with
from .answer_line import AnswerLines, Subject, print_lines
from .answers_file import open_answers
from .arguments import kept_from, options_from, origin_from, parse_arguments
from .outputs import open_outputs
from .progress import Pace, StatusLine, say_written
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
        taken = model.engine_settings
        if family == "auto" and taken is not None and taken.device.family == "tensorrt":
            model.bundle.check_weights()
        finite_sample(model.bundle, model.backend)
    return model


def _run_pictures(images: Sequence[Path], request: Request, arguments: argparse.Namespace) -> int:
    """Answer for every picture; one that fails is named, and the rest goes on."""
    failed = 0
    with ExitStack() as stack:
        outputs = stack.enter_context(open_outputs(arguments, request, images))
        answers = None
        if arguments.answers is not None:
            origin = origin_from(arguments)
            opened = open_answers(arguments.answers, request, origin, resume=arguments.resume)
            answers = stack.enter_context(opened)
            images = [image for image in images if not answers.has(image)]
        model = stack.enter_context(_load(arguments))
        status_line = stack.enter_context(StatusLine(shown=len(images) > 1))
        lines = AnswerLines.of(model, request)
        pace = Pace(len(images))
        options = options_from(arguments)
        for answered in run_many(model, images, request, options=options, batch=arguments.batch):
            path = Path(str(answered.image))
            results = [kept_from(arguments, result) for result in answered.results]
            status_line.clear()
            if answered.error is not None:
                _complain(path, answered.error)
                failed += 1
            said = lines.about(Subject(image=str(path)), results)
            _print(path, results, said, arguments)
            if answered.view is not None and answered.error is None:
                outputs.write(path, answered.view.image, results)
            if answers is not None and answered.error is not None:
                answers.write_error(path, answered.error)
            elif answers is not None:
                answers.write(said)
            status_line.show(pace.after_one_more())
    if failed and len(images) > 1:
        print(f"florence-run: {failed} of {len(images)} images failed.", file=sys.stderr)
    written = [] if answers is None else [f"the answers in {arguments.answers}"]
    say_written(*outputs.written(), *written)
    return 1 if failed else 0


def _complain(path: Path, error: RequestError) -> None:
    named = "" if str(path) in str(error) else f"{path}: "
    print(f"florence-run: {printable(f'{named}{error}')}", file=sys.stderr)


def _print(
    path: Path,
    results: Sequence[Result],
    said: Sequence[Mapping[str, Any]],
    arguments: argparse.Namespace,
) -> None:
    """Answers on the standard output, unless they go to a file and no JSON is asked for."""
    if arguments.json:
        print_lines(said)
        return
    if arguments.answers is not None or not results:
        return
    if len(arguments.images) > 1 or Path(arguments.images[0]) != path:
        print(printable(f"{path}:"))
    for result in results:
        print(plain(result.describe()), flush=True)
