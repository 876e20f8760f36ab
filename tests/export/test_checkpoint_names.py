"""Wrapped names are taken off where all tensors carry them, and named where they do not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from florence_edge.errors import BundleError
from florence_edge_export.checkpoint.config import Layout
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.checkpoint.names import unwrapped_names
from florence_edge_export.export import ExportOptions, export

from . import folders

_WRAPPINGS: dict[str, Callable[[str], str]] = {
    "DistributedDataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "PEFT, merged": lambda name: f"base_model.model.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "the other way": lambda name: f"_orig_mod.module.{name}",
    "Lightning": lambda name: f"model.{name}",
    "Lightning, compiled": lambda name: f"model._orig_mod.{name}",
    "a part compiled": lambda name: name.replace("vision_tower.", "vision_tower._orig_mod."),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}".replace(
        ".blocks.0.0.", ".blocks.0.0._checkpoint_wrapped_module."
    ),
}


def _wrap(folder: Path, wrapping: str) -> None:
    wrap = _WRAPPINGS[wrapping]
    folders.write(folder, {wrap(name): values for name, values in folders.read(folder).items()})


@pytest.mark.parametrize("wrapping", _WRAPPINGS)
@pytest.mark.parametrize("layout", ["native", "microsoft"])
def test_what_wraps_all_names_is_taken_off(
    request: pytest.FixtureRequest, layout: str, wrapping: str
) -> None:
    folder = request.getfixturevalue(layout)
    expected = {name: tensor.load() for name, tensor in read_checkpoint(folder).tensors.items()}
    _wrap(folder, wrapping)
    found = read_checkpoint(folder).tensors
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].load(), values)


@pytest.mark.parametrize("holder", ["module.", "base_model.model."])
def test_what_wraps_some_names_is_named(native: Path, holder: str) -> None:
    tensors = folders.read(native)
    first = min(tensors)
    tensors[holder + first] = tensors.pop(first)
    folders.write(native, tensors)
    with pytest.raises(BundleError, match=rf"1 of \d+ names .* begin with '{holder}'.*{first}"):
        read_checkpoint(native)


@pytest.mark.parametrize(
    "part",
    ["q_proj.lora_A.default.weight", "q_proj.base_layer.weight", "modules_to_save.default.weight"],
)
def test_an_adapter_in_the_weights_is_to_be_merged_first(native: Path, part: str) -> None:
    tensors = folders.read(native)
    name = f"base_model.model.model.language_model.decoder.layers.0.self_attn.{part}"
    folders.write(native, {**tensors, name: np.zeros(2, dtype=np.float32)})
    with pytest.raises(BundleError, match=r"adapter that is not merged.*merge_and_unload"):
        read_checkpoint(native)


def test_two_names_of_one_tensor_may_not_differ(native: Path) -> None:
    tensors = folders.read(native)
    name = "model.language_model.encoder.layers.0.fc1.bias"
    folders.write(native, {**tensors, name.removeprefix("model."): tensors[name]})
    read_checkpoint(native)
    folders.write(native, {**tensors, name.removeprefix("model."): tensors[name] + 1})
    with pytest.raises(BundleError, match=r"two names of one tensor, and their values differ"):
        read_checkpoint(native)


def test_the_layouts_own_prefix_is_no_wrapping() -> None:
    names = ["model.language_model.shared.weight", "model.vision_tower.convs.0.conv.bias"]
    assert unwrapped_names(names, Layout.NATIVE) == dict(zip(names, names, strict=True))


@pytest.mark.usefixtures("verify_briefly")
@pytest.mark.parametrize("layout", ["native", "microsoft"])
def test_verify_reads_wrapped_names_by_itself(
    request: pytest.FixtureRequest, tmp_path: Path, layout: str
) -> None:
    folder = request.getfixturevalue(layout)
    _wrap(folder, "both")
    export("x", folder, tmp_path / "b", ExportOptions(verify=True))
