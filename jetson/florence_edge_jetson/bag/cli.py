"""florence-bag: ask a bundle about a recorded camera topic, without ROS installed."""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from florence_edge import TASKS, Florence2, GenerationOptions, __version__
from florence_edge.command import run_command

from .answering import ANNOTATED, ANSWERS, DETECTIONS, Count, Order, answer_recording


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 130 when stopped.
    """

    def run() -> int:
        with _stopped_politely():
            return _run(_parser().parse_args(arguments))

    return run_command("florence-bag", run, stopped="stopped; nothing was written.")


def _run(arguments: argparse.Namespace) -> int:
    order = Order(
        source=arguments.recording,
        target=arguments.output,
        topic=arguments.topic,
        task=arguments.task,
        text=arguments.text,
        every=arguments.every,
        annotated=arguments.annotated,
        overwrite=arguments.overwrite,
        options=GenerationOptions(
            num_beams=arguments.beams,
            max_new_tokens=arguments.max_new_tokens,
            max_time=arguments.max_time,
        ),
    )
    count = answer_recording(
        order,
        lambda: Florence2.load(
            arguments.bundle,
            arguments.device,
            threads=arguments.threads,
            engine_dir=arguments.engine_dir,
        ),
        notice=_show,
    )
    answered = count.asked - count.failed
    print(f"{order.target}: {answered} frames of {order.topic} answered.")
    if count.failed:
        print(f"florence-bag: {count.failed} of {count.asked} frames failed.", file=sys.stderr)
    return 1 if count.failed else 0


def _show(count: Count) -> None:
    """One line on the terminal that says how far it is; damaged frames on lines of their own."""
    visible = sys.stderr.isatty()
    if count.error is not None:
        erased = "\r\033[K" if visible else ""
        print(f"{erased}florence-bag: {count.error}", file=sys.stderr)
    if visible:
        end = "\n" if count.asked == count.of else ""
        print(f"\r\033[K{count.asked}/{count.of} frames", end=end, file=sys.stderr, flush=True)


@contextmanager
def _stopped_politely() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: temporary files are removed."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-bag",
        description="Ask a Florence-2 bundle about a camera topic of a rosbag2 (sqlite3 or mcap); "
        "no ROS needed.",
        epilog=f"The new recording has the topics {DETECTIONS} (vision_msgs/Detection2DArray), "
        f"{ANSWERS} (std_msgs/String, JSON) and, with --annotated, {ANNOTATED} "
        "(sensor_msgs/Image), with the stamps and frame ids of the frames.",
    )
    parser.add_argument("recording", type=Path, help="rosbag2 folder, or its .db3 or .mcap file")
    parser.add_argument("output", type=Path, help="folder of the new recording")
    parser.add_argument("--topic", required=True, help="image topic, raw or compressed")
    parser.add_argument("--task", required=True, help=f"one of {', '.join(TASKS)}")
    parser.add_argument(
        "--text", help="caption or phrase that the task takes, or four <loc_n> for a region"
    )
    parser.add_argument(
        "--bundle", type=Path, default=Path("bundle"), help="what florence-export wrote (bundle)"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame (1)")
    parser.add_argument("--annotated", action="store_true", help="write the pictures, drawn on")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    parser.add_argument("--beams", type=int, metavar="N", help="1 (greedy) to 8; default: model's")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument(
        "--max-time", type=float, metavar="S", help="seconds after which an answer is cut short"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, tensorrt, ...")
    parser.add_argument(
        "--engine-dir", type=Path, metavar="DIR", help="where florence-build put TensorRT engines"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the CPU engine")
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    return parser
