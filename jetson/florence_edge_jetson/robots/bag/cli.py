"""florence-bag: ask a bundle about a recorded camera topic, without ROS installed."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from florence_edge import Florence2, GenerationOptions, __version__
from florence_edge.command import parsed, printable, run_command
from florence_edge.image_arguments import add_image_arguments
from florence_edge.task_arguments import add_task_arguments, request_from

from .answer import ANNOTATED, ANSWERS, DETECTIONS, BagProgress, BagRequest, answer_bag


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 128 + n when stopped by
        signal n.
    """
    return run_command(
        "florence-bag",
        lambda: _run(parsed(_parser(), arguments)),
        stopped="stopped; nothing was written.",
    )


def _run(arguments: argparse.Namespace) -> int:
    request = BagRequest(
        source=arguments.recording,
        target=arguments.output,
        topic=arguments.topic,
        request=request_from(arguments),
        every=arguments.every,
        annotated=arguments.annotated,
        overwrite=arguments.overwrite,
        clean=arguments.clean,
        options=GenerationOptions(
            num_beams=arguments.beams,
            max_new_tokens=arguments.max_new_tokens,
            max_time=arguments.max_time,
        ),
    )
    with ExitStack() as stack:

        def load_model() -> Florence2:
            model = Florence2.load(
                arguments.bundle,
                arguments.device,
                threads=arguments.threads,
                engine_dir=arguments.engine_dir,
                max_pixels=arguments.max_pixels,
                deep_range=arguments.deep_range,
                verify=arguments.verify,
            )
            return stack.enter_context(model)

        progress = answer_bag(request, load_model, on_progress=_show)
    answered = progress.done - progress.failed
    print(printable(f"{request.target}: {answered} frames of {request.topic} answered."))
    if progress.failed:
        print(f"florence-bag: {progress.failed} of {progress.done} frames failed.", file=sys.stderr)
    return 1 if progress.failed else 0


def _show(progress: BagProgress) -> None:
    """Progress on one line of the terminal; damaged frames on lines of their own."""
    visible = sys.stderr.isatty()
    if progress.error is not None:
        erased = "\r\033[K" if visible else ""
        print(f"{erased}florence-bag: {printable(str(progress.error))}", file=sys.stderr)
    if visible:
        end = "\n" if progress.done == progress.total else ""
        print(
            f"\r\033[K{progress.done}/{progress.total} frames", end=end, file=sys.stderr, flush=True
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-bag",
        usage="%(prog)s RECORDING OUTPUT --topic TOPIC --task TASK [options]",
        description="Ask a Florence-2 bundle about a camera topic of a rosbag2 (sqlite3 or mcap); "
        "no ROS needed.",
        epilog=f"The new recording has the topics {DETECTIONS} (vision_msgs/Detection2DArray), "
        f"{ANSWERS} (std_msgs/String, JSON) and, with --annotated, {ANNOTATED} "
        "(sensor_msgs/Image), with the stamps and frame ids of the frames. Several tasks have "
        "topics of their own, such as /florence_edge/od/detections.",
    )
    parser.add_argument("recording", type=Path, help="rosbag2 folder, or its .db3 or .mcap file")
    parser.add_argument("output", type=Path, help="folder of the new recording")
    parser.add_argument("--topic", required=True, help="image topic, raw or compressed")
    add_task_arguments(parser)
    parser.add_argument(
        "--bundle", type=Path, default=Path("bundle"), help="what florence-export wrote (bundle)"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame (1)")
    parser.add_argument("--annotated", action="store_true", help="write the pictures, drawn on")
    parser.add_argument(
        "--clean",
        action="store_true",
        help="drop regions without an area, and location tokens that slipped into labels",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    parser.add_argument("--beams", type=int, metavar="N", help="1 (greedy) to 8; default: model's")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument(
        "--max-time", type=float, metavar="S", help="seconds after which an answer is cut short"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, tensorrt, ...")
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not compare weights or TensorRT engines with their hashes",
    )
    parser.add_argument(
        "--engine-dir", type=Path, metavar="DIR", help="where florence-build put TensorRT engines"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU engine")
    add_image_arguments(parser)
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    return parser
