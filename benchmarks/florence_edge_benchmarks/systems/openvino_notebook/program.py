"""Run by the interpreter of the notebook's environment, which has nothing of florence-edge.

`python program.py SYSTEM MEMORY`: converts a checkpoint as OpenVINO's notebook of Florence-2 does,
into an image encoder, an embedding, a text encoder and a decoder with state: its self-attention
caches, whose rows `beam_idx` picks, and the keys and values of the encoder's output, which OpenVINO
computes in an answer's first step alone. transformers' `generate` drives them. The notebook
stores float16; the 8-bit weights by NNCF are what this comparison adds. It answers as
`speed/worker.py` does. MEMORY is the path of `florence_edge_jetson/machine/system.py`.
"""

import json
import sys
from collections.abc import Callable
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
_IMAGE, _EMBEDDING, _ENCODER, _DECODER = "image", "embedding", "encoder", "stateful_decoder"


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


class CrossKeysValues(torch.nn.Module):  # type: ignore[misc]
    """Hidden states [B, T, d_model] to each layer's keys and values [B, heads, T, head_dim]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layers = model.model.language_model.decoder.layers

    def forward(self, encoded: Any) -> tuple[Any, ...]:
        found: list[Any] = []
        for attention in (layer.encoder_attn for layer in self.layers):
            found += [
                _heads(attention, attention.k_proj, encoded),
                _heads(attention, attention.v_proj, encoded),
            ]
        return tuple(found)


class Decoder(torch.nn.Module):  # type: ignore[misc]
    """One token [B, 1] to logits [B, 1, vocab] and the caches that grew, from transformers' layers.

    `kept` is what `CrossKeysValues` gives, then as many caches [B, heads, past, head_dim], whose
    rows are picked by `beam_idx` [B] before they are used. Those of the encoder are not: the beams
    of a picture share them.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head = model.model.language_model.decoder, model.lm_head

    def forward(self, token: Any, beam_idx: Any, *kept: Any) -> tuple[Any, ...]:
        crossed, caches = kept[: len(kept) // 2], kept[len(kept) // 2 :]
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
            attended = _attend(layer.encoder_attn, hidden, crossed[i], crossed[i + 1])
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
    words, pixels = torch.zeros(2, 9, text.d_model), torch.zeros(1, 3, image_size, image_size)
    tokens = torch.ones([2, 2], dtype=torch.long)
    parts: dict[str, Callable[[], Any]] = {
        _IMAGE: lambda: openvino.convert_model(ImageEncoder(model), example_input=(pixels,)),
        _EMBEDDING: lambda: openvino.convert_model(
            model.get_input_embeddings(), example_input=(tokens,)
        ),
        _ENCODER: lambda: openvino.convert_model(
            TextEncoder(model.model.language_model.encoder), example_input=(words,)
        ),
        _DECODER: lambda: stateful_decoder(model),
    }
    for name, converted in parts.items():
        path = folder / f"{name}.xml"
        if path.exists():
            continue
        with torch.no_grad():
            openvino.save_model(compress(converted()), path)


def stateful_decoder(model: Any) -> Any:
    """OpenVINO's decoder of `token`, `beam_idx` and `encoded` to `logits`; all else is state.

    After a reset the caches are empty, and `cross.N` is computed from `encoded` in the next step
    and kept. `beam_idx` is int32, by which OpenVINO knows a cache that it can grow in place.
    """
    openvino, text = _openvino(), model.config.text_config
    heads, head_dim = text.decoder_attention_heads, text.d_model // text.decoder_attention_heads
    count = 2 * text.decoder_layers
    token, rows = torch.ones([2, 1], dtype=torch.long), torch.arange(2, dtype=torch.int32)
    # A tensor of its own for each: one that is given twice is one input to torch's trace.
    kept = [torch.zeros(2, heads, length, head_dim) for length in (9, 3) for _ in range(count)]
    decoder = openvino.convert_model(Decoder(model), example_input=(token, rows, *kept))
    cross = openvino.convert_model(
        CrossKeysValues(model), example_input=(torch.zeros(2, 9, text.d_model),)
    )
    (encoded,), inputs, outputs = cross.inputs, decoder.inputs, decoder.outputs
    named = (*inputs[:2], outputs[0], encoded)
    for value, name in zip(named, ("token", "beam_idx", "logits", "encoded"), strict=True):
        value.get_tensor().set_names({name})
    empty = _empty_cache(inputs[0], heads, head_dim)
    for i, (value, grown) in enumerate(zip(inputs[2 + count :], outputs[1:], strict=True)):
        _make_state(decoder, value, f"cache.{i}", empty, becomes=_source(grown))
        decoder.remove_result(grown.get_node())
    for i, (value, computed) in enumerate(zip(inputs[2 : 2 + count], cross.outputs, strict=True)):
        _make_state(decoder, value, f"cross.{i}", _source(computed))
    decoder.add_parameters([encoded.get_node()])
    decoder.validate_nodes_and_infer_types()
    return decoder


def _source(output: Any) -> Any:
    return output.get_node().input_value(0).get_node()


def _empty_cache(token: Any, heads: int, head_dim: int) -> Any:
    """Of as many rows as there are tokens: [B, heads, 0, head_dim]."""
    operators = import_module("openvino.opset13")
    rows = operators.gather(operators.shape_of(token), np.array([0]), np.array(0))
    shape = operators.concat([rows, np.array([heads, 0, head_dim])], 0)
    return operators.broadcast(np.float32(0), shape)


def _make_state(decoder: Any, value: Any, name: str, begins: Any, becomes: Any = None) -> None:
    """Turn an input into state: `begins` after a reset, then what it `becomes`, or as it was."""
    operators, util = import_module("openvino.op"), import_module("openvino.op.util")
    info = util.VariableInfo()
    info.variable_id, info.data_type = name, begins.get_output_element_type(0)
    _, heads, _, head_dim = begins.get_output_partial_shape(0)
    info.data_shape = _openvino().PartialShape([-1, heads, -1, head_dim])
    variable, taken = util.Variable(info), value.get_node()
    state = operators.read_value(begins, variable)
    for reader in taken.output(0).get_target_inputs():
        reader.replace_source_output(state.output(0))
    decoder.remove_parameter(taken)
    decoder.add_sinks([operators.assign(state if becomes is None else becomes, variable)])


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

    def __init__(self, compiled: Any) -> None:
        super().__init__()
        self.request = compiled.create_infer_request()
        self.calls: list[tuple[float, float]] = []
        self.length, self.rows = 0, np.arange(1)

    def start(self, rows: int) -> None:
        """Empty caches for so many rows, and another encoder's output in the step to come."""
        self.request.reset_state()
        self.length, self.rows = 0, np.arange(rows)
        self.calls.clear()

    def forward(
        self, input_ids: Any, encoder_hidden_states: Any, cache: Any = None, **_: Any
    ) -> Any:
        begin = perf_counter()
        inputs = {
            "token": input_ids.numpy(),
            "encoded": encoder_hidden_states.numpy(),
            "beam_idx": self.rows.astype(np.int32),
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
        model = florence.from_pretrained(
            self.request["checkpoint"], dtype=torch.float32, local_files_only=True
        ).eval()  # whatever the checkpoint stores: the parts are traced with float32
        models = folder / "models"
        models.mkdir(exist_ok=True)
        convert(model, models, self.request["image_size"])
        core = _openvino().Core()
        settings = {"INFERENCE_NUM_THREADS": system["threads"]}
        self.compiled = {
            name: core.compile_model(models / f"{name}.xml", "CPU", settings)
            for name in (_IMAGE, _EMBEDDING, _ENCODER, _DECODER)
        }
        self.decoder = OpenVinoDecoder(self.compiled[_DECODER])
        model.model.language_model.decoder = self.decoder
        model.lm_head = torch.nn.Identity()
        model.model.vision_tower = torch.nn.Identity()  # their weights are of no use any more
        model.model.language_model.encoder.layers = torch.nn.ModuleList()
        self.model = model

    def answer(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Picture file to token ids.

        Raises:
            ValueError: of several pictures at once, of which OpenVINO 2026.4's in-place cache
                answered the second wrongly with 3 beams.
        """
        if workload["batch"] > 1:
            raise ValueError("It is asked about one picture at a time.")
        begin = perf_counter()
        pictures = [_read(workload["image"])]
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
