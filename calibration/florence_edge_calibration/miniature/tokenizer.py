"""The miniature's tokenizer: byte-level BPE with Florence-2's tokens in Florence-2's order."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from florence_edge.text import FLORENCE_TOKENS
from florence_edge_calibration.scenes import Scene, ask_everything, generate_scenes

_BART_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
_MOST_BPE_TOKENS = 2000  # a bound only: merging ends when every word of the scenes is one token
IMAGE_TOKEN = "<image>"
_SCENES_READ = 4000


def build_tokenizer(first_seed: int) -> Tokenizer:
    """Train the tokenizer on questions and answers about generated scenes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MOST_BPE_TOKENS,
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


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
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


def _texts(scenes: Iterable[Scene]) -> Iterator[str]:
    """What is said about scenes, without location tokens and marks, which no merge may span."""
    for scene in scenes:
        for question in ask_everything(scene):
            for text in (question.prompt, question.answer):
                yield from (part.split(">")[-1] for part in text.split("<"))
