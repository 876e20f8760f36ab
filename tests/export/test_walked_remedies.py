"""The command that a message tells to run is run, and leads to a bundle.

What is not a command is done by tests/export/test_remedies.py.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge import Bundle
from florence_edge.cli.main import main as florence_run
from florence_edge_export.cli import main as florence_export
from florence_edge_export.synthetic import write_checkpoint

from ..packaging.test_hints import COMMANDS
from . import folders

Told = Callable[..., str]
QUICK = ("--portable-decoder",)  # without the graphs for one engine


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Told:
    """What a command says that fails."""

    def refused(command: Callable[[list[str]], int], *arguments: object) -> str:
        capsys.readouterr()
        assert command([str(each) for each in arguments]) == 1
        return capsys.readouterr().err

    return refused


def walk(message: str, filled: Mapping[str, object], *more: str) -> None:
    """Run the command of ours that a message ends with, its words in capitals filled in."""
    found = re.search(r"(florence-\w+ .*?)\.?\n", message.split(": ", 1)[1])
    assert found, message
    command, *words = shlex.split(found[1])
    arguments = [str(filled.get(word, word)) for word in words]
    assert import_module(COMMANDS[command]).main([*arguments, *more]) == 0, arguments


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.slow
def test_where_there_is_no_bundle_one_is_made(
    refused: Told, native: Path, picture: Path, tmp_path: Path
) -> None:
    asked = (tmp_path / "bundle", picture, "--task", "OD", "--max-new-tokens", "4")
    message = refused(florence_run, *asked)
    walk(message, {"MODEL": native}, *QUICK)
    assert florence_run([str(each) for each in asked]) == 0


def test_a_checkpoint_in_the_place_of_a_bundle_is_exported(
    refused: Told, native: Path, picture: Path, tmp_path: Path
) -> None:
    message = refused(florence_run, native, picture, "--task", "OD")
    walk(message, {"BUNDLE": tmp_path / "bundle"}, *QUICK)
    Bundle.load(tmp_path / "bundle")


@pytest.mark.slow
def test_what_is_there_is_replaced_with_overwrite(
    refused: Told, native: Path, tmp_path: Path
) -> None:
    asked = (native, "--output", tmp_path / "bundle", *QUICK)
    assert florence_export([str(each) for each in asked]) == 0
    message = refused(florence_export, *asked)
    assert "pass --overwrite to replace it" in message
    assert florence_export([*map(str, asked), "--overwrite"]) == 0


@pytest.mark.slow
def test_of_a_trainers_folder_the_named_checkpoint_is_exported(
    refused: Told, native: Path, tmp_path: Path
) -> None:
    for steps in ("checkpoint-500", "checkpoint-1000"):
        folders.copy(native, tmp_path / "trained" / steps)
    output = ("--output", tmp_path / "bundle", *QUICK)
    message = refused(florence_export, tmp_path / "trained", *output)
    named = message.strip().rpartition("Name the one that is meant: ")[2]
    assert named.endswith("checkpoint-1000")
    assert florence_export([named, *map(str, output)]) == 0


@pytest.mark.slow
def test_weights_that_are_no_numbers_lead_to_an_earlier_checkpoint(
    refused: Told, native: Path, tmp_path: Path
) -> None:
    """And not to float32, which they are exported in."""
    earlier = folders.copy(native, tmp_path / "checkpoint-500")
    tensors = folders.read(native)
    tensors["model.language_model.decoder.layers.1.final_layer_norm.weight"][:] = np.nan
    folders.write(native, tensors)
    output = ("--output", tmp_path / "bundle", *QUICK)
    for precision in ("fp32", "fp16"):
        message = refused(florence_export, native, *output, "--precision", precision)
        assert "Take an earlier checkpoint" in message
        assert "--precision" not in message
    assert florence_export([str(earlier), *map(str, output)]) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of peft: tied weights, and transformers' attributes
def test_an_adapter_is_exported_with_its_model(refused: Told, native: Path, tmp_path: Path) -> None:
    from .test_adapters import write_adapter  # needs peft

    adapter = write_adapter(native, tmp_path / "adapter")
    message = refused(florence_export, adapter, "--output", tmp_path / "bundle")
    walk(message, {"MODEL": native, "DIR": tmp_path / "bundle"}, *QUICK)
    assert Bundle.load(tmp_path / "bundle").precision == "fp32"


@pytest.mark.slow
def test_int8_is_led_from_its_pictures_past_the_gate(refused: Told, tmp_path: Path) -> None:
    """A checkpoint that was not trained is refused by the gate, and exported without it."""
    native = tmp_path / "native"
    write_checkpoint(native, "tiny", seed=3, image_size=64, outliers=100.0)
    write_pictures(tmp_path / "photos")
    int8 = ("--precision", "int8", "--target", "portable", "--samples", "16")
    asked = (native, "--output", tmp_path / "bundle", *int8)
    message = refused(florence_export, *asked)
    assert "needs --calibration-images DIR" in message
    judged = (*asked, "--calibration-images", tmp_path / "photos")
    message = refused(florence_export, *judged)
    assert "Take a trained checkpoint" in message
    assert "--no-gate" in message
    assert florence_export([*map(str, judged), "--no-gate"]) == 0


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(16):
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")


@pytest.mark.slow
def test_a_table_is_used_as_florence_calibrate_says(
    native: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate = import_module(COMMANDS["florence-calibrate"]).main
    write_pictures(tmp_path / "photos")
    assert florence_export([str(native), "--output", str(tmp_path / "floats")]) == 0
    capsys.readouterr()
    made = ("--output", str(tmp_path / "table.json"))
    assert calibrate([str(tmp_path / "floats"), str(tmp_path / "photos"), *made]) == 0
    places = {"CHECKPOINT": native, "DIR": tmp_path / "photos", "NEW": tmp_path / "bundle"}
    walk(capsys.readouterr().out, places, "--no-gate", "--samples", "16")
    assert Bundle.load(tmp_path / "bundle").precision == "int8"
