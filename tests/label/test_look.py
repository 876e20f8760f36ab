"""The page: what it counts, what it shows, and that nothing in it is fetched or run."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from florence_edge_label.cli import main
from florence_edge_label.parts import Row
from florence_edge_label.picture_list import Entry

from .conftest import answered, box, captioned, draw, write_run

EVIL = "</script><script>alert(1)</script>"


def rows_of(entry: Entry) -> Sequence[Row]:
    number = int(entry.name[:2])
    if number == 0:
        return [Row(image_id=entry.image_id or 0, image=entry.name, status="error", error=EVIL)]
    regions = [box("cat", 0, 0, 9 + i, 9, 0.05 * number) for i in range(number % 4)]
    return [answered(entry, regions), captioned(entry, EVIL)]


@pytest.fixture
def page(tmp_path: Path) -> str:
    pictures = draw(tmp_path / "pictures", [f"{number:02}.png" for number in range(18)])
    labelled = write_run(tmp_path / "out", pictures, rows_of, {"min_score": "0.25"})
    (pictures / "05.png").unlink()
    assert main(["look", str(labelled), "--samples", "12"]) == 0
    return (labelled / "look.html").read_text(encoding="utf-8")


def data_of(page: str) -> Any:
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(found)


def test_it_counts_classes_scores_and_errors(page: str) -> None:
    data = data_of(page)
    assert (data["pictures"], data["failed"], data["unread"]) == (18, 1, 1)
    assert data["errors"] == [{"image": "00.png", "error": EVIL}]
    (cats,) = data["tasks"][0]["classes"]
    assert (cats["label"], cats["regions"], cats["pictures"]) == ("cat", 25, 13)
    assert sum(cats["bins"]) == 25
    assert data["minScore"] == 0.25
    assert data["perPicture"] == [[0, 4], [1, 5], [2, 4], [3, 4]]
    assert sum(data["tasks"][1]["bins"]) == 17


def test_it_shows_each_kind_of_sample_once(page: str) -> None:
    data = data_of(page)
    kinds = [sample["why"] for sample in data["samples"]]
    assert {kind: kinds.count(kind) for kind in kinds}.keys() == {
        "random", "unsure", "crowded", "empty",
    }  # fmt: skip
    names = [sample["image"] for sample in data["samples"]]
    assert len(set(names)) == len(names) <= 12
    unsure = [s for s in data["samples"] if s["why"] == "unsure"]
    scores = [region["score"] for sample in unsure for region in sample["regions"]]
    assert min(scores) == pytest.approx(0.05)
    for sample in data["samples"]:
        assert (sample["picture"] is None) == (sample["image"] == "05.png")


def test_nothing_is_fetched_and_no_text_becomes_markup(page: str) -> None:
    assert EVIL not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert re.findall(r'(?:src|href)="http', page) == []
    assert "default-src 'none'" in page
