"""A PEFT adapter's folder: adapter_config.json and its tensors, by the module that they belong to.

What merges into weights is read: LoRA, with rsLoRA's scale, DoRA's magnitudes, ranks and alphas of
their own for some modules, trained biases, whole modules (`modules_to_save`), embeddings of a
larger vocabulary, and single trained tokens. What does not is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from florence_edge.errors import BundleError
from florence_edge.files import from_json

from .config import checkpoint_in, read_json
from .tensors import StoredTensor, read_tensors

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_HOLDER = "base_model.model."

SUPPORTED = (
    "LoRA with rsLoRA, DoRA, rank and alpha patterns, modules_to_save, trained tokens and biases"
)
# Settings of LoraConfig with which a layer computes something else than a product added to it.
_OTHER_LAYERS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
)
# They change the base model's weights where training begins, and are relative to those.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

# Ends of tensors' names -> what they are of a module. The adapter's name may stand in between.
_PARTS = (
    (re.compile(r"\.lora_A(\.\w+)?\.weight$"), "a"),
    (re.compile(r"\.lora_B(\.\w+)?\.weight$"), "b"),
    (re.compile(r"\.lora_B(\.\w+)?\.bias$"), "b_bias"),
    (re.compile(r"\.lora_embedding_A(\.\w+)?$"), "embedding_a"),
    (re.compile(r"\.lora_embedding_B(\.\w+)?$"), "embedding_b"),
    (re.compile(r"\.lora_magnitude_vector(\.\w+)?(\.weight)?$"), "magnitude"),
    (re.compile(r"(\.token_adapter)?\.trainable_tokens_delta(\.\w+)?$"), "tokens"),
    (re.compile(r"(\.modules_to_save(\.\w+)?|\.base_layer)?\.(?P<own>weight|bias)$"), "own"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """adapter_config.json, as far as it decides how an adapter merges; peft's names."""

    peft_type: str = ""
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: Sequence[str] | None = None
    trainable_token_indices: Sequence[int] | Mapping[str, Sequence[int]] | None = None
    ensure_weight_tying: bool = False
    base_model_name_or_path: str | None = None

    def alpha_of(self, module: str) -> float:
        """The alpha of a module, whose own wins; patterns are ends of names, or expressions."""
        for pattern, alpha in self.alpha_pattern.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return alpha
        return self.lora_alpha

    def saves(self, module: str) -> bool:
        """Whether a module was trained whole, as a copy of its own."""
        return any(
            module == name or module.endswith(f".{name}") for name in self.modules_to_save or ()
        )

    def tokens_of(self, module: str) -> Sequence[int] | None:
        """Which rows of an embedding were trained, if any."""
        indices = self.trainable_token_indices
        if not isinstance(indices, Mapping):
            return indices
        for name, rows in indices.items():
            if module == name or module.endswith(f".{name}"):
                return rows
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter as it lies on disk.

    `modules` has by the path of a module, in the names of the model that was trained, the tensors
    of it: `a`, `b`, `magnitude`, `weight`, ... (see `_PARTS`).
    """

    folder: Path
    config: LoraConfig
    file: Path
    modules: Mapping[str, Mapping[str, StoredTensor]]


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter's, and not a whole checkpoint."""
    return (folder / ADAPTER_CONFIG).exists()


def read_adapter(folder: Path) -> AdapterFiles:
    """Read an adapter; its tensors are loaded when they are asked for.

    Raises:
        BundleError: it is not there, damaged, or of a kind that does not merge.
    """
    path = folder / ADAPTER_CONFIG
    if not path.exists():
        inside = checkpoint_in(folder)
        raise BundleError(
            f"{folder} has no {ADAPTER_CONFIG}, so it is not an adapter as peft saves it. Give the "
            f"folder that save_pretrained wrote{'.' if inside is None else f': {inside}'}"
        )
    raw = read_json(path)
    _check_kind(path, raw)
    try:
        config = from_json(LoraConfig, {k: v for k, v in raw.items() if v is not None})
        for pattern in config.alpha_pattern:
            re.compile(pattern)
    except (ValueError, re.error) as error:
        raise BundleError(
            f"{path} cannot be followed: {error}. Save the adapter again with peft."
        ) from error
    file = next((folder / name for name in _WEIGHTS if (folder / name).exists()), None)
    if file is None:
        raise BundleError(
            f"{folder} has no weights: expected {' or '.join(_WEIGHTS)}. Finish the download, or "
            "save the adapter again with peft."
        )
    return AdapterFiles(folder=folder, config=config, file=file, modules=_by_module(file))


def _check_kind(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuse what computes something else than changed weights do."""
    kind = str(raw.get("peft_type"))
    if kind != "LORA":
        raise BundleError(
            f"{path} is an adapter of the kind {kind!r:.40}; supported is {SUPPORTED}. Merge it "
            "with peft's merge_and_unload(), save the model and export that."
        )
    others = [name for name in _OTHER_LAYERS if raw.get(name)]
    if others:
        raise BundleError(
            f"{path} says {others[0]} = {raw[others[0]]!r:.60}, which this tool does not merge; "
            f"supported is {SUPPORTED}. Merge it with peft's merge_and_unload(), save the model "
            "and export that."
        )
    begun = raw.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_CHANGED_BASE):
        raise BundleError(
            f"{path} says init_lora_weights = {begun!r:.40}: the adapter is relative to a base "
            "model that was changed when training began. Convert it to plain LoRA (peft: "
            "save_pretrained(path_initial_model_for_weight_conversion=...)), or merge it with peft."
        )


def _by_module(file: Path) -> dict[str, dict[str, StoredTensor]]:
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in read_tensors(file):
        module, part = _split(file, name)
        modules.setdefault(module, {})[part] = tensor
    if not modules:
        raise BundleError(f"{file} has no tensors. Save the adapter again with peft.")
    return modules


def _split(file: Path, name: str) -> tuple[str, str]:
    """The module that a tensor belongs to, and what it is of it."""
    inner = name.removeprefix(_HOLDER)
    for pattern, part in _PARTS:
        match = pattern.search(inner)
        if match:
            return inner[: match.start()], match["own"] if part == "own" else part
    raise BundleError(
        f"{file} has a tensor {name}, which is no part of an adapter that this tool knows; "
        f"supported is {SUPPORTED}."
    )
