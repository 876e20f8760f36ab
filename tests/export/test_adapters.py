"""Adapters as peft writes them, merged at export: equal to peft's own merge_and_unload."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from florence_edge_export.checkpoint.adapters import WeightedAdapter, merge_adapters
from florence_edge_export.checkpoint.config import Layout
from florence_edge_export.checkpoint.loader import Checkpoint, read_checkpoint
from florence_edge_export.checkpoint.names import native_name

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
safetensors = pytest.importorskip("safetensors.numpy")

Arrays = dict[str, npt.NDArray[np.float32]]

_ATTENTION = ["q_proj", "v_proj", "out_proj"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """peft warns of tied weights; here that is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def base_model(folder: Path) -> Any:
    return transformers.Florence2ForConditionalGeneration.from_pretrained(folder)


def write_adapter(base: Path, folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """A LoRA adapter with random weights, also where training begins with zeros."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": _ATTENTION, **settings})
    model = peft.get_peft_model(base_model(base), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.05 * noise * (1 + parameter.abs().mean())
    model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, *adapters: Path) -> Arrays:
    """The state of the model that peft makes of adapters, by native name."""
    model = base_model(base)
    for adapter in adapters:
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    state = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
    return {native_name(name, Layout.NATIVE): array for name, array in state.items()}


def assert_equal(merged: Checkpoint, expected: Mapping[str, npt.NDArray[np.float32]]) -> None:
    shared = "language_model.shared.weight"
    decoder = "language_model.decoder.embed_tokens.weight"
    names = {decoder: shared, "lm_head.weight": decoder}
    compared = 0
    for name, array in expected.items():
        source = name
        while source not in merged.tensors and source in names:
            source = names[source]
        if source in merged.tensors and not name.endswith("encoder.embed_tokens.weight"):
            found = merged.tensors[source].load()
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, array, rtol=1e-6, atol=1e-6, err_msg=name)
            compared += 1
    assert compared > 100


CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora with patterns": {
        "use_rslora": True,
        "rank_pattern": {"fc1": 2},
        "alpha_pattern": {"decoder.layers.1.self_attn.q_proj": 3, "fc1": 32},
        "target_modules": [*_ATTENTION, "fc1"],
    },
    "dora": {"use_dora": True, "target_modules": [*_ATTENTION, "qkv"]},
    "convolutions": {"target_modules": r".*convs\.\d\.conv"},
    "dora of convolutions": {"use_dora": True, "target_modules": r".*convs\.\d\.conv"},
    "whole modules": {"modules_to_save": ["fc2", "lm_head"]},
    "embedding": {"target_modules": ["shared", "q_proj"]},
    "dora of the embedding": {"use_dora": True, "target_modules": ["shared"]},
    "the tied head": {"target_modules": ["lm_head", "k_proj"]},
    "trained tokens": {"trainable_token_indices": {"shared": [5, 300]}},
    "biases": {"bias": "lora_only"},
    "a bias of the product": {"lora_bias": True, "bias": "none"},
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=() if name in ("lora", "dora") else pytest.mark.slow)
        for name in CASES
    ],
)
def test_a_merged_adapter_is_pefts_own(case: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_checkpoint, tmp_path / "adapter", **CASES[case])
    base = read_checkpoint(tiny_checkpoint)
    merged = merge_adapters(base, [WeightedAdapter("a", adapter)])
    expected = merged_by_peft(tiny_checkpoint, adapter)
    assert_equal(merged, expected)
    assert any(
        not np.array_equal(base.tensors[name].load(), merged.tensors[name].load())
        for name in base.tensors
    )


@pytest.mark.slow
def test_several_adapters_add_up_by_weight(tiny_checkpoint: Path, tmp_path: Path) -> None:
    one = write_adapter(tiny_checkpoint, tmp_path / "one", seed=1)
    two = write_adapter(tiny_checkpoint, tmp_path / "two", seed=2, r=2)
    model = peft.PeftModel.from_pretrained(base_model(tiny_checkpoint), one, adapter_name="one")
    model.load_adapter(two, adapter_name="two")
    model.add_weighted_adapter(["one", "two"], [0.7, -0.2], "both", combination_type="cat")
    model.set_adapter("both")
    state = model.merge_and_unload().state_dict()
    expected = {native_name(name, Layout.NATIVE): each.numpy() for name, each in state.items()}
    merged = merge_adapters(
        read_checkpoint(tiny_checkpoint),
        [WeightedAdapter("one", one, 0.7), WeightedAdapter("two", two, -0.2)],
    )
    assert_equal(merged, expected)
    assert [(each.name, each.weight) for each in merged.adapters] == [("one", 0.7), ("two", -0.2)]


@pytest.mark.slow
def test_words_that_were_added_come_with_the_adapter(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = base_model(tiny_checkpoint)
    words = model.config.text_config.vocab_size + 3
    model.resize_token_embeddings(words)
    trained = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=_ATTENTION))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "shared" in name or "lora_B" in name:
                parameter += 0.01 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(4)
                )
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    state = trained.merge_and_unload().state_dict()
    expected = {native_name(name, Layout.NATIVE): each.numpy() for name, each in state.items()}

    adapter = WeightedAdapter("a", tmp_path / "adapter")
    merged = merge_adapters(read_checkpoint(tiny_checkpoint), [adapter])
    assert merged.config.text.vocab_size == words
    assert_equal(merged, expected)


@pytest.mark.parametrize(
    "settings", [{}, {"target_modules": ["lm_head", "shared", "q_proj"]}], ids=["whole", "both"]
)
@pytest.mark.slow
def test_one_matrix_that_is_stored_under_two_names_counts_once(
    settings: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = peft.LoraConfig(**{"r": 4, "target_modules": _ATTENTION, **settings})
    trained = peft.get_peft_model(base_model(tiny_checkpoint), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "shared" in name or "lora_" in name:
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path / "adapter"
    trained.save_pretrained(folder, save_embedding_layers=True)
    stored = safetensors.load_file(folder / "adapter_model.safetensors")
    whole = [name for name in stored if "lora_" not in name]
    assert sum("shared" in name or "lm_head" in name for name in whole) > 1
    merged = merge_adapters(read_checkpoint(tiny_checkpoint), [WeightedAdapter("a", folder)])
    assert_equal(merged, merged_by_peft(tiny_checkpoint, folder))
