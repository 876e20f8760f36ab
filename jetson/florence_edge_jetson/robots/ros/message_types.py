"""Names of the ROS 2 messages that are read and written here, and the fields of vision_msgs.

Everything else about them is in `images` (reading) and `messages` (writing).
"""

from importlib import import_module
from typing import Any

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"

HEADER = "std_msgs/msg/Header"
STRING = "std_msgs/msg/String"
POINT = "geometry_msgs/msg/Point"
QUATERNION = "geometry_msgs/msg/Quaternion"
POSE = "geometry_msgs/msg/Pose"
POSE_WITH_COVARIANCE = "geometry_msgs/msg/PoseWithCovariance"
DIAGNOSTIC_ARRAY = "diagnostic_msgs/msg/DiagnosticArray"
DIAGNOSTIC_STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
KEY_VALUE = "diagnostic_msgs/msg/KeyValue"
POINT_2D = "vision_msgs/msg/Point2D"
POSE_2D = "vision_msgs/msg/Pose2D"
BOUNDING_BOX_2D = "vision_msgs/msg/BoundingBox2D"
OBJECT_HYPOTHESIS = "vision_msgs/msg/ObjectHypothesis"
OBJECT_HYPOTHESIS_WITH_POSE = "vision_msgs/msg/ObjectHypothesisWithPose"
DETECTION_2D = "vision_msgs/msg/Detection2D"
DETECTION_2D_ARRAY = "vision_msgs/msg/Detection2DArray"

WRITTEN = (
    *(IMAGE, HEADER, STRING, POINT, QUATERNION, POSE, POSE_WITH_COVARIANCE),
    *(DIAGNOSTIC_ARRAY, DIAGNOSTIC_STATUS, KEY_VALUE),
    *(POINT_2D, POSE_2D, BOUNDING_BOX_2D, OBJECT_HYPOTHESIS, OBJECT_HYPOTHESIS_WITH_POSE),
    *(DETECTION_2D, DETECTION_2D_ARRAY),
)
"""All that `messages.Messages` makes."""

# The fields of vision_msgs 4 (ros-perception/vision_msgs, Apache-2.0), as Humble and Jazzy have
# them. Recorders without ROS need them spelled out; a test compares their type hash with ROS's.
VISION_MSGS: dict[str, str] = {
    POINT_2D: "float64 x\nfloat64 y\n",
    POSE_2D: "vision_msgs/Point2D position\nfloat64 theta\n",
    BOUNDING_BOX_2D: "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    OBJECT_HYPOTHESIS: "string class_id\nfloat64 score\n",
    OBJECT_HYPOTHESIS_WITH_POSE: (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    DETECTION_2D: (
        "std_msgs/Header header\n"
        "vision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\n"
        "string id\n"
    ),
    DETECTION_2D_ARRAY: "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
}


def class_of(name: str) -> Any:
    """rclpy's class of "sensor_msgs/msg/Image"; needs ROS."""
    package, _, kind = name.rpartition("/")
    return getattr(import_module(package.replace("/", ".")), kind)
