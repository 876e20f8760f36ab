"""How many workers a machine takes, and what is refused before any starts."""

from pathlib import Path

import pytest

from florence_edge import Device, RequestError
from florence_edge_label.cli import main
from florence_edge_label.engines.capacity import plan_workers

from .conftest import Command


def on_gpus(
    text: str, visible: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, tuple[str, ...]]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    planned = plan_workers(Device.parse(text), None, None, one_gpu=":" in text)
    return planned.count, planned.gpus


@pytest.mark.parametrize(
    ("text", "visible", "planned"),
    [
        ("cuda", "0,1", (2, ("0", "1"))),
        ("tensorrt", "GPU-a, GPU-b,-1,GPU-c", (2, ("GPU-a", "GPU-b"))),
        ("cuda:0", "0,1", (1, ())),
        ("cuda:1", "0,1", (1, ())),
    ],
)
def test_there_is_a_worker_a_gpu_or_one_for_the_gpu_that_is_named(
    text: str,
    visible: str,
    planned: tuple[int, tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert on_gpus(text, visible, monkeypatch) == planned


@pytest.mark.parametrize("visible", ["", "-1"])
@pytest.mark.parametrize("text", ["cuda", "cuda:0"])
def test_no_gpu_at_all_is_refused(text: str, visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=f"There is no GPU for --device cuda.*'{visible}'"):
        on_gpus(text, visible, monkeypatch)


def test_no_gpu_ends_the_command_before_anything_starts(
    label: Command,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert label(photos, tmp_path / "out", "--device", "cuda") == 1
    assert "There is no GPU" in capsys.readouterr().err
    assert label(photos, tmp_path / "out", "--device", "auto") == 1
    assert "Name the device: cpu, cuda" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("patience", ["inf", "nan", "1e10", "0", "-1", "soon"])
def test_patience_is_a_time_that_can_be_waited(
    patience: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "photos", "--output", "out", f"--patience={patience}"])
    assert ended.value.code == 2
    assert "is no time to wait" in capsys.readouterr().err
