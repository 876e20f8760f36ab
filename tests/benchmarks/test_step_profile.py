"""A step's profile: what ONNX Runtime's profiler tells of a decoder, by operator of all layers."""

import json
from pathlib import Path

import pytest

from florence_edge import Bundle
from florence_edge_benchmarks.speed import step_profile
from florence_edge_benchmarks.speed.step_profile import as_json, main, profile_steps


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "_STEPS", 3)
    monkeypatch.setattr(step_profile, "_WARM", 1)


def test_layers_are_told_together(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    profiles = profile_steps(bundle, beams=3, threads=1)
    assert list(profiles) == ["greedy", "3 beams"]
    for profile in profiles.values():
        assert not any("layers." in name for name in profile.operators)
        of_layers = profile.nodes["fc1/MatMul"]
        assert of_layers == bundle.size.decoder_layers
        assert 0 < profile.operators["fc1/MatMul"] < profile.total
    content = as_json(bundle, profiles, threads=1)
    assert content["model"].startswith(bundle.model)
    assert content["ratio"] > 0


def test_it_is_written_as_a_file(tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "profile.json"
    arguments = ["step_profile", str(tiny_bundle), "--beams", "2", "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", arguments)
        assert main() == 0
    content = json.loads(output.read_text("utf-8"))
    assert set(content["searches"]) == {"greedy", "2 beams"}
