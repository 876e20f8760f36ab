"""The JavaScript package beside Python over a pipe: whatever Hypothesis thinks of."""

import json
import subprocess
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence_edge.cuda.resize import goes_down_first

from ..runtime.test_parse import CONVENTIONS, ONE_TASK_OF_EACH_KIND, sizes, texts
from . import cases
from .machines import HERE, NEEDS_NODE, NODE

pytestmark = [pytest.mark.slow, NEEDS_NODE]
EXAMPLES = 3000


class Pipe:
    """The functions of functions.mjs, asked line by line."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [NODE, str(HERE / "pipe.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def check(self, case: cases.Case) -> None:
        """Have JavaScript do the same, to the same effect."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"does": case["does"], "given": case["given"]}) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        if case["within"]:
            for one, other in zip(found, case["expected"], strict=True):
                score, expected = one.pop("score"), other.pop("score")
                assert score == pytest.approx(expected, rel=case["within"])
        assert found == json.loads(json.dumps(case["expected"]))


@pytest.fixture(scope="module")
def pipe() -> Generator[Pipe, None, None]:
    opened = Pipe()
    with opened.process:
        yield opened
        assert opened.process.stdin is not None
        opened.process.stdin.close()


property_test = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# JSON has no half of a surrogate pair.
unicode = st.text(st.characters(exclude_categories=["Cs"]))


@property_test
@given(
    task=st.sampled_from([*ONE_TASK_OF_EACH_KIND, "<VQA>"]),
    text=texts,
    size=sizes,
    convention=st.sampled_from(CONVENTIONS),
)
def test_any_text_is_parsed_alike(
    pipe: Pipe, task: str, text: str, size: tuple[int, int], convention: str
) -> None:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    pipe.check(cases.parsed(task, whole, size, convention))


@property_test
@given(prompt=st.one_of(unicode, st.lists(st.sampled_from(cases.PROMPTS)).map("".join)))
def test_any_prompt_is_tokenized_alike(pipe: Pipe, prompt: str) -> None:
    (case,) = cases.tokens(cases.TOKENIZER, [prompt])
    pipe.check(case)


def test_the_tokenizer_of_the_real_model_is_read_alike(pipe: Pipe, asset: Any) -> None:
    tokenizer = asset("florence-2/tokenizer.json")
    for case in cases.tokens(tokenizer, [*cases.PROMPTS, *cases.ANSWERS]):
        pipe.check(case)


@pytest.mark.parametrize("seed", range(400))
def test_any_search_chooses_alike(pipe: Pipe, seed: int) -> None:
    pipe.check(cases.search(1000 + seed))


@pytest.mark.parametrize("seed", range(36))
def test_any_picture_is_resized_alike(pipe: Pipe, seed: int) -> None:
    random = np.random.default_rng(seed)
    width, height = random.integers(1, 1400, 2).tolist()
    side = (64, 128, 768)[seed % 3]
    if goes_down_first((width, height), side) != cases.columns_first(width, height, side):
        pytest.skip("Pillow before 13.0 goes along the lines first")
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pipe.check(cases.resized(picture, side))
