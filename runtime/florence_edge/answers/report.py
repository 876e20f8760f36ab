"""An answer as text for people."""

from ..tasks import AnswerKind
from .result import Result

_STATUS_NOTES = {
    "empty": "(the model said nothing)",
    "unparsed": "(the answer names no region; raw text follows)",
    "truncated": "(cut off: the answer reached its longest length, or its time was up)",
}


def describe(result: Result) -> str:
    """One line a region, or the answer's text; then what is to be said about its status."""
    lines = [] if result.task.answer is not AnswerKind.PURE_TEXT else [_text(result)]
    lines += [
        f"{region.score:5.2f}  {_numbers(region.box)}  {_extent(region.shape, len(region.rings))}"
        f"{region.label}".rstrip()
        for region in result.regions
    ]
    if result.status in _STATUS_NOTES:
        lines.append(_STATUS_NOTES[result.status])
    elif not lines:
        lines.append("(no region scores high enough)")  # filtered: status ok means there were some
    if result.status == "unparsed":
        lines.append(result.raw_text)
    return "\n".join(line for line in lines if line)


def _text(result: Result) -> str:
    return f"{result.score:5.2f}  {result.text}" if result.text else ""


def _numbers(box: tuple[float, float, float, float]) -> str:
    return " ".join(f"{round(edge):5d}" for edge in box)


def _extent(shape: str, rings: int) -> str:
    return f"[{rings} outline{'s' if rings > 1 else ''}]  " if shape == "polygon" else ""
