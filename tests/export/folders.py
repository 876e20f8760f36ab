"""Checkpoint folders for tests: copy one, change its config or its tensors, write it again."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from florence_edge_export.checkpoint.loader import Checkpoint

Tensors = dict[str, npt.NDArray[Any]]

WEIGHTS = "model.safetensors"


def copy(folder: Path, target: Path, *, without: tuple[str, ...] = ()) -> Path:
    """A copy of a checkpoint whose files may be changed."""
    target.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in without:
            shutil.copyfile(path, target / path.name)
    return target


def read(folder: Path) -> Tensors:
    tensors: Tensors = load_file(folder / WEIGHTS)
    return tensors


def write(folder: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    whole = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    edit_json(folder / "config.json", edit)


def write_header(path: Path, header: object, data: bytes = b"") -> None:
    """A safetensors file with any header."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def assert_same_tensors(one: Checkpoint, other: Checkpoint) -> None:
    extra = {"final_logits_bias", "multi_modal_projector.visual_temporal_embed.pos_idx_to_embed"}
    assert one.tensors.keys() - extra == other.tensors.keys() - extra
    for name in one.tensors.keys() - extra:
        left, right = one.tensors[name], other.tensors[name]
        values, expected = left.load(), right.load()
        assert values.shape == left.shape, name
        assert expected.shape == right.shape, name
        if name == "language_model.shared.weight":  # transformers pads the vocabulary
            shared = min(len(values), len(expected))
            values, expected = values[:shared], expected[:shared]
        np.testing.assert_array_equal(values, expected, err_msg=name)
