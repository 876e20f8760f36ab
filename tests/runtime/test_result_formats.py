"""COCO, YOLO and tables: the numbers that their readers expect, worked out by hand."""

import json
import sys
from dataclasses import replace

import pytest

from florence_edge import ClassIds, MissingPackageError, Region, RequestError
from florence_edge.results.formats import coco_annotations, table_rows, yolo_lines
from florence_edge.results.result import Result
from florence_edge.tasks import find_task

SIZE = (200, 100)
CAR = Region(label="car", shape="box", rings=((10, 20, 60, 40),), score=0.75)
BUS = Region(label="Bus ", shape="box", rings=((0, 0, 200, 100),), score=0.5)
LINE = Region(label="line", shape="box", rings=((10, 20, 10, 40),), score=0.5)
WORD = Region(label="STOP", shape="quad", rings=((0, 0, 20, 0, 20, 10, 0, 10),), score=0.25)
BLOB = Region(
    label="car",
    shape="polygon",
    rings=((0, 0, 100, 0, 0, 50), (1, 1, 2, 2), (50, 50, 60, 50, 60, 60, 50, 60)),
    score=1.0,
)


def result_of(*regions: Region, task: str = "OD") -> Result:
    return Result(
        task=find_task(task),
        raw_text="",
        token_ids=(2,),
        token_log_probs=(0.0,),
        status="ok",
        image_size=SIZE,
        text="",
        regions=regions,
        score=0.5,
    )


def test_a_label_keeps_its_number_from_frame_to_frame() -> None:
    ids = ClassIds()
    assert [ids.number(label) for label in ("car", "bus", "Car", " car ", "dog", "bus")] == [
        *(0, 1, 0, 0, 2, 1)
    ]
    assert ids.names == ("car", "bus", "dog")


def test_classes_that_were_given_are_all_there_are() -> None:
    ids = ClassIds(["person", "car"])
    assert ids.number("Car") == 1
    assert ids.number("bus") is None
    assert ids.names == ("person", "car")


@pytest.mark.parametrize("names", [["car", "CAR"], [""], ["car", 3]])
def test_classes_that_cannot_be_are_refused(names: list[str]) -> None:
    with pytest.raises(RequestError, match="cannot be a class"):
        ClassIds(names)


def test_coco_has_left_top_width_height_and_categories_from_one() -> None:
    found = coco_annotations([BUS, LINE, CAR], ClassIds(), image_id=7, first_id=100)
    assert found == [
        {
            "id": 100,
            "image_id": 7,
            "category_id": 1,
            "bbox": [0, 0, 200, 100],
            "area": 20000,
            "segmentation": [],
            "iscrowd": 0,
            "score": 0.5,
        },
        {
            "id": 101,
            "image_id": 7,
            "category_id": 2,
            "bbox": [10, 20, 50, 20],
            "area": 1000,
            "segmentation": [],
            "iscrowd": 0,
            "score": 0.75,
        },
    ]
    assert json.dumps(found)


def test_coco_outlines_are_the_rings_with_an_area() -> None:
    (blob,) = coco_annotations([BLOB], ClassIds(), image_id=1, first_id=1)
    assert blob["segmentation"] == [[0, 0, 100, 0, 0, 50], [50, 50, 60, 50, 60, 60, 50, 60]]
    assert blob["area"] == 2500 + 100
    assert blob["bbox"] == [0, 0, 100, 60]


def test_yolo_has_centre_and_size_as_fractions() -> None:
    assert yolo_lines([CAR, BUS, LINE], ClassIds(["bus", "car"]), SIZE) == [
        "1 0.175000 0.300000 0.250000 0.200000",
        "0 0.500000 0.500000 1.000000 1.000000",
    ]
    assert yolo_lines([CAR], ClassIds(), SIZE, scores=True)[0].endswith(" 0.750000")


def test_yolo_has_corners_of_quads_and_a_line_a_ring() -> None:
    (word,) = yolo_lines([WORD], ClassIds(), SIZE)
    assert [float(part) for part in word.split()] == [0, 0, 0, 0.1, 0, 0.1, 0.1, 0, 0.1]
    assert len(yolo_lines([BLOB], ClassIds(), SIZE)) == 2


def test_a_box_beside_polygons_is_its_four_corners() -> None:
    """Readers take every line of a file for an outline where one is."""
    box, *rings = yolo_lines([CAR, BLOB], ClassIds(), SIZE)
    corners = [0.05, 0.2, 0.3, 0.2, 0.3, 0.4, 0.05, 0.4]
    assert [float(part) for part in box.split()] == [0, *corners]
    assert len(rings) == 2


def test_a_quad_whose_sides_cross_is_kept_and_lines_are_not() -> None:
    crossed = replace(WORD, rings=((0, 0, 20, 0, 0, 10, 20, 10),))
    flat = replace(WORD, rings=((0, 5, 20, 5, 20, 5, 0, 5),))
    (found,) = coco_annotations([crossed, flat, LINE], ClassIds(), image_id=1, first_id=1)
    assert (found["bbox"], found["area"]) == ([0, 0, 20, 10], 0)
    assert len(yolo_lines([crossed, flat, LINE], ClassIds(), SIZE)) == 1


def test_a_result_has_them_all() -> None:
    result = result_of(CAR, WORD)
    ids = ClassIds(["stop"])
    assert result.normalized_boxes == ((0.05, 0.2, 0.3, 0.4), (0, 0, 0.1, 0.1))
    assert [each["category_id"] for each in result.to_coco()] == [1, 2]
    assert [each["category_id"] for each in result.to_coco(ids, image_id=3)] == [1]
    assert len(result.to_yolo(ids)) == 1
    assert not result_of().to_coco()
    assert not result_of().to_yolo()


def test_a_table_has_a_row_a_region_and_its_columns_without_any() -> None:
    pandas = pytest.importorskip("pandas")
    table = result_of(CAR, LINE).to_dataframe()
    assert isinstance(table, pandas.DataFrame)
    assert list(table["label"]) == ["car", "line"]
    assert list(table.loc[0, ["x1", "y1", "x2", "y2"]]) == [10, 20, 60, 40]
    assert list(result_of().to_dataframe().columns) == list(table.columns)
    assert table_rows([CAR])[0]["track_id"] is None


def test_without_pandas_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match="pip install pandas"):
        result_of(CAR).to_dataframe()
