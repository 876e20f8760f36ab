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
    remark: str = ""
    """Said behind the note, and in a README, where there is no room for notes."""

    @property
    def notes(self) -> str:
        """All that is said under it."""
        return f"{self.note} {self.remark}".strip()

    def without_repetitions(self) -> list[tuple[str, ...]]:
        """The rows; a first name that stands above is left out."""
        return [
            ("", *row[1:]) if again else row
            for row, again in zip(self.rows, self.repetitions(), strict=True)
        ]

    def repetitions(self) -> list[bool]:
        """For every row, whether its first name stands above."""
        named = self.kinds[0] == "n"
        return [
            named and number > 0 and row[0] == self.rows[number - 1][0]
            for number, row in enumerate(self.rows)
        ]
