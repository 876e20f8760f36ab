"""The arguments of florence-run."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..batch import MAX_BATCH
from ..bundle import Bundle
from ..command import plain_usage
from ..errors import RequestError
from ..image_arguments import add_image_arguments, source_argument
from ..options import GenerationOptions
from ..results.formats import ClassIds
from ..results.result import Result
from ..task_arguments import add_task_arguments
from .answers_file import Origin, origin_of
from .outputs import check_targets
from .source import split_sources

# What is for a source alone, and what is for pictures alone.
_OF_A_SOURCE = ("every", "show", "track", "save", "wait")
_OF_A_CAMERA = ("camera_size", "camera_fps", "camera_format")
_OF_PICTURES = ("output", "resume", "batch", "deep_range")
_BEGUN_ANEW = ("csv", "save_txt", "save_crops")
# What answers depend on beside the bundle and how it generates.
_SHOWN = ("engine_precision", "min_score", "convention")
_NEWER = ("clean", "classes", "max_regions")


@plain_usage()
def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, or the exit that argparse makes where they are used wrongly."""
    parser = _parser()
    parsed = parser.parse_intermixed_args(arguments)  # sources may stand behind options, too
    try:
        parsed.images, parsed.source = split_sources(parsed.images, parsed.source)
        check_targets(parsed)
    except RequestError as error:
        parser.error(str(error))
    if parsed.source is None:
        for name in _given(parser, parsed, _OF_A_SOURCE + _OF_A_CAMERA):
            parser.error(f"{name} needs a camera or a video")
    else:
        for name in _given(parser, parsed, _OF_PICTURES):
            parser.error(f"{name} does not go with a camera or a video")
    if parsed.batch > MAX_BATCH:
        parser.error(f"--batch is {parsed.batch:.3g}; it must be at most {MAX_BATCH}")
    if parsed.resume and parsed.answers is None:
        parser.error("--resume needs --answers")
    if parsed.resume:
        for name in _given(parser, parsed, _BEGUN_ANEW):
            parser.error(f"{name} does not go with --resume: it has the pictures of one run alone")
    return parsed


def _given(
    parser: argparse.ArgumentParser, parsed: argparse.Namespace, names: Sequence[str]
) -> list[str]:
    """Those of the arguments that have another value than their default, as they are written."""
    given = [name for name in names if getattr(parsed, name) != parser.get_default(name)]
    return ["--" + name.replace("_", "-") for name in given]


def options_from(arguments: argparse.Namespace) -> GenerationOptions:
    """How to generate; what was not given is left to the checkpoint."""
    return GenerationOptions(
        num_beams=arguments.beams,
        max_new_tokens=arguments.max_new_tokens,
        min_new_tokens=arguments.min_new_tokens,
        no_repeat_ngram_size=arguments.no_repeat_ngram_size,
        repetition_penalty=arguments.repetition_penalty,
        length_penalty=arguments.length_penalty,
        max_time=arguments.max_time,
    )


def origin_from(arguments: argparse.Namespace) -> Origin:
    """What answers will come from.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        RequestError: an option is out of range.
    """
    shown = {name: getattr(arguments, name) for name in _SHOWN}
    # Files that older releases began do not have these.
    shown |= {name: getattr(arguments, name) for name in _NEWER if getattr(arguments, name)}
    return origin_of(Bundle.load(arguments.bundle), options_from(arguments), shown)


def kept_from(arguments: argparse.Namespace, result: Result) -> Result:
    """What is left of an answer by `--clean`, `--min-score`, `--classes` and `--max-regions`."""
    kept = result.clean() if arguments.clean else result
    return kept.filter(
        arguments.min_score, classes=arguments.classes, max_regions=arguments.max_regions
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-run",
        usage="%(prog)s BUNDLE SOURCE [SOURCE ...] --task TASK [options]",
        description="Ask a Florence-2 bundle about pictures or a video.",
    )
    parser.add_argument("bundle", type=Path, help="folder that florence-export wrote")
    parser.add_argument(
        "images",
        type=source_argument,
        nargs="*",
        metavar="SOURCE",
        help="pictures, folders (and those below), patterns such as 'photos/**/*.jpg', a list.txt "
        "with a path in each line; or one camera's number, URL, video or pipeline",
    )
    add_task_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each answer")
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    _add_generation(parser.add_argument_group("how to answer"))
    _add_engine(parser.add_argument_group("where to run"))
    _add_outputs(parser.add_argument_group("what to write"))
    _add_pictures(parser.add_argument_group("pictures"))
    _add_video(parser.add_argument_group("video"))
    return parser


def _add_generation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--beams", type=int, metavar="N", help="1 (greedy) to 8; default: model's")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer")
    group.add_argument("--min-new-tokens", type=int, metavar="N", help="shortest answer")
    group.add_argument(
        "--no-repeat-ngram-size",
        type=int,
        metavar="N",
        help="never say so many tokens in a row twice; 0 is off",
    )
    group.add_argument(
        "--repetition-penalty", type=float, metavar="P", help="weaken what was said; 1 is off"
    )
    group.add_argument(
        "--length-penalty", type=float, metavar="P", help="above 0, beams may be longer"
    )
    group.add_argument(
        "--max-time", type=float, metavar="S", help="seconds that one answer may take"
    )
    group.add_argument(
        "--min-score",
        type=_score,
        default=0.0,
        metavar="S",
        help="drop regions that score below, 0 to 1",
    )
    group.add_argument(
        "--classes",
        type=_classes,
        metavar="A,B",
        help="keep regions with these labels alone, numbered in this order by --save-txt",
    )
    group.add_argument(
        "--max-regions", type=_count, metavar="N", help="of each answer, keep the N best regions"
    )
    group.add_argument(
        "--clean",
        action="store_true",
        help="drop regions without an area, and location tokens that slipped into labels",
    )
    group.add_argument(
        "--convention",
        choices=("native", "microsoft"),
        default="native",
        help="whole-number coordinates of transformers (default) or Microsoft's fractions",
    )


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device",
        default="cpu",
        help="cpu (default), cuda, tensorrt, tensorrt-rtx or openvino; cuda:1 is the second GPU, "
        "openvino:GPU.0 Intel's first; auto is what florence-doctor --speed found to be the "
        "fastest, or else what usually is",
    )
    group.add_argument(
        "--engine-dir", type=Path, metavar="DIR", help="where florence-build put TensorRT engines"
    )
    group.add_argument(
        "--engine-precision",
        choices=("fp32", "bf16"),
        help="the precision that openvino computes in (default: fp32); with auto, bf16 allows it",
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="threads of the CPU engine (default: its cores)"
    )
    group.add_argument(
        "--spinning",
        choices=("yes", "no"),
        help="whether threads that wait for each other keep their core busy on cpu (default: no)",
    )
    group.add_argument(
        "--check",
        action="store_true",
        help="compare every file of the bundle with its hash first, and let it compute numbers",
    )
    group.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not compare weights or TensorRT engines with their hashes",
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--answers", type=Path, metavar="FILE", help="write answers here, a line of JSON each"
    )
    group.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a table: a row for each region, or text"
    )
    group.add_argument(
        "--save-txt", type=Path, metavar="DIR", help="write YOLO's label files, and classes.txt"
    )
    group.add_argument(
        "--save-crops", type=Path, metavar="DIR", help="write what each region shows, by label"
    )
    group.add_argument(
        "--line-width", type=_count, metavar="N", help="of outlines, in pixels; default: by size"
    )


def _add_pictures(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output", type=Path, metavar="DIR", help="write annotated pictures here")
    group.add_argument(
        "--resume", action="store_true", help="go on with FILE: pictures answered there are skipped"
    )
    group.add_argument(
        "--batch", type=_count, default=1, metavar="N", help="pictures at once (default 1)"
    )
    add_image_arguments(group)


def _add_video(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--source",
        metavar="S",
        help="the same as SOURCE; a picture is a video of one frame here",
    )
    group.add_argument(
        "--every", type=_count, default=1, metavar="N", help="answer one frame of N (default 1)"
    )
    group.add_argument("--track", action="store_true", help="number objects over the frames")
    group.add_argument("--show", action="store_true", help="show the frames in a window")
    group.add_argument("--save", type=Path, metavar="FILE", help="write a video with the answers")
    group.add_argument(
        "--patience",
        type=_patience,
        default=60.0,
        metavar="S",
        help="seconds without a frame after which a lost camera is given up (default 60); or inf",
    )
    group.add_argument(
        "--wait",
        action="store_true",
        help="be as patient with a camera that is not there at the start",
    )
    group.add_argument(
        "--camera-size", type=_size, metavar="WxH", help="ask a v4l2 camera for this size"
    )
    group.add_argument(
        "--camera-fps", type=_count, metavar="N", help="ask it for this many frames a second"
    )
    group.add_argument("--camera-format", metavar="F", help="ask it for mjpeg, yuyv422, h264, ...")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) * int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; expected such as 1280x720")
    return int(width), int(height)


def _number(text: str) -> float:
    """The number, or NaN where the text is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _score(text: str) -> float:
    score = _number(text)
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score; expected 0 to 1")
    return score


def _classes(text: str) -> list[str]:
    names = text.split(",")
    try:
        ClassIds(names)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return [name.strip() for name in names]


def _patience(text: str) -> float:
    seconds = _number(text)
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time to wait; expected seconds or inf")
    return seconds


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; expected 1 or more")
    return int(text)
