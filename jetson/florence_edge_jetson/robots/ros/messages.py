"""Answers out: results as ROS 2 messages, of rclpy's classes or of rosbags'.

Result ── detections ────────────> vision_msgs/Detection2DArray   labels, boxes, scores
       ── text ──────────────────> std_msgs/String                all of it, as JSON
picture ── image ────────────────> sensor_msgs/Image
DiagnosticStatus ── diagnostics ─> diagnostic_msgs/DiagnosticArray
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from florence_edge.regions import Region
from florence_edge.results.result import Result

from . import message_types

DiagnosticLevel = Literal["OK", "WARN", "ERROR", "STALE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosticStatus:
    """Level, message and values of a status on `/diagnostics`."""

    level: DiagnosticLevel
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """Makes messages; `header` is always the frame's own, handed on as it came.

    `types` maps each name in `message_types.WRITTEN` to its class, `uint8_array` turns bytes into
    what the library keeps a `uint8[]` in (rclpy: `array.array`; rosbags: a numpy array).
    """

    types: Mapping[str, Callable[..., Any]]
    uint8_array: Callable[[bytes], Any]

    def detections(self, result: Result, header: Any) -> Any:
        """Every region as a detection; none for answers in plain text.

        A quad or polygon is given by its upright box; its outline is in the JSON. `score` is the
        region's own: exp of the mean log-probability of its location tokens. Poses are unknown and
        left at the origin, `id` is left to trackers.
        """
        found = [self._detection(region, header) for region in result.regions]
        return self.types[message_types.DETECTION_2D_ARRAY](header=header, detections=found)

    def text(self, result: Result, header: Any) -> Any:
        """`Result.to_json` as text, with the frame's stamp and frame_id for a name."""
        stamp = {"sec": int(header.stamp.sec), "nanosec": int(header.stamp.nanosec)}
        answer = {"stamp": stamp, "frame_id": header.frame_id, **result.to_json()}
        return self.types[message_types.STRING](data=json.dumps(answer))

    def image(self, picture: Image.Image, header: Any) -> Any:
        """A picture as rgb8 without padding."""
        rgb = picture.convert("RGB")
        return self.types[message_types.IMAGE](
            header=header,
            height=rgb.height,
            width=rgb.width,
            encoding="rgb8",
            is_bigendian=0,
            step=3 * rgb.width,
            data=self.uint8_array(rgb.tobytes()),
        )

    def diagnostics(self, name: str, status: DiagnosticStatus, header: Any) -> Any:
        """One status, called `name`; `header` carries the time it was taken."""
        kind: Any = self.types[message_types.DIAGNOSTIC_STATUS]
        message = kind(
            level=getattr(kind, status.level),  # a byte in rclpy, a number in rosbags
            name=name,
            message=status.message,
            hardware_id="",
            values=[
                self.types[message_types.KEY_VALUE](key=key, value=value)
                for key, value in status.values.items()
            ],
        )
        return self.types[message_types.DIAGNOSTIC_ARRAY](header=header, status=[message])

    def _detection(self, region: Region, header: Any) -> Any:
        hypothesis = self.types[message_types.OBJECT_HYPOTHESIS](
            class_id=region.label, score=float(region.score)
        )
        return self.types[message_types.DETECTION_2D](
            header=header,
            results=[
                self.types[message_types.OBJECT_HYPOTHESIS_WITH_POSE](
                    hypothesis=hypothesis, pose=self._no_pose()
                )
            ],
            bbox=self._box(region.box),
            id="",
        )

    def _box(self, box_xyxy: tuple[float, float, float, float]) -> Any:
        left, top, right, bottom = map(float, box_xyxy)
        centre = self.types[message_types.POINT_2D](x=(left + right) / 2, y=(top + bottom) / 2)
        return self.types[message_types.BOUNDING_BOX_2D](
            center=self.types[message_types.POSE_2D](position=centre, theta=0.0),
            size_x=right - left,
            size_y=bottom - top,
        )

    def _no_pose(self) -> Any:
        return self.types[message_types.POSE_WITH_COVARIANCE](
            pose=self.types[message_types.POSE](
                position=self.types[message_types.POINT](x=0.0, y=0.0, z=0.0),
                orientation=self.types[message_types.QUATERNION](x=0.0, y=0.0, z=0.0, w=1.0),
            ),
            covariance=np.zeros(36),
        )
