"""transformers' own search on scripted scores, and settings to compare both searches by."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from florence_edge.options import GenerationConfig
from florence_edge.search import BeamSearch, Search

from .scripted import DEFAULTS, EOS, START, Script

Kept = list[tuple[tuple[int, ...], float | None]]
"""Every answer that a search kept, best first, with its score where there are beams."""
Answers = Callable[[Script, GenerationConfig, int], Kept]
"""What a script is answered with under such settings, over so many tokens."""


def answers_of_transformers(stopping: Sequence[Any] = ()) -> Answers:
    """transformers' `generate`, with stopping criteria of its kind; skips where it is absent."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    scripted_model = _scripted_model()

    def answer(script: Script, generation: GenerationConfig, vocabulary: int) -> Kept:
        start = torch.tensor([[START]])
        output = (
            scripted_model(script, vocabulary)
            .eval()
            .generate(
                start,
                attention_mask=torch.ones_like(start),
                generation_config=_as_transformers_writes_it(generation),
                stopping_criteria=list(stopping),
            )
        )
        if generation.num_beams == 1:
            return [(tuple(output.sequences[0].tolist()), None)]
        lengths = 1 + (output.beam_indices >= 0).sum(dim=1)
        rows = zip(output.sequences, lengths, output.sequences_scores, strict=True)
        return [(tuple(row[:length].tolist()), float(score)) for row, length, score in rows]

    return answer


def _scripted_model() -> Any:
    """A model of transformers' whose scores are a script's."""
    import torch
    from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class ScriptedModel(PreTrainedModel, GenerationMixin):
        config_class = PreTrainedConfig
        main_input_name = "input_ids"

        def __init__(self, script: Script, vocabulary: int) -> None:
            super().__init__(PreTrainedConfig(vocab_size=vocabulary))
            self.anchor = torch.nn.Parameter(torch.zeros(1))  # tells the device
            self.script = script

        def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> dict[str, Any]:
            return {"input_ids": input_ids}

        def forward(
            self, input_ids: Any, attention_mask: Any = None, **kwargs: Any
        ) -> CausalLMOutput:
            rows = [self.script(tuple(row)) for row in input_ids.tolist()]
            return CausalLMOutput(logits=torch.tensor(np.array(rows))[:, None])

    return ScriptedModel


def _as_transformers_writes_it(generation: GenerationConfig) -> Any:
    """The same settings; what is not set is left out, as `generate` warns of what it ignores."""
    import transformers

    forced = {
        "forced_bos_token_id": generation.forced_bos_token_id,
        "forced_eos_token_id": generation.forced_eos_token_id,
    }
    tokens = {
        "suppress_tokens": list(generation.suppress_tokens),
        "begin_suppress_tokens": list(generation.begin_suppress_tokens),
        "bad_words_ids": [list(word) for word in generation.bad_words_ids],
    }
    config = transformers.GenerationConfig(
        num_beams=generation.num_beams,
        max_new_tokens=generation.max_new_tokens,
        min_new_tokens=generation.min_new_tokens,
        no_repeat_ngram_size=generation.no_repeat_ngram_size,
        repetition_penalty=generation.repetition_penalty,
        bos_token_id=generation.bos_token_id,
        eos_token_id=list(generation.eos_token_id),
        pad_token_id=generation.pad_token_id,
        do_sample=False,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
        **{name: token for name, token in forced.items() if token >= 0},
        **{name: ids for name, ids in tokens.items() if ids},
    )
    if generation.num_beams > 1:
        config.length_penalty = generation.length_penalty
        config.early_stopping = generation.early_stopping
        config.num_return_sequences = generation.num_beams
    return config


def drawn_generations(count: int) -> Iterator[tuple[int, GenerationConfig]]:
    """Settings spread over all that matters, the same in every run."""
    choices: dict[str, list[Any]] = {
        "num_beams": [1, 2, 3, 4, 5, 6, 7, 8],
        "max_new_tokens": [1, 2, 3, 5, 9, 16],
        "no_repeat_ngram_size": [0, 1, 2, 3],
        "length_penalty": [0.0, 0.5, 1.0, 2.0, -1.0],
        "early_stopping": [True, False, "never"],
        "forced_bos_token_id": [-1, 0],
        "forced_eos_token_id": [-1, EOS],
    }
    rng = np.random.default_rng(0)
    for seed in range(count):
        drawn = {name: values[rng.integers(len(values))] for name, values in choices.items()}
        yield seed, replace(DEFAULTS, **drawn)


def assert_kept_alike(search: Search, expected: Kept, rel: float | None = None) -> None:
    """All that a search kept and not the best alone: much more that could differ.

    Scores are compared where `rel` says how closely. Beams that transformers gave up do not count.
    """
    kept = search._finished if isinstance(search, BeamSearch) else [search.best()]
    alive = sum(score is None or score > -1e8 for _, score in expected)
    assert [each.token_ids for each in kept[:alive]] == [ids for ids, _ in expected[:alive]]
    assert alive > 0
    if isinstance(search, BeamSearch) and rel is not None:
        for ours, (_, theirs) in zip(kept[:alive], expected, strict=False):
            assert ours.score == pytest.approx(theirs, rel=rel)
