"""Files and folders that are there whole, or as they were before, also after a power cut; reading.

What is written begins under a hidden name beside its place, goes to the disk, and is renamed:

    .NAME.florence-lock    held by the process that writes NAME; the system lets go of it with the
                           process, so whoever holds it knows the others to be leftovers
    .NAME.florence-new     a folder in the making, or what it has just replaced
    .NAME.florence-old     a folder moved aside, where the system cannot exchange two names at once
    .STEM.unfinished.EXT   a file in the making
"""

import ctypes
import errno
import fcntl
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any, BinaryIO, TypeVar

import msgspec

from .errors import FlorenceEdgeError, RequestError

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")

_JSON_BYTES = 64 << 20  # a tokenizer has 4 MB, a checkpoint's index less
_NAME_BYTES = 255  # of a file, on the disks that there are
_DIGITS = 8  # of a hash that tells long names apart
_SYNC_SECONDS = 1.0  # how much of a growing file a power cut may cost

# renameat2(2): two names are exchanged at once, so that there is no moment without a `target`.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that there is all of it, or what was there before; text as UTF-8.

    A link stays one; a device or a pipe is written to, since a rename would take its place.

    Raises:
        OSError: it cannot be written; what was there before is left.
        RequestError: another process is writing it.
    """
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The place of an unfinished file beside `path`, with its suffix; it is `path` at the end.

    Where the block fails what was at `path` before is left, and nothing of the unfinished file. A
    device or a pipe is its own place.

    Raises:
        OSError: it cannot be written; what was there before is left.
        RequestError: another process is writing it.
    """
    if path.exists() and not path.is_file():  # before links are followed: /dev/stdout may be a pipe
        yield path
        return
    target = path.resolve()
    unfinished = unfinished_name(target)
    with lock(target):
        unfinished.unlink(missing_ok=True)  # of a process that was killed
        try:
            yield unfinished
            if target.exists():  # whoever may not read the old one shall not read the new one
                unfinished.chmod(stat.S_IMODE(target.stat().st_mode))
            put_in_place(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)


def unfinished_name(path: Path) -> Path:
    """Where a file is while it is written: hidden, beside it, with its suffix."""
    ending = f".unfinished{path.suffix}"
    return path.with_name(f".{short_name(path.stem, _NAME_BYTES - 1 - len(ending))}{ending}")


def short_name(name: str, most: int) -> str:
    """The name if it has at most `most` bytes, or else its beginning and a hash of the whole."""
    content = os.fsencode(name)
    if len(content) <= most:
        return name
    digest = sha256(content).hexdigest()[:_DIGITS]
    return f"{content[: most - _DIGITS - 1].decode(errors='ignore')}-{digest}"


def put_in_place(unfinished: Path, target: Path) -> None:
    """Rename a complete file, on the same disk, once its content is on the disk.

    Raises:
        OSError: it cannot be written; what was there before is left.
    """
    _sync(unfinished)
    os.rename(unfinished, target)
    _sync_names(target)


@contextmanager
def synced_while_it_grows(file: IO[Any], path: Path) -> Iterator[None]:
    """Bring what is appended to an open file to the disk once a second, beside the writing.

    For files that are read as far as they go. A power cut costs what was written within about the
    last second; a process that is killed loses nothing that it flushed. Pipes and devices are left
    alone.

    Raises:
        FlorenceEdgeError: at the end of the block, where the disk did not take everything.
    """
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        yield
        return
    with suppress(FlorenceEdgeError):  # a disk that cannot is told at the end
        _sync_names(path.resolve())
    descriptor = os.dup(file.fileno())  # `file` may be closed within the block
    over, failures = Event(), list[OSError]()

    def sync() -> None:
        while not failures:
            last = over.wait(_SYNC_SECONDS)
            try:
                os.fsync(descriptor)
            except OSError as error:
                failures.append(error)
            if last:
                return

    thread = Thread(target=sync, name="sync to disk", daemon=True)
    thread.start()
    try:
        yield
        with suppress(ValueError):  # closed
            file.flush()
    finally:
        over.set()
        thread.join()
        os.close(descriptor)
    if failures:
        raise FlorenceEdgeError(
            f"The disk did not take all of {path}: {failures[0]}. Make room, or check the disk."
        )


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Be the only one that writes `path`; the system ends this with the process, however that ends.

    Raises:
        RequestError: another process is writing it.
        OSError: the folder of `path` takes no new file, or the disk knows no locks.
    """
    place = path.resolve()
    ending = ".florence-lock"
    name = short_name(place.name, _NAME_BYTES - 1 - len(ending))
    beside = place.with_name(f".{name}{ending}")
    descriptor = _locked(beside, path)
    try:
        yield
    finally:
        with suppress(OSError):  # before it is let go of, or the next one's file would be removed
            beside.unlink()
        os.close(descriptor)


def _locked(beside: Path, path: Path) -> int:
    while True:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            hold(descriptor, path)
            with suppress(FileNotFoundError):  # removed by who had it until now
                if os.path.samestat(os.fstat(descriptor), os.stat(beside)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def hold(descriptor: int, path: Path) -> None:
    """Lock an open file that is written in place; closing it, or the end of the process, frees it.

    Raises:
        RequestError: another process has it.
        OSError: the disk knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RequestError(
            f"{path} is being written by another process. Wait until that has ended, or choose "
            "another place."
        ) from None


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `target`, hidden, and gone when the block ends.

    Nobody else writes `target` meanwhile. What a killed process left here of the same target is
    removed, and that is logged.

    Raises:
        OSError: the parent of `target` cannot be written.
        RequestError: another process is writing `target`.
    """
    target = target.resolve()
    _make_folder(target.parent)
    new = _new(target)
    with lock(target):
        _put_back(target)
        for left in (new, _old(target)):
            if left.exists():
                size = sum(file.stat().st_size for file in left.rglob("*") if file.is_file())
                shutil.rmtree(left)
                logger.warning(
                    "Removed %s (%d MB), which an earlier run left when it was killed.",
                    left,
                    size // 1_000_000,
                )
        new.mkdir()
        try:
            yield new
        finally:
            shutil.rmtree(new, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Move the finished folder `new` to `target`, on the same disk; what was there is deleted.

    Everything in it is on the disk before it gets the name. To be called within `folder_beside`.

    Raises:
        OSError: it cannot be moved; what was at `target` before is there still.
        FlorenceEdgeError: nor could that be put back; the message says where it is.
    """
    target = target.resolve()
    _sync_tree(new)
    if not target.exists():
        os.rename(new, target)
        _sync_names(target)
        return
    if not _exchanged(new, target):
        _replace_by_two_renames(new, target)
    _sync_names(target)
    for old in (new, _old(target)):
        shutil.rmtree(old, ignore_errors=True)


def recover_folder(target: Path) -> bool:
    """Put back what was at `target`, where a process was killed while it replaced that.

    Returns:
        Whether there was such a folder; that is logged.
    """
    target = target.resolve()
    if os.path.lexists(target) or not _old(target).is_dir():
        return False
    with suppress(OSError, RequestError), lock(target):  # who replaces it now will end it himself
        return _put_back(target)
    return False


def _make_folder(folder: Path) -> None:
    """A folder and those above it, so that a power cut does not take what is written in it."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _sync_names(each)


def _new(target: Path) -> Path:
    return target.with_name(f".{target.name}.florence-new")


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.florence-old")


def _put_back(target: Path) -> bool:
    old = _old(target)
    if os.path.lexists(target) or not old.is_dir():
        return False
    os.rename(old, target)
    _sync_names(target)
    logger.warning(
        "%s is there again as it was: a run that was replacing it was killed midway.", target
    )
    return True


def _exchanged(new: Path, target: Path) -> bool:
    """Exchange two names at once; False where the system or the disk cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # not Linux, or a C library without it
        return False
    names = os.fsencode(new), os.fsencode(target)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(target))


def _replace_by_two_renames(new: Path, target: Path) -> None:
    old = _old(target)
    try:
        os.rename(target, old)
        os.rename(new, target)
    except BaseException as error:  # a signal may come between the two
        if os.path.lexists(target):
            raise
        try:
            os.rename(old, target)
        except OSError as again:
            raise FlorenceEdgeError(
                f"{target} was not replaced ({error}), and what was there could not get its name "
                f"back ({again}). It is whole, as {old}: rename it to {target.name}."
            ) from error
        raise


def _sync_tree(folder: Path) -> None:
    """Bring a folder to the disk: files first, then the names that lead to them."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(path, name)
            if not file.is_symlink():
                _sync(file)
        _sync(Path(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network disks and FUSE cannot for folders: there is nothing more to be done then.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EOPNOTSUPP)):
            raise
    finally:
        os.close(descriptor)


def _sync_names(target: Path) -> None:
    """Bring the names in a file's or folder's parent to the disk.

    Raises:
        FlorenceEdgeError: the disk could not; `target` has been replaced already.
    """
    try:
        with suppress(PermissionError):  # a folder that may be written, but not read
            _sync(target.parent)
    except OSError as error:
        raise FlorenceEdgeError(
            f"{target} is written, but the disk could not confirm it: {error}. Check the disk."
        ) from error


_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_plain(path: str | Path) -> BinaryIO:
    """Open a file for reading; nothing that is not a file is opened, and this never waits.

    Raises:
        OSError: it is missing, may not be read, or is a folder, a pipe or a device.
    """
    _check_plain(os.stat(path), path)  # before, since opening does something to some devices
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_plain(os.fstat(descriptor), path)  # another may have taken the name
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _check_plain(found: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def read_json(source: Path | bytes, *, most: int = _JSON_BYTES) -> Any:
    """What a JSON file, or its bytes, hold: dicts, lists, texts and finite numbers, in UTF-8.

    Args:
        source: a path, or the content.
        most: of how many bytes.

    Raises:
        OSError: it cannot be read (see `open_plain`).
        ValueError: it is not JSON, nested too deeply, too large, or has numbers such as NaN,
            Infinity or 1e999. The message goes on a sentence: "... is not JSON: ".
    """
    raw = source if isinstance(source, bytes) else _content(source, most)
    if len(raw) > most:
        raise ValueError(f"larger than {most} bytes")
    try:
        return msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def _content(path: Path, most: int) -> bytes:
    with open_plain(path) as file:  # by its size: Python sets aside what it is told to read
        return file.read(min(os.fstat(file.fileno()).st_size, most + 1))


def from_json(kind: type[_Value], value: Any) -> _Value:
    """A dataclass (or another type that msgspec knows) from what `read_json` gave.

    Fields are checked by their types; keys that the type does not have are ignored.

    Raises:
        ValueError: naming the field that is missing or of another type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
