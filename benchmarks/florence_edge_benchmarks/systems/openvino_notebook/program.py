"""Run by the interpreter of the notebook's environment, which has nothing of florence-edge.

`python program.py SYSTEM MEMORY`: converts a checkpoint as OpenVINO's notebook of Florence-2 does,
into an image encoder, an embedding, a text encoder and a decoder that keeps its self-attention
caches as state and picks their rows by `beam_idx`, with 8-bit weights by NNCF. transformers'
`generate` drives them. As in the notebook, the decoder computes keys and values of the encoder's
output at every step. It answers as `speed/worker.py` does. MEMORY is the path of
`florence_edge_jetson/machine/system.py`.
"""

import json
import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

_PACKAGES = ("openvino", "nncf", "transformers", "torch")
_IMAGE, _EMBEDDING, _ENCODER, _DECODER = "image", "embedding", "encoder", "decoder"


def load_module(path: str) -> Any:
    """A module loaded by its path, since its package cannot be imported here."""
    name = Path(path).stem
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    SourceFileLoader(name, path).exec_module(module)
    return module


class ImageEncoder(torch.nn.Module):  # type: ignore[misc] # torch is Any to mypy
    """Pixels [B, 3, S, S] float32 to image features [B, tokens, d_model]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Any) -> Any:
        return self.model.get_image_features(pixels).pooler_output


class TextEncoder(torch.nn.Module):  # type: ignore[misc]
    """Embeddings [B, T, d_model] to hidden states [B, T, d_model]; nothing is padded."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, embeddings: Any) -> Any:
        return self.encoder(inputs_embeds=embeddings).last_hidden_state


class Decoder(torch.nn.Module):  # type: ignore[misc]
    """One token [B, 1] to logits [B, 1, vocab] and the caches that grew, from transformers' layers.

    A cache is [B, heads, past, head_dim]; rows are picked by `beam_idx` [B] before they are used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head = model.model.language_model.decoder, model.lm_head

    def forward(self, token: Any, encoded: Any, beam_idx: Any, *caches: Any) -> tuple[Any, ...]:
        past = caches[0].shape[2]
        place = torch.arange(1) + past
        positions = self.decoder.embed_positions.weight[place + self.decoder.embed_positions.offset]
        hidden = self.decoder.embed_tokens(token) + positions[None]
        hidden = self.decoder.layernorm_embedding(hidden)
        grown: list[Any] = []
        for layer, i in zip(self.decoder.layers, range(0, len(caches), 2), strict=True):
            own = layer.self_attn
            keys = torch.cat(
                [caches[i].index_select(0, beam_idx), _heads(own, own.k_proj, hidden)], 2
            )
            values = torch.cat(
                [caches[i + 1].index_select(0, beam_idx), _heads(own, own.v_proj, hidden)], 2
            )
            grown += [keys, values]
            hidden = layer.self_attn_layer_norm(hidden + _attend(own, hidden, keys, values))
            cross = layer.encoder_attn
            keys, values = (
                _heads(cross, cross.k_proj, encoded),
                _heads(cross, cross.v_proj, encoded),
            )
            attended = _attend(cross, hidden, keys, values)
            hidden = layer.encoder_attn_layer_norm(hidden + attended)
            wide = layer.fc2(layer.activation_fn(layer.fc1(hidden)))
            hidden = layer.final_layer_norm(hidden + wide)
        return (self.head(hidden), *grown)


def _heads(attention: Any, linear: Any, hidden: Any) -> Any:
    split = linear(hidden).view(hidden.shape[0], -1, attention.num_heads, attention.head_dim)
    return split.transpose(1, 2)


def _attend(attention: Any, hidden: Any, keys: Any, values: Any) -> Any:
    queries = _heads(attention, attention.q_proj, hidden)
    found = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    joined = found.transpose(1, 2).reshape(hidden.shape[0], -1, hidden.shape[2])
    return attention.out_proj(joined)


def _openvino() -> Any:
    return import_module("openvino")


def convert(model: Any, folder: Path, image_size: int) -> None:
    """Write the four models with 8-bit weights; those that are there are left."""
    openvino = _openvino()
    compress = import_module("nncf").compress_weights
    text = model.config.text_config
    head_dim = text.d_model // text.decoder_attention_heads
    caches = [torch.zeros(2, text.decoder_attention_heads, 3, head_dim)] * 2 * text.decoder_layers
    tokens, rows = torch.ones([2, 1], dtype=torch.long), torch.arange(2)
    words, pixels = torch.zeros(2, 9, text.d_model), torch.zeros(1, 3, image_size, image_size)
    parts: dict[str, tuple[Any, tuple[Any, ...]]] = {
        _IMAGE: (ImageEncoder(model), (pixels,)),
        _EMBEDDING: (model.get_input_embeddings(), (torch.ones([2, 2], dtype=torch.long),)),
        _ENCODER: (TextEncoder(model.model.language_model.encoder), (words,)),
        _DECODER: (Decoder(model), (tokens, words, rows, *caches)),
    }
    for name, (part, example) in parts.items():
        path = folder / f"{name}.xml"
        if path.exists():
            continue
        with torch.no_grad():
            converted = openvino.convert_model(part, example_input=example)
        if name == _DECODER:
            _make_stateful(converted, [cache.shape for cache in caches])
        openvino.save_model(compress(converted), path)


def _make_stateful(model: Any, shapes: list[Any]) -> None:
    """Turn the caches, inputs behind the first three and outputs behind the first, into state."""
    names = {}
    for value, name in zip(model.inputs[:3], ("token", "encoded", "beam_idx"), strict=True):
        value.get_tensor().set_names({name})
    model.outputs[0].get_tensor().set_names({"logits"})
    for i, (before, after) in enumerate(zip(model.inputs[3:], model.outputs[1:], strict=True)):
        before.get_tensor().set_names({f"past.{i}"})
        after.get_tensor().set_names({f"present.{i}"})
        names[f"past.{i}"] = f"present.{i}"
        before.get_node().set_partial_shape(
            _openvino().PartialShape([-1, shapes[i][1], -1, shapes[i][3]])
        )
    model.validate_nodes_and_infer_types()
    transform = import_module("openvino._offline_transformations")
    transform.apply_make_stateful_transformation(model, names)


def state_cache(decoder: Any) -> Any:
    """A cache for transformers' `generate` that lies in the decoder's state."""
    base = import_module("transformers.cache_utils").EncoderDecoderCache
    dynamic = import_module("transformers.cache_utils").DynamicCache

    class StateCache(base):  # type: ignore[misc,valid-type]
        """Its length, and which rows come next; the values are OpenVINO's."""

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return int(decoder.length)

        def reorder_cache(self, beam_idx: Any) -> None:
            decoder.rows = beam_idx.numpy()

    return StateCache(dynamic(), dynamic())


class OpenVinoDecoder(torch.nn.Module):  # type: ignore[misc]
    """In the place of transformers' decoder; the head behind it is the identity."""

    def __init__(self, compiled: Any, heads: int, head_dim: int) -> None:
        super().__init__()
        self.request = compiled.create_infer_request()
        self.shape = (heads, head_dim)
        self.calls: list[tuple[float, float]] = []
        self.length, self.rows = 0, np.arange(1)

    def start(self, rows: int) -> None:
        """Empty caches for so many rows."""
        heads, head_dim = self.shape
        for state in self.request.query_state():
            state.state = _openvino().Tensor(np.zeros((rows, heads, 0, head_dim), np.float32))
        self.length, self.rows = 0, np.arange(rows)
        self.calls.clear()

    def forward(
        self, input_ids: Any, encoder_hidden_states: Any, cache: Any = None, **_: Any
    ) -> Any:
        begin = perf_counter()
        inputs = {
            "token": input_ids.numpy(),
            "encoded": encoder_hidden_states.numpy(),
            "beam_idx": self.rows.astype(np.int64),
        }
        self.request.infer(inputs, share_inputs=True)
        logits = torch.from_numpy(self.request.get_tensor("logits").data.copy())
        self.length += input_ids.shape[1]
        self.calls.append((begin, perf_counter()))
        outputs = import_module("transformers.modeling_outputs")
        return outputs.BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=logits, cache=cache
        )


class Notebook:
    """The converted models, and transformers' model for its `generate` alone."""

    def __init__(self, system: dict[str, Any]) -> None:
        folder = Path(system["checkpoint"])
        self.request = json.loads((folder / "request.json").read_text())
        torch.set_num_threads(system["threads"])
        florence = import_module("transformers").Florence2ForConditionalGeneration
        model = florence.from_pretrained(self.request["checkpoint"], local_files_only=True).eval()
        models = folder / "models"
        models.mkdir(exist_ok=True)
        convert(model, models, self.request["image_size"])
        core = _openvino().Core()
        settings = {"INFERENCE_NUM_THREADS": system["threads"]}
        self.compiled = {
            name: core.compile_model(models / f"{name}.xml", "CPU", settings)
            for name in (_IMAGE, _EMBEDDING, _ENCODER, _DECODER)
        }
        text = model.config.text_config
        heads = text.decoder_attention_heads
        self.decoder = OpenVinoDecoder(self.compiled[_DECODER], heads, text.d_model // heads)
        model.model.language_model.decoder = self.decoder
        model.lm_head = torch.nn.Identity()
        model.model.vision_tower = torch.nn.Identity()  # their weights are of no use any more
        model.model.language_model.encoder.layers = torch.nn.ModuleList()
        self.model = model

    def answer(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Picture file to token ids."""
        begin = perf_counter()
        pictures = [_read(workload["image"]) for _ in range(workload["batch"])]
        decoded = perf_counter()
        pixels = np.concatenate([self._pixels(picture) for picture in pictures])
        resized = perf_counter()
        features = self.compiled[_IMAGE](pixels)[0]
        seen = perf_counter()
        ids = np.array([self.request["prompts"][workload["task"]]] * len(pictures))
        words = self.compiled[_EMBEDDING](ids)[0]
        hidden = self.compiled[_ENCODER](np.concatenate([features, words], axis=1))[0].copy()
        encoded = perf_counter()
        self.decoder.start(len(pictures) * workload["beams"])
        found = self._generate(torch.from_numpy(hidden), workload)
        generated = perf_counter()
        answers = found.tolist()
        end = perf_counter()
        steps = [stop - start for start, stop in self.decoder.calls]
        stages = {
            "decode image": decoded - begin,
            "resize": resized - decoded,
            "vision": seen - resized,
            "text encoder": encoded - seen,
            "decoder": sum(steps),
            "search": generated - encoded - sum(steps),
            "post-process": end - generated,
        }
        return {
            "seconds": end - begin,
            "stages": stages,
            "steps": steps,
            "token_ids": answers,
            "host": None,
        }

    def _pixels(self, picture: Any) -> Any:
        side = self.request["image_size"]
        small = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        values = (small / 255 - self.request["mean"]) / self.request["std"]
        return values.transpose(2, 0, 1)[None].astype(np.float32)

    def _generate(self, hidden: Any, workload: dict[str, Any]) -> Any:
        wanted, beams = self.request["generation"], workload["beams"]
        config = import_module("transformers").GenerationConfig(
            **{**wanted, "early_stopping": wanted["early_stopping"] if beams > 1 else False},
            num_beams=beams,
            max_new_tokens=workload["new_tokens"] or 1024,
            min_new_tokens=workload["new_tokens"],
            do_sample=False,
        )
        outputs = import_module("transformers.modeling_outputs")
        with torch.inference_mode():
            return self.model.generate(
                encoder_outputs=outputs.BaseModelOutput(last_hidden_state=hidden),
                attention_mask=torch.ones(hidden.shape[:2], dtype=torch.long),
                cache=state_cache(self.decoder),
                generation_config=config,
            )


def _read(path: str) -> Any:
    with Image.open(path) as opened:
        return opened.convert("RGB")


def main() -> None:
    """Load, then answer one JSON line by another until there are no more."""
    loop = load_module(str(Path(__file__).parents[1] / "peer_loop.py"))
    loop.answer_lines(Notebook, _PACKAGES, load_module(sys.argv[2]))


if __name__ == "__main__":
    main()
