import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from florence_edge import files
from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.files import (
    lock,
    open_plain,
    read_json,
    synced_while_it_grows,
    whole_file,
    write_whole,
)

from ..helpers.disk import (
    kill_this_process,
    killed,
    names,
    put,
    recorded,
)

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


def test_a_new_file_has_the_rights_of_the_one_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "old")
    path.chmod(0o600)
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
