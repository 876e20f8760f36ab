"""A decoder without a model: what comes next is a function of what came before.

A script may give logits instead of log-probabilities: a `Scripted(..., logits=True)` normalizes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from florence_edge.options import GenerationConfig
from florence_edge.search import Float32s, Hypothesis, Ints, Scores, Search, open_search

Past = tuple[int, ...]
Script = Callable[[Past], npt.ArrayLike]  # tokens so far -> log-probabilities of the next one

START, EOS = 2, 2

DEFAULTS = GenerationConfig(
    num_beams=1,
    max_new_tokens=8,
    min_new_tokens=0,
    no_repeat_ngram_size=0,
    repetition_penalty=1.0,
    length_penalty=1.0,
    early_stopping=False,
    forced_bos_token_id=-1,
    forced_eos_token_id=-1,
    suppress_tokens=(),
    begin_suppress_tokens=(),
    bad_words_ids=(),
    decoder_start_token_id=START,
    bos_token_id=0,
    eos_token_id=(EOS,),
    pad_token_id=1,
)


class Scripted:
    """Follows each row's past through the parents it is given, and scores by an image's script."""

    def __init__(
        self, scripts: Sequence[Script], *, top_k: int | None = None, logits: bool = False
    ) -> None:
        self.parents: list[list[list[int]]] = []
        self.full_reads = 0
        self._scripts = scripts
        self._top_k = top_k
        self._logits = logits
        self._pasts: list[list[Past]] = []

    def step(self, tokens: Ints, parents: Ints) -> list[Scores]:
        before = self._pasts or [[()] * tokens.shape[1] for _ in self._scripts]
        self.parents.append(parents.tolist())
        self._pasts = [
            [(*rows[parent], int(token)) for token, parent in zip(*image, strict=True)]
            for rows, *image in zip(before, tokens, parents, strict=True)
        ]
        return [
            self._scores(np.array([script(past) for past in rows], dtype=np.float32))
            for script, rows in zip(self._scripts, self._pasts, strict=True)
        ]

    def _scores(self, scripted: Float32s) -> Scores:
        order = np.argsort(-scripted, axis=1, kind="stable")[:, : self._top_k]
        top = np.take_along_axis(scripted, order, axis=1)
        log_sum_exp = -top[:, 0]  # what is scripted are log-probabilities
        if self._logits:
            log_sum_exp = -np.array([log_softmax(row).max() for row in scripted])

        def logits() -> Float32s:
            self.full_reads += 1
            return scripted

        return Scores(top, order, log_sum_exp, logits)


def search_for(
    script: Script, generation: GenerationConfig, *, top_k: int | None = None
) -> Hypothesis:
    """The answer of one search, driven by hand: no `generate` between."""
    return searched(script, generation, top_k=top_k).best()


def searched(
    script: Script,
    generation: GenerationConfig,
    *,
    top_k: int | None = None,
    logits: bool = False,
) -> Search:
    """A search that is done."""
    decoder, search = Scripted([script], top_k=top_k, logits=logits), open_search(generation)
    rows = search.rows
    (scores,) = decoder.step(np.full((1, rows), START), np.zeros((1, rows), dtype=np.int64))
    while not (step := search.advance(scores)).done:
        (scores,) = decoder.step(step.tokens[None], step.parents[None])
    return search


def random_script(
    seed: int, vocabulary: int, *, scale: float = 1.0, habit: float = 0.0, eos: float = 0.0
) -> Script:
    """Log-probabilities that depend on the whole past; see `random_logits`."""
    logits = random_logits(seed, vocabulary, scale=scale, habit=habit, eos=eos)
    return lambda past: log_softmax(logits(past))


def random_logits(
    seed: int,
    vocabulary: int,
    *,
    scale: float = 1.0,
    habit: float = 0.0,
    eos: float = 0.0,
    shift: float = 0.0,
) -> Script:
    """Logits that depend on the whole past.

    `habit` weighs a part that does not, so that the same tokens come again and again; `eos` raises
    the logit of the end token, `shift` all.
    """
    habits = np.random.default_rng(seed).standard_normal(vocabulary) * habit

    def script(past: Past) -> npt.NDArray[np.float32]:
        news = np.random.default_rng([seed, *past]).standard_normal(vocabulary) * scale
        logits = habits + news + shift
        logits[EOS] += eos
        return logits.astype(np.float32)

    return script


def log_softmax(logits: npt.ArrayLike) -> Float32s:
    shifted = np.asarray(logits, dtype=np.float64) - np.max(logits)
    return (shifted - np.log(np.exp(shifted).sum())).astype(np.float32)
