import json
import math
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rosbags", reason="install florence-edge[ros]")

from florence_edge.results.result import Result, TokenPiece, read_answer
from florence_edge.tasks import find_task
from florence_edge_jetson.robots.bag.reader import messages_of, open_typestore
from florence_edge_jetson.robots.ros import message_types
from florence_edge_jetson.robots.ros.images import rgb_from_image
from florence_edge_jetson.robots.ros.messages import DiagnosticStatus

SIZE = (1000, 500)
TYPESTORE = open_typestore()
MESSAGES = messages_of(TYPESTORE)


def answer(task: str, text: str) -> Result:
    """Log-probabilities fall from token to token, so that no two regions score alike."""
    words = re.findall(r"<[^>]*>|[^<]+", text)
    pieces = [
        TokenPiece(number, word, -number / 10, forced=False) for number, word in enumerate(words)
    ]
    return read_answer(find_task(task), pieces, image_size=SIZE)


def header(seconds: int = 12, nanoseconds: int = 345, frame_id: str = "camera_optical") -> Any:
    stamp = TYPESTORE.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return TYPESTORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def sent(message: Any, kind: str) -> Any:
    """The message as it is after a journey over the wire."""
    return TYPESTORE.deserialize_cdr(TYPESTORE.serialize_cdr(message, kind), kind)


def sent_detections(result: Result) -> Any:
    return sent(MESSAGES.detections(result, header()), message_types.DETECTION_2D_ARRAY)


CARS = "car<loc_100><loc_200><loc_300><loc_400>bus<loc_0><loc_0><loc_999><loc_999>"


def test_the_definitions_of_vision_msgs_are_those_of_ros() -> None:
    # From detection2_d_array__description.c, which ROS's own generator wrote for vision_msgs 4.
    assert TYPESTORE.hash_rihs01(message_types.DETECTION_2D_ARRAY) == (
        "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    )


def test_every_type_that_is_written_is_known_to_the_typestore() -> None:
    assert set(MESSAGES.types) == set(message_types.WRITTEN)


def test_boxes_become_detections_with_their_scores() -> None:
    result = answer("OD", CARS)
    car, bus = sent_detections(result).detections
    (hypothesis,) = car.results
    assert hypothesis.hypothesis.class_id == "car"
    assert hypothesis.hypothesis.score == result.regions[0].score
    assert bus.results[0].hypothesis.score == result.regions[1].score
    assert 0 < bus.results[0].hypothesis.score < hypothesis.hypothesis.score < 1
    assert hypothesis.hypothesis.score == pytest.approx(math.exp(-(1 + 2 + 3 + 4) / 40))


def test_a_box_is_given_by_its_centre_and_size_in_pixels() -> None:
    result = answer("OD", CARS)
    assert result.regions[0].box == (100, 100, 300, 200)
    box = sent_detections(result).detections[0].bbox
    assert (box.center.position.x, box.center.position.y) == (200, 150)
    assert box.center.theta == 0
    assert (box.size_x, box.size_y) == (200, 100)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (
            "OCR_WITH_REGION",
            "STOP<loc_100><loc_200><loc_300><loc_220><loc_310><loc_400><loc_90><loc_390>",
        ),
        (
            "REFERRING_EXPRESSION_SEGMENTATION",
            "<loc_90><loc_200><loc_310><loc_220><loc_200><loc_400>",
        ),
    ],
)
def test_quads_and_polygons_are_given_by_their_upright_boxes(task: str, text: str) -> None:
    result = answer(task, text)
    assert result.regions[0].box == (90, 100, 310, 200)
    (found,) = sent_detections(result).detections
    assert (found.bbox.center.position.x, found.bbox.center.position.y) == (200, 150)
    assert (found.bbox.size_x, found.bbox.size_y) == (220, 100)
    assert found.results[0].hypothesis.class_id == result.regions[0].label


def test_a_caption_has_no_detections_but_its_text() -> None:
    result = answer("CAPTION", "a red car")
    assert sent_detections(result).detections == []
    spoken = json.loads(sent(MESSAGES.text(result, header()), message_types.STRING).data)
    assert spoken["result"] == {"<CAPTION>": "a red car"}


def test_stamp_and_frame_id_are_carried_over() -> None:
    message = sent_detections(answer("OD", CARS))
    for each in (message, *message.detections):
        assert (each.header.stamp.sec, each.header.stamp.nanosec) == (12, 345)
        assert each.header.frame_id == "camera_optical"


def test_the_pose_is_left_at_the_origin_and_the_id_empty() -> None:
    found = sent_detections(answer("OD", CARS)).detections[0]
    pose = found.results[0].pose
    assert (pose.pose.orientation.w, pose.pose.orientation.x) == (1, 0)
    assert not np.any(pose.covariance)
    assert pose.covariance.shape == (36,)
    assert found.id == ""


def test_the_text_is_the_json_of_the_command_with_the_stamp() -> None:
    result = answer("OD", CARS)
    spoken = json.loads(sent(MESSAGES.text(result, header()), message_types.STRING).data)
    assert spoken.pop("stamp") == {"sec": 12, "nanosec": 345}
    assert spoken.pop("frame_id") == "camera_optical"
    assert spoken == json.loads(json.dumps(result.to_json()))


def test_labels_in_any_script_survive_the_journey() -> None:
    corners = "".join(f"<loc_{number}>" for number in range(8))
    result = answer("OCR_WITH_REGION", "café 猫 \U0001f99c" + corners)
    (found,) = sent_detections(result).detections
    assert found.results[0].hypothesis.class_id == "café 猫 \U0001f99c"


def test_a_picture_comes_back_as_it_was() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    message = sent(MESSAGES.image(Image.fromarray(picture), header()), message_types.IMAGE)
    assert (message.encoding, message.step, message.is_bigendian) == ("rgb8", 21, 0)
    np.testing.assert_array_equal(rgb_from_image(message, "/annotated"), picture)
    assert message.header.stamp.sec == 12


@pytest.mark.parametrize(("level", "number"), [("OK", 0), ("WARN", 1), ("ERROR", 2), ("STALE", 3)])
def test_a_status_becomes_one_diagnostic_status(level: Any, number: int) -> None:
    status = DiagnosticStatus(level=level, message="well", values={"frames received": "3"})
    message = MESSAGES.diagnostics("florence_edge", status, header(frame_id=""))
    (received,) = sent(message, message_types.DIAGNOSTIC_ARRAY).status
    assert (received.level, received.name, received.message) == (number, "florence_edge", "well")
    assert [(each.key, each.value) for each in received.values] == [("frames received", "3")]
