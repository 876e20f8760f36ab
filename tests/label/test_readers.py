"""Exports read back by the libraries that they are for.

They want other versions of much than this project does: make an environment with one of them,
pytest, hypothesis and florence-edge[cpu,label], and run this file in it. What is missing is
skipped.
"""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from florence_edge import Region
from florence_edge_label.cli import main
from florence_edge_label.parts import Row
from florence_edge_label.picture_list import Entry

from .conftest import answered, box, captioned, draw, write_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

POLYGON = Region(label="dog", shape="polygon", rings=((2, 2, 30, 4, 20, 26),), score=0.75)
BOXES = {
    "a.png": [box("cat", 1, 2, 21, 22, 0.9), box("dog", 3, 4, 33, 24, 0.4)],
    "b.png": [],
    "c/d.png": [box("cat", 0, 0, 42, 30, 0.6)],
}


def rows_of(entry: Entry) -> Sequence[Row]:
    size = (40 + list(BOXES).index(entry.name), 30)  # as `draw` draws them
    return [answered(entry, BOXES[entry.name], size), captioned(entry, entry.name, size)]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_run(tmp_path / "out", draw(tmp_path / "pictures", list(BOXES)), rows_of)


def exported(labelled: Path, name: str, *arguments: str) -> None:
    assert main(["export", str(labelled), "--format", name, *arguments]) == 0


def test_datasets_reads_an_imagefolder(labelled: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    exported(labelled, "imagefolder", "--pictures", "copy")
    data = datasets.load_dataset(
        "imagefolder", data_dir=str(labelled / "imagefolder"), cache_dir=str(tmp_path / "cache")
    )["train"]
    by_caption = {row["caption"]: row for row in data}
    assert set(by_caption) == set(BOXES)
    assert by_caption["a.png"]["objects"]["bbox"] == [[1, 2, 20, 20], [3, 4, 30, 20]]
    assert by_caption["a.png"]["objects"]["categories"] == [0, 1]
    assert by_caption["c/d.png"]["image"].size == (42, 30)


def test_datasets_reads_the_parts_themselves(labelled: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted((labelled / "parts").iterdir())]
    data = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    rows = [row for row in data["train"] if row["task"] == "OD"]
    assert [row["image"] for row in rows] == list(BOXES)
    assert [region["label"] for region in rows[0]["regions"]] == ["cat", "dog"]


def test_ultralytics_loads_yolo(labelled: Path) -> None:
    pytest.importorskip("ultralytics")
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    exported(labelled, "yolo", "--val", "0")
    data = check_det_dataset(str(labelled / "yolo" / "data.yaml"), autodownload=False)
    assert data["names"] == {0: "cat", 1: "dog"}
    dataset = YOLODataset(img_path=data["train"], data=data, imgsz=64, augment=False)
    labels = {Path(each["im_file"]).name: each for each in dataset.labels}
    assert {name: len(each["cls"]) for name, each in labels.items()} == {
        "a.png": 2, "b.png": 0, "d.png": 1,
    }  # fmt: skip
    x, _, _, height = labels["a.png"]["bboxes"][0].tolist()
    assert math.isclose(x * 40, 11, abs_tol=1e-3)
    assert math.isclose(height * 30, 20, abs_tol=1e-3)


def test_label_studio_takes_tasks_and_interface(labelled: Path) -> None:
    pytest.importorskip("label_studio_sdk")
    from label_studio_sdk.label_interface import LabelInterface

    exported(labelled, "labelstudio")
    interface = LabelInterface((labelled / "labelstudio.xml").read_text())
    interface.validate()
    for task in json.loads((labelled / "labelstudio.json").read_text()):
        assert interface.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert interface.validate_prediction(prediction)


def test_label_studios_converter_gives_the_boxes_back(labelled: Path, tmp_path: Path) -> None:
    pytest.importorskip("label_studio_sdk")
    from label_studio_sdk.converter import Converter

    exported(labelled, "labelstudio")
    tasks = json.loads((labelled / "labelstudio.json").read_text())
    for number, task in enumerate(tasks, 1):  # what a person who changes nothing would submit
        task["id"] = number
        task["annotations"] = [{**task["predictions"][0], "id": number}]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tasks.json").write_text(json.dumps(tasks))
    converter = Converter(
        (labelled / "labelstudio.xml").read_text(), str(tmp_path), download_resources=False
    )
    converter.convert_to_coco(str(tmp_path / "tasks"), str(tmp_path / "coco"), is_dir=True)
    coco = json.loads((tmp_path / "coco" / "result.json").read_text())
    assert [each["bbox"] for each in coco["annotations"]][:2] == [
        pytest.approx([1, 2, 20, 20]),
        pytest.approx([3, 4, 30, 20]),
    ]


def test_fiftyones_importers_read_coco_yolo_and_voc(labelled: Path) -> None:
    """Its importers alone: a data set of FiftyOne's needs MongoDB, which pip does not bring."""
    pytest.importorskip("fiftyone")
    from fiftyone.utils.coco import COCODetectionDatasetImporter
    from fiftyone.utils.voc import VOCDetectionDatasetImporter
    from fiftyone.utils.yolo import YOLOv5DatasetImporter

    exported(labelled, "coco,yolo,voc", "--val", "0")
    for importer in (
        COCODetectionDatasetImporter(
            data_path=str(labelled.parent / "pictures"), labels_path=str(labelled / "coco.json")
        ),
        YOLOv5DatasetImporter(
            dataset_dir=str(labelled / "yolo"), yaml_path="data.yaml", split="train"
        ),
        VOCDetectionDatasetImporter(
            data_path=str(labelled / "voc" / "JPEGImages"),
            labels_path=str(labelled / "voc" / "Annotations"),
        ),
    ):
        with importer:
            read = {Path(path).name: _detections(label) for path, _, label in importer}
        assert sorted(len(each) for each in read.values()) == [0, 1, 2]
        first = {each.label: each.bounding_box for each in read["a.png"]}
        assert set(first) == {"cat", "dog"}
        assert math.isclose(first["cat"][2] * 40, 20, abs_tol=1.01)


def _detections(label: Any) -> list[Any]:
    found = label.get("detections") if isinstance(label, dict) else label
    return [] if found is None else list(found.detections)


def test_datumaro_imports_coco_and_voc_as_cvat_does(labelled: Path, tmp_path: Path) -> None:
    pytest.importorskip("datumaro")
    from datumaro.components.dataset import Dataset

    exported(labelled, "coco,voc", "--pictures", "copy")
    coco = tmp_path / "as-cvat-has-it"
    (coco / "annotations").mkdir(parents=True)
    shutil.copy(labelled / "coco.json", coco / "annotations" / "instances_default.json")
    shutil.copytree(labelled.parent / "pictures", coco / "images" / "default")
    for folder, kind in ((coco, "coco_instances"), (labelled / "voc", "voc_detection")):
        data = Dataset.import_from(str(folder), kind)
        items = {item.id.rpartition("/")[2].rpartition("__")[2]: item for item in data}
        assert set(items) == {"a", "b", "d"}
        found = sorted(
            (round(each.x), round(each.y), round(each.w), round(each.h))
            for each in items["a"].annotations
            if each.type.name == "bbox"
        )
        assert [(x - found[0][0], y - found[0][1]) for x, y, _, _ in found] == [(0, 0), (2, 2)]
        assert abs(found[0][2] - 20) <= 1
