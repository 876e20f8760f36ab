"""kill -9 of the driver and of a worker at every step of a part, a full disk, a deadly picture."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import draw
from .killed_driver import STEPS

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
WORKER_STEPS = ("loading", "reading", "answering", "encoding", "sending")
SHARDS = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [f"{number}.png" for number in range(2 * SHARDS)]
    return draw(tmp_path_factory.mktemp("killed") / "pictures", names)


@pytest.fixture(scope="module")
def arguments(tiny_bundle: Path, source: Path) -> list[str]:
    small = ("--max-new-tokens", "8", "--batch", "2", "--shard-size", "2", "--workers", "1")
    return [str(tiny_bundle), str(source), "--task", "OD", *small, "--format", "coco"]


def run(arguments: list[str], output: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The command itself, with real processes."""
    return subprocess.run(
        [sys.executable, "-m", "florence_edge_label", *arguments, "--output", str(output)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def expected(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run(arguments, output)
    assert done.returncode == 0, done.stderr
    return written(output)


def written(output: Path) -> dict[str, bytes]:
    files = [*output.glob("parts/*"), output / "coco.json", output / "errors.jsonl"]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("step", STEPS)
def test_a_driver_killed_at_any_step_loses_and_doubles_nothing(
    step: str, arguments: list[str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-m", "tests.label.killed_driver", step, *arguments,
         "--output", str(output)],
        cwd=HERE.parents[1], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    there = {path.name for path in output.glob("parts/part-*")}
    complete = {"part-000000.parquet"}
    if step in ("renamed", "named"):
        complete.add("part-000001.parquet")
    assert there == complete
    for name in there:
        assert (output / "parts" / name).read_bytes() == expected[name]
    again = run(arguments, output)
    assert again.returncode == 0, again.stderr
    assert written(output) == expected
    assert not list(output.glob("parts/.*"))


@pytest.mark.parametrize("step", WORKER_STEPS)
def test_a_worker_killed_at_any_step_changes_nothing(
    step: str, arguments: list[str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    done = run(
        arguments,
        tmp_path / "out",
        PYTHONPATH=str(HERE / "killed_worker"),
        KILL_AT=step,
        KILL_MARK=str(mark),
    )
    assert mark.exists()
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "out") == expected


def test_a_picture_that_ends_every_worker_becomes_an_error_row(
    arguments: list[str], source: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    names = [*(f"{number}.png" for number in range(6)), "poison-a.png", "poison-b.png"]
    draw(pictures, names)
    given = [str(pictures) if each == str(source) else each for each in arguments]
    mark = tmp_path / "mark"
    done = run(given, tmp_path / "out", PYTHONPATH=str(HERE / "killed_worker"), KILL_MARK=str(mark))
    assert done.returncode == 1, done.stderr
    lines = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    errors = {each["image"]: each["error"] for each in map(json.loads, lines)}
    assert set(errors) == {"poison-a.png", "poison-b.png"}
    killed = "It ended its worker twice. The worker was ended by signal 9 (SIGKILL), perhaps for "
    assert killed in errors["poison-a.png"]
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 6


def test_a_full_disk_is_one_message_and_the_run_goes_on_once_there_is_room(
    arguments: list[str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    try:
        full = run(arguments, disk / "out")
        assert full.returncode == 1, full.stdout
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        for path in disk.glob("out/parts/part-*"):
            assert path.read_bytes() == expected[path.name]
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = run(arguments, disk / "out")
        assert again.returncode == 0, again.stderr
        assert written(disk / "out") == expected
    finally:
        subprocess.run(["umount", str(disk)], check=True)
