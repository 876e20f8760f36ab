"""Text for drawing: a font that knows the letters, cut or wrapped to a width in pixels."""

from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow's own font knows little beyond ASCII; these are common on Linux, macOS and Windows.
_WIDER_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
_IN_NO_FONT = "\uffff"


def font_for(text: str, size: int) -> Font:
    """Of the fonts on this machine, the one that lacks the fewest letters of a text."""
    fonts = _fonts(size)
    return fonts[0] if text.isascii() else min(fonts, key=lambda font: _lacks(font, text))


def fitted(text: str, font: Font, width: float) -> str:
    """The text on one line, ending in `...` where it would be wider than `width` pixels."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}...") > width:
        line = line[:-1].rstrip()
    return f"{line}..."


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """The text in lines of at most `width` pixels, broken inside a word only if it must be."""
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            *full, line = _pieces(word, font, width)
            lines += full
        lines.append(line)
    return lines


def _pieces(word: str, font: Font, width: float) -> list[str]:
    pieces = [word[:1]]
    for letter in word[1:]:
        if font.getlength(pieces[-1] + letter) <= width:
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces


@lru_cache(maxsize=8)
def _fonts(size: int) -> tuple[Font, ...]:
    fonts = [ImageFont.load_default(size)]
    for name in _WIDER_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:  # not on this machine
            continue
    return tuple(fonts)


def _lacks(font: Font, text: str) -> int:
    """How many letters of a text the font draws as its sign for missing ones."""
    sign = bytes(font.getmask(_IN_NO_FONT))
    return sum(bytes(font.getmask(letter)) == sign for letter in set(text))
