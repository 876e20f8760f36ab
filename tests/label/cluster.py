"""A real Ray cluster of two nodes in processes of this machine: `python cluster.py FILE`.

The script labels on it while a node goes, and writes what it saw as JSON.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from florence_edge_label.cli import main


def labelled(bundle: str, source: str, output: str, *arguments: str) -> int:
    given = [bundle, source, "--output", output, "--task", "OD", "--max-new-tokens", "20"]
    return main([*given, "--batch", "2", "--shard-size", "2", *arguments])


def remove_midway(cluster: Any, node: Any, parts: Path, count: int, seen: dict[str, Any]) -> None:
    """Take a node away, without a word, once so many parts are there."""
    while len(list(parts.glob("part-*.parquet"))) < count:
        time.sleep(0.01)
    seen["parts when the node went"] = len(list(parts.glob("part-*.parquet")))
    cluster.remove_node(node, allow_graceful=False)
    seen["nodes left"] = sum(each["Alive"] for each in ray.nodes()) if ray.is_initialized() else 1


def run(work: Path) -> None:
    told = json.loads((work / "told.json").read_text())
    seen: dict[str, Any] = {}
    begin = time.monotonic()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    seen["seconds to start Ray"] = time.monotonic() - begin
    where = ("--address", cluster.address)
    arguments = (told["bundle"], told["source"])
    seen["too many"] = labelled(*arguments, str(work / "none"), *where, "--workers", "3")
    seen["refused before"] = not (work / "none").exists()
    output = work / "cluster"
    thread = threading.Thread(
        target=remove_midway, args=(cluster, other, output / "parts", told["remove at"], seen)
    )
    thread.start()
    begin = time.monotonic()
    # As many workers as there are CPUs: row pipelines on Ray would hang (ray#44687).
    seen["status"] = labelled(*arguments, str(output), *where, "--workers", "2", "--format", "coco")
    seen["seconds to label"] = time.monotonic() - begin
    thread.join()
    cluster.shutdown()
    (work / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
