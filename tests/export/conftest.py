"""Checkpoints in Microsoft's layout, and copies that a test may spoil.

Imports are inside the fixtures: without safetensors, modules are skipped and not this file refused.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors: threads would only get into each other's way."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def microsoft_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint's twin."""
    from .microsoft_twin import write_twin

    return write_twin(tiny_checkpoint, tmp_path_factory.mktemp("twin") / "checkpoint")


@pytest.fixture
def native(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A native checkpoint that the test may change."""
    from . import folders

    return folders.copy(tiny_checkpoint, tmp_path / "native")


@pytest.fixture
def microsoft(microsoft_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint in Microsoft's layout that the test may change."""
    from . import folders

    return folders.copy(microsoft_checkpoint, tmp_path / "microsoft")


@pytest.fixture
def quiet_transformers() -> Iterator[None]:
    """transformers' tables and bars say what is missing; in some tests that is on purpose."""
    log = pytest.importorskip("transformers").utils.logging
    level = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    yield
    log.set_verbosity(level)
    log.enable_progress_bar()


@pytest.fixture
def verify_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the fifteen tasks about one picture, in short answers."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from florence_edge_calibration.scenes import ask_everything
    from florence_edge_export.verify import compare

    monkeypatch.setattr(compare, "ask_everything", lambda scene: ask_everything(scene)[3:5])
    monkeypatch.setattr(compare, "SCENES", 1)
    monkeypatch.setattr(compare, "MAX_NEW_TOKENS", 8)
