"""Choosing tokens: greedy and beam search over scores, equal to Hugging Face `generate`.

A search serves one image. It sees scores and answers with the tokens to feed next and the rows
they continue (`parents`); it never sees the model or its cache.

    search = open_search(config)
    while not (step := search.advance(scores)).done:
        scores = decoder.step(step.tokens, step.parents)
    search.best()

`advance` chooses the next token of every row, with `last` the final ones, and why; `best` is the
answer, once a step was `done`. `agreed` is what the answer is certain to begin with.

The rules for what may come next are those of `logits_process`. Hugging Face applies them to logits
in greedy search and to log-probabilities in beam search; the scores of the answer, though, are the
log-probabilities that the model gave.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .logits_process import LogitsProcessors, forced_token
from .options import GenerationConfig

Ints: TypeAlias = npt.NDArray[np.int64]
Float32s: TypeAlias = npt.NDArray[np.float32]

# The score of beams that do not exist yet and of candidates that are out (Hugging Face's value).
_OUT = np.float32(-1e9)


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits of the next token of each row, before any rule is applied.

    The best K of a row come sorted, best first; `logits` fetches those of the whole vocabulary,
    which costs a copy from the device and is rarely needed. `log_sum_exp` is the logarithm of the
    sum of exp(logit - best logit) over the vocabulary, as in a log-softmax that cannot overflow.
    """

    top_logits: Float32s  # [rows, K]
    top_ids: Ints  # [rows, K]
    log_sum_exp: Float32s  # [rows]
    logits: Callable[[], Float32s]  # () -> [rows, vocab]

    @property
    def top_log_probs(self) -> Float32s:
        """Log-probabilities of the best K of each row, [rows, K]."""
        return self.log_probs(self.top_logits)

    def full(self) -> Float32s:
        """Log-probabilities of the whole vocabulary, [rows, vocab]."""
        return self.log_probs(self.logits())

    def log_probs(self, logits: Float32s) -> Float32s:
        """Log-probabilities of some logits of these rows, subtracted in log-softmax's order."""
        with np.errstate(invalid="ignore"):  # infinite logits have log-probabilities of NaN
            log_probs: Float32s = logits - self.top_logits[:, :1] - self.log_sum_exp[:, None]
        return log_probs


@dataclass(frozen=True, slots=True)
class Step:
    """What to feed next: a token a row, and the row of the previous step that it continues."""

    tokens: Ints  # [rows]
    parents: Ints  # [rows]
    done: bool


CutOff = Literal["length", "time", "cancel"]
"""Why an answer stopped before its end: it has the longest length, its `max_time` was up, or its
`cancel` was set."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished sequence from the start token on, with the log-probability of each next token."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # one fewer than token_ids: the start token has none
    score: float
    cut_off: CutOff | None  # None where the model ended it

    @property
    def truncated(self) -> bool:
        """Whether it stopped before its end."""
        return self.cut_off is not None


@dataclass(frozen=True, slots=True)
class _Choices:
    """Tokens that may come next in each row; what else there may be is worse than these."""

    scores: Float32s  # [rows, n] after the rules; forbidden tokens have -inf
    log_probs: Float32s  # [rows, n] before any rule
    ids: Ints  # [rows, n]


def _choices(
    scores: Scores, rules: LogitsProcessors, sequences: Ints, count: int, *, logits: bool = False
) -> _Choices:
    """Choices that have the best `count` of each row, after its one of `sequences` [rows, L].

    The top K decide as long as `count` of them keep more than the last of the K had: no token
    outside can be better, unless the rules raise some. `logits` has the rules see the logits.
    """
    if not rules.raises:
        log_probs = scores.top_log_probs
        values = (scores.top_logits if logits else log_probs).copy()
        last = values[:, -1:].copy()
        for row, sequence in enumerate(sequences):
            rules.process_some(values[row], scores.top_ids[row], sequence)
        kept = (values >= last) & np.isfinite(values)
        if kept.sum(axis=1).min() >= count:
            return _Choices(values, log_probs, scores.top_ids)
    all_logits = scores.logits()
    log_probs = scores.log_probs(all_logits)
    values = (all_logits if logits else log_probs).copy()
    for row, sequence in enumerate(sequences):
        rules.process(values[row], sequence)
    return _Choices(values, log_probs, np.broadcast_to(np.arange(values.shape[1]), values.shape))


class Greedy:
    """Takes the most probable token that is allowed."""

    rows = 1

    def __init__(self, generation: GenerationConfig) -> None:
        self._generation = generation
        self._rules = LogitsProcessors(generation)
        self._tokens = np.empty(generation.max_length, dtype=np.int64)
        self._tokens[0] = generation.decoder_start_token_id
        self._log_probs: list[float] = []
        self._length = 1
        self._last: CutOff | None = None

    def advance(self, scores: Scores, *, last: CutOff | None = None) -> Step:
        token, log_prob = self._choose(scores)
        self._tokens[self._length] = token
        self._log_probs.append(log_prob)
        self._length += 1
        self._last = last
        done = last or token in self._generation.eos_token_id or self._is_full()
        return Step(np.array([token]), np.zeros(1, dtype=np.int64), bool(done))

    def best(self) -> Hypothesis:
        end = self._length - 1
        return Hypothesis(
            token_ids=tuple(self._tokens[: self._length].tolist()),
            log_probs=tuple(self._log_probs),
            score=float(np.sum(self._log_probs, dtype=np.float64)),
            cut_off=_cut_off(int(self._tokens[end]), end, self._generation, self._last),
        )

    def agreed(self) -> Ints:
        """The tokens [L] that the answer is certain to begin with: all there are."""
        return self._tokens[: self._length]

    def _choose(self, scores: Scores) -> tuple[int, float]:
        forced = forced_token(self._length, self._generation)
        if forced is not None:
            return forced, float(scores.full()[0, forced])
        sequences = self._tokens[None, : self._length]
        choices = _choices(scores, self._rules, sequences, 1, logits=True)
        best = int(choices.scores[0].argmax())
        return int(choices.ids[0, best]), float(choices.log_probs[0, best])

    def _is_full(self) -> bool:
        return self._length == self._generation.max_length


def _cut_off(
    token: int, length: int, generation: GenerationConfig, last: CutOff | None
) -> CutOff | None:
    """Why a sequence ends with `token`, after `length` others; None where the model ended it."""
    is_full = length + 1 == generation.max_length
    forced = is_full and forced_token(length, generation) is not None
    if token in generation.eos_token_id and not forced:
        return None
    return "length" if is_full else last


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Continuations of the running beams, best first."""

    scores: Float32s  # [n] sum of log-probabilities after the rules, forced tokens counting 0
    parents: Ints  # [n] beam that is continued
    tokens: Ints  # [n]
    log_probs: Float32s  # [n] of the token, before any rule

    def take(self, order: Ints) -> "_Candidates":
        return _Candidates(
            self.scores[order], self.parents[order], self.tokens[order], self.log_probs[order]
        )


def _largest(values: Float32s, count: int) -> Ints:
    """Where the `count` largest are, the largest first and the earlier of equals first."""
    least = np.partition(values, -count)[-count]
    candidates = np.flatnonzero(~(values < least))  # all of them, if it is NaN
    return candidates[np.argsort(-values[candidates], kind="stable")[:count]]


class BeamSearch:
    """Hugging Face's beam search (transformers 5, `GenerationMixin._beam_search`).

    Of the 2N best continuations the first N may finish; the best N that go on are the new beams.
    Where E tokens end an answer, they are the best (1 + E)N, so that N are left that go on.
    """

    def __init__(self, generation: GenerationConfig) -> None:
        self.rows = generation.num_beams
        self._generation = generation
        self._rules = LogitsProcessors(generation)
        self._kept = (1 + len(generation.eos_token_id)) * self.rows
        shape = (self.rows, generation.max_length)
        self._tokens = np.empty(shape, dtype=np.int64)
        self._tokens[:, 0] = generation.decoder_start_token_id
        self._log_probs = np.empty(shape, dtype=np.float32)  # column 0 stays unused
        self._length = 1
        # All beams start alike: only the first may be continued, or they would stay alike.
        self._scores = np.full(self.rows, _OUT)
        self._scores[0] = 0
        self._finished: list[Hypothesis] = []
        self._done = False

    def advance(self, scores: Scores, *, last: CutOff | None = None) -> Step:
        candidates = self._continuations(scores)
        ends = self._ends(candidates, last is not None)
        self._finish(candidates, ends, last)
        running = self._go_on(candidates, ends)
        self._done = self._is_done(ends)
        return Step(running.tokens, running.parents, self._done)

    def best(self) -> Hypothesis:
        return self._finished[0]

    def agreed(self) -> Ints:
        """The tokens [L] that the answer is certain to begin with; once done, all of them.

        Whatever may still win continues a running beam or is complete already, so what all of
        these have in common cannot be taken back.
        """
        if self._done:
            return np.array(self.best().token_ids, dtype=np.int64)
        alive = self._tokens[self._scores > _OUT / 2, : self._length]
        rows = [*alive, *(np.array(each.token_ids) for each in self._finished)]
        if not rows:  # scores that are not numbers keep no beam alive
            return self._tokens[0, :1]
        length = min(map(len, rows))
        same = np.all([row[:length] == rows[0][:length] for row in rows], axis=0)
        agreed: Ints = rows[0][: length if same.all() else int(same.argmin())]
        return agreed

    def _continuations(self, scores: Scores) -> _Candidates:
        """The best (1 + E)N tokens over all beams, or every beam with its forced token."""
        forced = forced_token(self._length, self._generation)
        if forced is not None:
            rows = np.arange(self.rows)
            tokens = np.full(self.rows, forced, dtype=np.int64)
            return _Candidates(self._scores, rows, tokens, scores.full()[:, forced].copy())

        choices = _choices(scores, self._rules, self._tokens[:, : self._length], self._kept)
        totals = (choices.scores + self._scores[:, None]).reshape(-1)
        order = _largest(totals, self._kept)
        parents, columns = np.divmod(order, choices.ids.shape[1])
        log_probs = choices.log_probs[parents, columns]
        return _Candidates(totals[order], parents, choices.ids[parents, columns], log_probs)

    def _ends(self, candidates: _Candidates, last: bool) -> npt.NDArray[np.bool_]:
        """Which candidates are complete: by the end token, or all, if nothing may follow."""
        if last or self._length + 1 == self._generation.max_length:
            return np.ones(len(candidates.tokens), dtype=np.bool_)
        ends = [token in self._generation.eos_token_id for token in candidates.tokens.tolist()]
        return np.array(ends, dtype=np.bool_)

    def _finish(
        self, candidates: _Candidates, ends: npt.NDArray[np.bool_], last: CutOff | None
    ) -> None:
        """Keep the best N complete sequences, among them those of the first N candidates."""
        final = candidates.scores / self._penalty(self._length)
        for i in np.flatnonzero(ends[: self.rows]):
            parent, token = candidates.parents[i], candidates.tokens[i]
            hypothesis = Hypothesis(
                token_ids=(*self._tokens[parent, : self._length].tolist(), int(token)),
                log_probs=(
                    *self._log_probs[parent, 1 : self._length].tolist(),
                    float(candidates.log_probs[i]),
                ),
                score=float(final[i]),
                cut_off=_cut_off(int(token), self._length, self._generation, last),
            )
            self._finished.append(hypothesis)
        self._finished.sort(key=lambda hypothesis: -hypothesis.score)  # stable: the earlier first
        del self._finished[self.rows :]

    def _go_on(self, candidates: _Candidates, ends: npt.NDArray[np.bool_]) -> _Candidates:
        """The best N candidates that are not complete become the beams."""
        order = np.argsort(-(candidates.scores + ends * _OUT), kind="stable")[: self.rows]
        running = candidates.take(order)
        self._tokens[:, : self._length] = self._tokens[running.parents, : self._length]
        self._log_probs[:, : self._length] = self._log_probs[running.parents, : self._length]
        self._tokens[:, self._length] = running.tokens
        self._log_probs[:, self._length] = running.log_probs
        self._scores = running.scores + ends[order] * _OUT
        self._length += 1
        return running

    def _is_done(self, ends: npt.NDArray[np.bool_]) -> bool:
        generation = self._generation
        if ends.all() or not self._is_full():
            return bool(ends.all())
        if generation.early_stopping is True:
            return True
        # What the best beam can still reach, if it grew no longer (or to the full length).
        longest = generation.early_stopping == "never" and generation.length_penalty > 0
        length = generation.max_length - 1 if longest else self._length - 1
        reachable = self._scores[:1] / self._penalty(length)
        return not reachable[0] > np.float32(self._finished[-1].score)

    def _is_full(self) -> bool:
        return len(self._finished) == self.rows

    def _penalty(self, generated: int) -> float:
        return float(generated**self._generation.length_penalty)


Search: TypeAlias = Greedy | BeamSearch


def open_search(generation: GenerationConfig) -> Search:
    """Greedy for one beam, beam search for more."""
    return Greedy(generation) if generation.num_beams == 1 else BeamSearch(generation)
