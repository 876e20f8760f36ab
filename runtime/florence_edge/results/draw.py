"""Draw an answer on its picture: outlines, labels with scores, a caption underneath.

Text is drawn in a font of this machine that has its letters, cut or wrapped to a width in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from zlib import crc32

from PIL import Image, ImageDraw, ImageFont

from ..counts import check_count
from ..regions import Box, Region, Ring

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
PixelPoint = tuple[float, float]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in pixels

# Okabe and Ito's palette, which colour-blind eyes tell apart, without its black; then some of
# Paul Tol's for crowds.
_PALETTE: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (136, 34, 85), (153, 153, 51), (187, 187, 187),
)  # fmt: skip
_INK: Colour = (18, 18, 20)
_PAPER: Colour = (250, 250, 250)
_FILL, _RIM = 90, 130  # opacities, of 255
_FINENESS = 2  # slanted lines are drawn larger and then reduced, which smooths them
_FAR = 1 << 20  # beyond every picture, within what Pillow can draw
_CROWD = 12  # more regions than this get smaller tags
_TWO_POINTS = 4  # numbers; a single point has no outline

# Pillow's own font knows little beyond ASCII; these are common on Linux, macOS and Windows.
_WIDER_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
_IN_NO_FONT = "\uffff"


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes in pixels that suit a picture."""

    line: int
    text: int
    padding: int

    @staticmethod
    def of(size: tuple[int, int], regions: int) -> "_Style":
        side = math.sqrt(size[0] * size[1])
        crowding = min(max(math.sqrt(_CROWD / max(regions, 1)), 0.6), 1)
        text = max(10, round(side / 38 * crowding))
        return _Style(line=max(1, round(side / 260)), text=text, padding=max(2, text // 4))


def draw(
    image: Image.Image,
    regions: Sequence[Region],
    *,
    caption: str = "",
    asked: Box | None = None,
    line_width: int | None = None,
) -> Image.Image:
    """A new RGB picture with the regions on it and the caption in a strip underneath.

    Args:
        image: the picture that the coordinates belong to; it stays as it is.
        regions: what to outline. A label keeps its colour from picture to picture, unless two
            labels of one picture would share it.
        caption: wrapped to the width of the picture; without it there is no strip.
        asked: the region that the prompt was about; outlined in white, under the answer.
        line_width: of outlines, in pixels; None is what suits the size of the picture.

    Raises:
        RequestError: a line is not of a whole number of pixels, 1 or more.
    """
    picture = image.convert("RGB")
    style = _Style.of(picture.size, len(regions))
    if line_width is not None:
        check_count("line_width", line_width)
        style = replace(style, line=line_width)
    if asked is not None:
        _outline_box(picture, asked, _PAPER, style)
    coloured = list(zip(regions, _colours(regions), strict=True))
    coloured.sort(key=lambda pair: _area(pair[0].box), reverse=True)  # the small ones on top
    for region, colour in coloured:
        if region.shape == "box":
            _outline_box(picture, region.box, colour, style)
        else:
            _outline_rings(picture, region, colour, style)
    tags: list[Rectangle] = []
    for region, colour in coloured:
        tags.append(_tag(picture, region, colour, style, tags))
    return _with_caption(picture, caption, style) if caption.strip() else picture


def _colours(regions: Sequence[Region]) -> list[Colour]:
    """One colour for each label; regions without a label are named by their number."""
    names = [region.label or number for number, region in enumerate(regions)]
    every = range(len(_PALETTE))
    slots: dict[str | int, int] = {}
    for name in dict.fromkeys(names):
        wanted = name if isinstance(name, int) else crc32(name.encode("utf-8", "replace"))
        free = set(every) - set(slots.values()) or every
        slots[name] = min(free, key=lambda slot: (slot - wanted) % len(_PALETTE))
    return [_PALETTE[slots[name]] for name in names]


def _outline_box(picture: Image.Image, box: Box, colour: Colour, style: _Style) -> None:
    left, top, right, bottom = _inside(box, picture.size)
    pen = ImageDraw.Draw(picture)
    # A dark rim keeps the line visible on every ground.
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_INK, width=style.line + 2)
    pen.rectangle((left, top, right, bottom), outline=colour, width=style.line)


def _outline_rings(picture: Image.Image, region: Region, colour: Colour, style: _Style) -> None:
    left, top, right, bottom = _inside(region.box, picture.size)
    margin = style.line + 2
    corner = (left - margin, top - margin)
    size = (right - left + 2 * margin, bottom - top + 2 * margin)
    rings = [_points(ring, corner) for ring in region.rings if len(ring) >= _TWO_POINTS]
    if region.shape == "polygon":
        picture.paste(colour, corner, _fill(rings, size))
    picture.paste(_INK, corner, _stroke(rings, size, width=style.line + 2, opacity=_RIM))
    picture.paste(colour, corner, _stroke(rings, size, width=style.line, opacity=255))


def _points(ring: Ring, corner: tuple[int, int]) -> list[PixelPoint]:
    """The corners of a ring on a fine mask whose own corner is at `corner` of the picture."""
    across = [(min(x, _FAR) - corner[0]) * _FINENESS for x in ring[0::2]]
    down = [(min(y, _FAR) - corner[1]) * _FINENESS for y in ring[1::2]]
    return list(zip(across, down, strict=True))


def _fill(rings: Sequence[Sequence[PixelPoint]], size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", (size[0] * _FINENESS, size[1] * _FINENESS))
    for ring in rings:
        ImageDraw.Draw(mask).polygon(ring, fill=_FILL)
    return mask.reduce(_FINENESS)


def _stroke(
    rings: Sequence[Sequence[PixelPoint]], size: tuple[int, int], *, width: int, opacity: int
) -> Image.Image:
    mask = Image.new("L", (size[0] * _FINENESS, size[1] * _FINENESS))
    for ring in rings:
        closed = [*ring, *ring[:2]]  # one corner too many, so that the last joint is round too
        ImageDraw.Draw(mask).line(closed, fill=opacity, width=width * _FINENESS, joint="curve")
    return mask.reduce(_FINENESS)


def _tag(
    picture: Image.Image,
    region: Region,
    colour: Colour,
    style: _Style,
    taken: Sequence[Rectangle],
) -> Rectangle:
    """Write label and score at the region, where they hide no other tag if possible."""
    font = font_for(region.label, style.text)
    score = f"{region.score:.2f}"
    room = picture.width - 2 * style.padding - font.getlength(f" {score}")
    words = f"{fitted(region.label, font, room)} {score}" if region.label else score
    width = math.ceil(font.getlength(words)) + 2 * style.padding
    height = style.text + 2 * style.padding
    places = _places(_inside(region.box, picture.size), (width, height), picture.size)
    place = min(places, key=lambda each: sum(_overlap(each, other) for other in taken))
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle(place, radius=style.padding, fill=colour, outline=_INK)
    middle = (place[0] + style.padding, (place[1] + place[3]) / 2)
    pen.text(middle, words, fill=_readable_on(colour), font=font, anchor="lm")
    return place


def _places(box: Rectangle, tag: tuple[int, int], size: tuple[int, int]) -> list[Rectangle]:
    """Where a tag may stand, the best first: over the box, in it, under it; left, then right."""
    left, top, right, bottom = box
    width, height = tag
    corners = [
        (x, y) for x in (left, right - width) for y in (top - height, top, bottom, bottom - height)
    ]
    places = []
    for x, y in corners:
        x, y = max(0, min(x, size[0] - 1 - width)), max(0, min(y, size[1] - 1 - height))
        places.append((x, y, x + width, y + height))
    return places


def _with_caption(picture: Image.Image, caption: str, style: _Style) -> Image.Image:
    font = font_for(caption, style.text)
    margin, step = 3 * style.padding, round(style.text * 1.4)
    lines = wrapped(caption, font, picture.width - 2 * margin)
    strip = len(lines) * step + 2 * margin
    page = Image.new("RGB", (picture.width, picture.height + strip), _INK)
    page.paste(picture)
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        middle = picture.height + margin + (number + 0.5) * step
        pen.text((margin, middle), line, fill=_PAPER, font=font, anchor="lm")
    return page


def _readable_on(colour: Colour) -> Colour:
    red, green, blue = colour
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else _PAPER


def _inside(box: Box, size: tuple[int, int]) -> Rectangle:
    left, top, right, bottom = box
    width, height = size
    return (
        round(max(0, min(left, width - 1))),
        round(max(0, min(top, height - 1))),
        round(max(0, min(right, width - 1))),
        round(max(0, min(bottom, height - 1))),
    )


def _overlap(one: Rectangle, other: Rectangle) -> int:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0) * max(down, 0)


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


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
