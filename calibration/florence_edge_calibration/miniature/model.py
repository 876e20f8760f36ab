"""The miniature's size and its starting weights."""

import math

import torch
from torch import nn
from transformers import Florence2Config, Florence2ForConditionalGeneration

IMAGE_SIZE = 128
IMAGE_TOKENS_A_SIDE = (
    8  # the last stage keeps its resolution: 4 x 4 tokens would be too coarse for words
)
_D_MODEL = 128
_LOCATIONS = 1000


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
    # other embeddings would drown in them, and the model could say what it sees but not where.
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
