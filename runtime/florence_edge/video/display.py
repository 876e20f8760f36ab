"""Frames with their answers on them, and a window that shows them.

`drawn` keeps the size of the frame, as a video needs it. The window is cv2's or tkinter's,
whichever is installed.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..errors import MissingPackageError, RequestError
from ..regions import Region
from ..results.draw import draw, font_for, wrapped
from ..results.result import Result
from ..tasks import AnswerKind

ShowFrame = Callable[[Image.Image | None], bool]
"""Shows a frame; False once the user has closed the window or pressed q or Escape.

None shows nothing new, and lets a window answer the user while no frame comes.
"""

_VEIL = (18, 18, 20, 170)  # behind words, so that they can be read on every ground
_INK = (250, 250, 250)
_MAX_LINES = 4

_TITLE = "florence-edge"
_KEYS_TO_LEAVE = {ord("q"), 27}


def drawn(
    image: Image.Image, results: Sequence[Result], *, line_width: int | None = None
) -> Image.Image:
    """The regions of all results, with their track numbers; texts stand over the lower edge."""
    regions = [_named(region) for result in results for region in result.regions]
    picture = draw(image, regions, line_width=line_width)
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
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"{lines[_MAX_LINES - 1]} ..."]
    top = max(0, picture.height - len(lines) * step - margin)
    veil = Image.new("RGBA", (picture.width, picture.height - top), _VEIL)
    picture.paste(veil, (0, top), veil)
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        middle = top + margin / 2 + (number + 0.5) * step
        pen.text((margin, middle), line, fill=_INK, font=font, anchor="lm")


def open_window() -> ShowFrame:
    """A window on this machine's display.

    Raises:
        RequestError: there is no display.
        MissingPackageError: neither cv2 nor tkinter can open a window.
    """
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, displays)):
        raise RequestError(
            "There is no display to show frames on (DISPLAY is not set). Log in with ssh -X, or "
            "use --save out.mp4 or --json."
        )
    window = _by_cv2() or _by_tkinter()
    if window is None:
        raise MissingPackageError(
            "Neither cv2 nor tkinter can open a window here. Install one: sudo apt install "
            "python3-tk python3-pil.imagetk; or use --save out.mp4 or --json."
        )
    return window


def _by_cv2() -> ShowFrame | None:
    try:
        import cv2
    except ImportError:
        return None
    try:
        # Qt's tool bar is left out: it takes the room of a small picture.
        cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    except cv2.error:  # opencv-python-headless
        return None
    fitted: list[tuple[int, int]] = []

    def show(image: Image.Image | None) -> bool:
        if image is not None and not fitted:  # from then on its size is the user's
            cv2.resizeWindow(_TITLE, *image.size)
            fitted.append(image.size)
        if image is not None:
            cv2.imshow(_TITLE, np.asarray(image)[:, :, ::-1])
        left = cv2.waitKey(1) & 0xFF in _KEYS_TO_LEAVE
        return not left and (not fitted or visible())  # some show a window with its first frame

    def visible() -> bool:
        try:
            return bool(cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:  # Qt, once the last window was closed
            return False

    return show


def _by_tkinter() -> ShowFrame | None:
    try:
        import tkinter

        from PIL import ImageTk
    except ImportError:
        return None
    try:
        root = tkinter.Tk()
    except tkinter.TclError:
        return None
    root.title(_TITLE)
    picture = tkinter.Label(root)
    picture.pack()
    shown: dict[str, Any] = {"open": True}

    def leave(_: object = None) -> None:
        shown["open"] = False
        with suppress(tkinter.TclError):
            root.destroy()

    root.protocol("WM_DELETE_WINDOW", leave)
    root.bind("q", leave)
    root.bind("<Escape>", leave)

    def show(image: Image.Image | None) -> bool:
        if shown["open"] and image is not None:
            shown["photo"] = ImageTk.PhotoImage(image)  # tkinter itself keeps no reference
            picture.configure(image=shown["photo"])
        if shown["open"]:
            root.update()
        return bool(shown["open"])

    return show
