"""transformers' Florence-2 as the reference: its modules fed with this checkpoint's tensors.

Needs torch and transformers (extra `verify`). Arrays go in and come out as numpy.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge import contract
from florence_edge.errors import BundleError, MissingPackageError
from florence_edge.options import GenerationConfig

from ..checkpoint.config import CheckpointConfig, Layout
from ..checkpoint.loader import Checkpoint


class Reference:
    """The original model in float32; features and hidden states are numpy arrays.

    Raises:
        BundleError: the checkpoint lacks a tensor, or transformers' class does not have its kind of
            features.
        MissingPackageError: torch or transformers is not installed.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        check_installed()
        import torch
        import transformers

        self._torch = torch
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
        config = transformers.Florence2Config(**_transformers_config(checkpoint.config))
        with torch.device("meta"):
            model = transformers.Florence2ForConditionalGeneration(config)
        model.to_empty(device="cpu")
        _load(torch, model, checkpoint)
        self._model = model.eval()
        self._language = model.model.language_model

    @property
    def model(self) -> Any:
        """transformers' own object, in evaluation mode: what benchmarks compare with."""
        return self._model

    def image_features(self, pixel_values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[B, 3, S, S] normalized -> [B, image tokens, d_model]."""
        with self._torch.inference_mode():
            output = self._model.get_image_features(self._torch.from_numpy(pixel_values))
            return np.asarray(output.pooler_output.numpy())

    def encode(self, features: npt.NDArray[Any], input_ids: Sequence[int]) -> npt.NDArray[Any]:
        """Features [1, image tokens, D] and a prompt -> the text encoder's output [1, E, D]."""
        torch = self._torch
        with torch.inference_mode():
            words = self._language.get_input_embeddings()(torch.tensor([list(input_ids)]))
            joined = torch.cat([torch.from_numpy(features), words], dim=1)
            return np.asarray(self._language.encoder(inputs_embeds=joined).last_hidden_state)

    def cross_caches(self, hidden: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Keys and values of every decoder layer's cross-attention, named as the contract does."""
        caches = {}
        with self._torch.inference_mode():
            for i, layer in enumerate(self._language.decoder.layers):
                attention = layer.encoder_attn
                projections = (attention.k_proj, attention.v_proj)
                for part, project in zip(contract.PARTS, projections, strict=True):
                    states = project(self._torch.from_numpy(hidden))
                    shape = (*states.shape[:2], attention.num_heads, attention.head_dim)
                    caches[contract.cross_cache(i, part)] = np.asarray(
                        states.view(shape).transpose(1, 2)
                    )
        return caches

    def log_probs(self, hidden: npt.NDArray[Any], decoder_ids: Sequence[int]) -> npt.NDArray[Any]:
        """Log-probabilities [L, vocab] after each of the L tokens, teacher-forced."""
        torch = self._torch
        with torch.inference_mode():
            output = self._language.decoder(
                input_ids=torch.tensor([list(decoder_ids)]),
                encoder_hidden_states=torch.from_numpy(hidden),
                use_cache=False,
            )
            logits = self._model.lm_head(output.last_hidden_state[0])
            return np.asarray(torch.log_softmax(logits, dim=-1))

    def generate(self, hidden: npt.NDArray[Any], generation: GenerationConfig) -> list[int]:
        """Token ids that transformers' `generate` gives, from the start token on."""
        from transformers.modeling_outputs import BaseModelOutput

        torch = self._torch
        with torch.inference_mode():
            ids = self._model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=torch.from_numpy(hidden)),
                attention_mask=torch.ones(hidden.shape[:2], dtype=torch.long),
                generation_config=generation_config(generation),
            )
        return [int(token) for token in ids[0]]


def check_installed() -> None:
    """Refuse to begin what torch or transformers are missing for.

    Raises:
        MissingPackageError: naming the package and the extra that brings it.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingPackageError(
                f"--verify compares with transformers, but {package} is not installed. "
                "Install florence-edge[verify]."
            )


def _transformers_config(config: CheckpointConfig) -> Mapping[str, Any]:
    """Our reading of config.json in the names of transformers' native classes."""
    vision, text = config.vision, config.text
    sources = ("spatial_avg_pool", "temporal_avg_pool")
    if config.layout is Layout.MICROSOFT and vision.feature_sources != sources:
        raise BundleError(
            f"transformers' class knows only the features {sources}, this checkpoint uses "
            f"{vision.feature_sources}: it can be exported, but not verified."
        )
    return {
        "vision_config": {
            "in_channels": vision.in_channels,
            "embed_dim": vision.dims,
            "depths": vision.depths,
            "num_heads": vision.heads,
            "num_groups": vision.groups,
            "patch_size": vision.patch_sizes,
            "patch_stride": vision.patch_strides,
            "patch_padding": vision.patch_paddings,
            "patch_prenorm": vision.patch_prenorms,
            "window_size": vision.window_size,
            "mlp_ratio": vision.mlp_ratio,
            "qkv_bias": vision.qkv_bias,
            "activation_function": vision.activation,
            "projection_dim": vision.projection_dim,
            "max_position_embeddings": vision.position_embeddings,
            "max_temporal_embeddings": vision.temporal_embeddings,
        },
        "text_config": {
            "model_type": "bart",
            "vocab_size": text.vocab_size,
            "d_model": text.d_model,
            "encoder_layers": text.encoder_layers,
            "encoder_attention_heads": text.encoder_heads,
            "encoder_ffn_dim": text.encoder_ffn,
            "decoder_layers": text.decoder_layers,
            "decoder_attention_heads": text.decoder_heads,
            "decoder_ffn_dim": text.decoder_ffn,
            "max_position_embeddings": text.positions,
            "activation_function": text.activation,
            "scale_embedding": text.scale_embedding,
        },
    }


def _load(torch: Any, model: Any, checkpoint: Checkpoint) -> None:
    """Fill every parameter of `model`; what the native class has no place for is put beside."""
    tensors = checkpoint.tensors
    embedding = "language_model.shared.weight"
    tied = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    state = {}
    for name in model.state_dict():
        plain = name.removeprefix("model.")
        source = embedding if plain.endswith(tied) else plain
        if source not in tensors and "visual_temporal_embed" in plain:
            state[name] = _temporal_table(torch, model)
            continue
        if source not in tensors:
            raise BundleError(f"The checkpoint has no tensor {source}. Is it complete?")
        state[name] = torch.from_numpy(np.array(tensors[source].load()))
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    bias = tensors.get("final_logits_bias")
    if bias is not None:
        values = torch.from_numpy(np.array(bias.load()).reshape(-1))
        model.lm_head.bias = torch.nn.Parameter(values)


def _temporal_table(torch: Any, model: Any) -> Any:
    embed = model.model.multi_modal_projector.visual_temporal_embed
    sine, cosine = embed.get_sinusoid_embeddings(embed.max_seq_len, embed.embed_dim)
    return torch.stack([sine, cosine], dim=-1).flatten(1)


def generation_config(generation: GenerationConfig) -> Any:
    """transformers' `GenerationConfig` with the same settings."""
    import transformers

    forced = {
        "forced_bos_token_id": generation.forced_bos_token_id,
        "forced_eos_token_id": generation.forced_eos_token_id,
    }
    return transformers.GenerationConfig(
        num_beams=generation.num_beams,
        max_new_tokens=generation.max_new_tokens,
        no_repeat_ngram_size=generation.no_repeat_ngram_size,
        length_penalty=generation.length_penalty,
        early_stopping=generation.early_stopping if generation.num_beams > 1 else False,
        decoder_start_token_id=generation.decoder_start_token_id,
        bos_token_id=generation.bos_token_id,
        eos_token_id=generation.eos_token_id,
        pad_token_id=generation.pad_token_id,
        do_sample=False,
        **{name: token for name, token in forced.items() if token >= 0},
    )
