"""What to do about a source that cannot be read: for each kind of source what fits it."""

import errno
import os
import stat
from typing import Any, Literal

from ..files import open_plain

Kind = Literal["file", "camera", "stream"]

NO_DECODER = (
    "This FFmpeg cannot decode its codec. Convert it, for instance to H.264: ffmpeg -i IN -c:v "
    "libx264 OUT.mp4"
)

_V4L2 = 81  # the major number of Video4Linux's devices
_CAMERAS = "Look which cameras there are: ls /dev/video*"
_NETWORK = "Look whether the address is right and the network is up."
_OTHER_DEVICE = f"It is a device of another kind than a camera. {_CAMERAS}"
_LOGIN = "Name a user and a password that it knows: SCHEME://USER:PASSWORD@HOST/..."
_NO_VIDEO_FILE = (
    "It is not a video of its own: a picture, a playlist (HLS, ffconcat), a session description "
    "(SDP) or another kind. Name the video, or the URL of the stream; pictures go without --source."
)
_DAMAGED = "It is damaged, or not a video that FFmpeg can read."

# By the error's class in PyAV or its number in C, the first that fits.
_ADVICE: dict[Kind, dict[str | int, str]] = {
    "file": {
        errno.ENOENT: "Correct the path.",
        errno.EACCES: "Have yourself be given the right to read it: chmod +r, or its owner's help.",
        errno.EINVAL: _NO_VIDEO_FILE,
        errno.EIO: "The disk or the network drive that it lies on fails.",
        "EOFError": "It ends before its first frame.",
        "PatchWelcomeError": "FFmpeg cannot read this kind of it yet. Convert it to H.264 in MP4.",
    },
    "camera": {
        errno.ENOENT: f"{_CAMERAS}; or correct the path.",
        errno.ENODEV: _CAMERAS,
        errno.ENXIO: _CAMERAS,
        errno.ENOTTY: _OTHER_DEVICE,
        errno.EBUSY: "Another program uses it. Find out which: fuser -v {target}",
        errno.EIO: "Look at its cable and its power supply.",
    },
    "stream": {
        errno.ECONNREFUSED: "Look whether the server runs and the port is right.",
        errno.EIO: _NETWORK,
        errno.EHOSTUNREACH: _NETWORK,
        errno.ENETUNREACH: _NETWORK,
        errno.ETIMEDOUT: _NETWORK,
        errno.EADDRINUSE: "Another program listens on that port.",
        "EOFError": "It ends before its first frame.",
        "HTTPUnauthorizedError": _LOGIN,
        "HTTPForbiddenError": _LOGIN,
        "HTTPNotFoundError": "Its server is there; correct the path behind it.",
        "ProtocolNotFoundError": "This FFmpeg does not speak that protocol.",
        "InvalidDataError": "What it sends is damaged, not a video that FFmpeg can read, or leads "
        "to an address that a stream may not (a file of this machine).",
    },
}
_OF_ALL: dict[str | int, str] = {
    errno.ENOMEM: "Close other programs, or choose a smaller video.",
    errno.EMFILE: "Close files or raise the limit: ulimit -n",
    "DecoderNotFoundError": NO_DECODER,
}


def advice_for(kind: Kind, target: str, error: Exception) -> str:
    """What to do about this error; empty where nobody knows."""
    if kind == "camera" and isinstance(error, PermissionError):
        return _for_permission(target)
    if kind == "file" and type(error).__name__ == "InvalidDataError":
        return _for_content(target)
    keys = (type(error).__name__, getattr(error, "errno", None))
    known: dict[Any, str] = {**_OF_ALL, **_ADVICE[kind]}
    return next((known[key] for key in keys if key in known), "").format(target=target)


def no_such_mode(name: str) -> str:
    """The message where a camera refuses what was requested of it."""
    return (
        f"{name} does not have the size, rate or format that was requested. List those it has: "
        f"v4l2-ctl --list-formats-ext -d {name}"
    )


def why_no_file(path: str) -> str | None:
    """What is wrong with a path that is to be the file of a video; None where it is one.

    FFmpeg would wait for ever for a pipe that nobody writes to.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return None
    kinds = (
        (stat.S_ISDIR, "a folder. Name a video in it."),
        (stat.S_ISFIFO, "a pipe, which is not read. Name the file of a video, or a stream's URL."),
        (stat.S_ISSOCK, "a socket, which is not read. Name the file of a video."),
    )
    what = next((text for fits, text in kinds if fits(mode)), "a device. Name the file of a video.")
    return f"{path} is {what}"


def why_no_camera(target: str) -> str | None:
    """What is wrong with a path that is to be a camera; None where it is one, or is not there.

    Other devices are not even opened: some do something then, as a watchdog.
    """
    try:
        status = os.stat(target)
    except OSError:
        return None
    if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _V4L2:
        return None
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return f"{target} cannot be read: {_OTHER_DEVICE}"
    return why_no_file(target)


def _for_content(path: str) -> str:
    """What may be wrong with a file that FFmpeg does not know what to do with."""
    try:
        with open_plain(path) as file:
            head = file.read(8)
    except OSError:
        head = b"?"
    if not head:
        return "It is empty."
    if head[4:] == b"ftyp":
        return (
            f"{_DAMAGED} As an MP4 it needs the index that is written when a recording ends: one "
            "that was cut off has to be repaired, or recorded as MKV."
        )
    return _DAMAGED


def _for_permission(device: str) -> str:
    """To join its group, where that is what is missing."""
    try:
        import grp  # not on every system, as cameras of this kind are not, either

        status = os.stat(device)
        group = grp.getgrgid(status.st_gid).gr_name
    except (ImportError, OSError, KeyError):
        return ""
    readable = status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP
    if group == "root" or not readable:
        return f"Nobody but its owner may use it. Look at its rights: ls -l {device}"
    if status.st_gid in os.getgroups():
        return "A sandbox or a container keeps it from you."
    return f"Add yourself to its group, then log in again: sudo usermod -aG {group} $USER"
