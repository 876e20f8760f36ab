"""The miniature: its size and starting weights, its tokenizer, and its checkpoint's folder.

The tokenizer is byte-level BPE with Florence-2's tokens in Florence-2's order; the folder is one
that transformers loads, with float16 weights.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from florence_edge.tokenizer import FLORENCE_TOKENS

from ..scenes import Scene, ask_everything, generate_scenes

IMAGE_SIZE = 128
# The last stage keeps its resolution: 4 x 4 tokens would be too coarse for words.
IMAGE_TOKENS_A_SIDE = 8
IMAGE_TOKEN = "<image>"
_D_MODEL = 128
_LOCATIONS = 1000
_BART_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
_MAX_BPE_TOKENS = 2000  # a bound only: merging ends when every word of the scenes is one token
_SCENES_READ = 4000

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


def build_config(vocab_size: int, image_token_id: int) -> Florence2Config:
    """The native configuration of the miniature."""
    return Florence2Config(
        vision_config={
            "depths": [1, 1, 2, 1],
            "embed_dim": [48, 96, 160, 256],
            "num_heads": [3, 6, 5, 8],
            "num_groups": [3, 6, 5, 8],
            "patch_size": [7, 3, 3, 3],
            "patch_stride": [4, 2, 2, 1],
            "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True],
            "window_size": IMAGE_TOKENS_A_SIDE,
            "projection_dim": _D_MODEL,
            "drop_path_rate": 0.0,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": vocab_size,
            "d_model": _D_MODEL,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 4 * _D_MODEL,
            "decoder_ffn_dim": 4 * _D_MODEL,
            "max_position_embeddings": 256,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        image_token_id=image_token_id,
    )


def build_model(
    config: Florence2Config, first_location_id: int
) -> Florence2ForConditionalGeneration:
    """A model to start training from.

    BART's 0.02 is far too small at this width: the model would stay on a plateau where answers
    ignore the picture. Linears get Xavier's range instead and embeddings a norm of 1.
    """
    model = Florence2ForConditionalGeneration(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.embedding_dim))
    _order_locations(model, first_location_id)
    # Features leave the vision tower without a norm, some units large. Positions as small as
    # other embeddings would drown in them, and the model could name things but not place them.
    position = model.model.multi_modal_projector.image_position_embed
    for embedding in (position.row_embeddings, position.column_embeddings):
        nn.init.normal_(embedding.weight, std=2.0)
    return model


@torch.no_grad()
def _order_locations(model: Florence2ForConditionalGeneration, first_location_id: int) -> None:
    """Let location tokens start as points on a smooth curve: neighbours are alike."""
    embeddings = model.get_input_embeddings().weight
    width = embeddings.shape[1]
    position = torch.arange(_LOCATIONS)[:, None] / _LOCATIONS
    frequency = torch.logspace(0, 5, width // 2, base=2.0)[None, :]
    phase = position * frequency * math.pi
    curve = torch.cat([phase.sin(), phase.cos()], dim=1) * math.sqrt(2 / width)
    mixing = torch.linalg.qr(torch.randn(width, width)).Q  # no channel is a location's alone
    embeddings[first_location_id : first_location_id + _LOCATIONS] = curve @ mixing


def build_tokenizer(first_seed: int) -> Tokenizer:
    """Train the tokenizer on questions and answers about generated scenes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_BPE_TOKENS,
        min_frequency=2,
        special_tokens=_BART_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(generate_scenes(first_seed, _SCENES_READ)), trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=True, special=True)])
    added = [*FLORENCE_TOKENS, IMAGE_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return tokenizer


def _texts(scenes: Iterable[Scene]) -> Iterator[str]:
    """All texts about scenes, without location tokens and marks, which no merge may span."""
    for scene in scenes:
        for question in ask_everything(scene):
            for text in (question.prompt, question.answer):
                yield from (part.split(">")[-1] for part in text.split("<"))


def write_checkpoint(
    model: Florence2ForConditionalGeneration, tokenizer: Tokenizer, folder: Path
) -> None:
    """Write everything that `from_pretrained` of the model and of Florence2Processor reads."""
    folder.mkdir(parents=True, exist_ok=True)
    half = Florence2ForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(**_GENERATION)
    half.to(torch.float16).save_pretrained(folder)
    _write_tokenizer(tokenizer, folder)
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


def _write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and the tokenizer_config.json that transformers reads."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_prefix_space": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "cls_token": "<s>",
        "eos_token": "</s>",
        "errors": "replace",
        "extra_special_tokens": list(FLORENCE_TOKENS),
        "image_token": IMAGE_TOKEN,
        "mask_token": "<mask>",
        "model_max_length": 1024,
        "model_specific_special_tokens": {"image_token": IMAGE_TOKEN},
        "pad_token": "<pad>",
        "processor_class": "Florence2Processor",
        "sep_token": "</s>",
        "tokenizer_class": "RobertaTokenizer",
        "trim_offsets": True,
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
