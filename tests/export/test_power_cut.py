"""A power cut: the image of a mounted disk is copied while it is mounted, and the copy is read.

What the copy has is what had reached the disk. To be run as root. With FLORENCE_EDGE_RECORD=1 what
was found goes into results/devices/power_cut.json.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from florence_edge.bundle import MANIFEST, Bundle
from florence_edge.errors import FlorenceEdgeError
from florence_edge.files import write_whole

from . import folders
from .export_command import RUN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("mkfs.ext4") is None or shutil.which("mount") is None,
        reason="needs root and mkfs.ext4, to mount a disk of its own",
    ),
]

_RECORDED = Path(__file__).parents[2] / "results" / "devices" / "power_cut.json"
_COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/export/test_power_cut.py"
_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 35.0)  # after a command has ended
_WITHOUT_SYNC = f"import os; os.fsync = lambda descriptor: None; {RUN}"


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An ext4 disk of 256 MB."""
    path = tmp_path / "disk.ext4"
    with path.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    try:
        with mounted(path, tmp_path / "trial"):
            pass
    except subprocess.CalledProcessError:
        pytest.skip("this machine mounts no images")
    return path


def cut_at(image: Path, begin: float, seconds: float) -> Path:
    """What is on the disk so many seconds after `begin`."""
    time.sleep(max(0.0, begin + seconds - time.monotonic()))
    copy = image.with_name(f"cut-{seconds:g}.ext4")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return copy


def whole_bundle(folder: Path) -> str:
    """Which bundle this is; every file is what was exported.

    Raises:
        FlorenceEdgeError: it is damaged, or not there.
    """
    Bundle.load(folder).check_content()
    return (folder / MANIFEST).read_text(encoding="utf-8")


def export(checkpoint: Path, output: Path, program: str = RUN) -> None:
    arguments = [str(checkpoint), "--output", str(output), "--overwrite", "--image-size", "96"]
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "is ready" in run.stdout


def found_after_cuts(
    image: Path, checkpoint: Path, old: Path, program: str
) -> dict[float, str | None]:
    """After which time which bundle is there, by its manifest; None where none is whole."""
    trial = image.parent / "trial"
    with mounted(image, trial):
        folders.copy(old, trial / "bundle")
        os.sync()
        export(checkpoint, trial / "bundle", program)
        begin = time.monotonic()
        copies = {seconds: cut_at(image, begin, seconds) for seconds in _SECONDS}
    found: dict[float, str | None] = {}
    for seconds, copy in copies.items():
        with mounted(copy, image.parent / "copy") as place:
            try:
                found[seconds] = whole_bundle(place / "bundle")
            except FlorenceEdgeError:
                found[seconds] = None
    return found


def record(what: str, found: dict[float, str | None], of: dict[str, str]) -> None:
    """Put which bundle was whole at which time into the results, if that is asked for."""
    if not os.environ.get("FLORENCE_EDGE_RECORD"):
        return
    content = json.loads(_RECORDED.read_text("utf-8")) if _RECORDED.exists() else {}
    content |= {
        "command": _COMMAND,
        "machine": f"{platform.machine()}, Linux {platform.release()}, ext4 on a loop device",
        "model": "tiny, random",
        "whole_bundle_by_seconds_after_ready": {
            **content.get("whole_bundle_by_seconds_after_ready", {}),
            what: {str(seconds): of.get(found[seconds] or "", "none") for seconds in found},
        },
    }
    write_whole(_RECORDED, json.dumps(content, indent=1) + "\n")


def test_after_a_power_cut_there_is_the_whole_bundle(
    image: Path, tiny_checkpoint: Path, tiny_bundle: Path
) -> None:
    """At any time after "is ready" it is the new one."""
    found = found_after_cuts(image, tiny_checkpoint, tiny_bundle, RUN)
    with mounted(image, image.parent / "copy") as place:
        new = whole_bundle(place / "bundle")
    assert new != whole_bundle(tiny_bundle)
    record("synced before the rename", found, {new: "new", whole_bundle(tiny_bundle): "old"})
    assert found == dict.fromkeys(_SECONDS, new)


def test_the_cut_is_one_since_without_syncing_bundles_are_lost(
    image: Path, tiny_checkpoint: Path, tiny_bundle: Path
) -> None:
    """Else the test above would show nothing: the same with an fsync that does nothing."""
    found = found_after_cuts(image, tiny_checkpoint, tiny_bundle, _WITHOUT_SYNC)
    with mounted(image, image.parent / "copy") as place:
        new = whole_bundle(place / "bundle")
    record("not synced", found, {new: "new", whole_bundle(tiny_bundle): "old"})
    assert None in found.values()


def test_a_power_cut_in_the_midst_of_an_export_leaves_one_whole_bundle(
    image: Path, tiny_checkpoint: Path, tiny_bundle: Path
) -> None:
    """The old one or the new one, every quarter of a second."""
    trial = image.parent / "trial"
    copies: list[Path] = []
    with mounted(image, trial):
        folders.copy(tiny_bundle, trial / "bundle")
        os.sync()
        arguments = [str(tiny_checkpoint), "--output", str(trial / "bundle"), "--overwrite"]
        process = subprocess.Popen([sys.executable, "-c", RUN, *arguments, "--image-size", "96"])
        begin = time.monotonic()
        while process.poll() is None:
            copies.append(cut_at(image, begin, len(copies) / 4))
        assert process.returncode == 0
        copies.append(cut_at(image, begin, len(copies) / 4))
        new = whole_bundle(trial / "bundle")
    old = whole_bundle(tiny_bundle)
    found = []
    for copy in copies:
        with mounted(copy, image.parent / "copy") as place:
            found.append(whole_bundle(place / "bundle"))
    assert set(found) == {old, new}
    assert found[-1] == new


_ANSWERS = """
import sys, time
from pathlib import Path
from florence_edge.files import synced_while_it_grows
with open(sys.argv[1], "a") as file, synced_while_it_grows(file, Path(sys.argv[1])):
    for number in range(100):
        file.write(f"{number}\\n")
        file.flush()
        print(number, flush=True)
        time.sleep(0.05)
"""


def test_a_growing_file_has_all_but_the_last_two_seconds(image: Path) -> None:
    """As answers and videos of a live source are written: 20 lines a second."""
    trial = image.parent / "trial"
    with mounted(image, trial):
        process = subprocess.Popen(
            [sys.executable, "-c", _ANSWERS, str(trial / "lines")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        while process.stdout.readline() != b"80\n":
            pass
        copy = cut_at(image, time.monotonic(), 0)
        process.communicate()
    with mounted(copy, image.parent / "copy") as place:
        lines = (place / "lines").read_bytes().replace(b"\0", b"").decode().splitlines()
    assert lines[:40] == [str(number) for number in range(40)]
