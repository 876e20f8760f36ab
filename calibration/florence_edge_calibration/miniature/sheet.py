"""All answers about a picture on one sheet, a tile each with what was asked."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from florence_edge.answers.lettering import fitted, font_for, wrapped

_COLUMNS = 5
_TILE = 320  # pixels, both ways
_TITLE = 44  # pixels above a tile: two lines
_TEXT = 14
_GAP = 10
_INK, _PAPER = (30, 30, 34), (250, 250, 250)


def contact_sheet(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """An RGB sheet of titled pictures, in rows of five; a higher one is reduced to fit its tile."""
    rows = math.ceil(len(tiles) / _COLUMNS)
    step = _TILE + _GAP, _TILE + _TITLE + _GAP
    sheet = Image.new("RGB", (_COLUMNS * step[0] + _GAP, rows * step[1] + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * step[0], _GAP + row * step[1]
        font = font_for(title, _TEXT)
        first, *rest = wrapped(title, font, _TILE)
        for line, words in enumerate((first, fitted(" ".join(rest), font, _TILE))):
            pen.text((left, top + line * 1.3 * _TEXT), words, fill=_INK, font=font)
        small = picture.copy()
        small.thumbnail((_TILE, _TILE))
        sheet.paste(small, (left, top + _TITLE))
    return sheet
