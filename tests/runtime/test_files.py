import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from florence_edge import files
from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.files import (
    folder_beside,
    lock,
    open_plain,
    read_json,
    recover_folder,
    replace_folder,
    synced_while_it_grows,
    whole_file,
    write_whole,
)

from ..helpers.disk import (
    check_synced_before_it_got_its_name,
    kill_this_process,
    killed,
    recorded,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(target: Path, text: str) -> None:
    with folder_beside(target) as new:
        (new / "inner").mkdir()
        (new / "inner" / "text").write_text(text)
        replace_folder(new, target)


def text_in(target: Path) -> str:
    return (target / "inner" / "text").read_text()


@pytest.fixture(params=[True, False], ids=["exchanged", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(files, "_exchanged", lambda new, target: False)


# Files.


@pytest.mark.parametrize("content", ["größer", b"\x00\xff", ""])
def test_a_file_is_written_whole(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a.txt"
    for _ in range(2):  # new, and over what is there
        write_whole(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path) -> None:
    with recorded() as events:
        write_whole(tmp_path / "a.txt", "text")
    assert events == [
        ("sync", str(tmp_path / ".a.unfinished.txt")),
        ("rename to", str(tmp_path / "a.txt")),
        ("sync", str(tmp_path)),
    ]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as unfinished:
            assert unfinished.suffix == ".png"
            unfinished.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.png"]


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "text"
    write_whole(Path("/dev/null"), "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_pipe_that_has_no_path_is_written_to() -> None:
    reader, writer = os.pipe()
    write_whole(Path(f"/dev/fd/{writer}"), "text")  # as /dev/stdout is, where that is piped
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "text"


def test_two_cannot_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with whole_file(path) as first:
        first.write_text("first")
        with pytest.raises(RequestError, match=r"a\.png is being written by another process"):
            write_whole(path, "second")
    assert path.read_text() == "first"
    write_whole(path, "third")
    assert path.read_text() == "third"


def test_what_a_killed_writer_left_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def write() -> None:
        with whole_file(path) as unfinished:
            unfinished.write_text("half")
            kill_this_process()

    assert killed(write) == 9
    assert not path.exists()
    write_whole(path, "whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("umask", "of_file"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_and_folders_follow_the_umask(tmp_path: Path, umask: int, of_file: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "file", "text")
        put(tmp_path / "folder", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == of_file
    for path in ("folder", "folder/inner"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "folder/inner/text").stat().st_mode) == of_file


# Locks.


def test_a_lock_is_free_after_its_block_and_leaves_no_file(tmp_path: Path) -> None:
    for _ in range(2):
        with lock(tmp_path / "a"):
            assert names(tmp_path) == [".a.florence-lock"]
            with pytest.raises(RequestError, match="another process"), lock(tmp_path / "a"):
                pass
            with lock(tmp_path / "b"):
                pass
    assert not names(tmp_path)


def test_a_link_is_locked_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with lock(tmp_path / "a"), pytest.raises(RequestError), lock(tmp_path / "link"):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    def die() -> None:
        with lock(tmp_path / "a"):
            kill_this_process()

    assert killed(die) == 9
    assert names(tmp_path) == [".a.florence-lock"]
    with lock(tmp_path / "a"):
        pass
    assert not names(tmp_path)


def test_a_lock_whose_file_was_just_removed_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, times = files.hold, iter([True, False])

    def removed_meanwhile(descriptor: int, path: Path) -> None:
        hold(descriptor, path)
        if next(times):
            (tmp_path / ".a.florence-lock").unlink()

    monkeypatch.setattr(files, "hold", removed_meanwhile)
    with lock(tmp_path / "a"):
        monkeypatch.undo()
        with pytest.raises(RequestError), lock(tmp_path / "a"):
            pass


# Folders.


@pytest.mark.usefixtures("way")
def test_a_folder_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        put(tmp_path / "out", text)
        assert text_in(tmp_path / "out") == text
        assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("way")
def test_a_folder_is_on_the_disk_before_it_gets_its_name(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("first", "second"):
        with recorded() as events:
            put(target, text)
        check_synced_before_it_got_its_name(events, target)


def test_the_folders_above_a_new_one_are_on_the_disk_as_well(tmp_path: Path) -> None:
    with recorded() as events:
        put(tmp_path / "a" / "b" / "out", "text")
    synced = [path for kind, path in events if kind == "sync"]
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= set(synced)


def test_a_linked_folder_is_replaced_where_the_link_leads(tmp_path: Path) -> None:
    put(tmp_path / "disk" / "real", "first")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    put(tmp_path / "out", "second")
    assert (tmp_path / "out").is_symlink()
    assert text_in(tmp_path / "disk" / "real") == "second"
    assert names(tmp_path / "disk") == ["real"]


@pytest.mark.usefixtures("way")
def test_what_cannot_be_synced_does_not_replace_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "out", "first")

    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        put(tmp_path / "out", "second")
    assert text_in(tmp_path / "out") == "first"
    assert names(tmp_path) == ["out"]


def test_a_disk_that_syncs_no_folders_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    put(tmp_path / "out", "text")
    assert text_in(tmp_path / "out") == "text"


def test_a_name_that_the_disk_does_not_confirm_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def not_the_names(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", not_the_names)
    with pytest.raises(FlorenceEdgeError, match="is written, but the disk could not confirm it"):
        write_whole(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


@pytest.mark.parametrize("failing", [[False], [True, False, True]], ids=["first", "second"])
def test_a_rename_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: list[bool]
) -> None:
    put(tmp_path / "out", "first")
    fail_renames(monkeypatch, failing)
    with pytest.raises(OSError, match="Input/output"):
        put(tmp_path / "out", "second")
    assert text_in(tmp_path / "out") == "first"
    assert names(tmp_path) == ["out"]


def fail_renames(monkeypatch: pytest.MonkeyPatch, steps: list[bool]) -> None:
    rename, works = os.rename, iter(steps)

    def failing(old: Path, new: Path) -> None:
        if not next(works):
            raise OSError(errno.EIO, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(files, "_exchanged", lambda new, target: False)
    monkeypatch.setattr("florence_edge.files.os.rename", failing)


def test_where_nothing_can_be_put_back_the_old_folder_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "out", "first")
    with monkeypatch.context() as patch:
        fail_renames(patch, [True, False, False])
        with pytest.raises(FlorenceEdgeError) as raised:
            put(tmp_path / "out", "second")
    kept = tmp_path / ".out.florence-old"
    assert text_in(kept) == "first"
    assert f"It is whole, as {kept}: rename it to out." in str(raised.value)
    put(tmp_path / "other", "something")  # nobody else's business
    assert recover_folder(tmp_path / "out")
    assert text_in(tmp_path / "out") == "first"


def kill_between_the_renames(target: Path) -> None:
    def replace() -> None:
        rename = os.rename

        def rename_and_die(old: Path, new: Path) -> None:
            rename(old, new)
            kill_this_process()

        files._exchanged = lambda new, target: False
        os.rename = rename_and_die  # type: ignore[assignment]
        put(target, "second")

    assert killed(replace) == 9
    assert not target.exists()


def test_a_kill_between_two_renames_is_recovered_from_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "out"
    put(target, "first")
    kill_between_the_renames(target)
    assert recover_folder(target)
    assert text_in(target) == "first"
    assert [each.getMessage() for each in caplog.records] == [
        f"{target} is there again as it was: a run that was replacing it was killed midway."
    ]
    assert not recover_folder(target)


def test_the_next_writer_recovers_as_well(tmp_path: Path) -> None:
    target = tmp_path / "out"
    put(target, "first")
    kill_between_the_renames(target)
    with pytest.raises(KeyboardInterrupt), folder_beside(target):
        raise KeyboardInterrupt
    assert text_in(target) == "first"
    assert names(tmp_path) == ["out"]


def test_what_another_process_is_replacing_is_left_to_it(tmp_path: Path) -> None:
    target = tmp_path / "out"
    put(target, "first")
    kill_between_the_renames(target)
    with lock(target):
        assert not recover_folder(target)
    assert recover_folder(target)


def test_a_kill_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    """At every call that changes something: nothing in between can be seen under the name."""
    target = tmp_path / "out"
    found = set()
    for step in range(12):
        put(target, "first")

        def replace(step: int = step) -> None:
            left = iter(range(step, -1, -1))

            def dying(do: Callable[..., Any]) -> Callable[..., Any]:
                def run(*given: Any) -> Any:
                    if next(left) == 0:
                        kill_this_process()
                    return do(*given)

                return run

            os.fsync = dying(os.fsync)
            os.mkdir = dying(os.mkdir)
            os.unlink = dying(os.unlink)
            files._exchanged = dying(files._exchanged)
            put(target, "second")

        killed(replace)
        found.add(text_in(target))
        with folder_beside(target):
            pass
        assert names(tmp_path) == ["out"]
    assert found == {"first", "second"}


def test_what_a_killed_run_left_is_removed_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "out"

    def write() -> None:
        with folder_beside(target) as new:
            (new / "weights").write_bytes(bytes(3_000_000))
            kill_this_process()

    assert killed(write) == 9
    (tmp_path / ".out-mine").mkdir()  # of a person
    put(target, "text")
    assert [each.getMessage() for each in caplog.records] == [
        f"Removed {tmp_path / '.out.florence-new'} (3 MB), which an earlier run left when it was "
        "killed."
    ]
    assert names(tmp_path) == [".out-mine", "out"]


def test_two_cannot_make_one_folder_at_once(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with folder_beside(target) as new:
        (new / "text").write_text("first")
        with (
            pytest.raises(RequestError, match="is being written by another"),
            folder_beside(target),
        ):
            pass
        assert (new / "text").read_text() == "first"


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EPERM])
def test_where_names_cannot_be_exchanged_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """An old kernel, or a disk such as FAT."""

    class OldLibrary:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    put(tmp_path / "out", "first")
    monkeypatch.setattr("florence_edge.files.ctypes.CDLL", lambda *_, **__: OldLibrary)
    monkeypatch.setattr("florence_edge.files.ctypes.get_errno", lambda: code)
    put(tmp_path / "out", "second")
    assert text_in(tmp_path / "out") == "second"


def test_an_exchange_that_the_disk_refuses_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "out", "first")
    monkeypatch.setattr("florence_edge.files.ctypes.get_errno", lambda: errno.EIO)
    monkeypatch.setattr(
        "florence_edge.files.ctypes.CDLL",
        lambda *_, **__: type("Library", (), {"renameat2": staticmethod(lambda *_: -1)}),
    )
    with pytest.raises(OSError, match="Input/output"):
        put(tmp_path / "out", "second")
    assert text_in(tmp_path / "out") == "first"


# Files that grow.


def test_a_growing_file_is_synced_beside_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SYNC_SECONDS", 0.01)
    path = tmp_path / "a.jsonl"
    with recorded() as events, path.open("w") as file, synced_while_it_grows(file, path):
        file.write("line\n")
        file.flush()
        while len(events) < 4:
            pass
        file.write("unflushed\n")
    assert events[0] == ("sync", str(tmp_path))  # its name
    assert set(events[1:]) == {("sync", str(path))}
    assert path.read_text() == "line\nunflushed\n"


def test_a_disk_that_takes_no_more_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "a"
    with (
        pytest.raises(FlorenceEdgeError, match=r"did not take all of .*a: .*No space left"),
        path.open("w") as file,
        synced_while_it_grows(file, path),
    ):
        file.write("text")


def test_a_closed_file_and_a_pipe_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("w") as file, synced_while_it_grows(file, path):
        file.close()
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe, synced_while_it_grows(pipe, path):
        pass


# Reading.


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        server.bind("socket")
        yield {
            **{name: tmp_path / name for name in ("fifo", "link", "folder", "socket")},
            "device": Path("/dev/zero"),
        }


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("fifo", "it is a named pipe, not a file"),
        ("link", "it is a named pipe, not a file"),
        ("folder", "it is a folder, not a file"),
        ("socket", "it is a socket, not a file"),
        ("device", "it is a device, not a file"),
    ],
)
def test_only_files_are_opened_and_nothing_is_waited_for(
    odd: dict[str, Path], kind: str, what: str
) -> None:
    with pytest.raises(OSError, match=what) as raised:
        open_plain(odd[kind])
    assert raised.value.filename == str(odd[kind])
    with pytest.raises(OSError, match=what):
        read_json(odd[kind])


def test_a_pipe_that_takes_the_name_of_a_file_is_not_waited_for(
    odd: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("text")
    of_file = os.stat(tmp_path / "file")
    monkeypatch.setattr("florence_edge.files.os.stat", lambda path: of_file)
    with pytest.raises(OSError, match="named pipe"):
        open_plain(odd["fifo"])


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with open_plain(tmp_path / name) as file:
            assert file.read() == b"text"
            assert os.get_blocking(file.fileno())
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "none")


def test_json_is_read_from_a_file_or_its_bytes(tmp_path: Path) -> None:
    content = '{"a": [1, 2.5, "ü", null, true]}'
    expected = {"a": [1, 2.5, "ü", None, True]}
    (tmp_path / "a.json").write_text(content)
    assert read_json(tmp_path / "a.json") == expected
    assert read_json(content.encode()) == expected
    assert read_json(b"\xef\xbb\xbf" + content.encode()) == expected  # as Windows' editors write


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "malformed"),
        (b'{"a": Infinity}', "malformed"),
        (b'{"a": 1e999}', "out of range"),
        (b"9" * 5000, "out of range"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 0"),
        (b'"\\ud800"', "truncated"),
        (b"{} {}", "trailing"),
        (b"", "truncated"),
        (b"\x00" * 20, "malformed"),
    ],
)
def test_what_is_no_json_is_a_value_error_with_one_line(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        read_json(content)
    assert "\n" not in str(raised.value)


def test_json_has_a_largest_size(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('"' + "a" * 1000 + '"')
    assert len(read_json(tmp_path / "a.json", most=1002)) == 1000
    for source in (tmp_path / "a.json", (tmp_path / "a.json").read_bytes()):
        with pytest.raises(ValueError, match="larger than 1001 bytes"):
            read_json(source, most=1001)
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that is not there
    with pytest.raises(ValueError, match="larger than"):
        read_json(tmp_path / "sparse.json")


def test_nothing_is_logged_where_nothing_was_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        put(tmp_path / "out", "text")
        put(tmp_path / "out", "text")
    assert not caplog.records


def test_a_new_file_has_the_rights_of_the_one_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    path.chmod(0o600)
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
