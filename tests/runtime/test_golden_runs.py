"""Recorded runs of the real checkpoints: prompts, tokens and answers as others published them.

31 runs are committed. Eleven more, answers alone from repositories that state no licence, are read
from FLORENCE_EDGE_ASSETS where they are at hand; ids need the real tokenizer from there.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from florence_edge.regions import LOCATION_BINS
from florence_edge.results.parse import parse, plain_text
from florence_edge.tasks import find_task
from florence_edge.tokenizer import Tokenizer

from ..helpers.assets import DATA, Asset, find_asset
from .scripted import DEFAULTS


def runs_in(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


EVERY = find_asset("golden/model_runs.json")
COMMITTED = runs_in(DATA / "golden" / "model_runs.json")
RUNS = runs_in(EVERY) if EVERY else COMMITTED

_PAD = DEFAULTS.pad_token_id


def each(runs: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("run", runs, ids=[run["id"] for run in runs])


def those_with(*names: str) -> Any:
    return each([run for run in RUNS if all(run.get(name) for name in names)])


def task_and_text(run: dict[str, Any]) -> tuple[str, str | None]:
    marker, text = re.fullmatch(r"(<\w+>)(.*)", run["prompt"]).groups()  # type: ignore[union-attr]
    return marker, text or None


@pytest.fixture(scope="module")
def tokenizer(asset: Asset) -> Tokenizer:
    return Tokenizer(asset("florence-2/tokenizer.json"), DEFAULTS)


def test_all_recorded_runs_are_at_hand() -> None:
    counts = {name: sum(bool(run.get(name)) for run in RUNS) for name in RUNS[0]}
    assert len(RUNS) == (42 if EVERY else 31)
    assert len(COMMITTED) == 31
    assert all(run in RUNS for run in COMMITTED)
    assert (counts["input_ids"], counts["generated_ids"], counts["generated_text"]) == (12, 13, 14)


@those_with("input_ids")
def test_a_prompt_becomes_the_recorded_ids(tokenizer: Tokenizer, run: dict[str, Any]) -> None:
    marker, text = task_and_text(run)
    recorded = without_padding(run["input_ids"])
    assert tokenizer.prompt_ids(find_task(marker).prompt(text)) == recorded


@those_with("generated_ids", "generated_text")
def test_recorded_ids_become_the_recorded_text(tokenizer: Tokenizer, run: dict[str, Any]) -> None:
    text = tokenizer.decode(run["generated_ids"])
    if run["skip_special_tokens"]:
        text = plain_text(text, "native")
    assert text == run["generated_text"]


@those_with("generated_text", "parsed")
def test_a_recorded_text_is_read_as_recorded(run: dict[str, Any]) -> None:
    marker, _ = task_and_text(run)
    size = (run["image_size"][0], run["image_size"][1])
    assert parse(marker, run["generated_text"], image_size=size) == run["parsed"]


# Of the other runs only the answers are recorded, in Microsoft's convention (in single precision,
# or in double): written as the model would have said them, they must be read as themselves.


def said(found: dict[str, Any], image_size: tuple[int, int]) -> str:
    rings = found.get("bboxes") or found.get("quad_boxes") or found["polygons"]
    labels = found.get("bboxes_labels") or found["labels"]
    return "".join(
        label.removeprefix("</s>") + located(ring, image_size)
        for label, ring in zip(labels, rings, strict=True)
    )


def located(ring: Any, image_size: tuple[int, int]) -> str:
    if isinstance(ring[0], list):
        return "<sep>".join(located(one, image_size) for one in ring)
    sides = [image_size[place % 2] for place in range(len(ring))]
    bins = (int(value / side * LOCATION_BINS) for value, side in zip(ring, sides, strict=True))
    return "".join(f"<loc_{number}>" for number in bins)


@each([run for run in RUNS if "generated_text" not in run])
def test_a_recorded_answer_lies_where_microsofts_convention_puts_it(run: dict[str, Any]) -> None:
    marker, _ = task_and_text(run)
    size = (run["image_size"][0], run["image_size"][1])
    (recorded,) = run["parsed"].values()
    text = recorded if isinstance(recorded, str) else said(recorded, size)
    answer = parse(marker, f"</s><s>{text}</s>", image_size=size, convention="microsoft")[marker]
    assert labels_of(answer) == labels_of(recorded)
    assert list(numbers_of(answer)) == pytest.approx(list(numbers_of(recorded)), abs=1e-4)


def labels_of(answer: Any) -> Any:
    if isinstance(answer, str):
        return answer
    return {name: value for name, value in answer.items() if name.endswith("labels")}


def numbers_of(answer: Any) -> Iterable[float]:
    """Every coordinate, in order."""
    if isinstance(answer, dict):
        answer = [value for name, value in answer.items() if not name.endswith("labels")]
    if isinstance(answer, list):
        for part in answer:
            yield from numbers_of(part)
    elif not isinstance(answer, str):
        yield answer


def without_padding(ids: list[int]) -> list[int]:
    return [token for token in ids if token != _PAD]
