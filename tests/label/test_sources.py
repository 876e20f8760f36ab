"""Sources: what is listed, in which order, and that the bytes read back are those stored."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from florence_edge import ImageError, RequestError
from florence_edge_label.picture_list import Entry
from florence_edge_label.sources.find import Source, SourceOptions, find_source
from florence_edge_label.sources.reading import PictureReader

from .conftest import draw


def found(given: Path | str, **options: Any) -> tuple[Source, list[Entry]]:
    source = find_source(str(given), SourceOptions(**options))
    return source, list(source.list_entries())


def names(given: Path | str, **options: Any) -> list[str]:
    return [entry.name for entry in found(given, **options)[1]]


def contents(entries: list[Entry]) -> list[bytes]:
    with PictureReader() as reader:
        read = [reader.read(entry) for entry in entries]
    return [Path(each).read_bytes() if isinstance(each, str) else each for each in read]


def test_a_folder_is_listed_with_those_below_by_name(photos: Path) -> None:
    (photos / "notes.txt").write_text("not a picture")
    (photos / ".thumbnails").mkdir()
    draw(photos / ".thumbnails", ["hidden.png"])
    source, entries = found(photos)
    assert source.kind == "folder"
    listed = [entry.name for entry in entries]
    assert listed == ["a.png", "b.png", "cats/1.png", "cats/old/2.png", "d.png", "e.png"]
    assert [entry.size for entry in entries] == [(photos / name).stat().st_size for name in listed]


def test_the_output_of_a_run_inside_its_source_is_not_listed(photos: Path) -> None:
    draw(photos / "out" / "yolo", ["x.png"])
    assert "out/yolo/x.png" in names(photos)
    assert names(photos, without=photos / "out") == [*names(photos)[:5], "e.png"]


def test_a_list_counts_from_its_folder_and_keeps_its_order(photos: Path) -> None:
    listing = photos / "list.txt"
    listing.write_text(
        f"\ufeffd.png\n\n# a remark\ncats/1.png\n{photos / 'a.png'}\ngone.png\n", "utf-8"
    )
    source, entries = found(listing)
    assert source.kind == "list"
    assert [entry.name for entry in entries][:2] == ["d.png", "cats/1.png"]
    assert [Path(entry.place) for entry in entries] == [
        photos / name for name in ("d.png", "cats/1.png", "a.png", "gone.png")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.png\nb.png\na.png\n", "Line 3 .* again, as line 1"),
        (b"\xff\xfe\x00", "Line 1 .* is not UTF-8"),
        (b"# nothing\n", "names no picture"),
    ],
)
def test_a_list_that_is_wrong_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        found(tmp_path / "list.txt")


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_tars_are_read_from_where_their_members_lie(photos: Path, tmp_path: Path) -> None:
    one, two = ((photos / name).read_bytes() for name in ("a.png", "b.png"))
    write_tar(tmp_path / "s-000.tar", {"000.png": one, "000.json": b"{}", "./001.PNG": two})
    write_tar(tmp_path / "s-001.tar", {"x/000.png": two})
    for given in (tmp_path / "s-{000..001}.tar", tmp_path / "s-*.tar"):
        source, entries = found(given)
        assert source.kind == "tars"
        assert [entry.name for entry in entries] == [
            "s-000/000.png",
            "s-000/001.PNG",
            "s-001/x/000.png",
        ]
        assert contents(entries) == [one, two, two]
        assert contents(entries[::-1]) == [two, two, one]


def test_tars_and_tables_are_called_by_their_path_below_the_source(
    photos: Path, tmp_path: Path
) -> None:
    content = (photos / "a.png").read_bytes()
    for language in ("en", "fr"):
        (tmp_path / "s" / language).mkdir(parents=True)
        write_tar(tmp_path / "s" / language / "t.tar", {"0.png": content})
        rows = [{"image": {"bytes": content, "path": "x.png"}}]
        write_table(tmp_path / "s" / language / "train.parquet", rows)
    assert names(tmp_path / "s" / "*" / "t.tar") == ["en/t/0.png", "fr/t/0.png"]
    tables = ["en/train/00000000.png", "fr/train/00000000.png"]
    assert names(tmp_path / "s" / "{en,fr}" / "train.parquet") == tables
    for tar in (tmp_path / "s").rglob("*.tar"):
        tar.unlink()
    assert names(tmp_path / "s") == tables
    assert names(tmp_path / "s" / "{en,en}" / "train.parquet") == ["train/00000000.png"]


def test_no_two_pictures_of_archives_have_one_name(photos: Path, tmp_path: Path) -> None:
    content = (photos / "a.png").read_bytes()
    (tmp_path / "s" / "x").mkdir(parents=True)
    write_tar(tmp_path / "s" / "x.tar", {"y/1.png": content})
    write_tar(tmp_path / "s" / "x" / "y.tar", {"1.png": content})
    assert sorted(names(tmp_path / "s")) == ["x.tar/y/1.png", "x/y.tar/1.png"]
    twice = write_tar(tmp_path / "twice.tar", {"1.png": content, "./1.png": content})
    with pytest.raises(RequestError, match=r"holds 1\.png twice"):
        names(twice)


def test_pictures_behind_urls_are_called_by_their_path(photos: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="install florence-edge[label]")
    for folder in ("a", "b"):
        fsspec.filesystem("memory").pipe(f"/urls/{folder}/1.png", b"x")
    assert names("memory://urls/*/1.png") == ["a/1.png", "b/1.png"]


def test_places_are_absolute_however_the_source_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "list.txt").write_text("a.png\n")
    write_tar(photos / "t.tar", {"0.png": b"x"})
    write_coco(photos / "c.json", [{"id": 1, "file_name": "a.png"}])
    monkeypatch.chdir(photos)
    for given in ("a.png", ".", "?.png", "list.txt", "t.tar", "{t,t}.tar", "c.json"):
        for entry in found(given)[1]:
            assert Path(entry.place).is_absolute()
            assert Path(entry.place).exists()
    monkeypatch.chdir(tmp_path)
    for given in ("photos/list.txt", "photos/c.json"):
        for entry in found(given, pictures="photos")[1]:
            assert entry.place == str(photos / "a.png")


def test_a_folder_of_tars_or_tables_is_one(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    write_tar(tmp_path / "t" / "s.tar", {"0.png": b"x"})
    assert found(tmp_path / "t")[0].kind == "tars"
    draw(tmp_path / "t", ["beside.png"])
    assert names(tmp_path / "t") == ["beside.png"]


def test_a_tar_that_cannot_be_read_in_places_is_refused(photos: Path, tmp_path: Path) -> None:
    content = (photos / "a.png").read_bytes()
    twice = tmp_path / "twice.tar"
    write_tar(twice, {"a.png": content})
    with tarfile.open(twice, "a") as tar:
        tar.add(photos / "a.png", "a.png")
    with pytest.raises(RequestError, match=r"holds a\.png twice"):
        names(twice)
    packed = tmp_path / "packed.tar"
    packed.write_bytes(
        gzip.compress(write_tar(tmp_path / "s.tar", {"a.png": content}).read_bytes())
    )
    with pytest.raises(RequestError, match=r"not a whole tar without compression"):
        names(packed)
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tmp_path / "s.tar").read_bytes()[:700])
    with pytest.raises(RequestError, match=r"not a whole tar"):
        names(cut)


def write_table(path: Path, rows: list[Any], *, rows_a_group: int = 2) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=rows_a_group)
    return path


def test_tables_of_hugging_face_are_read_row_by_row(photos: Path, tmp_path: Path) -> None:
    files = [photos / name for name in ("a.png", "b.png", "d.png", "e.png", "cats/1.png")]
    rows = [{"image": {"bytes": f.read_bytes(), "path": f.name}, "label": 1} for f in files]
    source, entries = found(write_table(tmp_path / "train-0.parquet", rows))
    assert source.kind == "tables"
    assert [entry.name for entry in entries][:2] == ["train-0/00000000.png", "train-0/00000001.png"]
    assert contents(entries) == [f.read_bytes() for f in files]
    assert contents([entries[i] for i in (4, 0, 3, 3)]) == [
        files[i].read_bytes() for i in (4, 0, 3, 3)
    ]


def test_the_column_of_a_table_is_found_or_named(photos: Path, tmp_path: Path) -> None:
    content = (photos / "a.png").read_bytes()
    table = write_table(tmp_path / "t.parquet", [{"left": content, "right": b"y"}])
    with pytest.raises(RequestError, match=r"several columns with bytes: left, right. Choose"):
        names(table)
    source = find_source(str(table), SourceOptions(column="left"))
    with PictureReader("left") as reader:
        assert [reader.read(each) for each in source.list_entries()] == [content]
    with pytest.raises(RequestError, match="no column with bytes, so no pictures"):
        names(write_table(tmp_path / "u.parquet", [{"x": 1}]))
    (tmp_path / "v.parquet").write_bytes(b"PAR1")
    with pytest.raises(RequestError, match="not a whole Parquet file"):
        names(tmp_path / "v.parquet")


def test_a_row_without_a_picture_is_an_error_of_that_row(photos: Path, tmp_path: Path) -> None:
    content = (photos / "a.png").read_bytes()
    rows = [{"image": {"bytes": None, "path": "x"}}, {"image": {"bytes": content, "path": None}}]
    _, entries = found(write_table(tmp_path / "t.parquet", rows))
    with PictureReader() as reader:
        with pytest.raises(ImageError, match="Row 0 holds no bytes"):
            reader.read(entries[0])
        assert reader.read(entries[1]) == content


def test_a_row_that_is_null_is_an_error_of_that_row(photos: Path, tmp_path: Path) -> None:
    content = (photos / "a.png").read_bytes()
    rows = [{"image": {"bytes": content, "path": "x.png"}}, {"image": None}]
    _, entries = found(write_table(tmp_path / "t.parquet", rows))
    assert [entry.name for entry in entries] == ["t/00000000.png", "t/00000001"]
    with PictureReader() as reader:
        assert reader.read(entries[0]) == content
        with pytest.raises(ImageError, match="Row 1 holds no bytes"):
            reader.read(entries[1])


def test_a_table_that_is_damaged_inside_is_one_message(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": b"x" * 50, "path": f"{n}.png"}} for n in range(9)]
    table = write_table(tmp_path / "t.parquet", rows, rows_a_group=3)
    chunks = [pq.read_metadata(table).row_group(1).column(n) for n in range(2)]
    (paths,) = (each for each in chunks if each.path_in_schema == "image.path")
    content = bytearray(table.read_bytes())
    first = paths.dictionary_page_offset or paths.data_page_offset
    content[first : first + 20] = b"\xff" * 20
    table.write_bytes(content)
    with pytest.raises(RequestError, match=r"t\.parquet cannot be read behind its row group 1"):
        names(table)


def write_coco(path: Path, images: list[dict[str, Any]]) -> Path:
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    content = {"images": images, "categories": categories, "annotations": [{"anything": [1, 2]}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_coco_file_keeps_ids_and_categories(photos: Path, tmp_path: Path) -> None:
    images = [{"id": 42, "file_name": "b.png"}, {"id": 0, "file_name": "a.png", "width": 3}]
    listing = write_coco(tmp_path / "instances.json", images)
    with pytest.raises(RequestError, match=r"The first picture of .* is not there.*--pictures"):
        found(listing)
    source, entries = found(listing, pictures=str(photos))
    assert [(entry.image_id, entry.name) for entry in entries] == [(42, "b.png"), (0, "a.png")]
    assert [(each.id, each.name) for each in source.categories] == [(7, "cat"), (3, "dog")]


def test_a_coco_file_that_is_wrong_is_refused(photos: Path) -> None:
    twice = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]
    for content, message in [
        ("{", "is not a COCO file"),
        ('{"images": []}', "lists no pictures"),
        ('{"images": [{"file_name": "a.png"}]}', "is not a COCO file.*id"),
        (json.dumps({"images": twice}), "the same id"),
    ]:
        (photos / "c.json").write_text(content)
        with pytest.raises(RequestError, match=message):
            found(photos / "c.json")


def test_urls_are_read_by_fsspec(photos: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="install florence-edge[label]")
    memory = fsspec.filesystem("memory")
    for name in ("a.png", "cats/1.png"):
        memory.pipe(f"/bucket/{name}", (photos / name).read_bytes())
    memory.pipe("/bucket/list.txt", b"cats/1.png\n")
    source, entries = found("memory://bucket")
    assert source.kind == "folder"
    assert [entry.name for entry in entries] == ["a.png", "cats/1.png"]
    assert contents(entries) == [(photos / n).read_bytes() for n in ("a.png", "cats/1.png")]
    assert contents(found("memory://bucket/list.txt")[1]) == [(photos / "cats/1.png").read_bytes()]
    with PictureReader() as reader, pytest.raises(ImageError, match="no file memory://bucket/x"):
        reader.read(Entry(name="x", place="memory://bucket/x"))


def test_one_picture_and_several_by_pattern_are_sources(photos: Path) -> None:
    assert names(photos / "a.png") == ["a.png"]
    assert names(photos / "?.png") == ["a.png", "b.png", "d.png", "e.png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "The source is empty"),
        ("nowhere", "There is no nowhere"),
        ("nowhere/*.tar", "There is no file nowhere"),
        (__file__, "is not a source of pictures"),
    ],
)
def test_what_is_not_a_source_is_refused(given: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        found(given)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="There is no picture in"):
        found(tmp_path)


def test_a_name_that_is_no_text_is_written_out(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / "odd\udcff.png")
    _, entries = found(tmp_path)
    assert entries[0].name == r"odd\xff.png"
    assert contents(entries)
