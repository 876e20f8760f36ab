"""Exports of a set without any model, read back by pycocotools, supervision and by eye."""

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from florence_edge import Region
from florence_edge_label.cli import main
from florence_edge_label.formats.files import relative_name
from florence_edge_label.parts import Row
from florence_edge_label.picture_list import Entry

from .conftest import answered, box, captioned, draw, write_run

POLYGON = Region(label="dog", shape="polygon", rings=((10, 10, 30, 10, 20, 28),), score=0.75)
REGIONS: dict[str, list[Region]] = {
    "a.png": [box("cat", 1, 2, 21, 22, 0.9), box("dog", 3, 4, 33, 24, 0.4)],
    "images/a.jpg": [],
    "images/a.png": [POLYGON, box("flat", 5, 5, 5, 9)],
    "z.png": [box("Cat ", 0, 0, 64, 48, 0.2)],
}


def rows_of(entry: Entry) -> Sequence[Row]:
    if entry.name == "broken.png":
        return [Row(image_id=entry.image_id or 0, image=entry.name, status="error", error="no")]
    return [answered(entry, REGIONS[entry.name]), captioned(entry, f"a picture <{entry.name}>")]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    pictures = draw(tmp_path / "pictures", [*REGIONS, "broken.png"])
    return write_run(tmp_path / "out", pictures, rows_of)


def exported(labelled: Path, name: str, *arguments: str) -> int:
    return main(["export", str(labelled), "--format", name, *arguments])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_coco_is_what_pycocotools_reads(labelled: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco", reason="install florence-edge[bench]")
    assert exported(labelled, "coco") == 0
    with redirect_stdout(io.StringIO()):
        coco = pycocotools.COCO(str(labelled / "coco.json"))
        captions = pycocotools.COCO(str(labelled / "captions.json"))
    names = {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    assert names == {1: "a.png", 3: "images/a.jpg", 4: "images/a.png", 5: "z.png"}
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["cat", "dog"]
    found = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [(each["bbox"], each["category_id"], each["score"]) for each in found] == [
        ([1, 2, 20, 20], 1, 0.9),
        ([3, 4, 30, 20], 2, 0.4),
    ]
    (outline,) = coco.loadAnns(coco.getAnnIds(imgIds=[4]))
    assert int(coco.annToMask(outline).sum()) == pytest.approx(outline["area"], rel=0.1)
    assert captions.loadAnns(captions.getAnnIds(imgIds=[5]))[0]["caption"] == "a picture <z.png>"


def test_exports_are_the_same_whenever_they_are_made(labelled: Path, tmp_path: Path) -> None:
    for name in ("coco", "jsonl", "labelstudio"):
        for number in "12":
            assert exported(labelled, name, "--output", str(tmp_path / f"{name}{number}")) == 0
        assert (tmp_path / f"{name}1").read_bytes() == (tmp_path / f"{name}2").read_bytes()


def test_scores_and_classes_are_chosen_without_labelling_again(labelled: Path) -> None:
    assert exported(labelled, "coco", "--min-score", "0.3,dog=0.5", "--classes", "dog,cat") == 0
    coco = json.loads((labelled / "coco.json").read_text())
    assert [each["name"] for each in coco["categories"]] == ["dog", "cat"]
    assert [(a["image_id"], a["category_id"]) for a in coco["annotations"]] == [(1, 2), (4, 1)]


def test_yolo_is_what_supervision_reads(labelled: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="install florence-edge[supervision]")
    assert exported(labelled, "yolo", "--val", "0") == 0
    root = labelled / "yolo"
    assert (root / "data.yaml").read_text() == (
        'train: images/train\nval: images/train\nnames:\n  0: "cat"\n  1: "dog"\n'
    )
    labels = {
        path.relative_to(root / "labels" / "train").as_posix(): path.read_text()
        for path in (root / "labels").rglob("*.txt")
    }
    assert set(labels) == {"a.txt", "images_/a.txt", "images_/a_png.txt", "z.txt"}
    assert labels["images_/a.txt"] == ""
    assert labels["z.txt"] == "0 0.500000 0.500000 1.000000 1.000000\n"
    assert (root / "images" / "train" / "a.png").is_symlink()
    data = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(root / "images" / "train"),
        annotations_directory_path=str(root / "labels" / "train"),
        data_yaml_path=str(root / "data.yaml"),
    )
    assert data.classes == ["cat", "dog"]
    detections = data.annotations[str(root / "images" / "train" / "a.png")]
    # supervision takes fractions of the file's own size, which is 40 x 30 here and not 64 x 48.
    found = detections.xyxy * np.array([64 / 40, 48 / 30] * 2)
    assert found.round(2).tolist() == [[1, 2, 21, 22], [3, 4, 33, 24]]


def test_which_pictures_are_for_validation_depends_on_their_names(labelled: Path) -> None:
    assert exported(labelled, "yolo", "--val", "0.5", "--pictures", "copy") == 0
    first = sorted(path.name for path in (labelled / "yolo" / "labels" / "val").rglob("*.txt"))
    assert exported(labelled, "yolo", "--val", "0.5", "--pictures", "none") == 0
    again = labelled / "yolo" / "labels" / "val"
    assert sorted(path.name for path in again.rglob("*.txt")) == first
    assert not list((labelled / "yolo" / "images").rglob("*.png"))


def test_voc_counts_pixels_from_one(labelled: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="install florence-edge[supervision]")
    assert exported(labelled, "voc") == 0
    tree = ElementTree.parse(labelled / "voc" / "Annotations" / "a.xml")
    assert [each.text for each in tree.findall("object/name")] == ["cat", "dog"]
    assert [each.text for each in tree.findall("object/bndbox/xmin")] == ["2", "4"]
    stems = (labelled / "voc" / "ImageSets" / "Main" / "default.txt").read_text().split()
    assert stems == ["a", "images__a", "images__a_png", "z"]
    data = supervision.DetectionDataset.from_pascal_voc(
        images_directory_path=str(labelled / "voc" / "JPEGImages"),
        annotations_directory_path=str(labelled / "voc" / "Annotations"),
    )
    found = data.annotations[str(labelled / "voc" / "JPEGImages" / "a.png")]
    assert found.xyxy.tolist() == [[1, 2, 21, 22], [3, 4, 33, 24]]


def test_an_imagefolder_has_objects_and_texts(labelled: Path) -> None:
    assert exported(labelled, "imagefolder") == 0
    lines = (labelled / "imagefolder" / "metadata.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["file_name"] == "a.png"
    assert first["caption"] == "a picture <a.png>"
    assert first["objects"]["bbox"] == [[1, 2, 20, 20], [3, 4, 30, 20]]
    assert first["objects"]["categories"] == [0, 1]
    assert len(lines) == 4


def test_label_studio_gets_tasks_in_percent_and_an_interface(labelled: Path) -> None:
    assert exported(labelled, "labelstudio", "--image-url", "https://pictures/") == 0
    tasks = json.loads((labelled / "labelstudio.json").read_text())
    assert tasks[1]["data"] == {"image": "https://pictures/images/a.jpg", "image_id": 3}
    results = tasks[0]["predictions"][0]["result"]
    assert [each["type"] for each in results] == ["rectanglelabels"] * 2 + ["textarea"]
    value = results[0]["value"]
    assert value["x"] * 64 / 100 == pytest.approx(1)
    assert value["height"] * 48 / 100 == pytest.approx(20)
    interface = ElementTree.parse(labelled / "labelstudio.xml")
    assert [each.get("value") for each in interface.findall("RectangleLabels/Label")] == [
        "cat", "dog",
    ]  # fmt: skip


def test_json_lines_have_everything_and_what_failed(labelled: Path) -> None:
    assert exported(labelled, "jsonl") == 0
    lines = [json.loads(line) for line in (labelled / "labels.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [
        "a.png", "broken.png", "images/a.jpg", "images/a.png", "z.png",
    ]  # fmt: skip
    assert lines[1] == {"image_id": 2, "image": "broken.png", "error": "no"}
    assert lines[3]["answers"][0]["regions"][0]["polygon"] == [[10, 10, 30, 10, 20, 28]]


def test_a_third_picture_of_one_stem_takes_no_others_labels(tmp_path: Path) -> None:
    pictures = ["a.jpg", "a.png", "a_png.png"]

    def rows(entry: Entry) -> Sequence[Row]:
        return [answered(entry, [box(entry.name, 0, 0, 9, 9)])]

    out = write_run(tmp_path / "out", draw(tmp_path / "pictures", pictures), rows)
    assert exported(out, "yolo", "--val", "0") == 0
    labels = {path.stem: path.read_text()[0] for path in (out / "yolo").rglob("*.txt")}
    assert labels == {"a": "0", "a_png": "1", "a_png_png": "2"}
    assert exported(out, "voc") == 0
    for stem, picture in zip(("a", "a_png", "a_png_png"), pictures, strict=True):
        tree = ElementTree.parse(out / "voc" / "Annotations" / f"{stem}.xml")
        assert tree.findtext("object/name") == picture


@pytest.mark.parametrize("mode", ["link", "none"])
def test_an_imagefolder_names_no_picture_twice(tmp_path: Path, mode: str) -> None:
    pictures = draw(tmp_path / "pictures", ["a.jpg", "a_jpg.jpg"])
    (pictures / "a").write_bytes((pictures / "a.jpg").read_bytes())  # is called a.jpg, too
    out = write_run(tmp_path / "out", pictures, lambda entry: [captioned(entry, entry.name)])
    assert exported(out, "imagefolder", "--pictures", mode) == 0
    lines = (out / "imagefolder" / "metadata.jsonl").read_text().splitlines()
    assert {row["file_name"]: row["caption"] for row in map(json.loads, lines)} == {
        "a.jpg": "a", "a_jpg.jpg": "a.jpg", "a_jpg_jpg.jpg": "a_jpg.jpg",
    }  # fmt: skip
    assert len(list((out / "imagefolder").glob("*.jpg"))) == (3 if mode == "link" else 0)


def test_a_folder_that_is_not_an_export_is_not_replaced(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("mine")
    assert exported(labelled, "yolo", "--output", str(tmp_path / "mine")) == 1
    assert (tmp_path / "mine" / "work.txt").read_text() == "mine"
    for _ in range(2):
        assert exported(labelled, "yolo", "--output", str(tmp_path / "new")) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("yolo", "--task", "CAPTION"), "CAPTION was not asked, or gives no regions"),
        (("yolo", "--val", "1"), "must be a share"),
        (("csv",), "There is no format"),
        (("coco,yolo", "--output", "x"), "--output is for one format"),
        (("coco", "--classes", "cat,Cat"), "cannot be a class"),
    ],
)
def test_what_cannot_be_exported_is_one_message(
    labelled: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exported(labelled, *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("export", "--format", "coco"), ("look",), ("merge", "--output", "x")):
        assert main([command[0], str(tmp_path), *command[1:]]) == 1
        assert "is not a folder that florence-label wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("/data/../x/a.png", "data/x/a.png"),
        ("s3://bucket/a.png", "bucket/a.png"),
        ("train/00000001", "train/00000001.jpg"),
        ("..", "7.jpg"),
    ],
)
def test_no_name_leads_out_of_an_export(name: str, inside: str) -> None:
    assert relative_name(Entry(name=name, place="x", image_id=7)) == inside
