import sys
import warnings
from typing import Any

import numpy as np
import pytest

from florence_edge.errors import MissingPackageError
from florence_edge.regions import Region
from florence_edge.results.formats import ClassIds
from florence_edge.results.parse import find_regions, parse
from florence_edge.results.supervision import detections_from_regions
from florence_edge.tasks import find_task

SIZE = (640, 480)
BLOB = "<loc_100><loc_200><loc_900><loc_250><loc_500><loc_800><loc_300><loc_300>"
TEXTS = {
    "OD": "car<loc_1><loc_2><loc_300><loc_400>bus<loc_50><loc_60><loc_7><loc_8>",
    "REGION_PROPOSAL": "<loc_1><loc_2><loc_300><loc_400><loc_50><loc_60><loc_700><loc_800>",
    "OCR_WITH_REGION": "STOP<loc_1><loc_2><loc_300><loc_9><loc_301><loc_99><loc_3><loc_90>",
    "REFERRING_EXPRESSION_SEGMENTATION": f"<poly>{BLOB}<sep><loc_1><loc_2></poly>"
    f"<poly><loc_5><loc_6><loc_7><loc_8></poly><poly>{BLOB}</poly>",
    "OPEN_VOCABULARY_DETECTION": "car<loc_1><loc_2><loc_300><loc_400>",
}


@pytest.fixture(scope="module")
def supervision() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it regrets at length that there is no OpenCV
        return pytest.importorskip("supervision")


def regions_of(task: str, text: str) -> list[Region]:
    found = find_regions(find_task(task).answer, text, image_size=SIZE, convention="native")
    return [
        Region(label=each.label, shape=each.shape, rings=each.rings, score=0.9 - 0.1 * number)
        for number, each in enumerate(found)
    ]


@pytest.mark.parametrize("task", TEXTS)
def test_detections_are_those_that_supervision_reads_itself(supervision: Any, task: str) -> None:
    ours = detections_from_regions(regions_of(task, TEXTS[task]), SIZE, ClassIds())
    theirs = supervision.Detections.from_vlm(
        supervision.VLM.FLORENCE_2,
        result=parse(task, TEXTS[task], image_size=SIZE),
        resolution_wh=SIZE,
    )
    np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
    for name, column in theirs.data.items():
        np.testing.assert_array_equal(ours.data[name], column)
    if theirs.mask is None:
        assert ours.mask is None
    else:
        overlap = (ours.mask & theirs.mask).sum() / (ours.mask | theirs.mask).sum()
        assert overlap > 0.99


def test_scores_become_confidences_and_labels_classes(supervision: Any) -> None:
    box = ((0, 0, 9, 9),)
    labels = ["car", "bus", "car"]
    regions = [
        Region(label=label, shape="box", rings=box, score=score)
        for label, score in zip(labels, (0.5, 0.25, 0.75), strict=True)
    ]
    detections = detections_from_regions(regions, SIZE, ClassIds())
    assert detections.confidence.tolist() == [0.5, 0.25, 0.75]
    assert detections.class_id.tolist() == [0, 1, 0]
    assert detections.data["class_name"].tolist() == labels


def test_no_regions_are_no_detections(supervision: Any) -> None:
    assert len(detections_from_regions([], SIZE, ClassIds())) == 0


def test_without_supervision_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[supervision\]'"):
        detections_from_regions([], SIZE, ClassIds())
