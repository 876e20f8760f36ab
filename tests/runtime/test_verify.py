"""Damage on the disk: noticed when a bundle is loaded, and while it is in use."""

import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge import BundleError, Florence2, GenerationOptions
from florence_edge.backends import open as opening
from florence_edge.bundle import Bundle, Stamp, sha256
from florence_edge.cli.main import main

from ..helpers.manifests import write_hash
from .scripted_machine import Machine

SHORT = GenerationOptions(max_new_tokens=4)
PICTURE = Image.new("RGB", (40, 30), "teal")


def flip(path: Path, at: int, bit: int) -> None:
    """Flip one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_bit_that_flips_in_any_file_is_refused(fresh_bundle: Path) -> None:
    """First, last, and at random between; manifest.json has a test of its own."""
    chance = random.Random(14)
    for path in sorted(fresh_bundle.iterdir()):
        if path.name == "manifest.json":
            continue
        size = path.stat().st_size
        for at in (0, size - 1, *(chance.randrange(size) for _ in range(3))):
            bit = chance.randrange(8)
            flip(path, at, bit)
            with pytest.raises(BundleError, match=rf"{path.name} is not what was exported"):
                Florence2.load(fresh_bundle, threads=1)
            flip(path, at, bit)
    Florence2.load(fresh_bundle, threads=1).close()


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_weights_are_hashed_whatever_engine_opens_them(fresh_bundle: Path, device: str) -> None:
    pytest.importorskip({"cpu": "onnxruntime"}.get(device, device))
    flip(fresh_bundle / "weights.bin", 123_456, 3)
    with pytest.raises(BundleError, match=r"weights\.bin is not what was exported"):
        Florence2.load(fresh_bundle, device, threads=1)


def test_verify_false_leaves_the_weights_out_and_nothing_else(fresh_bundle: Path) -> None:
    flip(fresh_bundle / "weights.bin", 123_456, 3)
    Florence2.load(fresh_bundle, threads=1, verify=False).close()
    flip(fresh_bundle / "decoder.onnx", 100, 0)
    with pytest.raises(BundleError, match=r"decoder\.onnx is not what was exported"):
        Florence2.load(fresh_bundle, threads=1, verify=False)


def test_weights_are_hashed_beside_the_opening_of_the_engine(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = vars(opening)["_open_graphs"]
    times: list[tuple[str, float]] = []

    def slow_hash(bundle: Bundle) -> None:
        times.append(("hash begins", time.monotonic()))
        time.sleep(0.3)
        times.append(("hash ends", time.monotonic()))

    def slow_open(*arguments: object) -> object:
        times.append(("engine begins", time.monotonic()))
        time.sleep(0.3)
        return opened(*arguments)

    monkeypatch.setattr(Bundle, "check_weights", slow_hash)
    monkeypatch.setattr(opening, "_open_graphs", slow_open)
    Florence2.load(tiny_bundle, threads=1).close()
    assert max(("hash begins", "engine begins"), key=dict(times).__getitem__) != times[-1][0]
    assert dict(times)["engine begins"] < dict(times)["hash ends"]


def test_an_engine_that_opened_damaged_weights_is_closed_again(
    fresh_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, backends = vars(opening)["_open_graphs"], []

    def keep(*arguments: object) -> object:
        backends.append(opened(*arguments))
        return backends[-1]

    monkeypatch.setattr(opening, "_open_graphs", keep)
    flip(fresh_bundle / "weights.bin", 0, 0)
    with pytest.raises(BundleError, match="is not what was exported"):
        Florence2.load(fresh_bundle, threads=1)
    assert not vars(backends[0])["_binds"]


def test_where_no_thread_can_be_started_weights_are_hashed_first(
    fresh_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    Florence2.load(fresh_bundle, threads=1).close()
    flip(fresh_bundle / "weights.bin", 0, 0)
    with pytest.raises(BundleError, match="is not what was exported"):
        Florence2.load(fresh_bundle, threads=1)


# The command.


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    PICTURE.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_the_command_refuses_damaged_weights_unless_it_is_not_to_look(
    fresh_bundle: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(fresh_bundle), str(picture), "--task", "OD", "--max-new-tokens", "4"]
    flip(fresh_bundle / "weights.bin", 5000, 6)
    assert main(asked) == 1
    assert "weights.bin is not what was exported" in capsys.readouterr().err
    assert main([*asked, "--no-verify"]) == 0
    assert main([*asked, "--no-verify", "--check"]) == 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "scores are not finite numbers (NaN)"),
        (["--check"], "computes values that are not finite (NaN or infinite) in image_features"),
    ],
)
def test_a_bundle_that_computes_nan_gives_no_answer(
    fresh_bundle: Path,
    picture: Path,
    extra: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = fresh_bundle / "weights.bin"
    np.full(weights.stat().st_size // 4, np.nan, np.float32).tofile(weights)
    write_hash(fresh_bundle, weights.name)
    assert main([str(fresh_bundle), str(picture), "--task", "OD", *extra]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert "try device='cpu'" in printed.err
    assert not printed.out


@pytest.mark.parametrize("number", ["1025", "1000000", "1" * 30])
def test_the_command_refuses_a_batch_that_no_engine_answers(
    tiny_bundle: Path, picture: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tiny_bundle), str(picture), "--task", "OD", "--batch", number])
    assert "it must be at most 1024" in capsys.readouterr().err


# While it is in use.


@pytest.mark.parametrize("device", ["cpu", "openvino"])
@pytest.mark.parametrize("way", ["written", "touched", "cut"])
def test_weights_that_are_written_to_while_in_use_end_the_model_with_a_sentence(
    fresh_bundle: Path, device: str, way: str
) -> None:
    pytest.importorskip({"cpu": "onnxruntime"}.get(device, device))
    path = fresh_bundle / "weights.bin"
    with Florence2.load(fresh_bundle, device, threads=1) as model:
        view = model.encode(PICTURE, options=SHORT)
        assert view.run("CAPTION").raw_text
        if way == "written":
            flip(path, 100, 1)
        elif way == "touched":
            os.utime(path)
        else:
            os.truncate(path, path.stat().st_size - 4096)
        for ask in (lambda: view.run("CAPTION"), lambda: model.encode(PICTURE)):
            with pytest.raises(BundleError, match=r"weights\.bin was written to .* Load it again"):
                ask()


def test_weights_that_are_written_to_during_the_last_step_give_no_answer(
    fresh_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Florence2.load(fresh_bundle, threads=1) as model:
        binds = vars(model.backend)["_binds"]
        bind = binds["vision_encoder"]

        def overwritten(inputs: object, outputs: object) -> object:
            run = bind(inputs, outputs)

            def run_and_write() -> None:
                run()
                flip(fresh_bundle / "weights.bin", 7, 7)

            return run_and_write

        monkeypatch.setitem(binds, "vision_encoder", overwritten)
        with pytest.raises(BundleError, match="was written to after it was loaded"):
            model.encode(PICTURE)


@pytest.mark.parametrize("way", ["folder", "file", "gone"])
def test_a_bundle_that_is_replaced_whole_changes_nothing_for_who_uses_it(
    fresh_bundle: Path, tiny_bundle: Path, way: str
) -> None:
    with Florence2.load(fresh_bundle, threads=1) as model:
        before = model.run(PICTURE, "CAPTION", options=SHORT).raw_text
        if way == "folder":
            fresh_bundle.rename(fresh_bundle.with_name("old"))
            shutil.copytree(tiny_bundle, fresh_bundle)
        elif way == "file":
            shutil.copy(fresh_bundle / "weights.bin", fresh_bundle / "new")
            (fresh_bundle / "new").replace(fresh_bundle / "weights.bin")
        else:
            shutil.rmtree(fresh_bundle)
        assert model.run(PICTURE, "CAPTION", options=SHORT).raw_text == before


def test_weights_that_change_while_they_are_loaded_are_refused(
    fresh_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_and_write(bundle: Bundle) -> None:
        flip(bundle.folder / "weights.bin", 9, 0)

    monkeypatch.setattr(Bundle, "check_weights", hash_and_write)
    with pytest.raises(BundleError, match="was written to after it was loaded"):
        Florence2.load(fresh_bundle, threads=1)


def test_a_bundle_knows_its_weights_by_place_size_and_time(tiny_bundle: Path) -> None:
    found = (tiny_bundle / "weights.bin").stat()
    expected = Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    assert Bundle.load(tiny_bundle).stamp == expected


@pytest.mark.parametrize("asked", [["--check"], ["--check", "--no-verify"]])
def test_a_check_hashes_the_weights_once(
    fresh_bundle: Path, picture: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counted(*paths: Path) -> str:
        hashed.extend(path.name for path in paths)
        return sha256(*paths)

    monkeypatch.setattr("florence_edge.bundle.sha256", counted)
    assert main([str(fresh_bundle), str(picture), "--task", "OD", "--threads", "1", *asked]) == 0
    assert hashed.count("weights.bin") == 1


def test_a_check_of_engines_takes_in_the_weights_that_they_were_built_from(
    machine: Machine, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(machine.folder), str(picture), "--task", "OD", "--device", "tensorrt"]
    flip(machine.folder / "weights.bin", 5000, 6)
    assert main([*asked, "--max-new-tokens", "4", "--check"]) == 1
    assert "weights.bin is not what was exported" in capsys.readouterr().err
