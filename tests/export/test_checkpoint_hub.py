import sys
from pathlib import Path

import pytest

from florence_edge.errors import BundleError, BundleNotFoundError, MissingPackageError
from florence_edge_export.checkpoint.loader import DEFAULT_MODEL, find_checkpoint

huggingface_hub = pytest.importorskip("huggingface_hub")
hub_errors = pytest.importorskip("huggingface_hub.errors")


def test_a_folder_is_taken_as_it_is(tiny_checkpoint: Path) -> None:
    assert find_checkpoint(str(tiny_checkpoint)) == tiny_checkpoint


def test_the_miniature_is_built_in() -> None:
    assert (find_checkpoint("miniature") / "model.safetensors").exists()


@pytest.mark.parametrize(
    "model", ["nowhere", "./a/b", "../a/b", "/a/b", "a/b/c", "a b/c", "https://huggingface.co/a"]
)
def test_what_is_neither_folder_nor_hub_id_is_refused(model: str) -> None:
    with pytest.raises(BundleNotFoundError, match=r"There is no checkpoint folder .*'miniature'"):
        find_checkpoint(model)


def test_a_file_is_no_checkpoint(tiny_checkpoint: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="There is no checkpoint folder"):
        find_checkpoint(str(tiny_checkpoint / "model.safetensors"))


def test_a_hub_id_is_downloaded(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, tuple(allow_patterns)))
        return str(tiny_checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint(DEFAULT_MODEL) == tiny_checkpoint
    assert asked == [(DEFAULT_MODEL, ("*.json", "*.safetensors"))]


def test_pytorch_weights_are_downloaded_only_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    find_checkpoint("someone/fine-tune")
    assert asked[1:] == [["pytorch_model*.bin"]]


@pytest.mark.parametrize(
    "error",
    [
        hub_errors.LocalEntryNotFoundError("Cannot reach the hub.\nMore of it."),
        hub_errors.OfflineModeIsEnabled("Offline mode is on."),
        hub_errors.HFValidationError("No name."),
        OSError(28, "No space left on device"),
        RuntimeError("something inside the HTTP library"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_download_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(BundleError, match="or give a local folder") as caught:
        find_checkpoint("someone/model")
    assert "\n" not in str(caught.value)
    assert ".. " not in str(caught.value)


def test_without_huggingface_hub_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"Install florence-edge\[export\]"):
        find_checkpoint("someone/model")
