"""How transformers can be run: names of the variants, without importing torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """How transformers is run; float32 is run with its default attention."""

    dtype: str
    compiled: bool = False


VARIANTS = {
    "transformers": Variant("float32"),
    "transformers-bf16": Variant("bfloat16"),
    "transformers-fp16": Variant("float16"),
    "transformers-compile": Variant("float32", compiled=True),
    "transformers-bf16-compile": Variant("bfloat16", compiled=True),
    "transformers-fp16-compile": Variant("float16", compiled=True),
}

# Who read the checkpoint's files.
FROM_PRETRAINED = "its own from_pretrained"
OUR_READER = "florence-export's reader of checkpoints"
