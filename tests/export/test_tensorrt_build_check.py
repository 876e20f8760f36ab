from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from florence_edge.bundle import Bundle
from florence_edge.devices import Device
from florence_edge.errors import BackendError
from florence_edge_calibration.probes import ProbeOutputs
from florence_edge_export.tensorrt_build import build as build_module
from florence_edge_export.tensorrt_build.build import check_engines, check_finite

TENSORRT = Device.parse("tensorrt")


def engine_off_by(error: float, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    asked: list[tuple[object, ...]] = []

    def open_engine(bundle: Bundle, device: Device, *, engine_dir: Path) -> SimpleNamespace:
        asked.append((bundle.folder, device, engine_dir))
        backend = SimpleNamespace(close=lambda: asked.append(("closed",)))
        return SimpleNamespace(backend=backend)

    monkeypatch.setattr(build_module, "open_engine", open_engine)
    monkeypatch.setattr(build_module, "self_test", lambda *_: {"top_log_probs": error})
    monkeypatch.setattr(build_module, "check_finite", lambda *_: None)
    return asked


def test_the_fresh_engines_are_asked_where_they_lie(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = engine_off_by(0.001, monkeypatch)
    errors = check_engines(Bundle.load(tiny_bundle), TENSORRT, tmp_path)
    assert errors == {"top_log_probs": 0.001}
    assert asked == [(tiny_bundle, TENSORRT, tmp_path), ("closed",)]


@pytest.mark.parametrize("error", [0.02, float("nan")])
def test_engines_that_are_off_are_refused_with_what_to_do(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    engine_off_by(error, monkeypatch)
    with pytest.raises(BackendError, match=r"off: top_log_probs.*at most 0\.01.*--compare\.$"):
        check_engines(Bundle.load(tiny_bundle), TENSORRT, tmp_path)


def test_engines_that_are_not_finite_about_a_picture_are_refused(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-test's ramps stay finite, a scene does not."""
    bundle = replace(Bundle.load(tiny_bundle), precision="fp16")

    def overflow(*_: object) -> ProbeOutputs:
        nan = np.full((1, 4), np.nan, np.float32)
        return ProbeOutputs(image_features=np.zeros((1, 4), np.float32), log_probs=nan, tokens=())

    engine = engine_off_by(0.001, monkeypatch)
    monkeypatch.setattr(build_module, "check_finite", check_finite)
    monkeypatch.setattr(build_module, "answer", overflow)
    message = r"log_probs are not finite about scene 700000, CAPTION.*--precision fp32\.$"
    with pytest.raises(BackendError, match=message):
        check_engines(bundle, TENSORRT, tmp_path)
    assert engine[-1] == ("closed",)
