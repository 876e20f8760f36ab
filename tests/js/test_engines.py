"""The JavaScript package on its engines, beside Python: node, Chromium's WebAssembly, the example.

The example page's rate is a figure of the machine: it is measured, not tested (docs/javascript.md).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from florence_edge import Florence2
from florence_edge.files import read_json
from florence_edge.results import draw

from ..serve.browser.camera_files import image_of, outlined_share, rgb_of, write_y4m
from .machines import (
    CHROMIUM,
    HERE,
    NEEDS_CHROMIUM,
    NEEDS_NODE,
    NEEDS_PACKAGES,
    ROOT,
    run_node,
    served,
)

scenes = pytest.importorskip("florence_edge_calibration.scenes")
from . import asked as asking  # noqa: E402 - it draws scenes

pytestmark = [pytest.mark.slow, NEEDS_NODE, NEEDS_PACKAGES]
WITHIN = 2e-3  # of a score: kernels differ from engine to engine
REGION = (0.15, 0.5, 0.58, 0.95)  # of the scene's heart, in fractions


def assert_alike(observed: Any, expected: list[dict[str, Any]], pictures: int) -> None:
    """Equal ids, statuses and dictionaries, scores within WITHIN; batches as alone."""
    answers = observed["answers"]
    assert len(answers) == len(expected) == pictures * 15 * 2
    for found, result in zip(answers, expected, strict=True):
        whole = json.loads(json.dumps(result))
        for name in ("task", "text_input", "raw_text", "token_ids", "result", "status"):
            assert found[name] == whole[name], (found, whole)
        assert found["scores"] == pytest.approx(whole["scores"], abs=WITHIN)
    greedy = answers[: len(answers) // 2]
    for batch, one_by_one in zip(observed["batches"], (greedy, answers), strict=True):
        assert batch == [each["token_ids"] for each in one_by_one[-15 * pictures :: 15]]


def test_node_answers_as_python(miniature_bundle: Path, tmp_path: Path) -> None:
    asked = asking.asked_about(10)
    observed = asking.answers_in_node(miniature_bundle, asked, tmp_path)
    assert_alike(observed, asking.answers_in_python(miniature_bundle, asked), 10)


@NEEDS_CHROMIUM
def test_chromium_answers_as_python(miniature_bundle: Path, tmp_path: Path) -> None:
    asked = asking.asked_about(2)
    observed = asking.answers_in_chromium(miniature_bundle, asked, tmp_path)
    assert observed["isolated"]
    assert_alike(observed, asking.answers_in_python(miniature_bundle, asked), 2)


EXAMPLE = ROOT / "examples" / "browser"
SEED, SIDE = 12, 480  # a scene whose objects the miniature finds


def example_site(folder: Path, bundle: Path) -> Path:
    """The example as a visitor's server has it: its files, its packages, a bundle."""
    packages = folder / "node_modules"
    packages.mkdir(parents=True)
    for file in EXAMPLE.iterdir():
        if file.suffix in (".html", ".js", ".css"):
            shutil.copy(file, folder)
    (packages / "florence-edge").symlink_to(ROOT / "js")
    engine = HERE / "node_modules" / "onnxruntime-web"
    (packages / "onnxruntime-web").mkdir()
    shutil.copy(engine / "package.json", packages / "onnxruntime-web")
    (packages / "onnxruntime-web" / "dist").symlink_to(engine / "dist")
    (folder / "bundle").symlink_to(bundle)
    return folder


@NEEDS_CHROMIUM
@pytest.mark.parametrize("isolated", [False, True], ids=["plain", "isolated"])
def test_the_example_answers_about_a_picture_a_camera_and_offline(
    miniature_bundle: Path, tmp_path: Path, isolated: bool
) -> None:
    picture = scenes.draw_scene(scenes.generate_scene(SEED), SIDE).convert("RGB")
    picture.save(tmp_path / "scene.png")
    write_y4m(tmp_path / "scene.y4m", [picture, picture])
    with served(example_site(tmp_path / "site", miniature_bundle), isolated=isolated) as url:
        plan = {
            "chromium": CHROMIUM,
            "url": url,
            "picture": str(tmp_path / "scene.png"),
            "video": str(tmp_path / "scene.y4m"),
            "out": str(tmp_path),
            "profile": str(tmp_path / "profile"),
            "region": REGION,
            "engine": str(tmp_path / "site/node_modules/onnxruntime-web/package.json"),
        }
        seen = json.loads(run_node([HERE / "drive_example.mjs", json.dumps(plan)], timeout=300))
    assert seen["complaints"] == [], seen
    assert "failure" not in seen, seen
    assert "threads" in seen["state"]  # the service worker isolates the page, or the server
    assert ("threads" in seen["blockedState"]) == isolated
    assert seen["offlineState"] == seen["state"]
    version = read_json(HERE / "node_modules/onnxruntime-web/package.json")["version"]
    for kept, of_version in zip(seen["engines"], (version, "99.0.0"), strict=True):
        assert kept == {f"florence-edge-engine-{of_version}": ["ort-wasm-simd-threaded.wasm"]}
    with Florence2.load(miniature_bundle, threads=1) as model:
        view = model.encode(picture)
        found = view.run("OD")
        caption = view.run("CAPTION")
        category = view.run("REGION_TO_CATEGORY", region=tuple(SIDE * edge for edge in REGION))
    expected = [
        {"label": region.label, "score": round(region.score, 2), "colour": f"rgb{colour}"}
        for region, colour in zip(found.regions, draw._colours(found.regions), strict=True)
    ]
    for answer in (seen["dropped"], seen["offline"]):
        assert answer["regions"] == expected
        overlay = image_of(answer["overlay"])
        for region, box in zip(expected, found.normalized_boxes, strict=True):
            assert outlined_share(overlay, box, rgb_of(region["colour"]), reach=0.02) > 0.8
    for answer in (seen["caption"], seen["stopped"]):
        assert answer["words"].startswith(caption.text)
    assert seen["category"]["words"].startswith(category.text)
    labels = [region["label"] for region in seen["camera"]["regions"]]
    assert labels == [region.label for region in found.regions]
    assert seen["pace"] > 0
