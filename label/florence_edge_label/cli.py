"""florence-label: label a data set, export it, look at it, put machines' shares together."""

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from florence_edge import (
    TASKS,
    Device,
    GenerationOptions,
    Needs,
    RequestError,
    Task,
    __version__,
)
from florence_edge.batch import MAX_BATCH
from florence_edge.cli.progress import StatusLine
from florence_edge.command import parsed, printable, run_command
from florence_edge.image_arguments import add_image_arguments, image_options_from
from florence_edge.task_arguments import own_tasks, tasks_by_needs
from florence_edge.tasks import find_task

from .export import ExportOptions, export
from .formats import FORMATS
from .look import page
from .merge import merge
from .ontology import questions_for, read_ontology
from .plan import CLEAN, OWN_TASKS, RunFolder, Slice
from .run import Labelled, LabelRequest, Say, label
from .sources.find import SourceOptions, find_source
from .supervised import PATIENCE
from .thresholds import Thresholds

_OVERLAP = 0.5  # IoU of doubles where an ontology has several phrases a class
_CLEANS = "drop regions without an area, and location tokens that slipped into labels, in exports"
_MAX_PATIENCE = 1_000_000  # seconds, 11 days; poll(2) takes milliseconds of 31 bits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0; 1 where something failed, a single picture among it; 2 for wrong usage;
        128 + n where signal n ended it.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="florence-label: %(message)s", level=logging.WARNING)
    build, run = _COMMANDS.get(given[0] if given else "", (_parser, _label))
    options = parsed(build(), given[1:] if given and given[0] in _COMMANDS else given)
    return run_command(
        "florence-label",
        lambda: run(options),
        stopped="stopped; what is done is kept, and the same command goes on.",
    )


def _label(options: argparse.Namespace) -> int:
    formats = _formats(options.format)
    request = _request(options)
    with StatusLine() as line:

        def say_line(text: str) -> None:
            line.clear()
            print(f"florence-label: {printable(text)}", file=sys.stderr)

        labelled = label(request, Say(line=say_line, progress=line.show))
    _report(labelled, options.output)
    if labelled.missing and formats:
        print("Not exported: florence-label merge puts all shares together first.")
    elif formats:
        _export_all(options.output, formats, ExportOptions())
    return 1 if labelled.failed or labelled.left else 0


def _report(labelled: Labelled, folder: Path) -> None:
    plan = labelled.plan
    print(
        f"{labelled.answered:,} pictures answered"
        f"{f', {labelled.rate:.2f} pictures/s' if labelled.answered else ''}: "
        f"{plan.shards - labelled.missing:,} of {plan.shards:,} parts in {folder}"
    )
    if labelled.failed:
        print(
            f"florence-label: {labelled.failed:,} picture{'s' * (labelled.failed != 1)} failed; "
            f"{RunFolder(folder).errors} says why, and --retry-errors asks again.",
            file=sys.stderr,
        )
    if labelled.left:
        print(
            f"florence-label: {labelled.left:,} of this run's shards have no part: something took "
            "them away. The same command makes them.",
            file=sys.stderr,
        )


def _request(options: argparse.Namespace) -> LabelRequest:
    device = Device.parse(options.device)
    if options.no_ray and options.address is not None:
        raise RequestError("--no-ray and --address exclude each other.")
    ontology = {} if options.ontology is None else read_ontology(options.ontology)
    tasks = _tasks(options)
    questions = questions_for(tasks, options.text, ontology)
    own = {task.name: task.answer.value for task in tasks if task.name not in TASKS}
    nms = _OVERLAP if options.nms is None and ontology else options.nms
    Thresholds.parse(options.min_score, nms)
    source_options = SourceOptions(
        pictures=options.pictures, column=options.column, without=options.output
    )
    return LabelRequest(
        bundle=options.bundle,
        source=find_source(options.source, source_options),
        output=options.output,
        questions=questions,
        shown={
            "task": ",".join(dict.fromkeys(each.task for each in questions)),
            "text": options.text,
            "ontology": ontology or None,
            "min_score": options.min_score,
            "nms": nms,
            **({CLEAN: True} if options.clean else {}),
            "convention": options.convention,
            "engine_precision": options.engine_precision,
            "max_pixels": options.max_pixels,
            "deep_range": options.deep_range,
            "column": options.column,
            **({OWN_TASKS: own} if own else {}),
        },
        device=device,
        options=GenerationOptions(
            num_beams=options.beams,
            max_new_tokens=options.max_new_tokens,
            max_time=options.max_time,
        ),
        convention=options.convention,
        engine_precision=options.engine_precision,
        engine_dir=options.engine_dir,
        image_options=image_options_from(options),
        column=options.column,
        batch=options.batch,
        shard_size=options.shard_size,
        shards=Slice() if options.shards is None else Slice.parse(options.shards),
        workers=options.workers,
        threads=options.threads,
        address=None if options.no_ray else options.address or os.environ.get("RAY_ADDRESS"),
        patience=options.patience,
        one_gpu=":" in options.device,
        retry_errors=options.retry_errors,
    )


def _tasks(options: argparse.Namespace) -> list[Task]:
    """The tasks that are named, of the bundle's own, too."""
    names = [name for part in options.task for name in part.split(",") if name.strip()]
    own = own_tasks(options.bundle, names)
    return [find_task(name, own) for name in names]


def _export(options: argparse.Namespace) -> None:
    thresholds = None
    if options.min_score is not None or options.nms is not None:
        thresholds = Thresholds.parse(options.min_score, options.nms)
    wanted = ExportOptions(
        task=options.task,
        clean=options.clean,
        classes=None if options.classes is None else tuple(options.classes.split(",")),
        thresholds=thresholds,
        pictures=options.pictures,
        val=options.val,
        image_url=options.image_url,
        partial=options.partial,
        output=options.output,
    )
    formats = _formats(options.format)
    if wanted.output is not None and len(formats) > 1:
        raise RequestError("--output is for one format. Give one, or leave --output out.")
    _export_all(options.folder, formats, wanted)


def _export_all(folder: Path, formats: Sequence[str], options: ExportOptions) -> None:
    for name in formats:
        done = export(folder, name, options)
        print(printable(f"{done.target}: {done.summary}"))
        for note in done.notes:
            print(f"florence-label: {printable(note)}", file=sys.stderr)


def _look(options: argparse.Namespace) -> None:
    output = options.output or options.folder / "look.html"
    page.write(options.folder, output, samples=options.samples)
    print(printable(output))


def _merge(options: argparse.Namespace) -> None:
    merged = merge(options.folders, options.output)
    print(printable(f"{options.output}: {merged.parts:,} of {merged.shards:,} parts"))
    if merged.missing:
        raise RequestError(
            f"{len(merged.missing):,} shards are in none of these folders, shard "
            f"{merged.missing[0]} among them. Label those, then merge again."
        )


def _formats(text: str | None) -> list[str]:
    names = [] if text is None else [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise RequestError(f"There is no format {name!r}. The formats: {', '.join(FORMATS)}.")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-label",
        usage="%(prog)s BUNDLE SOURCE --output DIR --task TASK [options]",
        description="Label a data set with a Florence-2 bundle. The same command goes on after "
        "any end.",
        epilog="Beside it: florence-label export DIR --format yolo, florence-label look DIR, "
        "florence-label merge DIR DIR --output DIR; each has a --help. A bundle called so is "
        "written ./export.",
    )
    parser.add_argument("bundle", type=Path, help="folder that florence-export wrote")
    parser.add_argument(
        "source",
        help="a folder of pictures, a text file of paths, webdataset's tars, Parquet tables, a "
        "COCO .json; patterns such as 'data-{000..012}.tar'; URLs that fsspec opens",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="where parts and exports go"
    )
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    _add_questions(parser.add_argument_group("what to ask"))
    _add_workers(parser.add_argument_group("where to run"))
    _add_source(parser.add_argument_group("the source"))
    parser.add_argument("--format", metavar="F,F", help=f"export at the end: {', '.join(FORMATS)}")
    return parser


def _add_questions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="T,T",
        help="tasks, with commas or again; with an ontology by default OPEN_VOCABULARY_DETECTION. "
        + tasks_by_needs(Needs.NOTHING, Needs.TEXT),
    )
    group.add_argument(
        "--ontology", type=Path, metavar="FILE", help="JSON or YAML: a class for each phrase"
    )
    group.add_argument("--text", metavar="T", help="caption or phrase for tasks that take one")
    _add_thresholds(group, f"default: off, or {_OVERLAP} with an ontology")
    group.add_argument("--clean", action="store_true", help=_CLEANS)
    group.add_argument("--beams", type=_count, metavar="N", help="1 (greedy) to 8")
    group.add_argument("--max-new-tokens", type=_count, metavar="N", help="longest answer")
    group.add_argument("--max-time", type=float, metavar="S", help="seconds of one answer")
    group.add_argument(
        "--convention",
        choices=("native", "microsoft"),
        default="native",
        help="whole-number coordinates (default) or Microsoft's fractions",
    )


def _add_thresholds(group: argparse._ActionsContainer, default: str) -> None:
    group.add_argument(
        "--min-score",
        metavar="S",
        help="drop regions that score below in exports; 0.3, or 0.3,helmet=0.5 by class",
    )
    group.add_argument(
        "--nms",
        type=float,
        metavar="IOU",
        help=f"of two regions of a class that overlap more, keep the better one ({default})",
    )


def _add_workers(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", default="cpu", help="cpu, cuda, tensorrt, openvino, ...")
    group.add_argument(
        "--workers", type=_count, metavar="N", help="default: one a core, or one a GPU"
    )
    group.add_argument("--threads", type=_count, metavar="N", help="of a worker (default 1)")
    group.add_argument(
        "--batch", type=_batch, default=8, metavar="N", help="pictures at once (default 8)"
    )
    group.add_argument(
        "--address",
        metavar="A",
        help="spread over a Ray cluster: local, auto, host:port or ray://host:10001; default: "
        "RAY_ADDRESS, or else processes of this machine",
    )
    group.add_argument(
        "--no-ray",
        action="store_true",
        help="processes of this machine, also where RAY_ADDRESS names a cluster",
    )
    group.add_argument(
        "--shards", metavar="N/M", help="only this machine's share, such as 3/16; then merge"
    )
    group.add_argument(
        "--shard-size",
        type=_count,
        metavar="N",
        help="pictures of a part (default: up to 256, by the size of the list)",
    )
    group.add_argument(
        "--patience",
        type=_seconds,
        default=PATIENCE,
        metavar="S",
        help=f"seconds after which a silent worker is taken for hung (default {PATIENCE:g})",
    )
    group.add_argument(
        "--retry-errors",
        action="store_true",
        help="answer again about parts in which a picture failed, such as after a network's hiccup",
    )
    group.add_argument("--engine-dir", type=Path, metavar="DIR", help="TensorRT engines")
    group.add_argument(
        "--engine-precision", choices=("fp32", "bf16"), help="what openvino computes in"
    )


def _add_source(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pictures", metavar="DIR", help="where the files of a list or a COCO file lie"
    )
    group.add_argument("--column", metavar="C", help="column of a table that holds pictures")
    add_image_arguments(group)


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-label export", description="Write a labelled data set in another format."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="--output of florence-label")
    parser.add_argument("--format", required=True, metavar="F,F", help=f"of {', '.join(FORMATS)}")
    parser.add_argument("--output", type=Path, metavar="PATH", help="default: a name in DIR")
    parser.add_argument("--task", metavar="T", help="whose regions (default: the first asked)")
    parser.add_argument(
        "--classes", metavar="C,C", help="only these, numbered in this order; default: all"
    )
    _add_thresholds(parser, "default: as labelled")
    parser.add_argument(
        "--clean", action=argparse.BooleanOptionalAction, help=f"{_CLEANS}; default: as labelled"
    )
    parser.add_argument(
        "--pictures",
        choices=("link", "copy", "none"),
        default="link",
        help="in formats that are folders: links to local files and copies of others (default), "
        "copies of all, or labels alone",
    )
    parser.add_argument(
        "--val",
        type=float,
        default=0.1,
        metavar="F",
        help="share of the pictures for validation, in yolo (default 0.1)",
    )
    parser.add_argument(
        "--image-url",
        default="/data/local-files/?d=",
        metavar="U",
        help="in labelstudio: what stands before a picture's path (default: its local storage)",
    )
    parser.add_argument(
        "--partial", action="store_true", help="export what is there of an unfinished run"
    )
    return parser


def _look_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-label look",
        description="A page with samples, counts by class, scores and errors: look before you "
        "train.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="--output of florence-label")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: DIR/look.html")
    parser.add_argument(
        "--samples", type=_count, default=48, metavar="N", help="pictures to show (default 48)"
    )
    return parser


def _merge_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-label merge",
        description="Put the shares of several machines (--shards) into one folder.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="one a machine")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; expected 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _MAX_PATIENCE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time to wait; expected seconds, above 0 and at most {_MAX_PATIENCE}"
        )
    return seconds


def _batch(text: str) -> int:
    if _count(text) > MAX_BATCH:
        raise argparse.ArgumentTypeError(f"{text} is too many; expected at most {MAX_BATCH}")
    return int(text)


_Command = tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], int | None]]

_COMMANDS: dict[str, _Command] = {
    "export": (_export_parser, _export),
    "look": (_look_parser, _look),
    "merge": (_merge_parser, _merge),
}
