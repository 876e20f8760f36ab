"""A window that shows frames, by cv2 or by tkinter, whichever is there."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

from ..errors import FlorenceEdgeError

Show = Callable[[Image.Image | None], bool]
"""Shows a frame; False once the user has closed the window or pressed q or Escape.

None shows nothing new, and is how a window answers the user while no frame comes.
"""

_TITLE = "florence-edge"
_LEAVING = {ord("q"), 27}


def open_window() -> Show:
    """A window on this machine's display.

    Raises:
        FlorenceEdgeError: there is no display, or neither cv2 nor tkinter can open a window.
    """
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, displays)):
        raise FlorenceEdgeError(
            "There is no display to show frames on (DISPLAY is not set). Log in with ssh -X, or "
            "use --save out.mp4 or --json."
        )
    window = _by_cv2() or _by_tkinter()
    if window is None:
        raise FlorenceEdgeError(
            "Neither cv2 nor tkinter can open a window here. Install one: sudo apt install "
            "python3-tk python3-pil.imagetk; or use --save out.mp4 or --json."
        )
    return window


def _by_cv2() -> Show | None:
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
        left = cv2.waitKey(1) & 0xFF in _LEAVING
        return not left and (not fitted or visible())  # some show a window with its first frame

    def visible() -> bool:
        try:
            return bool(cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1)
        except cv2.error:  # Qt, once the last window was closed
            return False

    return show


def _by_tkinter() -> Show | None:
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
