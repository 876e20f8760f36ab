"""transformers' Florence-2 as the reference, loaded from the checkpoint's folder by itself.

The native layout is read by `from_pretrained(folder)`. Microsoft's needs code that transformers
does not bring, and wrapped names are nobody's: there, transformers' own class is given the tensors
of the files, read by safetensors or torch, under its own names. Whether tensors are tied and what
is missing is for transformers to say in both cases; nothing is filled from what the exporter read.

Needs torch and transformers (extra `verify`). Arrays go in and come out as numpy.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge import contract
from florence_edge.command import shortage
from florence_edge.errors import BundleError, FlorenceEdgeError, MissingPackageError
from florence_edge.extras import pip_install
from florence_edge.options import GenerationConfig

from ..checkpoint.config import CheckpointConfig, Layout
from ..checkpoint.loader import BIAS, Checkpoint
from ..checkpoint.names import native_names, unwrapped_names

# What may be missing: the first is computed, the other is not read by `generate`.
_MAY_MISS = {
    "model.multi_modal_projector.visual_temporal_embed.pos_idx_to_embed",
    "model.language_model.encoder.embed_tokens.weight",
}
_TOKENS = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
# BartConfig's, which Microsoft's code generates with where text_config has none.
_BART_TOKENS = {
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "forced_eos_token_id": 2,
}
_WRITTEN_MAX_LENGTH = 20  # transformers 4 wrote this default of its own into every config.json


class Reference:
    """The original model in float32; features and hidden states are numpy arrays.

    Only the folder, the layout and config.json are taken from `checkpoint`.

    Raises:
        BundleError: transformers cannot load it or would leave a tensor to chance, or its class
            does not have the checkpoint's kind of features.
        MissingPackageError: torch or transformers is not installed.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        check_installed()
        import torch
        import transformers

        self._torch = torch
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
        try:
            with _quiet():
                model, info = _load(checkpoint)
        except FlorenceEdgeError:
            raise
        except Exception as error:  # transformers', torch's, and those of strict dataclasses
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            advice = shortage(error) or "It can be exported without --verify."
            raise BundleError(
                f"transformers cannot load {checkpoint.folder}: {reason}. {advice}"
            ) from error
        if missing := sorted(set(info["missing_keys"]) - _MAY_MISS):
            raise BundleError(
                f"transformers fills {', '.join(missing[:3])} ({len(missing)} in all) of "
                f"{checkpoint.folder} with random numbers, so there is nothing to compare with. Is "
                "the checkpoint complete?"
            )
        self._model = model.eval()
        self._language = model.model.language_model
        self._own = _own_generation(model, checkpoint.config)

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

    def own_generation(self, beams: int, most: int) -> Any:
        """transformers' `GenerationConfig` as the checkpoint's files state it.

        Only the number of beams is set, and answers have at most `most` new tokens.
        """
        config = copy.deepcopy(self._own)
        config.num_beams = beams
        if beams == 1:
            config.early_stopping = False  # transformers warns of it
        stated = config.max_new_tokens
        if stated is None and config.max_length not in (None, _WRITTEN_MAX_LENGTH):
            stated = config.max_length - 1  # the start token counts
        config.max_length = None
        config.max_new_tokens = most if stated is None else min(most, stated)
        return config

    def generate(self, hidden: npt.NDArray[Any], config: Any) -> list[int]:
        """Token ids that transformers' `generate` gives, from the start token on.

        Args:
            hidden: what `encode` gave.
            config: transformers' `GenerationConfig` (`own_generation`, `generation_config`).
        """
        from transformers.modeling_outputs import BaseModelOutput

        torch = self._torch
        with torch.inference_mode():
            ids = self._model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=torch.from_numpy(hidden)),
                attention_mask=torch.ones(hidden.shape[:2], dtype=torch.long),
                generation_config=config,
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
                f"Install it with: {pip_install('verify')}"
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and table: what they would tell is asked for here."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _load(checkpoint: Checkpoint) -> tuple[Any, Mapping[str, Any]]:
    """The model, and what transformers says about loading it."""
    import torch
    import transformers

    options = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
    load = transformers.Florence2ForConditionalGeneration.from_pretrained
    native = checkpoint.config.layout is Layout.NATIVE
    if native and not _is_wrapped(checkpoint):
        return load(checkpoint.folder, **options)
    if native:
        config = transformers.Florence2Config.from_pretrained(
            checkpoint.folder, local_files_only=True
        )
    else:
        config = transformers.Florence2Config(**_transformers_config(checkpoint.config))
    state = _state(checkpoint)
    bias = state.pop(BIAS, None)
    model, info = load(None, config=config, state_dict=state, **options)
    if bias is not None and not native:  # Microsoft's code adds it; the native class cannot
        model.lm_head.bias = torch.nn.Parameter(bias.float().reshape(-1))
    if native and (checkpoint.folder / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(
            checkpoint.folder, local_files_only=True
        )
    return model, info


def _is_wrapped(checkpoint: Checkpoint) -> bool:
    """Whether the names are wrapped in something that transformers does not take off."""
    names = _stored_names(checkpoint)
    return any(stored != name for stored, name in unwrapped_names(names, Layout.NATIVE).items())


def _stored_names(checkpoint: Checkpoint) -> list[str]:
    from safetensors import safe_open

    names: list[str] = []
    for path in checkpoint.weight_files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names += file.keys()
        else:
            names += _read_torch(path)
    return names


def _read_torch(path: Any) -> Mapping[str, Any]:
    import torch

    state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The tensors of the files under transformers' names."""
    from safetensors.torch import load_file

    stored: dict[str, Any] = {}
    for path in checkpoint.weight_files:
        stored |= load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    layout = checkpoint.config.layout
    state = {}
    for name, native in native_names(stored, layout).items():
        at_top = native.startswith("lm_head.") or native == BIAS
        state[native if at_top else f"model.{native}"] = stored[name].detach()
    projection = "model.multi_modal_projector.image_projection.weight"
    if layout is Layout.MICROSOFT and projection in state:  # a bare [in, out] matrix
        state[projection] = state[projection].T.contiguous()
    return state


def _own_generation(model: Any, config: CheckpointConfig) -> Any:
    """How the checkpoint's own code generates."""
    import transformers

    if config.layout is Layout.MICROSOFT:  # `generate` of its inner language model
        known = transformers.GenerationConfig().to_dict()
        stated = {
            name: value
            for name, value in config.raw["text_config"].items()
            if name in known and value is not None
        }
        return transformers.GenerationConfig(**{**_BART_TOKENS, **stated})
    own = copy.deepcopy(model.generation_config)
    if own.decoder_start_token_id is None:
        own.decoder_start_token_id = own.bos_token_id  # as `generate` does
    for name in _TOKENS:  # `generate` does not run without
        if getattr(own, name) is None:
            setattr(own, name, getattr(model.config.text_config, name, None))
    return own


def generation_config(generation: GenerationConfig) -> Any:
    """transformers' `GenerationConfig` with the same settings."""
    import transformers

    forced = {
        "forced_bos_token_id": generation.forced_bos_token_id,
        "forced_eos_token_id": generation.forced_eos_token_id,
    }
    tokens = {
        "suppress_tokens": generation.suppress_tokens,
        "begin_suppress_tokens": generation.begin_suppress_tokens,
        "bad_words_ids": [list(word) for word in generation.bad_words_ids],
    }
    return transformers.GenerationConfig(
        num_beams=generation.num_beams,
        max_new_tokens=generation.max_new_tokens,
        min_new_tokens=generation.min_new_tokens,
        no_repeat_ngram_size=generation.no_repeat_ngram_size,
        repetition_penalty=generation.repetition_penalty,
        length_penalty=generation.length_penalty,
        early_stopping=generation.early_stopping if generation.num_beams > 1 else False,
        decoder_start_token_id=generation.decoder_start_token_id,
        bos_token_id=generation.bos_token_id,
        eos_token_id=list(generation.eos_token_id),
        pad_token_id=generation.pad_token_id,
        do_sample=False,
        **{name: token for name, token in forced.items() if token >= 0},
        **{name: list(ids) for name, ids in tokens.items() if ids},
    )
