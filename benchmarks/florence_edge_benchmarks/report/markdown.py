"""Results as Markdown, and as a block inside a page that a person wrote."""

from collections.abc import Sequence

from florence_edge.errors import RequestError

from ..results_io import AnyResult
from .sections import Section, sections_of
from .tables import Table

BLOCK_BEGINS, BLOCK_ENDS = "<!-- benchmarks -->", "<!-- end of benchmarks -->"


def markdown_of(
    results: Sequence[AnyResult], names: Sequence[str] = (), *, brief: bool = False
) -> str:
    """All results as Markdown, under the names of their files; `brief` is for a README."""
    sections = sections_of(results, names, brief=brief)
    return "\n\n".join(_section(section, brief=brief) for section in sections) + "\n"


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


def tables_as_markdown(tables: Sequence[Table]) -> str:
    """Tables under their titles, each with its notes."""
    return "\n\n".join(_with_title(table, brief=False) for table in tables) + "\n"


def _section(section: Section, *, brief: bool) -> str:
    tables = [*section.tables, *([] if brief else [section.machine])]
    heading = [f"## {_plain(section.source)}"] if section.source else []
    title = f"**{_plain(section.models)}** on {_plain(section.place)}"
    return "\n\n".join([*heading, title, *(_with_title(table, brief=brief) for table in tables)])


def _with_title(table: Table, *, brief: bool) -> str:
    note = table.remark if brief else table.notes
    notes = [_plain(note)] if note else []
    return "\n\n".join([f"{_plain(table.title)}:", table_as_markdown(table), *notes])


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """What a machine or a model is called is text and not HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
