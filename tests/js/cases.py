"""What the JavaScript package must do as the Python runtime does: cases, as JSON.

    python -m tests.js.cases FOLDER

A case is {"does": NAME, "given": {...}, "expected": ...}: functions.mjs has a function of that
name, which is called with `given`. Floats are written in full, and compared exactly unless a case
says how far they may lie apart ("within").
"""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from florence_edge import TASKS, RequestError, parse
from florence_edge.contract import TOP_K
from florence_edge.cuda.resize import goes_down_first
from florence_edge.generate import Asked, generate_each
from florence_edge.image import pixels
from florence_edge.options import GenerationConfig
from florence_edge.regions import RelativeBox
from florence_edge.results.result import Result, TokenPiece, read_answer
from florence_edge.search import Float32s, Hypothesis, Ints, Scores
from florence_edge.tasks import prompt_for
from florence_edge.tokenizer import Tokenizer

from ..runtime.scripted import DEFAULTS

Case = dict[str, Any]

_ROOT = Path(__file__).parents[2]
TOKENIZER = _ROOT / "calibration/florence_edge_calibration/miniature/checkpoint" / "tokenizer.json"
PLAIN = replace(DEFAULTS, max_new_tokens=12)
VOCAB = TOP_K + 6

PROMPTS = [
    *(task.template.replace("{input}", "a red car") for task in TASKS.values()),
    "",
    " ",
    "  two  spaces\tand\nlines \n\n end ",
    "it's we'll they've I'd you're 'tis",
    "Straße naïve — “quotes” … 12.5 % €",
    "日本語のテキスト と 한국어",
    "emoji 👩‍👩‍👧 🇩🇪 🫠",
    "<loc_0><loc_999><loc_1000> <and>red<and> blue</s><s><pad><unk><mask> x <mask>",
    "What is the region <loc_10><loc_20><loc_30><loc_40>?",
    "\ufeffmark\u200b\u00a0\u2028space \u0085\u001c",
    "x" * 60,
    "a\u0301 combining ٣٤ Ⅳ ² ½ _under_",
]

ANSWERS = [
    "car<loc_53><loc_333><loc_932><loc_774>door<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7>",
    "STOP<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>two\nlines<loc_1><loc_2><loc_3>"
    "<loc_4><loc_5><loc_6><loc_7><loc_8><loc_9>",
    "<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8><loc_9>",
    "<poly><loc_1><loc_2><loc_3><loc_4><sep><loc_5><loc_6><loc_7></poly><poly><loc_8><loc_9></poly>",
    " a red  car <poly><loc_1><loc_2><loc_3><loc_4><loc_5></poly>it<poly><loc_1><loc_2>",
    "it<loc_1><loc_2><loc_3><loc_4>the image<loc_5><loc_6><loc_7><loc_8>Caf\u00e9<loc_9><loc_9>"
    "<loc_9><loc_9>",
    "label\n inside<loc_1><loc_2><loc_3><loc_4> \u2003ok \x1c<loc_5><loc_6><loc_7><loc_8>",
    "big<loc_1234><loc_99999999999><loc_16777217><loc_9007199791611905>"
    "x<loc_9223372036854775808><loc_1><loc_2><loc_3>",
    "digits<loc_٣><loc_۱۲><loc_7><loc_008>",
    "<s></s><pad>nothing",
    "  spaces around \ufeff ",
    "",
    "<<loc_1><loc_2><loc_3><loc_4><loc_5>",
    "cut<loc_1><loc_2><loc_3><loc",
]


def all_cases() -> dict[str, list[Case]]:
    """The cases by the name of their file."""
    return {
        "tasks": list(_tasks()),
        "tokens": [*tokens(TOKENIZER, PROMPTS), *_pieces()],
        "parse": list(_parse()),
        "results": list(_results()),
        "kept": list(_kept()),
        "search": [search(seed) for seed in range(30)],
        "resize": [case for seed in range(8) if (case := resize(seed))],
    }


def write_cases(folder: Path) -> None:
    """One JSON file a kind of case."""
    for name, cases in all_cases().items():
        (folder / f"{name}.json").write_text(json.dumps(cases), encoding="utf-8")


def _case(does: str, expected: Any, *, within: float = 0, **given: Any) -> Case:
    return {"does": does, "given": given, "expected": expected, "within": within}


def _tasks() -> Iterator[Case]:
    table = {
        name: {"token": t.token, "template": t.template, "answer": t.answer.value}
        | {"needs": t.needs.value}
        for name, t in TASKS.items()
    }
    yield _case("tasks", table)
    for size in ((640, 480), (1, 1), (3333, 17)):
        box = tuple(side * part for part, side in ((0.11, size[0]), (0.2, size[1])))
        region = (*box, size[0] * 0.97, float(size[1]))
        for task in ("REGION_TO_CATEGORY", "REGION_TO_SEGMENTATION"):
            if max(region) > 1:
                wording = prompt_for(task, None, region, size).wording
                yield _case("wording", wording, task=task, region=region, image_size=size)
        relative = RelativeBox(0.123, 0.2, 0.9999, 1)
        wording = prompt_for("REGION_TO_OCR", None, relative, size).wording
        yield _case(
            "wording", wording, task="REGION_TO_OCR", relative=list(relative), image_size=size
        )
    for task, text in (("OD", None), ("od", " "), ("<OD>", "x"), ("OCR_WITH_REGION", None)):
        yield _case("wording", _wording(task, text), task=task, text=text, image_size=(9, 9))
    for text in ("a $& b", " {input} ", "", None, "\ufeffx "):
        task = "OPEN_VOCABULARY_DETECTION"
        yield _case("wording", _wording(task, text), task=task, text=text, image_size=(9, 9))


def _wording(task: str, text: str | None) -> str | None:
    """The prompt; None where the request is refused."""
    try:
        return prompt_for(task, text, None, (9, 9)).wording
    except RequestError:
        return None


def tokens(tokenizer: Path, prompts: list[str]) -> list[Case]:
    """The ids of prompts in a tokenizer's file."""
    reader = Tokenizer(tokenizer, PLAIN)
    return [
        _case("tokens", reader.prompt_ids(prompt), tokenizer=str(tokenizer), prompt=prompt)
        for prompt in prompts
    ]


def _pieces() -> Iterator[Case]:
    reader = Tokenizer(TOKENIZER, PLAIN)
    random = np.random.default_rng(5)
    for length in (0, 1, 7, 30, 200):
        ids = random.integers(0, 2460, length).tolist()  # some beyond the vocabulary
        yield _case("pieces", reader.pieces(ids), tokenizer=str(TOKENIZER), ids=ids)
    for text in ("日本", "👩‍👩‍👧", "\ufeff", "a\u0301"):
        ids = reader.prompt_ids(text)
        for cut in range(1, len(ids) + 1):
            yield _case("pieces", reader.pieces(ids[:cut]), tokenizer=str(TOKENIZER), ids=ids[:cut])


def _parse() -> Iterator[Case]:
    for convention in ("native", "microsoft"):
        for task in [*TASKS, "<VQA>"]:
            for text in ANSWERS:
                yield parsed(task, text, (640, 479), convention)


def parsed(task: str, text: str, size: tuple[int, int], convention: Any) -> Case:
    """A text as an answer to a task."""
    expected = parse(task, text, image_size=size, convention=convention)
    given = {"raw_text": text, "image_size": size, "convention": convention}
    return _case("parse", expected, task=task, **given)


def _results() -> Iterator[Case]:
    reader = Tokenizer(TOKENIZER, PLAIN)
    random = np.random.default_rng(6)
    for number, text in enumerate(ANSWERS):
        ids = [2, *reader.prompt_ids(text)]
        pieces = [
            TokenPiece(token_id, piece, float(np.float32(-random.exponential())), forced=at < 2)
            for at, (token_id, piece) in enumerate(zip(ids, reader.pieces(ids), strict=True))
        ]
        for task in TASKS.values():
            about: Any = {
                "image_size": (640, 479),
                "convention": ("native", "microsoft")[number % 2],
                "cut_off": ("length", "time", "cancel")[number % 3] if number % 5 == 4 else None,
            }
            result = read_answer(task, pieces, text_input="x", **about)
            expected = result.to_json() | {
                "boxes": [list(region.box) for region in result.regions],
                "normalized": [list(box) for box in result.normalized_boxes],
                "log_probs": list(result.token_log_probs),
                "text": result.text,
                "score": result.score,
            }
            yield _case(
                "result",
                expected,
                within=1e-12,  # a sum of floats, in another order
                task=task.name,
                pieces=[asdict(piece) for piece in pieces],
                **about,
            )


SLIPS = [
    *ANSWERS,
    "STOP<loc_10><loc_10><loc_90><loc_10><loc_10><loc_40><loc_90><loc_40>",  # its sides cross
    "flat<loc_10><loc_10><loc_90><loc_10><loc_90><loc_10><loc_10><loc_10>",
    "Straße<loc_5><loc_6><loc_5><loc_60> CAR<loc_1><loc_2><loc_30><loc_40>"
    "car <loc_7><loc_8><loc_50><loc_60>STRASSE<loc_1><loc_2><loc_30><loc_41>",
]
KEPT: list[dict[str, Any]] = [
    {"min_score": 0},
    {"min_score": 0.3, "max_regions": 2},
    {"min_score": 0, "max_regions": 1, "classes": ["Car", "strasse"]},
    {"min_score": 0, "classes": ["object", " stop "]},
    {"min_score": 0, "classes": []},
    {"min_score": 0, "classes": ["car", "CAR "]},
    {"min_score": 0, "classes": "car"},
    {"min_score": 0, "max_regions": -1},
    {"min_score": 0, "max_regions": 1.5},
    {"min_score": "x"},
]


def _kept() -> Iterator[Case]:
    """What `clean` and `filter` leave; None where they refuse."""
    reader = Tokenizer(TOKENIZER, PLAIN)
    random = np.random.default_rng(7)
    about: Any = {"image_size": (1000, 1000), "convention": "native", "cut_off": None}
    for text in SLIPS:
        ids = [2, *reader.prompt_ids(text)]
        pieces = [
            TokenPiece(token_id, piece, float(np.float32(-random.exponential())))
            for token_id, piece in zip(ids, reader.pieces(ids), strict=True)
        ]
        for task in ("OD", "OCR_WITH_REGION", "OPEN_VOCABULARY_DETECTION", "REGION_PROPOSAL"):
            result = read_answer(TASKS[task], pieces, **about).clean()
            for ask in KEPT:
                yield _case(
                    "kept",
                    _regions(result, ask),
                    within=1e-12,  # a sum of floats, in another order
                    task=task,
                    pieces=[asdict(piece) for piece in pieces],
                    ask=ask,
                    **about,
                )


def _regions(result: Result, ask: dict[str, Any]) -> list[Any] | None:
    try:
        kept = result.filter(**ask).regions
    except RequestError:
        return None
    return [[each.label, [list(ring) for ring in each.rings], each.score] for each in kept]


def resize(seed: int) -> Case | None:
    """A picture of noise and edges, squashed; None where this Pillow does it the older way."""
    random = np.random.default_rng(seed)
    width, height = random.integers(1, 200, 2).tolist()
    side = int(random.integers(1, 130))
    if goes_down_first((width, height), side) != columns_first(width, height, side):
        return None
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise[:, : width // 2] = np.where(noise[:, : width // 2] > 127, 255, 0)
    return resized(noise, side)


def columns_first(width: int, height: int, side: int) -> bool:
    """Whether Pillow from 13.0 on, and image.js, resize columns before lines."""
    return height > side and height - side > 2 * (width - side)


def resized(picture: np.ndarray[Any, Any], side: int) -> Case:
    """An [H, W, 3] picture, squashed by Pillow; the bytes by their hash."""
    squashed = pixels(Image.fromarray(picture), side)
    return _case(
        "resize",
        hashlib.sha256(squashed.tobytes()).hexdigest(),
        width=picture.shape[1],
        height=picture.shape[0],
        rgb=base64.b64encode(picture.tobytes()).decode(),
        side=side,
    )


class TableDecoder:
    """Scores of the next token by the one before and the number of the step; K of them sorted."""

    def __init__(self, tables: Float32s) -> None:
        self._tables = tables  # [steps, vocab, vocab]
        self._step = 0

    def step(self, tokens: Ints, parents: Ints) -> list[Scores]:
        table = self._tables[self._step % len(self._tables)]
        self._step += 1
        return [_scores(table[row]) for row in tokens]


def _scores(logits: Float32s) -> Scores:
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]
    return Scores(
        np.take_along_axis(logits, order, axis=1), order, log_sum_exp(logits), lambda: logits
    )


def log_sum_exp(logits: Float32s) -> Float32s:
    """As the graphs give it, of logits [..., vocab]."""
    shifted = (logits - logits.max(axis=-1, keepdims=True)).astype(np.float64)
    sums: Float32s = np.log(np.exp(shifted).sum(axis=-1)).astype(np.float32)
    return sums


def search(seed: int) -> Case:
    """A batch of two on random scores, with many ties, by random settings."""
    random = np.random.default_rng([seed, 20])
    tables = (random.integers(-12, 12, (3, VOCAB, VOCAB)) / 4).astype(np.float32)
    tables[:, :, 2] += np.float32(random.integers(0, 4))  # how soon answers end
    configs = [_config(random)]
    configs.append(replace(configs[0], no_repeat_ngram_size=int(random.integers(0, 4))))
    begun: list[list[list[int]]] = [[], []]
    answers = generate_each(
        TableDecoder(tables),
        [
            Asked(config=config, on_tokens=lambda ids, _, at=at: begun[at].append(ids.tolist()))  # type: ignore[misc]
            for at, config in enumerate(configs)
        ],
    )
    expected = [
        {**asdict(answer), "agreed": agreed}
        for answer, agreed in zip(answers, begun, strict=True)
        if isinstance(answer, Hypothesis)
    ]
    return _case(
        "search",
        expected,
        within=1e-12,  # greedy scores are summed up pairwise in numpy
        configs=[asdict(config) for config in configs],
        vocab=VOCAB,
        tables=tables.reshape(3, VOCAB, VOCAB).tolist(),
        log_sum_exp=log_sum_exp(tables).tolist(),
    )


def _config(random: np.random.Generator) -> GenerationConfig:
    def pick(*choices: Any) -> Any:
        return choices[int(random.integers(len(choices)))]

    def some(most: int) -> tuple[int, ...]:
        return tuple(random.integers(3, VOCAB, random.integers(0, most + 1)).tolist())

    return replace(
        PLAIN,
        num_beams=pick(1, 2, 3, 4),
        max_new_tokens=pick(1, 2, 5, 12),
        min_new_tokens=pick(0, 0, 3),
        no_repeat_ngram_size=pick(0, 1, 2, 3),
        repetition_penalty=pick(1.0, 1.0, 1.3, 0.7),
        length_penalty=pick(1.0, 0.0, 2.0, -0.5),
        early_stopping=pick(True, False, "never"),
        forced_bos_token_id=pick(-1, 0),
        forced_eos_token_id=pick(-1, 2),
        suppress_tokens=some(3),
        begin_suppress_tokens=some(2),
        bad_words_ids=tuple(word for word in (some(2), some(3)) if word),
        eos_token_id=pick((2,), (2, 7)),
    )


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]))
