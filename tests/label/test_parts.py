"""Parts: whole or not there, read back as written; and the list of pictures beside them."""

import os
import socket
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from florence_edge import FlorenceEdgeError, Region, RequestError
from florence_edge_label.own_file import remove_unfinished
from florence_edge_label.parts import Row, encode, finished, part_path, read_part, write_part
from florence_edge_label.picture_list import Entry, PictureList, check_same, write_list

from .conftest import answered, box, captioned

POLYGON = Region(
    label="ümlaut", shape="polygon", rings=((0.5, 1, 2, 3, 4, 5.25), (1, 2, 3)), score=1 / 3
)
ENTRIES = [
    Entry(name=f"{number}.jpg", place=f"/p/{number}.jpg", image_id=number) for number in (1, 2)
]
ROWS = [
    answered(ENTRIES[0], [box("a", 0, 0, 3, 4), POLYGON]),
    captioned(ENTRIES[0], "words"),
    Row(image_id=2, image="2.jpg", status="error", error="It is broken."),
]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_part(tmp_path, 3, encode(ROWS, "run"))
    assert list(read_part(part_path(tmp_path, 3), "run")) == ROWS
    assert finished(tmp_path) == {3}
    assert [path.name for path in tmp_path.iterdir()] == ["part-000003.parquet"]


def test_the_schema_is_that_of_the_documentation(tmp_path: Path) -> None:
    write_part(tmp_path, 0, encode(ROWS, "run"))
    page = (Path(__file__).parents[2] / "docs" / "label.md").read_text(encoding="utf-8")
    for column in pq.read_schema(part_path(tmp_path, 0)).names:
        assert f"| `{column}` |" in page


def test_equal_rows_are_equal_bytes() -> None:
    assert encode(ROWS, "run") == encode(list(ROWS), "run")


def test_single_columns_can_be_read(tmp_path: Path) -> None:
    write_part(tmp_path, 0, encode(ROWS, "run"))
    rows = list(read_part(part_path(tmp_path, 0), "run", ("error",)))
    assert [(row.image, row.error) for row in rows] == [
        ("1.jpg", None), ("1.jpg", None), ("2.jpg", "It is broken."),
    ]  # fmt: skip


def test_a_part_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    write_part(tmp_path, 0, encode(ROWS, "run"))
    path = part_path(tmp_path, 0)
    with pytest.raises(RequestError, match=r"belongs to another run \(run, not other\)"):
        list(read_part(path, "other"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RequestError, match=r"is damaged: .* Delete it"):
        list(read_part(path, "run"))


def test_a_disk_that_takes_nothing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_part(tmp_path, 0, b"before")

    def full(path: Path, content: bytes) -> int:
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FlorenceEdgeError, match=r"No space left on device. Make room, then give"):
        write_part(tmp_path, 0, b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["part-000000.parquet"]
    assert part_path(tmp_path, 0).read_bytes() == b"before"


def test_what_a_killed_writer_left_is_removed_and_that_of_a_living_one_stays(
    tmp_path: Path,
) -> None:
    living = tmp_path / f".part-000000.parquet.{socket.gethostname()}-{os.getpid()}.unfinished"
    dead = tmp_path / f".part-000001.parquet.{socket.gethostname()}-999999999.unfinished"
    other = tmp_path / ".part-000002.parquet.another-machine-5.unfinished"
    for path in (living, dead, other):
        path.touch()
    remove_unfinished(tmp_path)
    assert {path for path in tmp_path.iterdir()} == {living, other}


def listed(path: Path, count: int, sizes: dict[int, int] | None = None) -> Path:
    sizes = sizes or {}
    write_list(
        path, (Entry(name=f"{n}.jpg", place=f"/{n}", size=sizes.get(n)) for n in range(count))
    )
    return path


def test_a_list_is_read_slice_by_slice(tmp_path: Path) -> None:
    with PictureList(listed(tmp_path / "l.parquet", 10_100)) as pictures:
        assert pictures.count == 10_100
        some = pictures.slice(9_998, 5)
        assert [each.name for each in some] == [f"{n}.jpg" for n in range(9_998, 10_003)]
        assert [each.image_id for each in some] == list(range(9_999, 10_004))
        assert [each.name for each in pictures.slice(10_099, 9)] == ["10099.jpg"]
        assert sum(1 for _ in pictures) == 10_100


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (
            (3, None),
            (4, None),
            "picture 4 was not there, and is 3.jpg now; there were 3, and are 4",
        ),
        ((3, None), (2, None), "picture 3 was 2.jpg, and is not there now"),
        (
            (3, {1: 10}),
            (3, {1: 3_412}),
            r"picture 2 was 1.jpg \(10 bytes\), and is 1.jpg \(3,412 b",
        ),
    ],
)
def test_lists_that_differ_are_told_apart_by_the_first_picture(
    tmp_path: Path,
    before: tuple[int, dict[int, int]],
    after: tuple[int, dict[int, int]],
    named: str,
) -> None:
    one, other = listed(tmp_path / "a", *before), listed(tmp_path / "b", *after)
    with pytest.raises(RequestError, match=named):
        check_same(one, other)
    check_same(one, one)
