"""A table of a report, before it is HTML or Markdown."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A titled table.

    `kinds` has a letter a column: n for a name, which is not repeated below itself, f for a figure,
    t for a text of any length.
    """

    title: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: str
    note: str = ""

    def without_repetitions(self) -> list[tuple[str, ...]]:
        """The rows; a first name that stands above is left out."""
        shown = []
        for number, row in enumerate(self.rows):
            repeated = number > 0 and row[0] == self.rows[number - 1][0]
            shown.append(("", *row[1:]) if repeated and self.kinds[0] == "n" else row)
        return shown
