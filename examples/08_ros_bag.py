"""A ROS recording without ROS: answer every N-th frame of a camera topic, one JSON line each.

pip install ".[cpu,ros]"
python examples/08_ros_bag.py BUNDLE drive/ /camera/image --task OD --every 5 > answers.jsonl

`florence-bag` does the same and writes a recording, with detections as vision_msgs has them; it
also reads more pixel formats than the two of this example.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from florence_edge import Florence2


def picture_of(message: Any, kind: str) -> Any:
    """A JPEG or PNG as bytes, or an HxWx3 uint8 array in RGB order."""
    if kind == "sensor_msgs/msg/CompressedImage":
        return message.data.tobytes()
    if message.encoding not in ("rgb8", "bgr8"):
        raise SystemExit(f"Frames are {message.encoding}; this example reads rgb8 and bgr8.")
    rows = message.data.reshape(message.height, message.step)  # a row may end in padding
    pixels = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    return pixels if message.encoding == "rgb8" else pixels[:, :, ::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask about a camera topic of a rosbag2.")
    parser.add_argument("bundle", help="the folder that florence-export wrote")
    parser.add_argument("recording", type=Path, help="the rosbag2 folder (sqlite3 or mcap)")
    parser.add_argument("topic")
    parser.add_argument("--task", default="OD")
    parser.add_argument("--every", type=int, default=1, help="answer one frame of so many")
    arguments = parser.parse_args()

    types = get_typestore(Stores.ROS2_HUMBLE)
    with (
        Florence2.load(arguments.bundle) as model,
        AnyReader([arguments.recording], default_typestore=types) as reader,
    ):
        topic = [each for each in reader.connections if each.topic == arguments.topic]
        if not topic:
            raise SystemExit(f"There is no topic {arguments.topic} in {arguments.recording}.")
        for number, (connection, _, data) in enumerate(reader.messages(topic)):
            if number % arguments.every == 0:
                message: Any = reader.deserialize(data, connection.msgtype)
                result = model.run(picture_of(message, connection.msgtype), arguments.task)
                stamp = message.header.stamp
                line = {"stamp": [stamp.sec, stamp.nanosec], "scores": result.scores}
                print(json.dumps(line | result.to_hf()), flush=True)


if __name__ == "__main__":
    main()
