"""The language model of a Florence-2 checkpoint as a BART checkpoint of transformers.

optimum knows BART and not Florence-2: this is what it can export and run, the language model alone,
on as many source tokens as picture and prompt make.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.errors import MissingPackageError
from florence_edge.extras import pip_install
from florence_edge.tasks import prompt_for
from florence_edge.tokenizer import Tokenizer
from florence_edge_export.checkpoint.config import TextConfig
from florence_edge_export.checkpoint.embeddings import HEAD
from florence_edge_export.checkpoint.loader import find_checkpoint, read_checkpoint

from ..workload import Workload

_PREFIX = "language_model."
_REQUEST = "request.json"  # beside the model: what the program in the other environment has to know


def write_bart(
    checkpoint: str, bundle_folder: Path, workloads: Sequence[Workload], folder: Path
) -> None:
    """Write the BART checkpoint, generation settings and source lengths for optimum's program.

    Args:
        checkpoint: folder or name of the Florence-2 checkpoint.
        bundle_folder: the bundle that optimum is compared with.
        workloads: what will be measured.
        folder: where to; made if need be.

    Raises:
        BundleError: checkpoint or bundle cannot be read.
        MissingPackageError: safetensors is not installed.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise MissingPackageError(
            "--compare optimum writes the language model with safetensors, which is not "
            f"installed. Install it with: {pip_install('export')}"
        ) from error

    found, bundle = read_checkpoint(find_checkpoint(checkpoint)), Bundle.load(bundle_folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name.replace(_PREFIX, "model."): np.asarray(tensor.load(), dtype=np.float32)
        for name, tensor in found.tensors.items()
        if name.startswith((_PREFIX, HEAD))
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", _config(found.config.text, bundle))
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    lengths = {
        one.task: bundle.size.image_tokens
        + len(tokenizer.prompt_ids(prompt_for(one.task, one.text, None, (1, 1)).wording))
        for one in workloads
    }
    generation = bundle.generation
    _write(
        folder / _REQUEST,
        {
            "source_lengths": lengths,
            "vocab_size": bundle.size.vocab_size,
            "no_repeat_ngram_size": generation.no_repeat_ngram_size,
            "length_penalty": generation.length_penalty,
            "early_stopping": generation.early_stopping,
        },
    )


def _config(text: TextConfig, bundle: Bundle) -> dict[str, object]:
    generation = bundle.generation
    return {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "is_encoder_decoder": True,
        "vocab_size": text.vocab_size,
        "d_model": text.d_model,
        "encoder_layers": text.encoder_layers,
        "decoder_layers": text.decoder_layers,
        "encoder_attention_heads": text.encoder_heads,
        "decoder_attention_heads": text.decoder_heads,
        "encoder_ffn_dim": text.encoder_ffn,
        "decoder_ffn_dim": text.decoder_ffn,
        "max_position_embeddings": text.positions,
        "activation_function": text.activation,
        "scale_embedding": text.scale_embedding,
        "tie_word_embeddings": True,
        "decoder_start_token_id": generation.decoder_start_token_id,
        "bos_token_id": generation.bos_token_id,
        "eos_token_id": list(generation.eos_token_id),
        "pad_token_id": generation.pad_token_id,
        "forced_bos_token_id": generation.forced_bos_token_id,
        "forced_eos_token_id": generation.forced_eos_token_id,
    }


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
