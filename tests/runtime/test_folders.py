"""Folders that are replaced whole, whatever happens midway."""

import errno
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from florence_edge import files
from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.files import (
    folder_beside,
    lock,
    recover_folder,
    write_whole,
)

from ..helpers.disk import (
    check_synced_before_it_got_its_name,
    kill_this_process,
    killed,
    names,
    put,
    recorded,
)


def text_in(target: Path) -> str:
    return (target / "inner" / "text").read_text()


@pytest.fixture(params=[True, False], ids=["exchanged", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(files, "_exchanged", lambda new, target: False)


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


def test_nothing_is_logged_where_nothing_was_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        put(tmp_path / "out", "text")
        put(tmp_path / "out", "text")
    assert not caplog.records
