import json
import sys
from pathlib import Path

import pytest

from florence_edge.bundle import MANIFEST
from florence_edge.errors import (
    BundleError,
    BundleNotFoundError,
    MissingPackageError,
    RequestError,
)
from florence_edge_export.checkpoint.loader import DEFAULT_MODEL, find_checkpoint
from florence_edge_export.cli import main

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

    def download(hub_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((hub_id, revision, tuple(allow_patterns)))
        return str(tiny_checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint(DEFAULT_MODEL) == tiny_checkpoint
    assert find_checkpoint(DEFAULT_MODEL, "v1.0") == tiny_checkpoint
    patterns = ("*.json", "*.safetensors", "adapter_model.bin")
    assert asked == [(DEFAULT_MODEL, None, patterns), (DEFAULT_MODEL, "v1.0", patterns)]


def test_the_commit_of_a_download_is_recorded(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's cache lays it out: a folder that is called as the commit, of links to blobs."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--fine-tune" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in tiny_checkpoint.iterdir():
        (snapshot / path.name).symlink_to(path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    output = tmp_path / "bundle"
    assert main(["someone/fine-tune", "--revision", "main", "--output", str(output)]) == 0
    model = json.loads((output / MANIFEST).read_text())["model"]
    assert model["name"] == "someone/fine-tune"
    assert model["revision"] == commit
    main([str(tiny_checkpoint), "--output", str(output), "--overwrite"])
    assert "revision" not in json.loads((output / MANIFEST).read_text())["model"]


@pytest.mark.parametrize("model", ["miniature", "."])
def test_a_revision_of_a_local_folder_is_refused(model: str) -> None:
    with pytest.raises(RequestError, match="revision v1 is for models on the hub"):
        find_checkpoint(model, "v1")


def test_pytorch_weights_are_downloaded_only_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    snapshot = tmp_path / "snapshots" / ("ab" * 20)
    snapshot.mkdir(parents=True)

    def download(hub_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    find_checkpoint("someone/fine-tune", "main")
    assert asked[1:] == [(snapshot.name, ["pytorch_model*.bin"])]


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
    with pytest.raises(MissingPackageError, match=r"pip install .*\[export\]"):
        find_checkpoint("someone/model")
