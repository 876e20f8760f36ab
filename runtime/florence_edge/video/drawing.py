"""A frame with its answers on it, always of the frame's own size: that is what a video needs."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageDraw

from ..answers.draw import draw
from ..answers.lettering import font_for, wrapped
from ..answers.regions import Region
from ..answers.result import Result
from ..tasks import AnswerKind

_VEIL = (18, 18, 20, 170)  # behind words, so that they can be read on every ground
_INK = (250, 250, 250)
_MOST_LINES = 4


def drawn(image: Image.Image, results: Sequence[Result]) -> Image.Image:
    """The regions of all results, with their track numbers; texts stand over the lower edge."""
    regions = [_named(region) for result in results for region in result.regions]
    picture = draw(image, regions)
    texts = [r.text for r in results if r.task.answer is AnswerKind.PURE_TEXT and r.text.strip()]
    if texts:
        _write(picture, " | ".join(texts))
    return picture


def _named(region: Region) -> Region:
    if region.track_id is None:
        return region
    return replace(region, label=f"{region.label} #{region.track_id}".strip())


def _write(picture: Image.Image, text: str) -> None:
    """Write over the lower edge; what does not fit into four lines is left out."""
    size = max(12, picture.height // 28)
    font, margin, step = font_for(text, size), size // 2, round(size * 1.4)
    lines = wrapped(text, font, picture.width - 2 * margin)
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1]} ..."]
    top = max(0, picture.height - len(lines) * step - margin)
    veil = Image.new("RGBA", (picture.width, picture.height - top), _VEIL)
    picture.paste(veil, (0, top), veil)
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        middle = top + margin / 2 + (number + 0.5) * step
        pen.text((margin, middle), line, fill=_INK, font=font, anchor="lm")
