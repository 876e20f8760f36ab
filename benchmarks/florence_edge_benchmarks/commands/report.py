"""florence-bench report: results as a page, as Markdown, or as a block of a README."""

import argparse
from pathlib import Path

from florence_edge.errors import RequestError

from ..report.html import page_of
from ..report.markdown import markdown_of, with_block
from ..results_io import read_result, write_text

HELP = "show results as one HTML page, as Markdown, or in a README"
DESCRIPTION = (
    "Make a page of results. It has nothing that the JSON has not: equal files give equal bytes."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="JSON files")
    parser.add_argument("--output", type=Path, metavar="FILE", help="FILE.html or FILE.md")
    parser.add_argument(
        "--update",
        type=Path,
        metavar="README",
        help="replace the block between its marks <!-- benchmarks --> and <!-- end of ... -->",
    )


def run(arguments: argparse.Namespace) -> str:
    """Write the files that are named; without any, give Markdown to print."""
    output: Path | None = arguments.output
    if output is not None and output.suffix.lower() not in (".html", ".md"):
        raise RequestError(f"--output {output} should end with .html or .md.")
    paths = sorted(arguments.results)
    results, names = [read_result(path) for path in paths], [path.name for path in paths]
    files: dict[Path, str] = {}
    if output is not None:
        show = page_of if output.suffix.lower() == ".html" else markdown_of
        files[output] = show(results, names)
    if arguments.update is not None:
        page = _text(arguments.update)
        brief = markdown_of(results, brief=True)
        files[arguments.update] = with_block(page, brief, str(arguments.update))
    for path, text in files.items():  # once all are made: a mistake leaves every file as it was
        write_text(path, text)
    written = " and ".join(map(str, files))
    return f"Wrote {written}." if written else markdown_of(results, names)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"--update {path} is not UTF-8: {error}. Expected Markdown.") from error
