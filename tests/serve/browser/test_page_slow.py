"""The rest of the page in Chromium: accessibility, files, keys, drops, errors, the token."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence2

from .camera_files import image_of
from .stand import (
    NEEDS_A_BROWSER,
    PHONE,
    SIDE,
    Stand,
    assert_camera,
    assert_drawn,
    drive,
    observed,
    serving,
    without_failure,
)

pytest.importorskip("fastapi")

pytestmark = [*NEEDS_A_BROWSER, pytest.mark.slow]

SECRET = "a-token-for-the-page"
AXE = [
    ("OD", "light", "desk"),
    ("OD", "dark", "desk"),
    ("OD", "light", "phone"),
    ("CAPTION", "dark", "phone"),
    ("REGION_TO_OCR", "light", "desk"),
]


@pytest.fixture(scope="module")
def more(stand: Stand) -> Any:
    """What the slow tests look at."""
    broken = stand.out / "broken.jpg"
    broken.write_bytes(b"not a picture")
    checks = {
        f"axe-{task}-{scheme}-{device}": {
            "scenario": "accessibility",
            "task": task,
            "context": {"colorScheme": scheme, **(PHONE if device == "phone" else {})},
        }
        for task, scheme, device in AXE
    }
    return observed(
        stand,
        "more",
        {
            "box-camera": {"scenario": "camera", "source": "camera"},
            "smooth": {"scenario": "smooth"},
            "example": {"scenario": "example"},
            "downloads": {"scenario": "downloads", "out": str(stand.out)},
            "streaming": {"scenario": "streaming"},
            "keyboard": {"scenario": "keyboard"},
            "drop": {"scenario": "dropAndPaste"},
            "errors": {"scenario": "errors", "broken": str(broken)},
            "showcase-desk": {
                "scenario": "showcase",
                "task": "OD",
                "context": {"viewport": {"width": 1280, "height": 800}, "deviceScaleFactor": 1.5},
            },
            "showcase-phone": {
                "scenario": "showcase",
                "task": "DENSE_REGION_CAPTION",
                "context": {"colorScheme": "dark", **PHONE},
            },
            **checks,
        },
    )


@pytest.mark.parametrize(("task", "scheme", "device"), AXE)
def test_axe_finds_nothing_that_keeps_people_out(
    more: dict[str, Any], task: str, scheme: str, device: str
) -> None:
    found = without_failure(more, f"axe-{task}-{scheme}-{device}")
    for state in ("empty", "full"):
        assert found[state]["wrong"] == []
        assert {"color-contrast", "button-name", "label"} <= set(found[state]["passed"])


def test_the_boxs_camera_has_boxes_where_the_objects_are(
    stand: Stand, more: dict[str, Any]
) -> None:
    assert_camera(stand, without_failure(more, "box-camera"))


def test_a_smooth_video_runs_on_under_the_last_answer(stand: Stand, more: dict[str, Any]) -> None:
    smooth = without_failure(more, "smooth")
    assert smooth["drawn"]["video"] > 10  # in two seconds, on any machine
    assert smooth["drawn"]["answers"] == 0  # no frame from before jumps in
    assert_drawn(stand, image_of(smooth["overlay"]), dict(smooth["colours"]))
    assert smooth["offered"]
    assert smooth["gone"]


def test_who_has_no_picture_takes_the_example(more: dict[str, Any]) -> None:
    assert without_failure(more, "example")["answer"]["error"] == ""


def test_no_page_complained_or_left_the_server(more: dict[str, Any]) -> None:
    """But where a scenario breaks something on purpose."""
    seen = {name: each["complaints"] for name, each in more.items() if name != "errors"}
    assert {name: found for name, found in seen.items() if found} == {}


def test_the_answer_is_saved_as_json_and_as_a_picture(
    stand: Stand, more: dict[str, Any], miniature: Florence2
) -> None:
    saved = without_failure(more, "downloads")
    assert saved["names"] == ["scene-od.json", "scene-od.png"]
    reply = json.loads((stand.out / "scene-od.json").read_text("utf-8"))
    assert reply["result"] == miniature.run(stand.picture, "OD").to_hf()
    drawn = Image.open(stand.out / "scene-od.png")
    assert drawn.size == (SIDE, SIDE)
    plain = np.asarray(Image.open(stand.picture).convert("RGB"), int)
    changed = np.abs(np.asarray(drawn.convert("RGB"), int) - plain).max(axis=-1) > 30
    assert 0.01 < changed.mean() < 0.3
    assert saved["above"]["regions"] == []  # the threshold at 1
    assert saved["hidden"] == "2 below the lowest score"


def test_the_text_is_shown_while_it_is_made(more: dict[str, Any]) -> None:
    streaming = without_failure(more, "streaming")
    assert len(streaming["lengths"]) > 2
    assert streaming["lengths"] == sorted(streaming["lengths"])
    assert streaming["answer"]["words"].strip()


def test_the_keyboard_is_enough(more: dict[str, Any]) -> None:
    keyboard = without_failure(more, "keyboard")
    assert keyboard["first"] == "skip"
    assert keyboard["chosen"] == "DENSE_REGION_CAPTION"
    assert keyboard["answer"]["regions"]
    assert keyboard["pinned"] == "true"


def test_pictures_are_dropped_and_pasted(more: dict[str, Any]) -> None:
    given = without_failure(more, "drop")
    assert "heart" in given["dropped"]["words"]
    assert given["pasted"]["words"] == given["dropped"]["words"]
    assert "is not a picture file" in given["refused"]


def test_errors_say_what_to_do(more: dict[str, Any]) -> None:
    said = without_failure(more, "errors")
    assert "Drop one on the page, paste it, or choose a file." in said["noPicture"]
    assert "Save it as JPEG, PNG or WebP" in said["notAPicture"]
    assert "needs a text" in said["noText"]
    assert "needs a rectangle" in said["noRegion"]
    assert "max_new_tokens" in said["refused"]
    assert "cannot be reached" in said["away"]


def test_a_server_with_a_token_asks_for_it(stand: Stand, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET, encoding="utf-8")
    file.chmod(0o600)
    with serving(stand.bundle, tmp_path, "--token-file", str(file)) as url:
        wants = {"scenario": "token", "secret": SECRET}
        token = drive(stand, "token", url, {"token": wants})
    seen = without_failure(token, "token")
    assert "not the server" in seen["refused"]
    assert not seen["locked"]
    assert [row["label"] for row in seen["answer"]["regions"]] == ["heart", "triangle"]
