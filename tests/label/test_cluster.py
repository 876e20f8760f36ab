"""Two nodes of Ray, one of which goes: `coco.json` is one process's, byte by byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from florence_edge_label.cli import main

from .conftest import draw

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PICTURES = 80


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [f"{number:03}.png" for number in range(PICTURES)]
    folder = draw(tmp_path_factory.mktemp("cluster") / "pictures", names)
    (folder / "017.png").write_bytes(b"broken")
    return folder


def labelled_here(bundle: Path, source: Path, output: Path, workers: int) -> bytes:
    given = (str(bundle), str(source), "--output", str(output), "--task", "OD")
    small = ("--max-new-tokens", "20", "--batch", "2", "--shard-size", "2", "--format", "coco")
    assert main([*given, *small, "--no-ray", "--workers", str(workers)]) == 1
    return (output / "coco.json").read_bytes()


def test_one_process_many_and_a_cluster_that_loses_a_node_agree(
    tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="install florence-edge[ray]")
    told = {"bundle": str(tiny_bundle), "source": str(source), "remove at": 8}
    (tmp_path / "told.json").write_text(json.dumps(told))
    program = Path(__file__).with_name("cluster.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert (tmp_path / "seen.json").exists(), done.stderr[-3000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    print(seen)  # noqa: T201 - the figures
    assert seen["too many"] == 1
    assert seen["refused before"]
    assert "3 CPUs are needed" in done.stderr
    assert seen["status"] == 1  # one picture is broken
    assert seen["parts when the node went"] < PICTURES // 2
    assert "A worker was lost" in done.stderr
    cluster = tmp_path / "cluster"
    one = labelled_here(tiny_bundle, source, tmp_path / "one", 1)
    many = labelled_here(tiny_bundle, source, tmp_path / "many", 2)
    assert one == many == (cluster / "coco.json").read_bytes()
    for name in (f"part-{number:06}.parquet" for number in range(PICTURES // 2)):
        parts = {
            (tmp_path / run / "parts" / name).read_bytes() for run in ("one", "many", "cluster")
        }
        assert len(parts) == 1
    errors = [(tmp_path / run / "errors.jsonl").read_text() for run in ("one", "cluster")]
    assert errors[0] == errors[1]
    assert errors[0].count("\n") == 1


def test_a_cluster_of_this_machine_alone(tiny_bundle: Path, source: Path, tmp_path: Path) -> None:
    """`--address local` starts one and ends it; the same folder goes on with processes."""
    pytest.importorskip("ray", reason="install florence-edge[ray]")
    command = [
        sys.executable, "-m", "florence_edge_label", str(tiny_bundle), str(source),
        "--output", str(tmp_path / "out"), "--task", "OD", "--max-new-tokens", "5",
        "--address", "local", "--workers", "1", "--shards", "1/2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "workers on a Ray cluster" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1, done.stderr
    there = [*command[: command.index("--address")], "--no-ray", "--workers", "1"]
    again = subprocess.run(there, capture_output=True, text=True, timeout=300)
    assert again.returncode == 1, again.stderr
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 3  # of 32 pictures each


def test_where_no_cluster_is_one_line_says_so(
    tiny_bundle: Path, source: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="install florence-edge[ray]")
    done = subprocess.run(
        [sys.executable, "-m", "florence_edge_label", str(tiny_bundle), str(source),
         "--output", str(tmp_path / "out"), "--task", "OD", "--address", "127.0.0.1:1"],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "2"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "There is no Ray cluster at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
