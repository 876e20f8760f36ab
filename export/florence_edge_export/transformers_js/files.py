"""The JSON files around the graphs, as transformers.js reads them.

`config_json` is the checkpoint's own with what transformers.js cannot do without;
`generation_json`, `preprocessor_json` and the tokenizer's two are made of what was read from the
checkpoint, since either may lie elsewhere in it, or nowhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, processors

from florence_edge.options import GenerationConfig
from florence_edge.tasks import TASKS, Needs

from ..bundle_writer import BundleSource
from .layout import Dtype

# Python's own: where code lies that this folder does not have, and how weights were stored.
_NOT_OURS = ("auto_map", "_name_or_path", "transformers_version", "torch_dtype", "dtype")
_ROLES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def config_json(
    source: BundleSource,
    usual: Mapping[str, Dtype],
    webgpu: Mapping[str, Dtype],
    *,
    external: Sequence[str] = (),
) -> dict[str, Any]:
    """config.json: the checkpoint's, with numbers that are elsewhere assumed, and dtypes.

    Args:
        source: the checkpoint.
        usual: what is loaded of each graph where nobody names a dtype: in Node and as WASM.
        webgpu: the same in browsers with WebGPU.
        external: files whose tensors lie in a file beside, as protobuf ends at 2 GB.
    """
    raw = source.checkpoint.config.raw
    text = source.checkpoint.config.text
    content = {name: value for name, value in raw.items() if name not in _NOT_OURS}
    content["architectures"] = ["Florence2ForConditionalGeneration"]
    content["is_encoder_decoder"] = True
    content["text_config"] = {
        "model_type": "florence2_language",  # Microsoft's name; without one there are no layers
        **raw["text_config"],
        "vocab_size": text.vocab_size,
        "d_model": text.d_model,
        "encoder_layers": text.encoder_layers,
        "encoder_attention_heads": text.encoder_heads,
        "decoder_layers": text.decoder_layers,
        "decoder_attention_heads": text.decoder_heads,
        "max_position_embeddings": text.positions,
    }
    own: dict[str, Any] = {
        "dtype": dict(usual),
        "device_config": {"webgpu": {"dtype": dict(webgpu)}},
    }
    if external:
        own["use_external_data_format"] = dict.fromkeys(external, 1)
    content["transformers.js_config"] = own
    return content


def generation_json(generation: GenerationConfig) -> dict[str, Any]:
    """generation_config.json: the checkpoint's rules, greedy.

    transformers.js has no beam search (more beams are greedy by a slower way), stops after 20
    tokens where no length is stated, and fails where one exceeds the decoder's positions.
    """
    tokens = {
        "decoder_start_token_id": generation.decoder_start_token_id,
        "bos_token_id": generation.bos_token_id,
        "eos_token_id": list(generation.eos_token_id),
        "pad_token_id": generation.pad_token_id,
        "forced_bos_token_id": generation.forced_bos_token_id,
        "forced_eos_token_id": generation.forced_eos_token_id,
    }
    rules = {
        "min_new_tokens": generation.min_new_tokens,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "suppress_tokens": list(generation.suppress_tokens),
        "begin_suppress_tokens": list(generation.begin_suppress_tokens),
        "bad_words_ids": [list(words) for words in generation.bad_words_ids],
    }
    penalty = generation.repetition_penalty
    return {
        "num_beams": 1,
        "max_new_tokens": generation.max_new_tokens,
        **{name: value for name, value in tokens.items() if value != -1},
        **{name: value for name, value in rules.items() if value},
        **({} if penalty == 1.0 else {"repetition_penalty": penalty}),
    }


def preprocessor_json(source: BundleSource) -> dict[str, Any]:
    """preprocessor_config.json, with the tables of tasks that the processor expands prompts by."""
    tasks = (*TASKS.values(), *source.tasks)
    square = {"height": source.size.image_size, "width": source.size.image_size}
    return {
        "processor_class": "Florence2Processor",
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": square,
        "crop_size": square,
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(source.image.mean),
        "image_std": list(source.image.std),
        "do_convert_rgb": True,
        "image_seq_length": source.size.image_tokens,
        "tasks_answer_post_processing_type": {task.token: task.answer.value for task in tasks},
        "task_prompts_without_inputs": {
            task.token: task.template for task in tasks if task.needs is Needs.NOTHING
        },
        "task_prompts_with_input": {
            task.token: task.template for task in tasks if task.needs is not Needs.NOTHING
        },
    }


def tokenizer_json(source: BundleSource) -> str:
    """tokenizer.json, which puts `<s>` before a prompt and `</s>` behind it."""
    tokenizer = Tokenizer.from_str(source.tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    generation = source.defaults.generation
    ends = {"<s>": generation.bos_token_id, "</s>": generation.eos_token_id[0]}
    begin, end = (
        (token, token_id)
        if (token_id := tokenizer.token_to_id(token)) is not None
        else (tokenizer.id_to_token(other), other)
        for token, other in ends.items()
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[begin[0], "$A", end[0]], special_tokens=[begin, end]
    )
    return tokenizer.to_str(pretty=True)


def tokenizer_config_json(source: BundleSource) -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "BartTokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.size.encoder_positions,
        **{
            role: token
            for role, token in _ROLES.items()
            if source.tokenizer.token_to_id(token) is not None
        },
    }
