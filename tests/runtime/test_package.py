"""`florence_edge` itself: its names, and what is loaded when it is first used."""

import json
import subprocess
import sys
from typing import Any

import pytest

import florence_edge


def printed(statements: str) -> Any:
    """What a fresh Python prints as JSON."""
    command = [sys.executable, "-c", f"import sys, json, atexit\n{statements}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_every_public_name_is_listed() -> None:
    assert set(florence_edge.__all__) <= set(dir(florence_edge))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'View'"):
        _ = florence_edge.View


def test_video_is_loaded_when_it_is_first_used() -> None:
    loaded = "[name for name in sys.modules if name.startswith('florence_edge.video')]"
    before, listed, after = printed(
        f"import florence_edge\nbefore = {loaded}\nlisted = dir(florence_edge)\n"
        f"florence_edge.watch\nprint(json.dumps([before, listed, {loaded}]))"
    )
    assert before == []
    assert "watch" in listed
    assert "florence_edge.video.watch" in after


@pytest.mark.parametrize("module", ["watch", "capture", "sources", "display", "writer"])
def test_importing_video_registers_nothing_at_exit(module: str) -> None:
    before, after = printed(
        "import florence_edge, importlib\nbefore = atexit._ncallbacks()\n"
        f"importlib.import_module('florence_edge.video.{module}')\n"
        "print(json.dumps([before, atexit._ncallbacks()]))"
    )
    assert after == before
