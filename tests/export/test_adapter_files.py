"""Adapters written by hand: both layouts, the command, and what is refused; no peft needed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge import Bundle
from florence_edge.bundle import sha256
from florence_edge.errors import BundleError, RequestError
from florence_edge_export.checkpoint.adapters import (
    WeightedAdapter,
    adapter_argument,
    merge_adapters,
    tokenizer_folder,
)
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.cli import main

safetensors = pytest.importorskip("safetensors.numpy")

QUERY = "language_model.decoder.layers.0.self_attn.q_proj"
NATIVE = f"base_model.model.model.{QUERY}"
MICROSOFT = "base_model.model.language_model.model.decoder.layers.0.self_attn.q_proj"
SHARED = "language_model.shared.weight"


def write(folder: Path, tensors: dict[str, Any] | None = None, **settings: Any) -> WeightedAdapter:
    """A LoRA adapter of rank 2 for one matrix, unless `tensors` says otherwise."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    arrays = lora(NATIVE) if tensors is None else tensors
    safetensors.save_file(arrays, folder / "adapter_model.safetensors")
    return WeightedAdapter(folder.name, folder)


def lora(module: str, inputs: int = 64, outputs: int = 64) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        f"{module}.lora_A.weight": random.standard_normal((2, inputs), dtype=np.float32),
        f"{module}.lora_B.weight": random.standard_normal((outputs, 2), dtype=np.float32),
    }


@pytest.mark.parametrize("trained_on", [NATIVE, MICROSOFT])
def test_either_layout_of_adapter_fits_either_of_base(
    trained_on: str, tiny_checkpoint: Path, microsoft_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = write(tmp_path / "adapter", lora(trained_on))
    a, b = lora(trained_on).values()
    for folder in (tiny_checkpoint, microsoft_checkpoint):
        base = read_checkpoint(folder)
        merged = merge_adapters(base, [adapter])
        expected = base.tensors[f"{QUERY}.weight"].load() + 2 * (b @ a)
        found = merged.tensors[f"{QUERY}.weight"].load()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        unchanged = "language_model.decoder.layers.0.self_attn.k_proj.weight"
        assert merged.tensors[unchanged] is base.tensors[unchanged]


def test_tied_tables_stay_tied(tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = read_checkpoint(tiny_checkpoint).config.text.vocab_size
    adapter = write(tmp_path / "adapter", lora("base_model.model.lm_head", 64, words))
    merged = merge_adapters(read_checkpoint(tiny_checkpoint), [adapter])
    assert not {"lm_head.weight", "language_model.decoder.embed_tokens.weight"} & set(
        merged.tensors
    )


def test_new_words_widen_the_vocabulary(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = read_checkpoint(tiny_checkpoint)
    old = base.tensors[SHARED].load()
    table = np.concatenate([old, np.ones((2, old.shape[1]), dtype=np.float32)])
    adapter = write(tmp_path / "adapter", {f"base_model.model.model.{SHARED}": table})
    merged = merge_adapters(base, [adapter])
    assert merged.config.text.vocab_size == len(table)
    np.testing.assert_array_equal(merged.tensors[SHARED].load(), table)
    half = WeightedAdapter("half", adapter.folder, 0.5)
    with pytest.raises(BundleError, match=r"cannot count 0\.5 times"):
        merge_adapters(base, [half])


def test_new_words_do_not_add_up_with_another_embedding(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base = read_checkpoint(tiny_checkpoint)
    old = base.tensors[SHARED].load()
    name = f"base_model.model.model.{SHARED}"
    table = np.concatenate([old, np.ones((2, old.shape[1]), dtype=np.float32)])
    grown = write(tmp_path / "grown", {name: table})
    same_words = write(tmp_path / "same_words", {name: table + 1})
    changed = write(tmp_path / "changed", {name: old + 1})
    head = write(tmp_path / "head", lora("base_model.model.lm_head", 64, len(old)))
    for second in (same_words, changed, head):
        for pair in ([grown, second], [second, grown]):
            with pytest.raises(BundleError, match="one of them brings new words"):
                merge_adapters(base, pair)
    merged = merge_adapters(base, [grown, write(tmp_path / "query")])
    np.testing.assert_array_equal(merged.tensors[SHARED].load(), table)


def test_the_hash_is_of_weights_and_order_and_not_of_folders(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    base = read_checkpoint(tiny_checkpoint)
    assert merge_adapters(base, []).sha256() == base.sha256() == sha256(*base.weight_files)
    one, two = write(tmp_path / "one"), write(tmp_path / "two", lora(MICROSOFT))
    moved = WeightedAdapter("moved", shutil.copytree(one.folder, tmp_path / "zzz" / "moved"))

    def hash_of(*adapters: WeightedAdapter) -> str:
        return merge_adapters(base, adapters).sha256()

    sums = [[one], [replace(one, weight=0.3)], [two], [one, two], [two, one]]
    hashes = [base.sha256(), *(hash_of(*adapters) for adapters in sums)]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(moved, two) == hash_of(one, two)


def test_the_tokenizer_comes_from_the_adapter_that_brings_one(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    (one.folder / "tokenizer.json").write_text("{}")
    assert tokenizer_folder(tmp_path, [one, two]) == one.folder
    assert tokenizer_folder(tmp_path, [two]) == tmp_path


def test_the_command_merges_and_the_manifest_says_so(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    adapter = write(tmp_path / "adapter").folder
    bundle = tmp_path / "bundle"
    command = [str(tiny_checkpoint), "--adapter", f"{adapter}=0.5", "--output", str(bundle)]
    assert main([*command, "--portable-decoder"]) == 0
    model = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["model"]
    assert [(each["name"], each["weight"]) for each in model["adapters"]] == [(str(adapter), 0.5)]
    assert Bundle.load(bundle).checkpoint != Bundle.load(tiny_bundle).checkpoint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "kind 'LOHA'; supported is LoRA"),
        ({"use_qalora": True}, "use_qalora = True"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"r": "four"}, "cannot be followed"),
        ({"alpha_pattern": {"(": 3}}, "cannot be followed"),
    ],
)
def test_other_kinds_are_refused_by_name(
    settings: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = write(tmp_path / "adapter", **settings)
    with pytest.raises(BundleError) as caught:
        merge_adapters(read_checkpoint(tiny_checkpoint), [adapter])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (lora("base_model.model.model.layers.0.mlp"), "does not have, such as model.layers.0.mlp"),
        (lora(NATIVE, inputs=48), "do not fit"),
        ({"base_model.model.oft.oft_r": np.zeros((2, 2), np.float32)}, "no part of an adapter"),
        ({}, "has no tensors"),
    ],
)
def test_tensors_of_another_model_are_refused(
    tensors: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = write(tmp_path / "adapter", tensors)
    with pytest.raises(BundleError) as caught:
        merge_adapters(read_checkpoint(tiny_checkpoint), [adapter])
    assert message in str(caught.value)


def test_a_folder_without_an_adapter_and_an_adapter_alone_say_what_to_do(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="no adapter_config"):
        merge_adapters(read_checkpoint(tiny_checkpoint), [WeightedAdapter("x", tiny_checkpoint)])
    adapter = write(tmp_path / "adapter")
    with pytest.raises(BundleError, match="--adapter"):
        read_checkpoint(adapter.folder)
    (adapter.folder / "adapter_model.safetensors").unlink()
    with pytest.raises(BundleError, match="has no weights"):
        merge_adapters(read_checkpoint(tiny_checkpoint), [adapter])


def test_weights_are_read_from_the_argument(tmp_path: Path) -> None:
    assert adapter_argument("user/lora") == ("user/lora", 1.0)
    assert adapter_argument("user/lora=0.25") == ("user/lora", 0.25)
    strange = tmp_path / "a=b"
    strange.mkdir()
    assert adapter_argument(str(strange)) == (str(strange), 1.0)
    for text in ("user/lora=much", "user/lora=nan", "user/lora=0", "=1"):
        with pytest.raises(RequestError, match="WEIGHT"):
            adapter_argument(text)


def test_verify_does_not_know_adapters(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write(tmp_path / "adapter").folder
    command = [str(tiny_checkpoint), "--adapter", str(adapter), "--verify"]
    assert main([*command, "--output", str(tmp_path / "bundle")]) == 1
    assert "--adapter" in capsys.readouterr().err
