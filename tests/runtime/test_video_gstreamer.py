"""Pipelines, with stand-ins for gi and cv2: pip installs neither of them with GStreamer."""

import builtins
import sys
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

from florence_edge.errors import MissingPackageError, SourceError
from florence_edge.video.sources import source_of

PIPELINE = "videotestsrc ! video/x-raw,width=6"
COUNTED = "videotestsrc num-buffers=2 ! video/x-raw,width=6"


class Sample:
    """A frame of 5 x 2 pixels, whose rows GStreamer pads from 15 bytes to 16."""

    layout = "RGB"

    def __init__(self, number: int) -> None:
        rows = np.zeros((2, 16), np.uint8)
        rows[:, :15] = number
        self.data = rows.tobytes()
        self.pts = number * 100_000_000  # nanoseconds

    def get_caps(self) -> Any:
        values = {"format": self.layout, "width": 5, "height": 2}
        return SimpleNamespace(get_structure=lambda _: SimpleNamespace(get_value=values.get))

    def get_buffer(self) -> Any:
        return SimpleNamespace(
            map=lambda flags: (True, SimpleNamespace(data=self.data)),
            unmap=lambda view: None,
            pts=self.pts,
        )


class FakeGst(ModuleType):
    """The part of Gst that is used."""

    State = SimpleNamespace(PAUSED="paused", PLAYING="playing", NULL="null")
    StateChangeReturn = SimpleNamespace(NO_PREROLL="live")
    MapFlags = SimpleNamespace(READ=1)
    CLOCK_TIME_NONE = 2**64 - 1
    MessageType = SimpleNamespace(ERROR=2)

    def __init__(
        self,
        samples: list[Sample],
        *,
        error: str | None = None,
        eos: bool = True,
        begun: str = "async",
        sink: str = "florence",
    ) -> None:
        super().__init__("gi.repository.Gst")
        self.launched: list[str] = []
        self.states: list[str] = []
        self._samples = iter(samples)
        self._error = error
        self._eos = eos
        self._begun = begun
        self._sink = sink

    def init(self, arguments: None) -> None:
        pass

    def parse_launch(self, pipeline: str) -> Any:
        self.launched.append(pipeline)
        sink = SimpleNamespace(
            emit=lambda signal, timeout: next(self._samples, None),
            get_property=lambda name: self._eos,
        )
        message = SimpleNamespace(
            parse_error=lambda: (SimpleNamespace(message=self._error), "details")
        )
        bus = SimpleNamespace(pop_filtered=lambda kind: message if self._error else None)
        return SimpleNamespace(
            set_state=self._set_state,
            get_by_name=lambda name: sink if name == self._sink else None,
            get_bus=lambda: bus,
            connect=lambda signal, callback: None,
        )

    def _set_state(self, state: str) -> str:
        self.states.append(state)
        return self._begun


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts stand-ins in the place of gi and cv2; None means that the module is not there."""
    real = builtins.__import__
    there: dict[str, Any] = {}

    def find(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in ("gi", "cv2") and name.split(".")[0] not in there:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", find)

    def install(gst: FakeGst | None = None, cv2: Any = None) -> None:
        if gst is not None:
            gi, repository = ModuleType("gi"), ModuleType("gi.repository")
            gi.require_version = lambda *_: None  # type: ignore[attr-defined]
            gi.repository = repository  # type: ignore[attr-defined]
            repository.Gst = gst  # type: ignore[attr-defined]
            repository.GLib = SimpleNamespace(Error=RuntimeError)  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, "gi", gi)
            monkeypatch.setitem(sys.modules, "gi.repository", repository)
            there["gi"] = gi
        if cv2 is not None:
            monkeypatch.setitem(sys.modules, "cv2", cv2)
            there["cv2"] = cv2

    return install


def test_frames_come_from_gi_without_their_padding(install: Any) -> None:
    gst = FakeGst([Sample(7), Sample(9)])
    install(gst)
    pixels = [np.asarray(captured.picture()) for captured in source_of(PIPELINE).frames()]
    assert [each.shape for each in pixels] == [(2, 5, 3)] * 2
    assert [np.unique(each).tolist() for each in pixels] == [[7], [9]]
    assert gst.launched == [
        f"{PIPELINE} ! videoconvert ! video/x-raw,format=RGB ! "
        "appsink name=florence drop=true max-buffers=1 sync=false"
    ]
    assert gst.states == ["paused", "playing", "null"]


def test_a_pipeline_that_is_not_live_keeps_its_frames_until_they_are_taken(install: Any) -> None:
    gst = FakeGst([])
    install(gst)
    list(source_of(PIPELINE, live=False).frames())
    assert gst.launched[0].endswith("appsink name=florence max-buffers=2 sync=false")


def test_a_pipeline_that_is_not_live_has_the_times_of_its_frames(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [Sample(70), Sample(71), Sample(72), Sample(5), Sample(6)]  # in tenths of a second
    samples[2].pts = FakeGst.CLOCK_TIME_NONE
    install(FakeGst(samples))
    monkeypatch.setattr("time.time", lambda: pytest.fail("the clock of the system was read"))
    times = [captured.timestamp for captured in source_of(PIPELINE, live=False).frames()]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_a_pipeline_of_cv2_that_is_not_live_has_the_times_of_its_frames(install: Any) -> None:
    install(cv2=fake_cv2("YES", frames=3))
    times = [captured.timestamp for captured in source_of(COUNTED, live=False).frames()]
    assert times == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("fails", ["parse", "run", "open"])
def test_the_secrets_of_a_pipeline_are_not_shown(
    install: Any, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    pipeline = "rtspsrc location=rtsp://me:word@host/a?token=word user-pw=word ! decodebin"
    gst = FakeGst([], error=f"Could not open {pipeline}")

    def refuse(pipeline: str) -> Any:
        error = RuntimeError()
        error.message = f"no property in {pipeline}"  # type: ignore[attr-defined]
        raise error

    if fails == "parse":
        monkeypatch.setattr(gst, "parse_launch", refuse)
    install(None if fails == "open" else gst, cv2=fake_cv2("YES", opens=False))
    with pytest.raises(SourceError, match=r"rtsp://me:\*\*\*@host/a\?token=\*\*\*") as raised:
        list(source_of(pipeline).frames())
    assert "word" not in str(raised.value)


def test_a_camera_that_ends_was_lost_unless_its_frames_were_to_be_counted(install: Any) -> None:
    install(FakeGst([Sample(1)], begun="live"))
    with pytest.raises(SourceError, match="ended, though its source is live"):
        list(source_of(PIPELINE).frames())
    install(FakeGst([Sample(1)], begun="live"))
    assert len(list(source_of("nvarguscamerasrc num-buffers=1 ! nvvidconv").frames())) == 1


def test_a_pipeline_without_spaces_gets_them(install: Any) -> None:
    gst = FakeGst([])
    install(gst)
    list(source_of("videotestsrc num-buffers=3!videoscale").frames())
    assert gst.launched[0].startswith("videotestsrc num-buffers=3 ! videoscale ! videoconvert !")


def test_an_appsink_of_ones_own_gets_a_name(install: Any) -> None:
    gst = FakeGst([])
    install(gst)
    list(source_of("a ! videoconvert ! appsink").frames())
    assert gst.launched[0].startswith("a ! videoconvert ! appsink name=florence ")


@pytest.mark.parametrize("sink", ["appsink name=sink", 'appsink sync=true name = "sink"'])
def test_an_appsink_that_has_a_name_is_found_by_it(install: Any, sink: str) -> None:
    gst = FakeGst([], sink="sink")
    install(gst)
    assert list(source_of(f"filesrc location=appsink.mp4 name=a ! {sink}").frames()) == []
    assert "name=florence" not in gst.launched[0]
    assert "appsink.mp4 name=a ! appsink drop=true max-buffers=1" in gst.launched[0]


@pytest.mark.parametrize(
    ("gst", "message"),
    [
        (FakeGst([], error="no such device"), "The pipeline failed: no such device"),
        (FakeGst([], eos=False, error="Gone."), "The pipeline failed: Gone."),
        (FakeGst([], eos=False), "The pipeline stalled: no frame came for 0.05 s"),
    ],
)
def test_a_pipeline_that_fails_or_stalls_is_an_error_and_is_shut(
    install: Any, gst: FakeGst, message: str
) -> None:
    install(gst)
    with pytest.raises(SourceError, match=message):
        list(source_of(PIPELINE, timeout=0.05).frames())
    assert gst.states[-1] == "null"


def test_another_layout_is_refused_with_what_to_put_into_the_pipeline(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sample, "layout", "NV12")
    install(FakeGst([Sample(1)]))
    captured = next(source_of(PIPELINE).frames())
    with pytest.raises(SourceError, match=r"gives NV12, expected RGB.*videoconvert"):
        captured.picture()


def fake_cv2(built: str, frames: int = 0, *, opens: bool = True, channels: int = 3) -> Any:
    bgr = np.zeros((2, 5, channels), np.uint8)
    bgr[..., 0] = 200
    given = iter([(True, bgr)] * frames + [(False, None)])
    positions = count(5000.0, 100.0)
    capture = SimpleNamespace(
        get=lambda which: next(positions),
        isOpened=lambda: opens,
        read=lambda: next(given),
        release=lambda: cv2.released.append(1),
    )
    cv2: Any = ModuleType("cv2")
    cv2.released, cv2.CAP_GSTREAMER, cv2.CAP_PROP_POS_MSEC = [], 1800, 0
    cv2.getBuildInformation = lambda: f"  Video I/O:\n    GStreamer:   {built}\n"
    cv2.VideoCapture = lambda pipeline, api: capture
    return cv2


def test_without_gi_a_cv2_with_gstreamer_gives_frames_as_rgb(install: Any) -> None:
    cv2 = fake_cv2("YES (1.20.3)", frames=2)
    install(cv2=cv2)
    pixels = [np.asarray(captured.picture()) for captured in source_of(COUNTED).frames()]
    assert [each[0, 0].tolist() for each in pixels] == [[0, 0, 200]] * 2
    assert cv2.released == [1]


def test_a_live_pipeline_of_cv2_that_ends_was_lost(install: Any) -> None:
    install(cv2=fake_cv2("YES", frames=1))
    with pytest.raises(SourceError, match="ended, though its source is live"):
        list(source_of(PIPELINE).frames())


@pytest.mark.parametrize("channels", [1, 4])
def test_another_layout_of_cv2_is_refused_with_what_to_put_in(install: Any, channels: int) -> None:
    install(cv2=fake_cv2("YES", frames=1, channels=channels))
    captured = next(source_of(PIPELINE).frames())
    with pytest.raises(SourceError, match=rf"of {channels} channels, .*format=BGR"):
        captured.picture()


def test_a_pipeline_that_cv2_cannot_open_says_how_to_try_it(install: Any) -> None:
    install(cv2=fake_cv2("YES", opens=False))
    with pytest.raises(SourceError, match=r"gst-launch-1.0 videotestsrc ! .*! fakesink"):
        next(source_of(PIPELINE).frames())


@pytest.mark.parametrize("cv2", [None, fake_cv2("NO")])
def test_without_either_it_says_what_to_install(install: Any, cv2: Any) -> None:
    install(cv2=cv2)
    with pytest.raises(MissingPackageError, match="sudo apt install python3-gi"):
        source_of(PIPELINE).frames()
