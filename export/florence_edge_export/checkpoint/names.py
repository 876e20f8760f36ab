"""Names of a checkpoint's tensors: what other software wrapped them in, and who named them.

Everything behind the loader speaks transformers' native names without the leading `model.`.
"""

import re
from collections.abc import Iterable, Mapping

from florence_edge.errors import BundleError

from .config import Layout

# What holds a model and puts its own attribute before every name: DistributedDataParallel, PEFT.
_HOLDERS = ("module.", "base_model.model.")
# What wraps any part of a model, at any depth: torch.compile, FSDP, activation checkpointing.
_WRAPPER = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_ADAPTER = re.compile(
    r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|modules_to_save"
    r"|original_module)\b"
)

MERGE_FIRST = (
    "Merge it first, and put the tokenizer beside it: "
    "PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(new); "
    "AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(new)"
)
"""Ends with the two statements, which `save_pretrained` of a model does not do in one."""


def unwrapped_names(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """The stored names, each with the name that the model itself gives its tensor.

    What torch.compile, FSDP, DistributedDataParallel or PEFT put before the names is taken off,
    and so is the attribute in which a program of somebody's own kept the model.

    Raises:
        BundleError: the tensors are a LoRA adapter's, or only some of the names are wrapped.
    """
    found = {name: _WRAPPER.sub(r"\1", name) for name in names}
    if adapters := [name for name in found if _ADAPTER.search(name)]:
        raise BundleError(
            f"The weights are those of an adapter that is not merged ({adapters[0]}, "
            f"{len(adapters)} of its kind). {MERGE_FIRST}"
        )
    while found and (holder := _holder(found.values(), layout)):
        found = {name: inner.removeprefix(holder) for name, inner in found.items()}
    for holder in _HOLDERS:
        held = [name for name, inner in found.items() if inner.startswith(holder)]
        if held:
            raise BundleError(
                f"{len(held)} of {len(found)} names of tensors begin with {holder!r} (such as "
                f"{held[0]}), the others do not. Take it off, or save the inner model's "
                "state_dict()."
            )
    return found


def _holder(names: Iterable[str], layout: Layout) -> str:
    """What all names begin with and the model itself does not; "" where there is nothing."""
    names = list(names)
    for holder in _HOLDERS:
        if all(name.startswith(holder) for name in names):
            return holder
    # `self.model = ...` of a training module (Lightning) looks like the native layout's own prefix.
    inside = ("model.model.", "model.lm_head.")
    twice = layout is Layout.MICROSOFT or any(name.startswith(inside) for name in names)
    return "model." if twice and all(name.startswith("model.") for name in names) else ""


# Microsoft's module tree -> the native one; the first pattern that matches rewrites the name.
_FROM_MICROSOFT = (
    (re.compile(r"^(vision_tower\.convs\.\d+)\.proj\."), r"\1.conv."),
    (re.compile(r"\.(conv[12])\.fn\.dw\."), r".\1."),
    (re.compile(r"\.(?:window|channel)_attn\.norm\."), r".norm1."),
    (re.compile(r"\.(window|channel)_attn\.fn\."), r".\1_attn."),
    (re.compile(r"\.ffn\.norm\."), r".norm2."),
    (re.compile(r"\.ffn\.fn\.net\."), r".ffn."),
    (re.compile(r"^image_projection$"), r"multi_modal_projector.image_projection.weight"),
    (re.compile(r"^image_proj_norm\."), r"multi_modal_projector.image_proj_norm."),
    (re.compile(r"^image_pos_embed\."), r"multi_modal_projector.image_position_embed."),
    (re.compile(r"^visual_temporal_embed\."), r"multi_modal_projector.visual_temporal_embed."),
    (re.compile(r"^language_model\.(lm_head|final_logits_bias)"), r"\1"),
    (re.compile(r"^language_model\.model\."), r"language_model."),
)


def native_name(name: str, layout: Layout) -> str:
    """transformers' native name, without the leading `model.`, of a tensor that `layout` names."""
    if layout is Layout.NATIVE:
        return name.removeprefix("model.")
    for pattern, replacement in _FROM_MICROSOFT:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name


def native_names(names: Iterable[str], layout: Layout) -> Mapping[str, str]:
    """`native_name` of every stored name, whatever it is wrapped in.

    Raises:
        BundleError: see `unwrapped_names`.
    """
    return {
        stored: native_name(name, layout) for stored, name in unwrapped_names(names, layout).items()
    }
