"""What the notebook's program has to know of a bundle: prompts, pixels' size, and how to generate.

Its environment has nothing of this project, so all of that is written beside the models it makes.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.errors import RequestError
from florence_edge.tasks import prompt_for
from florence_edge.tokenizer import Tokenizer
from florence_edge_export.checkpoint.config import Layout
from florence_edge_export.checkpoint.defaults import read_image_processing
from florence_edge_export.checkpoint.loader import find_checkpoint, read_checkpoint

from ..workload import Workload


def write_request(
    checkpoint: str, bundle_folder: Path, workloads: Sequence[Workload], folder: Path
) -> None:
    """Write request.json into `folder`, which is made if need be.

    Raises:
        BundleError: checkpoint or bundle cannot be read.
        RequestError: transformers does not read the checkpoint by itself.
    """
    place = find_checkpoint(checkpoint)
    if read_checkpoint(place).config.layout is not Layout.NATIVE:
        raise RequestError(
            f"{place} is in Microsoft's layout, which transformers reads with code from the hub "
            "alone. openvino-notebook needs a checkpoint in transformers' own layout."
        )
    bundle, image = Bundle.load(bundle_folder), read_image_processing(place)
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    generation = bundle.generation
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "checkpoint": str(place),
        "image_size": bundle.size.image_size,
        "mean": list(image.mean),
        "std": list(image.std),
        "prompts": {
            one.task: tokenizer.prompt_ids(prompt_for(one.task, one.text, None, (1, 1)).wording)
            for one in workloads
        },
        "generation": {
            "no_repeat_ngram_size": generation.no_repeat_ngram_size,
            "length_penalty": generation.length_penalty,
            "early_stopping": generation.early_stopping,
            "forced_bos_token_id": _given(generation.forced_bos_token_id),
            "forced_eos_token_id": _given(generation.forced_eos_token_id),
            "decoder_start_token_id": generation.decoder_start_token_id,
            "bos_token_id": generation.bos_token_id,
            "eos_token_id": list(generation.eos_token_id),
            "pad_token_id": generation.pad_token_id,
        },
    }
    (folder / "request.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _given(token: int | None) -> int | None:
    return None if token is None or token < 0 else token
