"""The library rosbags: where it comes in, and its classes as makers of our messages."""

from typing import TYPE_CHECKING, Any

import numpy as np

from florence_edge.errors import RequestError

from ..ros import types as names
from ..ros.messages import Messages

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore


def open_store() -> "Typestore":
    """The message types of Humble with those of vision_msgs.

    Images, headers and the other types used here are the same in Jazzy.

    Raises:
        RequestError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise RequestError(
            "Recordings are read by the package rosbags, which is not installed. "
            "Install it with: pip install 'florence-edge[ros]'"
        ) from error
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, definition in names.VISION_MSGS.items():
        store.register(get_types_from_msg(definition, name))
    return store


def messages_of(store: "Typestore") -> Messages:
    """Makes messages that `store` can write."""
    return Messages(types={name: store.types[name] for name in names.WRITTEN}, octets=_octets)


def _octets(data: bytes) -> Any:
    return np.frombuffer(data, dtype=np.uint8)
