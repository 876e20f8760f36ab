"""The window, with stand-ins for cv2 and tkinter, and on a display where there is one for tests."""

import builtins
import sys
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.video.display import open_window

PICTURE = Image.new("RGB", (8, 6), (10, 20, 30))


@pytest.fixture(autouse=True)
def display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets one stand-in be imported and neither of the real modules."""
    real = builtins.__import__

    def only(**modules: Any) -> None:
        def find(name: str, *rest: Any, **more: Any) -> Any:
            if name in ("cv2", "tkinter") and name not in modules:
                raise ImportError(name)
            return real(name, *rest, **more)

        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(builtins, "__import__", find)

    return only


def fake_cv2(key: int = -1, visible: float = 1.0, *, headless: bool = False) -> Any:
    cv2: Any = ModuleType("cv2")
    cv2.error, cv2.shown = type("error", (Exception,), {}), []
    cv2.WINDOW_NORMAL, cv2.WINDOW_KEEPRATIO, cv2.WINDOW_GUI_NORMAL = 0, 0, 16
    cv2.WND_PROP_VISIBLE, cv2.sizes = 4, []
    cv2.resizeWindow = lambda title, *size: cv2.sizes.append(size)

    def named_window(title: str, kind: int) -> None:
        if headless:
            raise cv2.error("not implemented")

    cv2.namedWindow = named_window
    cv2.imshow = lambda title, bgr: cv2.shown.append(bgr[0, 0].tolist())
    cv2.waitKey = lambda milliseconds: key
    cv2.getWindowProperty = lambda title, name: visible
    return cv2


@pytest.mark.parametrize(
    ("key", "visible", "goes_on"),
    [
        (-1, 1.0, True),
        (ord("q"), 1.0, False),
        (27, 1.0, False),
        (ord("x"), 1.0, True),
        (-1, 0.0, False),
    ],
)
def test_cv2_shows_frames_until_the_user_leaves(
    only: Any, key: int, visible: float, goes_on: bool
) -> None:
    cv2 = fake_cv2(key, visible)
    only(cv2=cv2)
    show = open_window()
    assert show(PICTURE) is goes_on
    assert show(PICTURE) is goes_on
    assert cv2.shown == [[30, 20, 10]] * 2
    assert cv2.sizes == [PICTURE.size]


def test_keys_are_heard_while_no_frame_comes(only: Any) -> None:
    cv2 = fake_cv2(visible=0.0)
    only(cv2=cv2)
    show = open_window()
    assert show(None) is True  # not visible, because nothing was shown yet
    cv2.waitKey = lambda milliseconds: ord("q")
    assert show(None) is False
    assert cv2.shown == []


def test_a_window_that_qt_has_closed_ends_it_too(only: Any) -> None:
    cv2 = fake_cv2()

    def closed(title: str, name: int) -> float:
        raise cv2.error("NULL guiReceiver (please create a window)")

    cv2.getWindowProperty = closed
    only(cv2=cv2)
    assert open_window()(PICTURE) is False


def test_a_window_that_no_module_can_open_is_one_message(only: Any) -> None:
    only(cv2=fake_cv2(headless=True))
    with pytest.raises(FlorenceEdgeError, match=r"Neither cv2 nor tkinter .*python3-tk"):
        open_window()


def test_without_a_display_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RequestError, match=r"no display .*--save out\.mp4"):
        open_window()


def test_tkinter_shows_frames_where_cv2_is_not(only: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tkinter: Any = ModuleType("tkinter")
    bound: dict[str, Any] = {}
    shown: list[Any] = []

    class Tk:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

        def bind(self, key: str, action: Any) -> None:
            bound[key] = action

    class Label(Tk):
        def __init__(self, root: Tk) -> None:
            pass

        def configure(self, image: Any) -> None:
            shown.append(image)

    tkinter.Tk, tkinter.Label, tkinter.TclError = Tk, Label, RuntimeError
    photo: Any = ModuleType("PIL.ImageTk")
    photo.PhotoImage = lambda image: image.size
    monkeypatch.setitem(sys.modules, "PIL.ImageTk", photo)
    monkeypatch.setattr("PIL.ImageTk", photo, raising=False)
    only(tkinter=tkinter)
    show = open_window()
    assert show(PICTURE) is True
    assert shown == [(8, 6)]
    bound["q"](None)
    assert show(PICTURE) is False
    assert shown == [(8, 6)]
