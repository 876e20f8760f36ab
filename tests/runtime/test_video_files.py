"""Video files: their frames and times, and what is said of those that are damaged or hold none."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from florence_edge.errors import SourceError
from florence_edge.video import pyav
from florence_edge.video.sources import source_of

from ..helpers.assets import Asset
from .videos import number_of, numbers, picture, read_video, write_stream, write_video


def test_a_file_gives_every_frame_in_order_with_its_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 6)
    captured = list(source_of(path).frames())
    assert [number_of(np.asarray(c.picture())) for c in captured] == list(range(6))
    assert [c.timestamp for c in captured] == pytest.approx([n / 10 for n in range(6)])
    assert np.array_equal(np.asarray(captured[2].picture()), read_video(path)[2][1])


def test_frames_of_changing_size_come_in_their_sizes(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / f"{n}.h264", 3, size=size, codec="libx264", kind="h264")
        for n, size in enumerate([(64, 48), (96, 64)])
    ]
    both = tmp_path / "both.h264"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    captured = list(source_of(both).frames())
    times = [each.timestamp for each in captured]
    assert times == sorted(set(times))  # though such a file holds none
    shapes = [np.asarray(each.picture()).shape for each in captured]
    assert shapes == [(48, 64, 3)] * 3 + [(64, 96, 3)] * 3


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_was_cut_short_is_an_error_or_gives_what_is_whole(
    tmp_path: Path, share: float
) -> None:
    whole = write_video(tmp_path / "a.mp4", 10).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SourceError, match=r"cut\.mp4 cannot be read: Invalid data"):
        numbers(tmp_path / "cut.mp4")
    whole = write_video(tmp_path / "a.avi", 10).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: int(0.9 * len(whole))])
    read = numbers(tmp_path / "cut.avi")
    assert 1 <= len(read) < 10
    assert read == list(range(len(read)))


def test_damaged_packets_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import av

    class Packet:
        def __init__(self, number: int) -> None:
            self.number = number

        def decode(self) -> list[Any]:
            if self.number in (1, 2):
                raise av.error.InvalidDataError(1, "Invalid data")
            return [SimpleNamespace(time=float(self.number))]

    class Container:
        codec = SimpleNamespace(width=64, height=48)
        stream = SimpleNamespace(average_rate=None, disposition=0, codec_context=codec)
        streams = SimpleNamespace(video=[stream])
        format = SimpleNamespace(flags=0)
        start_time = None

        def __enter__(self) -> "Container":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def demux(self, stream: object) -> Iterator[Packet]:
            return iter(map(Packet, range(4)))

    monkeypatch.setattr(av, "open", lambda *_, **__: Container())
    opening = pyav.Opening(kind="file", target="a")
    times = [captured.timestamp for captured in pyav.frames("a", False, opening)]
    assert times == [0.0, 3.0]
    assert caplog.text.count("is damaged in places") == 1


def test_what_holds_no_video_says_so(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(SourceError, match=r"sound\.wav holds no video"):
        numbers(tmp_path / "sound.wav")


@pytest.mark.parametrize(("rotation", "corner"), [(0, 0), (90, 1), (-90, 3), (180, 2), (-180, 2)])
def test_a_phones_video_is_turned_upright(rotation: int, corner: int) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255  # the upper left corner goes to the lower left if turned counterclockwise
    frame = SimpleNamespace(rotation=rotation, to_ndarray=lambda format: pixels)
    turned = pyav.rgb(frame)
    corners = [turned[0, 0], turned[-1, 0], turned[-1, -1], turned[0, -1]]
    assert [int(each.max()) for each in corners].index(255) == corner
    assert turned.shape == ((4, 6, 3) if corner % 2 == 0 else (6, 4, 3))


def test_titles_in_whatever_encoding_do_not_matter(tmp_path: Path) -> None:
    import av

    path = tmp_path / "titled.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "CafXX"
        stream = container.add_stream("mpeg4", rate=10)
        stream.metadata["title"] = "RueXX"
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(picture(3), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for title in (b"CafXX", b"RueXX"):
        damaged = path.read_bytes().replace(title, title.replace(b"XX", b"\xe9\xff"))
        (tmp_path / "latin1.mkv").write_bytes(damaged)
        with pytest.raises(UnicodeDecodeError):
            av.open(str(tmp_path / "latin1.mkv"))
        assert numbers(tmp_path / "latin1.mkv") == [3]


def test_a_shared_video_with_a_latin1_title_is_read(asset: Asset) -> None:
    assert len(numbers(asset("cases/latin1-title.mp4"))) > 0


def test_a_name_that_is_not_utf8_is_opened(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    write_video(tmp_path / "a.mp4", 2).rename(path)
    assert numbers(path) == [0, 1]


def times(path: Path) -> list[float]:
    return [captured.timestamp for captured in source_of(path).frames()]


TENTHS = [n / 10 for n in range(6)]


@pytest.mark.parametrize("start", [36_000.0, 1.4, 0.04, 95_000.0])
def test_times_are_from_the_files_start_wherever_its_clock_begins(
    tmp_path: Path, start: float
) -> None:
    path = write_stream(tmp_path / "late.ts", *(start + time for time in TENTHS))
    assert times(path) == pytest.approx(TENTHS, abs=1e-4)
    assert times(path)[0] == 0.0


@pytest.mark.parametrize(
    "clock",
    [
        (36_000.0, 36_000.1, 36_000.2, 5.0, 5.1, 5.2),  # FFmpeg takes this for an overflow
        (10.0, 10.1, 10.2, 5.0, 5.1, 5.2),
        (10.0, 10.1, 10.2, 36_000.0, 36_000.1, 36_000.2),
        (10.0, 10.1, 10.2, 10.0, 10.1, 10.2),
    ],
)
def test_times_go_on_where_the_clock_of_a_stream_jumps(
    tmp_path: Path, clock: tuple[float, ...]
) -> None:
    path = write_stream(tmp_path / "joined.ts", *clock)
    assert times(path) == pytest.approx(TENTHS, abs=1e-4)


def test_pauses_between_frames_are_kept(tmp_path: Path) -> None:
    pauses = (0.0, 0.1, 2.0, 2.1, 9.0)
    assert times(write_stream(tmp_path / "a.ts", *pauses)) == pytest.approx(pauses, abs=1e-4)


@pytest.mark.parametrize("begin", [-0.5, 0.25, 3600.0])
def test_a_picture_that_begins_before_or_behind_the_sound(begin: float) -> None:
    import av

    def of(start: float | None) -> float:
        container = SimpleNamespace(
            start_time=None if start is None else round(start * av.time_base),
            format=SimpleNamespace(flags=av.format.Flags.ts_discont.value),
        )
        file_time = pyav._FileTime(av, container, SimpleNamespace(average_rate=10))
        return file_time.seconds(begin)

    assert of(None) == pytest.approx(begin if begin == 0.25 else 0.0)
    assert of(begin) == 0.0
    assert of(-0.02) == pytest.approx(begin if begin == 0.25 else 0.0)


def write_with_cover(path: Path, pictures: int, *, attached: bool, still: str = "mjpeg") -> Path:
    """A file whose first video track is one picture, number 9, and then sound or a video."""
    import av

    with av.open(str(path), "w") as container:
        cover = container.add_stream(still, rate=10)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        if attached:
            cover.disposition = av.stream.Disposition.attached_pic
        kinds = ("mpeg4", 10) if pictures else ("aac", 8000)
        stream = container.add_stream(kinds[0], rate=kinds[1])
        if pictures:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(picture(9), format="rgb24").reformat(format="yuvj420p")
        packets = [*cover.encode(frame), *cover.encode(None)]
        container.mux(packets)
        for number in range(pictures):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24"))
            )
        if not pictures:
            sound = np.zeros((1, 1024), np.float32)
            tone = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            tone.sample_rate = 8000
            container.mux(stream.encode(tone))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("name", "attached"), [("a.mkv", False), ("a.mkv", True), ("a.mp4", True)])
@pytest.mark.parametrize("pictures", [2, 5])
def test_a_cover_picture_is_not_taken_for_the_video(
    tmp_path: Path, name: str, attached: bool, pictures: int
) -> None:
    path = write_with_cover(tmp_path / name, pictures, attached=attached)
    assert numbers(path) == list(range(pictures))


def test_sound_with_a_cover_holds_no_video(tmp_path: Path) -> None:
    path = write_with_cover(tmp_path / "song.mp4", 0, attached=True)
    with pytest.raises(SourceError, match=r"song\.mp4 holds no video, only a cover picture\."):
        numbers(path)


def test_a_single_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a.png", "a.jpg", "a.webp", "a.bmp"):
        Image.fromarray(picture(4)).save(tmp_path / name)
        assert numbers(tmp_path / name) == [4]


def test_a_codec_that_nobody_knows_is_named_as_what_is_missing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 3)
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/ASP", b"V_MPEG4/ISO/XYZ"))
    with pytest.raises(SourceError, match=r"a\.mkv cannot be read: .* cannot decode .*libx264"):
        numbers(path)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", r"It is empty\.$"),
        (b"\0" * 5000, r"It is damaged, or not a video that FFmpeg can read\.$"),
        (b"no video at all\n", r"It is damaged, or not a video that FFmpeg can read\.$"),
        (b"\0\0\0 ftypisom\0\0\2\0isomiso2mp41", "one that was cut off has to be repaired"),
    ],
)
def test_what_is_no_video_says_so(tmp_path: Path, content: bytes, advice: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=rf"a\.mp4 cannot be read: .*{advice}"):
        numbers(tmp_path / "a.mp4")


def test_a_video_without_a_frame_says_so(tmp_path: Path) -> None:
    import av

    for name in ("a.mp4", "a.mkv"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
        with pytest.raises(SourceError, match=r"holds no video|It ends before its first frame"):
            numbers(tmp_path / name)


def test_frames_beyond_the_limit_are_not_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 2, codec="libx264")
    assert numbers(path, max_pixels=64 * 48) == [0, 1]
    expected = r"a\.mp4 is too large: 64 x 48 are 3,072 pixels, and at most 3,071 .* --max-pixels"
    with pytest.raises(SourceError, match=expected):
        numbers(path, max_pixels=64 * 48 - 1)
    with pytest.raises(SourceError, match="frames of more than 3,071 pixels"):
        numbers(write_video(tmp_path / "b.avi", 2), max_pixels=64 * 48 - 1)


def test_frames_that_grow_beyond_the_limit_are_left_out(tmp_path: Path) -> None:
    both = tmp_path / "both.h264"
    for size in ((64, 48), (640, 480)):
        part = write_video(tmp_path / "part.h264", 3, size=size, codec="libx264", kind="h264")
        both.write_bytes((both.read_bytes() if both.exists() else b"") + part.read_bytes())
    captured = list(source_of(both, max_pixels=100 * 100).frames())
    assert {np.asarray(each.picture()).shape for each in captured} == {(48, 64, 3)}
