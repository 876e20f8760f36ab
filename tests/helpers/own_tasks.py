"""Bundles that bring tasks of their own."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from florence_edge import Task
from florence_edge.bundle import DIGEST, MANIFEST, digest_of


def written(task: Task) -> dict[str, str]:
    """A task as a manifest has it."""
    needs, answer = task.needs.value, task.answer.value
    return {"token": task.token, "template": task.template, "answer": answer, "needs": needs}


def bundle_with_tasks(bundle: Path, folder: Path, tasks: Sequence[dict[str, str]]) -> Path:
    """A copy of a bundle with tasks in its manifest.

    No hard links: onnx refuses weights that have two names.
    """
    folder.mkdir()
    for file in bundle.iterdir():
        if file.name != MANIFEST:
            shutil.copy(file, folder)
    manifest = {**json.loads((bundle / MANIFEST).read_text("utf-8")), "tasks": list(tasks)}
    manifest[DIGEST] = digest_of(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return folder
