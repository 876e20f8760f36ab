import argparse
import json
import time
from pathlib import Path

import pytest

from florence_edge import Florence2, GenerationOptions
from florence_edge.errors import BackendError, FlorenceEdgeError
from florence_edge_benchmarks.commands import energy as command
from florence_edge_benchmarks.energy import answer_repeatedly, measure_energy
from florence_edge_benchmarks.report.markdown import markdown_of
from florence_edge_benchmarks.results_io import write_result
from florence_edge_jetson.machine.system import Tree
from florence_edge_jetson.power.energy import EnergyWork, MeasurementPlan
from florence_edge_jetson.power.meter import Meter

SHORT = MeasurementPlan(idle_seconds=0.3, load_seconds=0.3, hertz=1000)  # 30 times what is needed
METER = Meter(source="hwmon", rails=("VDD_IN",), covers="the module", watts=lambda: 5.0)


def work(images: int, tokens: int) -> EnergyWork:
    """Takes a moment, in which the thread of the meter gets its turn."""
    time.sleep(0.002)
    return EnergyWork(images, tokens)


def picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "grey.png"
    Image.new("RGB", (32, 32), "grey").save(path)
    return path


def test_an_answer_counts_the_tokens_that_were_generated(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    path, options = picture(tmp_path), GenerationOptions(num_beams=1, max_new_tokens=5)
    work = answer_repeatedly(tiny_model, path, "OD", None, options)()
    result = tiny_model.run(path, "OD", options=options)
    assert work == EnergyWork(images=1, tokens=len(result.token_ids) - 1)
    assert 1 <= work.tokens <= 5


def test_what_was_measured_is_json_with_machine_and_shares(tmp_path: Path) -> None:
    settings = {"model": "tiny"}
    result = measure_energy(lambda: work(2, 10), METER, SHORT, settings, Tree(tmp_path))
    write_result(tmp_path / "energy.json", result)
    content = json.loads((tmp_path / "energy.json").read_text())
    assert content["florence-bench"] == "energy"
    assert content["settings"] == {"model": "tiny"}
    energy = content["energy"]
    gross, net = energy["joules_per_image"]
    assert gross == pytest.approx(energy["gross_joules"] / energy["images"])
    assert net == pytest.approx(0, abs=1e-6)  # work costs nothing more here
    assert energy["joules_per_token"][0] == pytest.approx(gross / 5)
    assert content["machine"]["l4t"] is None
    assert content["plan"]["hertz"] == 1000


def test_the_table_says_which_rails_were_summed(tmp_path: Path) -> None:
    settings = {"model": "tiny"}
    result = measure_energy(lambda: work(1, 0), METER, SHORT, settings, Tree(tmp_path))
    text = markdown_of([result])
    assert "Measured at VDD_IN (the module) by hwmon" in text
    assert "a token" not in text
    assert "| throttling | none |" in text


def test_the_command_measures_and_writes(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    meter = Meter(
        source="hwmon",
        rails=("VIN",),
        covers="the kit",
        watts=lambda: 7.0,
        close=lambda: closed.append(True),
    )
    monkeypatch.setattr(command, "open_meter", lambda rails, gpu: meter)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    asked = [str(tiny_bundle), "--image", str(picture(tmp_path)), "--threads", "1"]
    times = ["--idle", "0.3", "--load", "0.3", "--hertz", "1000", "--max-new-tokens", "3"]
    output = tmp_path / "energy.json"
    text = command.run(parser.parse_args([*asked, *times, "--output", str(output)]))
    assert "Energy: fp32 on cpu, OD" in text
    assert "| power at rest | 7.00 W |" in text
    assert json.loads(output.read_text())["settings"]["precision"] == "fp32"
    assert closed == [True]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["nowhere"], "There is no bundle at nowhere"),
        (["BUNDLE", "--task", "FLY"], "There is no task 'FLY'"),
        (["BUNDLE", "--image", "nowhere.jpg"], "There is no file nowhere.jpg"),
        (["BUNDLE", "--beams", "99"], "num_beams is 99"),
    ],
)
def test_what_cannot_be_asked_fails_before_a_meter_is_looked_for(
    asked: list[str], message: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "open_meter", None)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    asked = [str(tiny_bundle) if part == "BUNDLE" else part for part in asked]
    with pytest.raises(FlorenceEdgeError, match=message):
        command.run(parser.parse_args(asked))


def test_a_machine_without_a_meter_is_an_error(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_meter(**_: object) -> Meter:
        raise BackendError("There is no power sensor.")

    monkeypatch.setattr(command, "open_meter", no_meter)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(BackendError, match="no power sensor"):
        command.run(parser.parse_args([str(tiny_bundle)]))
