"""The search's step on the GPU decides as the search on the host, to the last bit, or not at all.

`advance_beams` runs as kernels.cu compiled for the host and as its double in numpy.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from florence_edge import contract
from florence_edge.backends.beam_reorder import BeamReorder
from florence_edge.backends.device_search import rules_of
from florence_edge.cuda.device import open_cuda
from florence_edge.cuda.kernels import RULES, THREADS, Kernels
from florence_edge.options import GenerationConfig
from florence_edge.search import BeamSearch, Scores, Search, open_search

from . import fake_kernels
from .host_kernels import Launch
from .on_gpu import require_gpu
from .scripted import DEFAULTS, EOS, START, Past, Script, log_softmax, random_logits

VOCABULARY = 48
SLOTS = 3
OUT = np.float32(-1e9)

Advance = Callable[["Device"], None]


class Device:
    """What `SearchMemory` and the decoder's memory hold for the kernel, in arrays of numpy."""

    def __init__(self, configs: Sequence[GenerationConfig], length: int) -> None:
        images, beams, top = len(configs), configs[0].num_beams, contract.TOP_K
        rows, scored = (images, beams), (images, beams, top)
        self.scores: dict[str, npt.NDArray[Any]] = {
            "top_logits": np.empty(scored, np.float32),
            "top_ids": np.empty(scored, np.int64),
            "log_sum_exp": np.empty(rows, np.float32),
        }
        self.rules = np.full((images, RULES), -7, np.int32)
        for image, config in enumerate(configs):
            rules = rules_of(config)
            assert rules is not None
            self.rules[image, : len(rules)] = rules
        self.fed = self._fed(images, beams)
        self.fed["token_ids"][:] = START
        self.following = self._fed(images, beams)
        self.state: dict[str, npt.NDArray[Any]] = {
            "history": np.full((*rows, length), -9, np.int32),
            "totals": np.full(rows, np.nan, np.float32),
            "differ_from": np.full((*rows, beams), -9, np.int32),
        }
        self.kept: dict[str, npt.NDArray[Any]] = {
            **{name: np.full((SLOTS, *of.shape), -9, of.dtype) for name, of in self.scores.items()},
            "tokens": np.full((SLOTS, *rows), -9, np.int64),
            "parents": np.full((SLOTS, *rows), -9, np.int64),
            "held": np.full((SLOTS, images), -9, np.int64),
        }

    @staticmethod
    def _fed(images: int, beams: int) -> dict[str, npt.NDArray[Any]]:
        shapes = {"position": (1,), "token_ids": (images, beams), "parents": (images, beams)}
        return {
            name: np.zeros(shape, np.int64)
            for name, shape in {**shapes, "first": (images,), "held": (1,)}.items()
        }

    @property
    def arrays(self) -> list[npt.NDArray[Any]]:
        """In the order of the kernel's arguments."""
        return [
            *self.scores.values(),
            self.rules,
            *(self.fed[name] for name in ("position", "token_ids", "held")),
            *self.following.values(),
            *self.state.values(),
            *self.kept.values(),
        ]

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        return (*self.scores["top_ids"].shape[1:], self.state["history"].shape[-1], SLOTS)

    def feed_next(self) -> None:
        for name, array in self.fed.items():
            array[:] = self.following[name]


@pytest.fixture(params=["compiled", "numpy"])
def advance(request: pytest.FixtureRequest) -> Advance:
    """The kernel; where it is compiled, a block's threads run forwards and backwards in turns."""
    turns = itertools.count()

    def run(device: Device) -> None:
        threads = (len(device.rules) * THREADS, 1, 1)
        addresses = [array.ctypes.data for array in device.arrays]
        if request.param == "numpy":
            view = Memory(device.arrays)
            fake_kernels.advance_beams(view, threads, *addresses, *device.numbers)
        else:
            launch = request.getfixturevalue("compiled_kernels")
            backwards = next(turns) % 2 == 1
            launch("advance_beams", threads, *addresses, *device.numbers, backwards=backwards)

    return run


class Memory:
    """Arrays by address, as `fake_kernels` wants to see them."""

    def __init__(self, arrays: list[npt.NDArray[Any]]) -> None:
        self._arrays = {array.ctypes.data: array for array in arrays}

    def __call__(self, address: int, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        array = self._arrays[address]
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        return array


class Pair:
    """Searches on the host and the kernel, fed with the same scores, compared at every step."""

    def __init__(
        self, scripts: Sequence[Script], configs: Sequence[GenerationConfig], advance: Advance
    ) -> None:
        self.device = Device(configs, 1 + max(config.max_length for config in configs))
        self.searches: list[Search | None] = [open_search(config) for config in configs]
        self.steps = 0
        self._scripts, self._configs, self._advance = scripts, configs, advance
        beams = configs[0].num_beams
        self._pasts: list[list[Past]] = [[(START,)] * beams for _ in configs]
        self._reorders = [BeamReorder(1, beams) for _ in configs]
        for reorder in self._reorders:
            reorder.follow(np.zeros((1, beams), np.int64), 0)

    def step(self) -> bool:
        """One step of all; whether the kernel left it to the host."""
        all_scores = [self._score(image) for image in range(len(self._scripts))]
        before = {name: array.copy() for name, array in self.device.following.items()}
        self._advance(self.device)
        slot = self.steps % SLOTS
        for name, array in self.device.scores.items():
            np.testing.assert_array_equal(self.device.kept[name][slot], array)
        self.steps += 1
        if self.device.kept["held"][slot].any():
            assert self.device.following["held"] == 1
            return True
        assert self.device.following["position"] == self.steps
        assert not before["held"]
        for image, logits in enumerate(all_scores):
            self._compare(image, slot, logits)
        self.device.feed_next()
        return False

    def _score(self, image: int) -> npt.NDArray[np.float32]:
        logits = np.array([self._scripts[image](past) for past in self._pasts[image]], np.float32)
        order = np.argsort(-logits, axis=1, kind="stable")[:, : contract.TOP_K]
        scores = self.device.scores
        scores["top_ids"][image] = order
        scores["top_logits"][image] = np.take_along_axis(logits, order, axis=1)
        scores["log_sum_exp"][image] = [
            row.max() - log_softmax(row).max() - row.max() for row in logits
        ]
        return logits

    def _compare(self, image: int, slot: int, logits: npt.NDArray[np.float32]) -> None:
        kept = self.device.kept
        tokens, parents = kept["tokens"][slot, image], kept["parents"][slot, image]
        np.testing.assert_array_equal(self.device.following["token_ids"][image], tokens)
        np.testing.assert_array_equal(self.device.following["parents"][image], parents)
        pasts = self._pasts[image]
        self._pasts[image] = [
            (*pasts[parent], int(token)) for token, parent in zip(tokens, parents, strict=True)
        ]
        history = self.device.state["history"][image, :, : self.steps + 1]
        np.testing.assert_array_equal(history, self._pasts[image])
        moves = self._reorders[image].follow(parents[None], self.steps)
        first = self.steps if moves is None else moves[2]
        assert self.device.following["first"][image] == first

        search = self.searches[image]
        if search is None:  # it has its answer, and the kernel goes on regardless
            return
        of = {name: array[image] for name, array in self.device.scores.items()}
        step = search.advance(
            Scores(of["top_logits"], of["top_ids"], of["log_sum_exp"], lambda: logits)
        )
        if step.done:
            self.searches[image] = None
            return
        np.testing.assert_array_equal(tokens, step.tokens)
        np.testing.assert_array_equal(parents, step.parents)
        if isinstance(search, BeamSearch):
            np.testing.assert_array_equal(self.device.state["totals"][image], search._scores)

    def run(self) -> None:
        """Steps until every answer is there."""
        while any(self.searches):
            assert not self.step()


def coarse(script: Script) -> Script:
    """Logits of few values, so that many are equal."""
    return lambda past: np.round(np.asarray(script(past)) * 2) / 2


USUAL = replace(DEFAULTS, max_new_tokens=30, forced_bos_token_id=0, no_repeat_ngram_size=3)


@pytest.mark.parametrize("beams", [1, 2, 3, 8])
@pytest.mark.parametrize("ngram", [0, 1, 2, 3])
def test_every_step_is_that_of_the_search(advance: Advance, beams: int, ngram: int) -> None:
    config = replace(USUAL, num_beams=beams, no_repeat_ngram_size=ngram)
    tired = ngram == 1 or beams == 8  # of 48 tokens, most would be gone, the best among them
    for seed in range(2):
        script = random_logits(seed, VOCABULARY, habit=1.5, eos=-2 + 3 * seed)
        Pair([script], [replace(config, max_new_tokens=8 if tired else 24)], advance).run()


@pytest.mark.parametrize("beams", [1, 3, 5])
def test_of_equal_scores_the_earlier_is_taken(advance: Advance, beams: int) -> None:
    config = replace(USUAL, num_beams=beams, forced_bos_token_id=-1, no_repeat_ngram_size=2)
    for seed in range(4):
        script = coarse(random_logits(seed, VOCABULARY, scale=0.6, habit=0.6))
        Pair([script], [replace(config, max_new_tokens=12)], advance).run()


@pytest.mark.parametrize(
    ("early_stopping", "length_penalty"), [(True, 1.0), (False, 0.0), ("never", 3.0)]
)
def test_when_an_answer_ends_is_the_hosts_affair(
    advance: Advance, early_stopping: Any, length_penalty: float
) -> None:
    config = replace(
        USUAL,
        num_beams=3,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
        forced_eos_token_id=EOS,
        max_new_tokens=14,
    )
    for seed in range(3):
        Pair([random_logits(seed, VOCABULARY, eos=2.5)], [config], advance).run()


@pytest.mark.parametrize("beams", [1, 3])
def test_several_tokens_end_an_answer(advance: Advance, beams: int) -> None:
    ends = tuple(range(EOS, EOS + 8))
    config = replace(USUAL, num_beams=beams, eos_token_id=ends, no_repeat_ngram_size=0)
    for seed in range(4):
        script = random_logits(seed, VOCABULARY, eos=1)
        Pair([script], [replace(config, max_new_tokens=12)], advance).run()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("ends", [(EOS,), (EOS, 5, 9)])
def test_an_answer_has_as_many_tokens_as_it_must(
    advance: Advance, beams: int, ends: tuple[int, ...]
) -> None:
    config = replace(USUAL, num_beams=beams, eos_token_id=ends, max_new_tokens=12)
    for shortest in (1, 2, 7, 12):
        script = random_logits(shortest, VOCABULARY, eos=6)  # would end at once
        pair = Pair([script], [replace(config, min_new_tokens=shortest)], advance)
        pair.run()
        assert pair.steps >= shortest


def test_images_of_a_batch_have_rules_of_their_own(advance: Advance) -> None:
    configs = [
        replace(USUAL, num_beams=3, max_new_tokens=9),
        replace(USUAL, num_beams=3, no_repeat_ngram_size=2, forced_bos_token_id=-1),
        replace(USUAL, num_beams=3, eos_token_id=(EOS, 5), max_new_tokens=20),
    ]
    scripts = [random_logits(seed, VOCABULARY, habit=1, eos=seed) for seed in range(3)]
    Pair(scripts, configs, advance).run()


def test_a_long_history_is_searched_whole(compiled_kernels: Launch) -> None:
    """An n-gram may begin anywhere among 300 tokens, more than a block has threads."""

    def advance(device: Device) -> None:
        threads = (THREADS, 1, 1)
        addresses = [array.ctypes.data for array in device.arrays]
        compiled_kernels("advance_beams", threads, *addresses, *device.numbers)

    config = replace(USUAL, num_beams=2, max_new_tokens=300)
    pair = Pair([random_logits(1, VOCABULARY, scale=0.1, habit=1.0, eos=-9)], [config], advance)
    pair.run()
    assert pair.steps == 300


def test_where_the_top_k_do_not_suffice_nothing_is_decided_or_moved(advance: Advance) -> None:
    """Of 32 tokens of the top K, more than 26 have come, which may not come again."""
    config = replace(USUAL, num_beams=3, no_repeat_ngram_size=1, max_new_tokens=60)
    ranked = np.linspace(0, -6, VOCABULARY)
    ranked[EOS] = -9

    def same(past: Past) -> npt.NDArray[np.float64]:
        return ranked

    scripts: list[Script] = [same, random_logits(3, VOCABULARY, eos=-9)]
    pair = Pair(scripts, [config, replace(config, no_repeat_ngram_size=0)], advance)
    while not pair.step():
        pass
    assert 20 < pair.steps < 32
    assert pair.device.kept["held"][(pair.steps - 1) % SLOTS].tolist() == [1, 0]
    state = {name: array[0].copy() for name, array in pair.device.state.items()}
    held = pair.device.following["position"].copy()
    for _ in range(SLOTS):  # steps that were launched already
        pair.device.feed_next()
        before = [array.copy() for array in pair.device.state.values()]
        advance(pair.device)
        for array, was in zip(pair.device.state.values(), before, strict=True):
            np.testing.assert_array_equal(array, was)
        assert pair.device.following["position"] == held == pair.steps
        assert pair.device.following["held"] == 1
    for name, array in state.items():
        np.testing.assert_array_equal(pair.device.state[name][0], array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_left_to_the_host(advance: Advance, value: float) -> None:
    def overflows(past: Past) -> npt.ArrayLike:
        broken = np.full(VOCABULARY, value)
        return broken if len(past) == 3 else np.linspace(0, -3, VOCABULARY)

    pair = Pair([overflows], [replace(USUAL, num_beams=3)], advance)
    assert not pair.step()
    assert not pair.step()
    with np.errstate(invalid="ignore"):
        assert pair.step()


@pytest.mark.parametrize(
    "rule",
    [
        {"repetition_penalty": 1.2},
        {"suppress_tokens": (7,)},
        {"begin_suppress_tokens": (7,)},
        {"bad_words_ids": ((7, 8),)},
        {"eos_token_id": tuple(range(2, 12))},  # 11 candidates for each of 3 rows
        {"forced_bos_token_id": EOS},
    ],
)
def test_rules_that_the_kernel_does_not_know_are_left_to_the_host(rule: dict[str, Any]) -> None:
    config = replace(USUAL, num_beams=3)
    assert rules_of(config) == [3, 0, 0, 1, EOS]
    assert rules_of(replace(config, **rule)) is None


@pytest.mark.gpu
@pytest.mark.parametrize("beams", [1, 3, 8])
def test_a_gpu_searches_as_the_host_does(beams: int) -> None:
    require_gpu()
    gpu = open_cuda()
    kernels = Kernels(gpu)
    boxes: list[Any] = []

    def run(device: Device) -> None:
        groups = (
            *(device.scores, {"rules": device.rules}, device.fed),
            *(device.following, device.state, device.kept),
        )
        if not boxes:
            boxes.extend(
                gpu.staging_buffer({name: (of.shape, of.dtype) for name, of in group.items()})
                for group in groups
            )
        for box, group in zip(boxes, groups, strict=True):
            for name, array in group.items():
                box.host[name][...] = array
            box.send(gpu.stream)
        scores, rules, *others = (box.device for box in boxes)
        kernels.advance_beams(scores, rules["rules"], *others)
        for box in boxes:
            box.fetch(gpu.stream)
        gpu.synchronize()
        for box, group in zip(boxes, groups, strict=True):
            for name, array in group.items():
                array[...] = box.host[name]

    config = replace(USUAL, num_beams=beams, max_new_tokens=100)
    Pair([random_logits(1, VOCABULARY, habit=1, eos=-1)], [config], run).run()
    gpu.close()
