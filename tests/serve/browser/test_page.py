"""The page of florence-serve in a real Chromium: every task, cameras of known truth, a phone.

One server, one browser and one run of drive.mjs for all of these. Screenshots are taken where
FLORENCE_EDGE_SCREENSHOTS names a folder for them.
"""

import json
import subprocess
from typing import Any

import pytest

from florence_edge import Florence2, Region
from florence_edge.results import draw
from florence_edge.tasks import TASKS, Needs

from .camera_files import image_of, rgb_of
from .stand import (
    LAN_NAME,
    NEEDS_A_BROWSER,
    NODE,
    PAGE,
    PHONE,
    SIDE,
    Stand,
    assert_camera,
    assert_drawn,
    observed,
    without_failure,
)

pytest.importorskip("fastapi")

pytestmark = NEEDS_A_BROWSER


def _questions(stand: Stand) -> list[dict[str, Any]]:
    """One question of each task: about the heart, or the word where it is about words."""
    asked = []
    for name, task in TASKS.items():
        question: dict[str, Any] = {"task": name}
        if task.needs is Needs.TEXT:
            question["text"] = "cyan heart"
        elif task.needs is Needs.REGION:
            question["region"] = stand.word if name == "REGION_TO_OCR" else stand.pixels("heart")
        asked.append(question)
    return asked


@pytest.fixture(scope="module")
def seen(stand: Stand) -> Any:
    """What the unmarked tests look at."""
    return observed(
        stand,
        "seen",
        {
            "tasks": {"scenario": "everyTask", "questions": _questions(stand)},
            "drag": {"scenario": "dragRegion", "region": stand.pixels("triangle")},
            "own-camera": {"scenario": "camera", "source": "live"},
            "insecure": {"scenario": "insecure", "host": LAN_NAME},
            "phone": {"scenario": "phone", "region": stand.pixels("triangle"), "context": PHONE},
        },
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_answered_on_the_page_as_in_python(
    stand: Stand, seen: dict[str, Any], miniature: Florence2, task: str
) -> None:
    answer = without_failure(seen, "tasks")["answers"][task]
    (question,) = (each for each in _questions(stand) if each["task"] == task)
    expected = miniature.run(stand.picture, **question)
    assert answer["error"] == ""
    if expected.regions:
        rows = [(row["label"], row["score"]) for row in answer["regions"]]
        asked = "" if question.get("region") else question.get("text", "")
        assert rows == [
            (region.label or asked or f"region {number}", f"{region.score:.2f}")
            for number, region in enumerate(expected.regions, start=1)
        ]
        assert [_edges(row["place"]) for row in answer["regions"]] == [
            [round(edge) for edge in region.box] for region in expected.regions
        ]
    else:
        assert answer["words"].strip() == expected.text
        assert answer["score"] == f"{expected.score:.2f}"
        assert answer["regions"] == []


def _edges(place: str) -> list[int]:
    corners = place.partition(" · ")[0].replace(" – ", ", ")
    return [int(edge) for edge in corners.split(", ")]


def test_boxes_are_drawn_where_the_objects_are(stand: Stand, seen: dict[str, Any]) -> None:
    tasks = without_failure(seen, "tasks")
    colours = {row["label"]: row["colour"] for row in tasks["answers"]["OD"]["regions"]}
    assert_drawn(stand, image_of(tasks["drawing"]), colours)


def test_labels_have_the_colours_of_the_runtime(seen: dict[str, Any]) -> None:
    """The tags of `Result.draw` and the page's rows: one rule, in two languages."""
    regions = [
        Region(label=row["label"], shape="box", rings=((0, 0, 9, 9),), score=1)
        for row in without_failure(seen, "tasks")["answers"]["OD"]["regions"]
    ]
    shown = [rgb_of(row["colour"]) for row in seen["tasks"]["answers"]["OD"]["regions"]]
    assert shown == draw._colours(regions)


def test_an_answer_is_announced_to_screen_readers(seen: dict[str, Any]) -> None:
    assert seen["tasks"]["answers"]["OD"]["announced"].startswith("2 regions, ")


def test_a_rectangle_is_drawn_with_the_mouse_and_moved_by_keys(
    stand: Stand, seen: dict[str, Any], miniature: Florence2
) -> None:
    drag = without_failure(seen, "drag")
    assert drag["dragged"] == pytest.approx(stand.pixels("triangle"), abs=2)
    assert drag["asked"] == pytest.approx(drag["dragged"], abs=1)  # a bin of the picture
    assert drag["answer"]["words"].strip() == "triangle"
    step = SIDE / 100
    left, top, right, bottom = drag["dragged"]
    moved = [left + step, top, right + step, bottom + step]
    assert drag["byKeys"] == pytest.approx(moved, abs=1)
    expected = miniature.run(stand.picture, "REGION_TO_CATEGORY", region=drag["byKeys"])
    assert drag["keyed"]["words"].strip() == expected.text


def test_this_devices_camera_has_boxes_where_the_objects_are(
    stand: Stand, seen: dict[str, Any]
) -> None:
    """Chromium's camera plays a video of known truth; picture and boxes are of one frame."""
    assert_camera(stand, without_failure(seen, "own-camera"))


def test_without_tls_the_page_says_why_it_has_no_camera(seen: dict[str, Any]) -> None:
    insecure = without_failure(seen, "insecure")
    assert not insecure["secure"]
    for said in ("https", "localhost", LAN_NAME, "--certificate", "ssh -L"):
        assert said in insecure["said"]
    assert [row["label"] for row in insecure["answer"]["regions"]] == ["heart", "triangle"]


def test_a_phone_shows_it_all(stand: Stand, seen: dict[str, Any]) -> None:
    phone = without_failure(seen, "phone")
    assert phone["wide"] <= 0
    assert phone["small"] == []
    assert [row["label"] for row in phone["answer"]["regions"]] == ["heart", "triangle"]
    assert phone["dragged"] == pytest.approx(stand.pixels("triangle"), abs=3)
    assert phone["drawn"]["words"].strip() == "triangle"


def test_no_page_complained_or_left_the_server(seen: dict[str, Any]) -> None:
    """No error in the console, nothing against the Content-Security-Policy, no foreign host."""
    assert {name: each["complaints"] for name, each in seen.items() if each["complaints"]} == {}


def test_the_page_asks_for_what_each_task_takes() -> None:
    """tasks.js states again what tasks.py says."""
    source = (PAGE / "tasks.js").read_text("utf-8")
    code = f"{source}\nconsole.log(JSON.stringify([...TASKS].map(([n, t]) => [n, t.takes])));"
    printed = subprocess.run(
        [NODE, "--input-type=module", "-e", code], check=True, capture_output=True, text=True
    )
    stated = dict(json.loads(printed.stdout))
    assert stated.pop("OWN_WORDS") == "text"
    assert stated == {name: task.needs.value for name, task in TASKS.items()}
