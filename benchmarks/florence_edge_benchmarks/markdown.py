"""Results as Markdown, and as a block inside a page that a person wrote."""

from collections.abc import Sequence

from florence_edge.errors import RequestError

from .results import Result
from .sections import section_of
from .table import Table

BLOCK_BEGINS, BLOCK_ENDS = "<!-- benchmarks -->", "<!-- end of benchmarks -->"


def markdown_of(results: Sequence[Result], *, brief: bool = False) -> str:
    """All results as Markdown; `brief` is for a README."""
    return "\n\n".join(_section(result, brief=brief) for result in results) + "\n"


def with_block(page: str, text: str, name: str) -> str:
    """The page with what stands between its two marks replaced.

    Raises:
        RequestError: the page has no such marks; `name` is what to call it.
    """
    before, begins, rest = page.partition(BLOCK_BEGINS)
    _, ends, after = rest.partition(BLOCK_ENDS)
    if not begins or not ends:
        raise RequestError(
            f"{name} has no place for figures. Write the lines {BLOCK_BEGINS} and {BLOCK_ENDS} "
            "where they belong."
        )
    return f"{before}{BLOCK_BEGINS}\n{text.strip()}\n{BLOCK_ENDS}{after}"


def table_as_markdown(table: Table) -> str:
    """One table; numbers stand to the right."""
    ruler = ["---:" if kind == "f" else "---" for kind in table.kinds]
    lines = [table.heading, ruler, *table.without_repetitions()]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _section(result: Result, *, brief: bool) -> str:
    section = section_of(result, brief=brief)
    tables = [*section.tables, *([] if brief else [section.machine])]
    title = f"**{section.models}** on {section.place}"
    return "\n\n".join([title, *(_with_title(table, brief=brief) for table in tables)])


def _with_title(table: Table, *, brief: bool) -> str:
    note = [table.note] if table.note and not brief else []
    return "\n\n".join([f"{table.title}:", table_as_markdown(table), *note])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
