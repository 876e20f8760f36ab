import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from florence_edge import contract
from florence_edge.bundle import MANIFEST, TOKENIZER, WEIGHTS, Bundle, sha256
from florence_edge.errors import BackendError, BundleError, RequestError
from florence_edge_export import bundle_writer
from florence_edge_export import export as export_module
from florence_edge_export.bundle_writer import new_folder
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.export import ExportOptions, export

from . import folders

_GRAPH_FILES = tuple(
    f"{name}.onnx"
    for name in (*contract.GRAPHS, contract.VISION_TENSORRT, *contract.TENSORRT_DECODERS)
)


def test_a_bundle_holds_what_a_device_needs_and_nothing_else(tiny_bundle: Path) -> None:
    names = {path.name for path in tiny_bundle.iterdir()}
    assert names - {"reference.npz"} == {*_GRAPH_FILES, MANIFEST, TOKENIZER, WEIGHTS}


def test_the_manifest_lists_every_file_with_size_and_hash(tiny_bundle: Path) -> None:
    files = json.loads((tiny_bundle / MANIFEST).read_text())["files"]
    assert set(files) == {path.name for path in tiny_bundle.iterdir()} - {MANIFEST}
    for name, stored in files.items():
        assert stored["bytes"] == (tiny_bundle / name).stat().st_size
        assert stored["sha256"] == sha256(tiny_bundle / name)
    Bundle.load(tiny_bundle).check_content()


def test_the_manifest_says_what_the_bundle_is(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    manifest = json.loads((tiny_bundle / MANIFEST).read_text())
    assert manifest["contract"] == contract.CONTRACT_VERSION
    assert manifest["model"] == {
        "name": "tiny",
        "layout": "native",
        "sha256": read_checkpoint(tiny_checkpoint).sha256(),
    }
    assert (manifest["precision"], manifest["target"], manifest["floats"]) == (
        "fp32",
        "any",
        "float32",
    )
    assert manifest["size"]["image_size"] == 64
    assert manifest["size"]["image_tokens"] == 5
    assert manifest["generation"]["num_beams"] == 3
    assert manifest["generation_from"][0] == "generation_config.json"
    assert manifest["image"]["mean"] == [0.485, 0.456, 0.406]


def test_microsofts_layout_is_named_in_the_manifest(
    microsoft_checkpoint: Path, tmp_path: Path
) -> None:
    export("x", microsoft_checkpoint, tmp_path / "bundle", ExportOptions())
    manifest = json.loads((tmp_path / "bundle" / MANIFEST).read_text())
    assert manifest["model"]["layout"] == "microsoft"
    assert manifest["generation_from"] == ["text_config"]
    assert manifest["generation"]["early_stopping"] is True


def test_the_graphs_share_one_copy_of_the_embedding(tiny_bundle: Path) -> None:
    places = {}
    for graph in ("text_encoder", "decoder"):
        model = onnx.load(tiny_bundle / f"{graph}.onnx", load_external_data=False)
        (table,) = (t for t in model.graph.initializer if t.name == f"{graph}.shared.weight")
        places[graph] = {entry.key: entry.value for entry in table.external_data}
    assert places["text_encoder"] == places["decoder"]
    assert places["decoder"]["location"] == WEIGHTS


def test_weights_lie_aligned_and_without_overlap_in_one_file(tiny_bundle: Path) -> None:
    ranges = set()
    for graph in _GRAPH_FILES:
        for tensor in onnx.load(tiny_bundle / graph, load_external_data=False).graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                place = {entry.key: entry.value for entry in tensor.external_data}
                assert place["location"] == WEIGHTS
                offset = int(place["offset"])
                assert offset % 64 == 0
                ranges.add((offset, offset + int(place["length"])))
    end = 0
    for begin, stop in sorted(ranges):
        assert end <= begin
        end = stop
    assert end == (tiny_bundle / WEIGHTS).stat().st_size


def test_the_same_checkpoint_gives_the_same_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        export("x", tiny_checkpoint, tmp_path / name, ExportOptions())
    assert _contents(tmp_path / "one") == _contents(tmp_path / "other")


def test_a_bundle_may_be_moved_and_is_readable_by_others(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from florence_edge import Florence2

    export("x", tiny_checkpoint, tmp_path / "here", ExportOptions())
    assert (tmp_path / "here").stat().st_mode & 0o777 == 0o755
    (tmp_path / "here").rename(tmp_path / "there")
    Florence2.load(tmp_path / "there", threads=1)


@pytest.mark.parametrize(
    ("image_size", "message"),
    [
        (0, "must be a multiple of 32"),
        (-64, "must be a multiple of 32"),
        (100, "must be a multiple of 32"),
        (1024, "takes at most 992 pixels"),
        (1 << 40, "takes at most 992 pixels"),
    ],
)
def test_impossible_image_sizes_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, image_size: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        export("x", tiny_checkpoint, tmp_path / "b", ExportOptions(image_size=image_size))
    assert _listing(tmp_path) == []


def test_another_image_size_than_the_checkpoints_is_built(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export("x", tiny_checkpoint, tmp_path / "b", ExportOptions(image_size=96))
    assert Bundle.load(tmp_path / "b").size.image_tokens == 10


def test_an_unknown_precision_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Choose from fp32, fp16"):
        export("x", tiny_checkpoint, tmp_path / "b", ExportOptions(precision="int2"))


def test_an_unknown_activation_is_refused_with_those_that_are_known(
    native: Path, tmp_path: Path
) -> None:
    folders.edit_config(native, lambda c: c["text_config"].update(activation_function="mish"))
    with pytest.raises(BundleError, match="'mish'; known are gelu"):
        export("x", native, tmp_path / "b", ExportOptions())
    assert _listing(tmp_path) == ["native"]


# What already exists


@pytest.fixture
def old(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A folder with nothing in it but an older bundle, `out`."""
    parent = tmp_path / "parent"
    folders.copy(tiny_bundle, parent / "out")
    (parent / "out" / "engines").write_text("built here")
    return parent / "out"


def test_an_existing_bundle_is_refused_without_overwrite(old: Path, tiny_checkpoint: Path) -> None:
    before = _contents(old)
    with pytest.raises(RequestError, match=r"exists. Choose another --output, or pass --overwrite"):
        export("x", tiny_checkpoint, old, ExportOptions())
    assert _contents(old) == before


def test_overwrite_replaces_the_whole_bundle(old: Path, tiny_checkpoint: Path) -> None:
    export("new", tiny_checkpoint, old, ExportOptions(overwrite=True, image_size=96))
    assert Bundle.load(old).model == "new"
    assert not (old / "engines").exists()
    assert _listing(old.parent) == ["out"]


def test_overwrite_works_where_nothing_was(tiny_checkpoint: Path, tmp_path: Path) -> None:
    export("x", tiny_checkpoint, tmp_path / "a" / "b", ExportOptions(overwrite=True))
    assert _listing(tmp_path / "a") == ["b"]


def test_an_empty_folder_may_be_replaced(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(RequestError, match="exists"):
        export("x", tiny_checkpoint, tmp_path / "b", ExportOptions())
    export("x", tiny_checkpoint, tmp_path / "b", ExportOptions(overwrite=True))
    Bundle.load(tmp_path / "b")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_bundle_is_never_replaced(
    tiny_checkpoint: Path, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(RequestError, match=r"exists|holds something that is not a bundle's"):
        export("x", tiny_checkpoint, tmp_path / "photos", ExportOptions(overwrite=overwrite))
    assert _contents(tmp_path / "photos") == {"cat.jpg": b"cat"}
    assert _listing(tmp_path) == ["photos"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced(tiny_checkpoint: Path, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(RequestError, match=r"exists|is not a bundle's"):
        export("x", tiny_checkpoint, tmp_path / "file", ExportOptions(overwrite=overwrite))
    assert (tmp_path / "file").read_text() == "text"


def test_the_checkpoint_itself_is_never_replaced(native: Path) -> None:
    before = _contents(native)
    with pytest.raises(RequestError, match="holds something that is not a bundle's"):
        export("x", native, native, ExportOptions(overwrite=True))
    assert _contents(native) == before


def test_an_output_below_a_file_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(BundleError, match="Cannot write beside"):
        export("x", tiny_checkpoint, tmp_path / "file" / "b", ExportOptions())


def test_an_output_in_a_folder_that_takes_no_files_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(BundleError, match="Cannot write beside /proc/bundle"):
        export("x", tiny_checkpoint, Path("/proc/bundle"), ExportOptions())


# What goes wrong midway

_FULL = OSError(errno.ENOSPC, "No space left on device")
_POINTS = (
    (export_module, "read_checkpoint"),
    (export_module, "complete_tokenizer"),
    (export_module, "build_graphs"),
    (bundle_writer, "save_graphs"),
    (bundle_writer, "write_manifest"),
)
_each_point = pytest.mark.parametrize(
    ("module", "point"), _POINTS, ids=[point for _, point in _POINTS]
)


@pytest.mark.parametrize("error", [_FULL, KeyboardInterrupt(), MemoryError()], ids=repr)
@_each_point
def test_an_export_that_fails_leaves_the_old_bundle(
    old: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    point: str,
    error: BaseException,
) -> None:
    before = _contents(old)
    monkeypatch.setattr(module, point, _failing_after(module, point, error))
    expected = BundleError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        export("new", tiny_checkpoint, old, ExportOptions(overwrite=True))
    assert _contents(old) == before
    assert _listing(old.parent) == ["out"]


@_each_point
def test_an_export_that_fails_leaves_nothing_where_nothing_was(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    point: str,
) -> None:
    monkeypatch.setattr(module, point, _failing_after(module, point, _FULL))
    with pytest.raises(BundleError, match=r"No space left on device.*Nothing was changed"):
        export("new", tiny_checkpoint, tmp_path / "b", ExportOptions())
    assert _listing(tmp_path) == []


@pytest.mark.parametrize("error", [_FULL, KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("failing", [1, 2])
def test_the_old_bundle_is_put_back_if_the_swap_fails(
    old: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: int,
    error: BaseException,
) -> None:
    """Where the system cannot exchange two names at once."""
    before, calls, rename = _contents(old), [0], os.rename

    def failing_rename(source: Path, target: Path) -> None:
        calls[0] += old in (source, target)
        if calls[0] == failing and old in (source, target):
            raise error
        rename(source, target)

    monkeypatch.setattr("florence_edge.files._exchanged", lambda *_: False)
    monkeypatch.setattr(os, "rename", failing_rename)
    expected = BundleError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export("new", tiny_checkpoint, old, ExportOptions(overwrite=True))
    assert _contents(old) == before
    assert _listing(old.parent) == ["out"]


def test_an_interrupt_between_the_renames_loses_nothing(
    old: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal may come when the old bundle has just been moved away."""
    before, calls, rename = _contents(old), [0], os.rename

    def interrupted_rename(source: Path, target: Path) -> None:
        rename(source, target)
        calls[0] += old in (source, target)
        if calls[0] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("florence_edge.files._exchanged", lambda *_: False)
    monkeypatch.setattr(os, "rename", interrupted_rename)
    with pytest.raises(KeyboardInterrupt):
        export("new", tiny_checkpoint, old, ExportOptions(overwrite=True))
    assert _contents(old) == before
    assert _listing(old.parent) == ["out"]


def test_a_target_that_appears_meanwhile_is_not_lost(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def write_meanwhile(overwrite: bool) -> None:
        with new_folder(target, overwrite=overwrite) as folder:
            (folder / MANIFEST).write_text("{}")
            target.mkdir(exist_ok=True)
            (target / "cat.jpg").write_bytes(b"cat")

    with pytest.raises(RequestError, match="exists"):
        write_meanwhile(overwrite=False)
    (target / "cat.jpg").unlink()
    with pytest.raises(RequestError, match="holds something that is not a bundle's"):
        write_meanwhile(overwrite=True)
    assert _contents(target) == {"cat.jpg": b"cat"}
    assert _listing(tmp_path) == ["out"]


def test_the_temporary_folder_lies_beside_the_target(tmp_path: Path) -> None:
    """So that the rename stays inside one file system."""
    with new_folder(tmp_path / "out", overwrite=False) as folder:
        assert folder.parents[1] == tmp_path
        assert not (tmp_path / "out").exists()


def _failing_after(module: Any, name: str, error: BaseException) -> Callable[..., Any]:
    """The real function, and then the error: as much was written as can be."""
    real = getattr(module, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        raise error

    return failing


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_only_looks_like_a_bundle_is_never_replaced(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    application = tmp_path / "application"
    application.mkdir()
    (application / "manifest.json").write_text('{"name": "My PWA"}')
    (application / "thesis.txt").write_text("years of work")
    with pytest.raises(RequestError, match="will not be replaced"):
        export("tiny", tiny_checkpoint, application, ExportOptions(overwrite=True))
    assert (application / "thesis.txt").read_text() == "years of work"


def test_a_bundle_with_a_foreign_file_in_it_is_not_replaced(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"notes\.txt"):
        export("tiny", tiny_checkpoint, bundle, ExportOptions(overwrite=True))
    assert (bundle / "notes.txt").exists()


@pytest.mark.parametrize(
    "failure",
    [
        "raise MemoryError",
        "raise ImportError('libonnxruntime.so: failed to map segment: Cannot allocate memory')",
        'raise RuntimeError("can\'t start new thread")',
    ],
)
def test_too_little_memory_for_the_reference_is_no_missing_package(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """An engine that is installed and does not load ends the export; it used to end with 0."""
    package = tmp_path / "site" / "onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(failure + "\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(BackendError, match=r"memory|threads"):
        export("x", native, tmp_path / "b", ExportOptions())
    assert not (tmp_path / "b").exists()


def test_without_onnx_runtime_a_bundle_has_no_reference_and_says_so(
    native: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export("x", native, tmp_path / "b", ExportOptions())
    assert "reference.npz is left out: that needs ONNX Runtime" in caplog.text
    assert not (tmp_path / "b" / "reference.npz").exists()


@pytest.mark.parametrize("named", ["absolute", "relative", "a dot", "a hub's id"])
def test_a_manifest_names_the_checkpoint_and_not_where_it_lay(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "secret" / "my-tune"))
    monkeypatch.chdir(folder if named == "a dot" else folder.parent)
    model = {"absolute": str(folder), "relative": "./my-tune/", "a dot": "."}.get(named, "me/tune")
    export(model, folder, tmp_path / "bundle", ExportOptions())
    text = (tmp_path / "bundle" / MANIFEST).read_text(encoding="utf-8")
    assert "secret" not in text
    name = "me/tune" if named == "a hub's id" else "my-tune"
    assert json.loads(text)["model"]["name"] == name == Bundle.load(tmp_path / "bundle").model
