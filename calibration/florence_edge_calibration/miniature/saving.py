"""The miniature as a folder that transformers loads: half weights, tokenizer, processor."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Florence2ForConditionalGeneration, GenerationConfig

from .model import IMAGE_SIZE, IMAGE_TOKENS_A_SIDE
from .tokenizer import write_tokenizer

# What Florence-2 itself decodes with, early stopping as in Microsoft's own text_config.
_GENERATION = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "num_beams": 3,
    "early_stopping": True,
    "no_repeat_ngram_size": 3,
}


def write_checkpoint(
    model: Florence2ForConditionalGeneration, tokenizer: Tokenizer, folder: Path
) -> None:
    """Write everything that `from_pretrained` of the model and of Florence2Processor reads."""
    folder.mkdir(parents=True, exist_ok=True)
    half = Florence2ForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(**_GENERATION)
    half.to(torch.float16).save_pretrained(folder)
    write_tokenizer(tokenizer, folder)
    (folder / "processor_config.json").write_text(json.dumps(_processor(), indent=2) + "\n")


def _processor() -> dict[str, object]:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    kinds = [
        *["pure_text", "ocr", "description_with_bboxes", "description_with_polygons", "polygons"],
        *["bboxes", "phrase_grounding", "description_with_bboxes_or_polygons"],
    ]
    return {
        "image_processor": {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": size,
            "resample": 3,
            "do_center_crop": False,
            "crop_size": size,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "image_seq_length": IMAGE_TOKENS_A_SIDE**2 + 1,
        },
        "num_additional_image_tokens": 0,
        "post_processor_config": {kind: {} for kind in kinds},
        "processor_class": "Florence2Processor",
    }
