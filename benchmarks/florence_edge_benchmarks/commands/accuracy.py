"""florence-bench accuracy: how right a bundle's answers about your own data are."""

import argparse
from pathlib import Path

from florence_edge import GenerationOptions
from florence_edge.image_arguments import add_image_arguments, image_options_from

from ..accuracy.ask import AskOptions
from ..accuracy.data import VQA, read_truth
from ..accuracy.run import measure_accuracy
from ..report.markdown import markdown_of
from ..results_io import check_writable, write_result
from ..systems.system import parse_device
from .arguments import count, names, tasks

HELP = "detection mAP, captions, grounding, segmentation, OCR and VQA on a data folder"
DESCRIPTION = (
    "Ask a bundle everything that a data folder has truth for, and grade the answers. "
    "The folder is in COCO's form, with a few tables more; benchmarks/DATA.md describes them."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="exported folder")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="pictures and truth"
    )
    parser.add_argument(
        "--annotations",
        type=lambda text: [Path(name) for name in names(text)],
        default=[],
        metavar="F,F",
        help="the JSON files; default: those in DIR, else DIR/annotations/*_val*.json",
    )
    parser.add_argument("--limit", type=count, metavar="N", help="the first N pictures by id")
    parser.add_argument(
        "--tasks", type=_tasks, metavar="T,T", help="default: all that there is truth for"
    )
    parser.add_argument("--beams", type=count, metavar="N", help="default: the model's")
    parser.add_argument("--max-new-tokens", type=count, metavar="N", help="longest answer")
    parser.add_argument("--batch", type=count, default=8, metavar="N", help="questions at once")
    parser.add_argument(
        "--vqa-prompt",
        default="{question}",
        metavar="TEXT",
        help="how the fine-tune is asked, for example '<DocVQA>{question}'",
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="such as openvino+bf16")
    parser.add_argument("--threads", type=count, metavar="N")
    add_image_arguments(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="result as JSON")


def run(arguments: argparse.Namespace) -> str:
    """Measure, write the result and give its tables."""
    check_writable(arguments.output)
    truth = read_truth(arguments.data, arguments.annotations, limit=arguments.limit)
    ask_options = AskOptions(
        tasks=arguments.tasks,
        options=GenerationOptions(
            num_beams=arguments.beams, max_new_tokens=arguments.max_new_tokens
        ),
        batch=arguments.batch,
        vqa_prompt=arguments.vqa_prompt,
    )
    result = measure_accuracy(
        arguments.bundle,
        truth,
        ask_options,
        device=parse_device(arguments.device),
        threads=arguments.threads,
        image_options=image_options_from(arguments),
    )
    if arguments.output:
        write_result(arguments.output, result)
    return markdown_of([result])


def _tasks(text: str) -> list[str]:
    """Names of tasks, and `VQA`, which is not one of Florence-2's fifteen."""
    plain = [name for name in names(text) if name.upper() != VQA]
    found = tasks(",".join(plain)) if plain else []
    return found + [VQA] * (len(plain) < len(names(text)))
