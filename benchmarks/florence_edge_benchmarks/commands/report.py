"""florence-bench report: results as a page, as Markdown, or as a block of a README."""

import argparse
from pathlib import Path

from florence_edge.errors import RequestError

from ..markdown import markdown_of, with_block
from ..page import page_of
from ..results import read_result, write_whole

HELP = "show results as one HTML page, as Markdown, or in a README"
DESCRIPTION = (
    "Make a page of results. It says nothing that the JSON does not: equal files give equal bytes."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say which arguments the command takes."""
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="JSON files")
    parser.add_argument("--output", type=Path, metavar="FILE", help="FILE.html or FILE.md")
    parser.add_argument(
        "--update",
        type=Path,
        metavar="README",
        help="replace the block between its marks <!-- benchmarks --> and <!-- end of ... -->",
    )


def run(arguments: argparse.Namespace) -> str:
    """Write what was asked for; with neither file, give Markdown to print."""
    output: Path | None = arguments.output
    if output is not None and output.suffix not in (".html", ".md"):
        raise RequestError(f"--output {output} should end with .html or .md.")
    results = [read_result(path) for path in sorted(arguments.results)]
    if output is not None:
        write_whole(output, page_of(results) if output.suffix == ".html" else markdown_of(results))
    if arguments.update is not None:
        page = arguments.update.read_text(encoding="utf-8")
        block = with_block(page, markdown_of(results, brief=True), str(arguments.update))
        write_whole(arguments.update, block)
    written = [str(path) for path in (output, arguments.update) if path is not None]
    return f"Wrote {' and '.join(written)}." if written else markdown_of(results)
