"""Results as one HTML page that needs nothing else: styles and charts are inside."""

from collections.abc import Sequence
from html import escape

from ..results import AccuracyResult, SpeedResult
from ..results_io import AnyResult
from .charts import svg_of
from .figures import CaptionedChart, trade_off_figures
from .sections import Section, sections_of
from .tables import Table

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem;
     border-bottom: 2px solid #1a1a1a; } h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .22rem .5rem; border-bottom: 1px solid #ccc; text-align: right;
         vertical-align: top; }
td { white-space: nowrap; } th { border-bottom: 1.5px solid #1a1a1a; vertical-align: bottom; }
.name, .text { text-align: left; } td.name:first-child { white-space: normal; min-width: 9rem; }
.text { white-space: normal; max-width: 42rem; }
.again td.name:first-child { color: #767676; }
figure { margin: 0; break-inside: avoid; } svg { max-width: 100%; height: auto; }
figcaption, .note { font-size: .85rem; color: #333; max-width: 60rem; }
@page { margin: 14mm; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; }
  h2 { break-before: page; } h2.first { break-before: auto; }
  table { font-size: 7.5pt; } th, td { padding: .1rem .3rem; }
  h2, h3 { break-after: avoid; } tr, figure, .note { break-inside: avoid; }
  .wide { overflow: visible; } td.name:first-child { min-width: 0; } }
"""

_CLASSES = {"n": ' class="name"', "f": "", "t": ' class="text"'}


def page_of(results: Sequence[AnyResult], names: Sequence[str] = ()) -> str:
    """The page; equal results, under equal names of their files, give equal bytes.

    Raises:
        MissingPackageError: matplotlib, which draws the charts, is not installed.
    """
    speeds = [each for each in results if isinstance(each, SpeedResult)]
    accuracies = [each for each in results if isinstance(each, AccuracyResult)]
    accuracies += [each for speed in speeds for each in speed.accuracy]
    sections = [
        _section(section, first=number == 0)
        for number, section in enumerate(sections_of(results, names))
    ]
    trade_offs = trade_off_figures(speeds, accuracies)
    if trade_offs:
        sections.append("<h2>Accuracy against speed</h2>" + "".join(map(_figure, trade_offs)))
    body = "\n".join(["<h1>florence-edge: what was measured</h1>", *sections])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>florence-edge benchmarks</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section, *, first: bool) -> str:
    kind = ' class="first"' if first else ""
    title = f"{section.kind} of {section.models}"
    place = f"{section.place}. File: {section.source}" if section.source else section.place
    opening = f"<h2{kind}>{escape(title)}</h2>\n<p>{escape(place)}</p>"
    drawn = [*map(_table, section.tables), *map(_figure, section.figures)]
    return "\n".join([opening, *drawn, _table(section.machine)])


def _table(table: Table) -> str:
    heading = _row(table.heading, "th", table.kinds)
    rows = "\n".join(
        _row(row, "td", table.kinds, again=again)
        for row, again in zip(table.rows, table.repetitions(), strict=True)
    )
    note = f'<p class="note">{escape(table.notes)}</p>' if table.notes else ""
    return (
        f'<h3>{escape(table.title)}</h3>\n<div class="wide"><table>\n<thead>{heading}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>\n{note}"
    )


def _row(cells: Sequence[str], element: str, kinds: str, *, again: bool = False) -> str:
    """A row; a name that stands above is there `again`, since a page may end between them."""
    drawn = [
        f"<{element}{_CLASSES[kind]}>{escape(cell)}</{element}>"
        for cell, kind in zip(cells, kinds, strict=True)
    ]
    kind = ' class="again"' if again else ""
    return f"<tr{kind}>{''.join(drawn)}</tr>"


def _figure(figure: CaptionedChart) -> str:
    title, caption, svg = escape(figure.title), escape(figure.caption), svg_of(figure.chart)
    return f"<figure>\n<h3>{title}</h3>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>"
