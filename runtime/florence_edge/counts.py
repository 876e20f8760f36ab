"""Whole numbers that callers give."""

from numbers import Integral

from .errors import RequestError


def check_count(
    name: str, value: object, least: int = 1, most: int | None = None, *, hint: str = ""
) -> None:
    """Refuse what is not a whole number from `least` to `most`, or of any size without `most`.

    Args:
        name: what the caller knows it by.
        value: what was given; numpy's whole numbers are some, booleans are not.
        least: the smallest that is allowed.
        most: the largest.
        hint: a sentence about what to do.

    Raises:
        RequestError: saying what was given, and what is expected.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if whole and least <= value and (most is None or value <= most):  # type: ignore[operator]
        return
    wanted = f"of {least} or more" if most is None else f"from {least} to {most}"
    raise RequestError(
        f"{name} is {value!r:.40}; it must be a whole number {wanted}. {hint}".strip()
    )
