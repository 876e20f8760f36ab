"""Loading a checkpoint into transformers as its users do."""

from pathlib import Path
from typing import Any

from florence_edge_export.checkpoint.config import Layout
from florence_edge_export.checkpoint.folder import read_checkpoint
from florence_edge_export.verify.reference import Reference, check_installed

from .transformers_variants import FROM_PRETRAINED, OUR_READER, Variant

_BIAS = "final_logits_bias"  # transformers' native class has no place for it


def load_model(folder: Path, variant: Variant) -> tuple[Any, str]:
    """The model on the CPU in evaluation mode, and who read the files.

    transformers reads its own native layout; Microsoft's needs code from the hub, so there it is
    florence-export's reader that fills transformers' class.

    Raises:
        BundleError: the checkpoint cannot be used, or torch or transformers are missing.
    """
    check_installed()
    import torch

    dtype = getattr(torch, variant.dtype)
    checkpoint = read_checkpoint(folder)
    if checkpoint.config.layout is not Layout.NATIVE or _BIAS in checkpoint.tensors:
        return Reference(checkpoint).model.to(dtype), OUR_READER
    from transformers import Florence2ForConditionalGeneration

    model = Florence2ForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True
    )
    return model.eval(), FROM_PRETRAINED


def compile_parts(model: Any) -> None:
    """Compile what runs: vision tower, encoder and decoder, the last two for any length."""
    model.model.vision_tower.compile()
    model.model.language_model.encoder.compile(dynamic=True)
    model.model.language_model.decoder.compile(dynamic=True)
