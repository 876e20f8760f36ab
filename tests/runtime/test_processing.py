from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.errors import RequestError
from florence_edge.processing import encode_prompts
from florence_edge.tasks import free_prompt
from florence_edge.tokenizer import Tokenizer


def test_a_token_that_the_model_does_not_know_is_named(tiny_bundle: Path) -> None:
    """Added to the tokenizer and not to the model: an engine would read past its embedding."""
    bundle = Bundle.load(tiny_bundle)
    tokenizer = Tokenizer(tiny_bundle / TOKENIZER, bundle.generation)
    prompts = [free_prompt("What?"), free_prompt("What is at <loc_500>?")]
    ids, _ = encode_prompts(prompts, tokenizer, bundle.size, pad=1)
    known = replace(bundle.size, vocab_size=int(ids.max()) + 1)
    encode_prompts(prompts, tokenizer, known, pad=1)
    fewer = replace(bundle.size, vocab_size=int(ids.max()))
    with pytest.raises(RequestError, match=rf"'<loc_500>' in the prompt is .* {ids.max()}, but"):
        encode_prompts(prompts, tokenizer, fewer, pad=1)
    encode_prompts(prompts[:1], tokenizer, fewer, pad=1)
