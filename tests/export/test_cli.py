"""The command as a person runs it: a process, its messages, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge.bundle import Bundle
from florence_edge_export.cli import main

from ..helpers.disk import check_synced_before_it_got_its_name, recorded
from ..helpers.paused import start_until_paused, stop
from . import folders
from .export_command import PAUSED, RUN, assert_one_message, run_export

# The file system takes files of a few kilobytes and no more, as if it were full.
_FULL_DISK = """
import resource, sys
from florence_edge_export.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(main())
"""


def test_an_export_prints_where_the_bundle_is_and_what_to_run(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bundle"
    assert main([str(tiny_checkpoint), "--output", str(output)]) == 0
    assert f"florence-run {output} IMAGE --task OD" in capsys.readouterr().out
    assert Bundle.load(output).model == tiny_checkpoint.name  # where it lies is its own affair


def test_options_reach_the_export(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_checkpoint), "--output", str(tmp_path / "b")]
    assert main([*arguments, "--image-size", "32"]) == 0
    assert main([*arguments, "--image-size", "96"]) == 1
    assert main([*arguments, "--image-size", "96", "--overwrite", "--precision", "fp16"]) == 0
    bundle = Bundle.load(tmp_path / "b")
    assert (bundle.precision, bundle.size.image_size) == ("fp16", 96)


def test_the_miniature_is_exported(tmp_path: Path) -> None:
    found = run_export("miniature", "--output", str(tmp_path / "b"))
    assert found.returncode == 0, found.stderr
    assert Bundle.load(tmp_path / "b").model == "miniature"


@pytest.mark.parametrize(
    "arguments",
    [[], ["--precision", "int2"], ["--image-size", "large"], ["one", "two"], ["--unknown"]],
    ids=str,
)
def test_wrong_usage_ends_with_status_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["miniature", *arguments]
    if arguments:
        given += ["--output", str(tmp_path / "b")]
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 2
    assert "usage: florence-export" in capsys.readouterr().err


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _cut(folder: Path) -> None:
    whole = (folder / folders.WEIGHTS).read_bytes()
    (folder / folders.WEIGHTS).write_bytes(whole[: len(whole) // 2])


def _drop_tensor(folder: Path) -> None:
    tensors = folders.read(folder)
    del tensors["model.language_model.decoder.layers.1.fc2.bias"]
    folders.write(folder, tensors)


def _add_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _null_preprocessor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text("null")


def _int8_weights(folder: Path) -> None:
    folders.write(folder, {n: v.astype(np.int8) for n, v in folders.read(folder).items()})


_SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (_remove("config.json"), "config.json is missing"),
    "no weights": (_remove(folders.WEIGHTS), "has no weights"),
    "no tokenizer": (_remove("tokenizer.json"), "has no tokenizer.json"),
    "cut weights": (_cut, "cannot be read by safetensors: .*cut short"),
    "a missing tensor": (_drop_tensor, "no tensor for decoder.layers.1.fc2.bias"),
    "a LoRA adapter": (_add_adapter, "is an adapter, not a whole model"),
    "another architecture": (
        lambda folder: folders.edit_config(folder, lambda c: c.update(model_type="bart")),
        "expected 'florence2'",
    ),
    "a garbled processor": (_null_preprocessor, "should hold a JSON object"),
    "quantized weights": (_int8_weights, "as I8, expected floats .* quantized"),
}


@pytest.mark.parametrize("spoil", _SPOILS)
def test_a_bad_checkpoint_gives_one_clear_message(
    native: Path, tmp_path: Path, spoil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, message = _SPOILS[spoil]
    edit(native)
    found = _call(capsys, str(native), "--output", str(tmp_path / "out" / "bundle"))
    assert_one_message(found, message)
    assert not list((tmp_path / "out").iterdir())


_LONG = "x" * 300


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        ("nowhere", "b", "There is no checkpoint folder nowhere"),
        (_LONG, "b", "File name too long"),
        ("miniature", _LONG, "File name too long"),
        ("miniature", "/proc/nowhere/b", "Cannot write beside"),
        ("miniature", "/dev/null", "holds something that is not a bundle's|exists"),
        ("miniature", ".", "exists"),
        ("/dev/null", "b", "There is no checkpoint folder"),
    ],
)
def test_impossible_paths_give_one_clear_message(
    tmp_path: Path,
    model: str,
    output: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found = _call(capsys, model, "--output", output)
    assert_one_message(found, message)
    assert not list(tmp_path.iterdir())


def test_a_hub_id_without_network_gives_one_clear_message(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    found = run_export("someone/model", "--output", str(tmp_path / "b"), environment=environment)
    assert_one_message(found, "someone/model is not a folder here and could not be downloaded")
    assert not (tmp_path / "b").exists()


_MOMENTS = [
    ("export", "build_graphs"),
    ("bundle_writer", "save_graphs"),
    ("bundle_writer", "write_manifest"),
]
_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]


def _stops() -> Iterator[Any]:
    """Each signal once and each moment once; the other pairs where there is time."""
    for row, moment in enumerate(_MOMENTS):
        for column, kind in enumerate(_SIGNALS):
            marks = () if row == column else (pytest.mark.slow,)
            yield pytest.param(*moment, kind, marks=marks)


@pytest.mark.parametrize(("module", "point", "kind"), list(_stops()))
def test_a_stopped_export_leaves_what_was_there(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, module: str, point: str, kind: str
) -> None:
    old = folders.copy(tiny_bundle, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    arguments = [str(tiny_checkpoint), "--output", str(old), "--overwrite"]
    program = PAUSED.format(module=f"florence_edge_export.{module}", point=point)
    process = start_until_paused(program, arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".out.florence-lock",
        ".out.florence-new",
        "out",
    ]
    status, error = stop(process, signal.Signals[kind])
    assert status == 128 + signal.Signals[kind]
    assert "stopped; nothing was changed" in error
    assert "Traceback" not in error
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(100, marks=pytest.mark.slow),
        20_000,
        pytest.param(200_000, marks=pytest.mark.slow),
        1_000_000,
    ],
)
def test_a_full_disk_leaves_what_was_there(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, limit: int
) -> None:
    old = folders.copy(tiny_bundle, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    arguments = (str(tiny_checkpoint), "--output", str(old), "--overwrite")
    found = run_export(*arguments, code=_FULL_DISK.format(limit=limit))
    assert_one_message(found, "Writing .* failed: .*Nothing was changed there")
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_exports_to_one_place_are_one_too_many(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    old = folders.copy(tiny_bundle, tmp_path / "out")
    arguments = [str(tiny_checkpoint), "--output", str(old), "--overwrite"]
    program = PAUSED.format(module="florence_edge_export.export", point="build_graphs")
    first = start_until_paused(program, arguments)
    assert_one_message(run_export(*arguments), r"out is being written by another process\. Wait")
    assert stop(first, signal.SIGTERM)[0] == 143
    assert run_export(*arguments).returncode == 0


def test_what_a_killed_export_left_is_named_and_removed_by_the_next(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    old = folders.copy(tiny_bundle, tmp_path / "out")
    arguments = [str(tiny_checkpoint), "--output", str(old), "--overwrite"]
    program = PAUSED.format(module="florence_edge_export.bundle_writer", point="write_manifest")
    assert stop(start_until_paused(program, arguments), signal.SIGKILL)[0] == -9
    left = tmp_path / ".out.florence-new"
    assert list(left.rglob("weights.bin"))
    found = run_export(*arguments)
    assert found.returncode == 0
    assert f"Removed {left} (" in found.stderr
    assert "which an earlier run left when it was killed" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_bundle_is_on_the_disk_before_it_gets_its_name(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, overwrite: bool
) -> None:
    output = tmp_path / "out"
    if overwrite:
        folders.copy(tiny_bundle, output)
    options = ["--overwrite"] if overwrite else []
    with recorded() as events:
        assert main([str(tiny_checkpoint), "--output", str(output), *options]) == 0
    check_synced_before_it_got_its_name(events, output)
    assert (events[-2][0] == "exchange with") == overwrite


def test_a_bundle_has_the_rights_that_the_umask_leaves(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        assert main([str(tiny_checkpoint), "--output", str(tmp_path / "out")]) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


def test_a_bundle_whose_replacing_was_killed_midway_is_back_when_it_is_loaded(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders.copy(tiny_bundle, tmp_path / ".out.florence-old")
    assert Bundle.load(tmp_path / "out").files == Bundle.load(tiny_bundle).files
    assert f"{tmp_path / 'out'} is there again as it was" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _call(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """The same within this process, which has imported everything already."""
    status = main(arguments)
    out, err = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, status, out, err)


@pytest.mark.parametrize("missing", ["onnx_ir", "onnxscript", "ml_dtypes"])
def test_without_the_extra_for_exporting_it_says_which_to_install(
    missing: str, tmp_path: Path
) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; {RUN}"
    run = subprocess.run(
        [sys.executable, "-c", program, "miniature", "--output", str(tmp_path / "b")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert f"needs {missing}" in run.stderr
    assert "[export]" in run.stderr
    assert "Traceback" not in run.stderr
