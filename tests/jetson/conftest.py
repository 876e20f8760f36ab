"""The scripted model, a recording answered by it, and OpenCV to compare with.

Imports are inside: without rosbags, the tests that need none of it are still collected.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from florence_edge import Florence2

from .scripted_model import scripted_model

if TYPE_CHECKING:
    from .recorded_bags import Answer


@pytest.fixture
def scripted(tiny_bundle: Path) -> Florence2:
    return scripted_model(tiny_bundle)[0]


@pytest.fixture
def answer(scripted: Florence2) -> "Answer":
    """Has a recording answered by the scripted model."""
    from .recorded_bags import answering

    return answering(scripted)


@pytest.fixture(scope="session")
def cv2() -> Any:
    return pytest.importorskip("cv2", reason="install florence-edge[bayer]")
