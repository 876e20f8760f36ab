"""Every program of examples/ runs, and prints or writes what its docstring promises."""

import ast
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import florence_edge
from florence_edge import Florence2

from ..runtime.fake_cuda import OnGpu
from ..runtime.scripted_machine import Machine
from .conftest import EXAMPLES, ROOT, Run, draw_scenes

CHECKPOINT = ROOT / "calibration" / "florence_edge_calibration" / "miniature" / "checkpoint"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture
def picture(scenes: Path) -> Path:
    return scenes / "003.png"


def test_they_are_numbered_and_each_is_run_here() -> None:
    numbers = [int(path.name[:2]) for path in PROGRAMS]
    assert numbers == list(range(1, len(PROGRAMS) + 1))
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in PROGRAMS if f'run("{path.name}"' not in tests] == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert f"python examples/{path.name} " in (ast.get_docstring(ast.parse(source)) or "")
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"]({path.name})" in page


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_an_example_uses_public_names_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not [each.name for each in node.names if each.name.startswith("florence_edge")]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("florence_edge"):
            assert node.module == "florence_edge"
            assert {each.name for each in node.names} <= set(florence_edge.__all__)


def test_one_picture(run: Run, miniature_bundle: Path, picture: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    printed = run("01_one_picture.py", miniature_bundle, picture, "--output", drawn)
    lines, answer = printed.splitlines()[:-1], printed.splitlines()[-1]
    assert lines
    found = ast.literal_eval(answer)["<OD>"]
    assert len(found["bboxes"]) == len(lines) - 2  # the task and a legend
    with Image.open(drawn) as result, Image.open(picture) as original:
        assert result.size == original.size
        assert result.tobytes() != original.convert("RGB").tobytes()


def test_one_picture_with_a_text(run: Run, miniature_bundle: Path, picture: Path) -> None:
    task = ("--task", "CAPTION_TO_PHRASE_GROUNDING", "--text", "a circle")
    assert "<CAPTION_TO_PHRASE_GROUNDING>" in run(
        "01_one_picture.py", miniature_bundle, picture, *task
    )


def test_many_tasks(run: Run, miniature_bundle: Path, picture: Path) -> None:
    printed = run("02_many_tasks.py", miniature_bundle, picture, "--phrases", "a circle", "a star")
    names = ["caption", "objects", "phrases", "text", "first object"]
    assert [line.partition(":")[0] for line in printed.splitlines()[:5]] == names
    assert re.search(r"^encoded once in \d+\.\d{3} s$", printed, re.MULTILINE)


def test_a_folder_to_coco(
    run: Run, miniature_bundle: Path, scenes: Path, tmp_path: Path, capsys: Any
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "coco.json"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes((scenes / f"00{number}.png").read_bytes())
    (folder / "broken.jpg").write_bytes(b"not a picture")
    printed = run("03_folder_to_coco.py", miniature_bundle, folder, output, "--batch", "2")
    coco = json.loads(output.read_text(encoding="utf-8"))
    assert printed == f"{len(coco['annotations'])} boxes in 3 of 4 pictures\n"
    assert "broken.jpg" in capsys.readouterr().err
    assert [image["file_name"] for image in coco["images"]] == ["0.png", "1.png", "2.png"]
    names = {each["id"]: each["name"] for each in coco["categories"]}
    with Florence2.load(miniature_bundle) as model:
        expected = model.run(folder / "0.png", "OD").regions
    first = [each for each in coco["annotations"] if each["image_id"] == 1]
    assert [names[each["category_id"]] for each in first] == [each.label for each in expected]
    for found, region in zip(first, expected, strict=True):
        left, top, width, height = found["bbox"]
        assert (left, top, left + width, top + height) == region.box
        assert found["area"] == width * height


def test_the_coco_file_is_read_by_pycocotools(
    run: Run, miniature_bundle: Path, scenes: Path, tmp_path: Path
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    run("03_folder_to_coco.py", miniature_bundle, scenes, tmp_path / "coco.json", "--batch", "4")
    assert len(coco.COCO(str(tmp_path / "coco.json")).getImgIds()) == 10


def test_a_camera(run: Run, miniature_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    """A video stands in for the camera."""
    av = pytest.importorskip("av", reason="install florence-edge[camera]")
    video = tmp_path / "drive.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for path in sorted(scenes.iterdir()):
            with Image.open(path) as picture:
                frame = av.VideoFrame.from_image(picture.convert("RGB"))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    printed = run("04_camera.py", miniature_bundle, video, "--every", "3", "--frames", "3")
    numbers = re.findall(r"^frame (\d+) at \d\.\d s: \w.*/s, .* dropped\)$", printed, re.MULTILINE)
    assert numbers == ["0", "3", "6"]


def test_a_camera_that_is_not_there(run: Run, miniature_bundle: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as leaving:
        run("04_camera.py", miniature_bundle, "none.mp4")
    assert leaving.value.code == 1
    assert "There is no file none.mp4" in capsys.readouterr().err


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of this environment, as in an active one."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")


@pytest.mark.usefixtures("on_path")
def test_a_fine_tune(run: Run, picture: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="install florence-edge[export]")
    bundle = tmp_path / "bundle"
    printed = run("05_fine_tune.py", CHECKPOINT, bundle, picture)
    errors = [float(each) for each in re.findall(r"^self-test \w+: (.*)$", printed, re.MULTILINE)]
    assert errors
    assert max(errors) < 1e-3
    caption = printed.splitlines()[-1]
    assert re.match(r" *[01]\.\d\d  \w", caption)
    prompt = ("--prompt", "What does the image describe?")  # the words of CAPTION
    assert run("05_fine_tune.py", CHECKPOINT, bundle, picture, *prompt).splitlines()[-1] == caption


@pytest.mark.slow
@pytest.mark.usefixtures("on_path")
def test_a_fine_tune_is_verified(run: Run, picture: Path, tmp_path: Path, capfd: Any) -> None:
    pytest.importorskip("transformers", reason="install florence-edge[verify]")
    run("05_fine_tune.py", CHECKPOINT, tmp_path / "bundle", picture, "--verify")
    assert (tmp_path / "bundle" / "fidelity.json").is_file()


def assert_smaller(printed: str) -> None:
    before, after = map(float, re.findall(r"([\d.]+) MB", printed))
    assert after < before
    assert re.search(r"^the same answer to OD for [0-8] of 8 pictures$", printed, re.MULTILINE)


@pytest.mark.usefixtures("on_path")
@pytest.mark.slow
def test_int8_without_the_gate(run: Run, scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="install florence-edge[export]")
    assert_smaller(run("06_int8.py", CHECKPOINT, scenes, tmp_path / "work", "--no-gate"))


@pytest.mark.slow
@pytest.mark.usefixtures("on_path")
def test_int8_with_the_gate(run: Run, tmp_path: Path) -> None:
    """The gate wants 2,000 positions, from every fourth of 56 pictures; half a minute alone.

    A wide budget: so few pictures have 170 positions a task, and each is 0.6 %.
    """
    pytest.importorskip("onnxscript", reason="install florence-edge[export]")
    pictures = draw_scenes(tmp_path / "photos", 56)
    assert_smaller(run("06_int8.py", CHECKPOINT, pictures, tmp_path / "work", "--budget", "0.2"))
    assert "CAPTION" in (tmp_path / "work" / "int8" / "fidelity.md").read_text(encoding="utf-8")


def test_a_frame_of_pycuda(
    run: Run, machine: Machine, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a scripted CUDA and TensorRT, with a stand-in for PyCUDA; no GPU is at hand."""
    frames: list[Any] = []

    def to_gpu(values: Any) -> OnGpu:
        frames.append(values)
        return OnGpu(machine.cuda, values)

    gpuarray = types.SimpleNamespace(to_gpu=to_gpu)
    package = types.ModuleType("pycuda")
    monkeypatch.setattr(package, "gpuarray", gpuarray, raising=False)
    for name, module in (("", package), (".gpuarray", gpuarray), (".autoprimaryctx", gpuarray)):
        monkeypatch.setitem(sys.modules, f"pycuda{name}", module)
    assert run("07_pycuda_frame.py", machine.folder, picture)
    assert run("07_pycuda_frame.py", machine.folder)
    assert [frame.shape for frame in frames] == [(256, 256, 3), (720, 1280, 3)]


def write_recording(path: Path, pictures: list[Path]) -> None:
    """The pictures as a camera topic: rgb8 and bgr8 in turn, with padded rows."""
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    kind = "sensor_msgs/msg/Image"
    make = store.types
    with Writer(path, version=8) as writer:
        topic = writer.add_connection("/camera/image", kind, typestore=store)
        for number, file in enumerate(pictures):
            with Image.open(file) as opened:
                pixels = np.asarray(opened.convert("RGB"))
            height, width, _ = pixels.shape
            rows = np.zeros((height, 3 * width + 6), dtype=np.uint8)
            ordered = pixels if number % 2 == 0 else pixels[:, :, ::-1]
            rows[:, : 3 * width] = ordered.reshape(height, -1)
            stamp = make["builtin_interfaces/msg/Time"](sec=100 + number, nanosec=7)
            message = make[kind](
                header=make["std_msgs/msg/Header"](stamp=stamp, frame_id="camera"),
                height=height,
                width=width,
                encoding="rgb8" if number % 2 == 0 else "bgr8",
                is_bigendian=0,
                step=rows.shape[1],
                data=rows.reshape(-1),
            )
            writer.write(topic, (100 + number) * 10**9, store.serialize_cdr(message, kind))


def test_a_ros_bag(run: Run, miniature_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="install florence-edge[ros]")
    pictures = sorted(scenes.iterdir())[:4]
    write_recording(tmp_path / "drive", pictures)
    arguments = (miniature_bundle, tmp_path / "drive", "/camera/image")
    lines = [json.loads(line) for line in run("08_ros_bag.py", *arguments).splitlines()]
    assert [line["stamp"] for line in lines] == [[100 + number, 7] for number in range(4)]
    with Florence2.load(miniature_bundle) as model:
        expected = [result.to_hf()["<OD>"] for result in model.run(pictures, "OD")]
    assert [line["<OD>"]["labels"] for line in lines] == [each["labels"] for each in expected]
    third = run("08_ros_bag.py", *arguments, "--every", "3")
    assert [json.loads(line)["stamp"][0] for line in third.splitlines()] == [100, 103]
    with pytest.raises(SystemExit, match="There is no topic /other"):
        run("08_ros_bag.py", miniature_bundle, tmp_path / "drive", "/other")


def test_scores(run: Run, miniature_bundle: Path, picture: Path) -> None:
    printed = run("09_scores.py", miniature_bundle, picture, "--min-score", "0")
    whole = re.match(r"the whole answer: ([01]\.\d\d) \(ok\)\n", printed)
    assert whole
    assert 0 < float(whole[1]) <= 1
    scores = [float(each) for each in re.findall(r"^box ([01]\.\d\d)  \w", printed, re.MULTILINE)]
    assert scores == sorted(scores, reverse=True)
    assert f"{len(scores)} of {len(scores)} regions at 0.0 or above" in printed
    none = run("09_scores.py", miniature_bundle, picture, "--min-score", "1.1")
    assert f"0 of {len(scores)} regions at 1.1 or above" in none
