"""A served miniature and a driven Chromium: what the tests of the page stand on."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from ...helpers.made_once import one_at_a_time, run_folder
from .camera_files import image_of, outlined_share, rgb_of, write_y4m

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[3] / "serve" / "florence_edge_serve" / "page"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), "")
NODE = shutil.which("node") or ""
LAN_NAME = "florence-box.lan"
SCREENSHOTS = "FLORENCE_EDGE_SCREENSHOTS"  # the folder for those of every scenario
SEED, SIDE = 12, 480  # a scene whose objects the miniature finds
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "deviceScaleFactor": 2,
    "isMobile": True,
    "hasTouch": True,
}

NEEDS_A_BROWSER = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt install chromium"),
    pytest.mark.skipif(not NODE, reason="no node: apt install nodejs npm"),
    pytest.mark.skipif(
        not (HERE / "node_modules" / "playwright-core").is_dir(),
        reason="no playwright-core: npm ci --prefix tests/serve/browser",
    ),
]


@dataclass(frozen=True, slots=True)
class Stand:
    """What the scenarios share: a bundle, a picture and a video of it with known truth."""

    folder: Path
    out: Path
    bundle: Path

    @property
    def picture(self) -> Path:
        return self.folder / "scene.png"

    @property
    def video(self) -> Path:
        return self.folder / "scene.y4m"

    @property
    def scene(self) -> Any:
        scenes = pytest.importorskip("florence_edge_calibration.scenes")
        return scenes.generate_scene(SEED)

    @property
    def boxes(self) -> dict[str, tuple[float, ...]]:
        """The truth: an object's box in fractions of the picture, by the object's name."""
        return {thing.shape: _fractions(thing.box) for thing in self.scene.objects}

    @property
    def word(self) -> list[int]:
        """Where the word stands, in pixels."""
        return [round(edge * SIDE) for edge in _fractions(self.scene.words[0].box)]

    def pixels(self, name: str) -> list[int]:
        return [round(edge * SIDE) for edge in self.boxes[name]]


def prepare(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Stand:
    """Draw the scene, and make the video for the fake camera."""
    scenes = pytest.importorskip("florence_edge_calibration.scenes")
    folder = run_folder(tmp_path_factory) / "page"
    out = Path(os.environ.get(SCREENSHOTS) or folder / "screenshots")
    with one_at_a_time(folder):
        folder.mkdir(exist_ok=True)
        if not (folder / "scene.y4m").exists():
            drawn = scenes.draw_scene(scenes.generate_scene(SEED), SIDE)
            drawn.save(folder / "scene.png")
            write_y4m(folder / "scene.y4m", [drawn] * 5)
        out.mkdir(parents=True, exist_ok=True)
    return Stand(folder, out, bundle)


def _fractions(box: tuple[int, ...]) -> tuple[float, ...]:
    grid = pytest.importorskip("florence_edge_calibration.scenes").GRID
    return tuple(edge / grid for edge in box)


@contextmanager
def serving(bundle: Path, folder: Path, *options: str) -> Generator[str, None, None]:
    """A florence-serve of its own on a free port; ends it in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    command = [sys.executable, "-m", "florence_edge_serve", str(bundle), "--port", str(port)]
    with log.open("ab") as file:
        server = subprocess.Popen([*command, "--threads", "1", *options], stderr=file, stdout=file)
    try:
        _wait_for(server, f"http://127.0.0.1:{port}/ready", log)
        yield f"http://localhost:{port}/"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"florence-serve did not begin:\n{log.read_text('utf-8')}")


def drive(stand: Stand, name: str, url: str, scenarios: dict[str, dict[str, Any]]) -> Any:
    """Run scenarios in one Chromium; what they saw, by their names."""
    address = urlsplit(url)
    plan = {
        "chromium": CHROMIUM,
        "args": [
            "--no-sandbox",  # a container's root has none
            "--disable-gpu",
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={stand.video}",
            f"--host-resolver-rules=MAP {LAN_NAME} 127.0.0.1",
        ],
        "url": url,
        "screenshots": SCREENSHOTS in os.environ,
        "hosts": [address.netloc, f"{LAN_NAME}:{address.port}"],
        "timeout": 60_000,
        "scenarios": {
            called: {"picture": str(stand.picture), "size": [SIDE, SIDE], "name": called, **wants}
            for called, wants in scenarios.items()
        },
    }
    files = [stand.out / f"{name}-{kind}.json" for kind in ("plan", "observed")]
    files[0].write_text(json.dumps(plan), encoding="utf-8")
    subprocess.run([NODE, HERE / "drive.mjs", *files], check=True, timeout=400)
    return json.loads(files[1].read_text("utf-8"))


def observed(stand: Stand, name: str, scenarios: dict[str, dict[str, Any]]) -> Any:
    """What scenarios saw on a server with a camera of known truth; run once for all processes."""
    with one_at_a_time(stand.folder):
        kept = stand.folder / f"{name}.json"
        if not kept.exists():
            camera = ("--source", str(stand.picture), "--allow-host", LAN_NAME)
            with serving(stand.bundle, stand.folder, *camera) as url:
                seen = drive(stand, name, url, scenarios)
            kept.write_text(json.dumps(seen), encoding="utf-8")
        return json.loads(kept.read_text("utf-8"))


def without_failure(seen: dict[str, Any], name: str) -> Any:
    """What a scenario saw; fails with what went wrong in it."""
    assert "failure" not in seen[name], seen[name]["failure"]
    return seen[name]


def assert_drawn(stand: Stand, overlay: Image.Image, colours: dict[str, str]) -> None:
    """Every object of the scene is outlined where it is, in the colour of its label."""
    for name, box in stand.boxes.items():
        assert outlined_share(overlay, box, rgb_of(colours[name]), reach=0.04) > 0.8, name
        moved = tuple(edge + 0.12 for edge in box)  # the control: not just anywhere
        assert outlined_share(overlay, moved, rgb_of(colours[name]), reach=0.04) < 0.5, name


def assert_camera(stand: Stand, shown: dict[str, Any]) -> None:
    """A camera's frame is the scene, its objects are outlined, a caption stands under it."""
    assert_drawn(stand, image_of(shown["overlay"]), dict(shown["colours"]))
    assert "answers/s" in shown["pace"]
    assert "heart" in shown["subtitle"]
    assert shown["paused"] == "paused"
    truth = Image.open(stand.picture).convert("RGB").resize((32, 32))
    frame = image_of(shown["picture"]).convert("RGB").resize((32, 32))
    assert np.abs(np.asarray(truth, int) - np.asarray(frame, int)).mean() < 12
