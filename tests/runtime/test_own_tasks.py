"""Tasks that a bundle has beside the 15."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from florence_edge import (
    TASKS,
    AnswerKind,
    Bundle,
    BundleError,
    Florence2,
    GenerationOptions,
    Needs,
    RequestError,
    Task,
    run_many,
)
from florence_edge.cli.arguments import parse_arguments
from florence_edge.task_arguments import request_from
from florence_edge.tasks import check_own_tasks, with_own

from ..helpers.own_tasks import bundle_with_tasks, written

FIND = Task("<FIND_DEFECTS>", TASKS["OD"].template, AnswerKind.BOXES_WITH_LABELS)
LIKE = Task("<like>", TASKS["CAPTION_TO_PHRASE_GROUNDING"].template, AnswerKind.PHRASES, Needs.TEXT)
SHORT = GenerationOptions(num_beams=1, max_new_tokens=9)


@pytest.fixture(scope="module")
def tuned(tiny_model: Florence2) -> Florence2:
    bundle = replace(tiny_model.bundle, tasks=(FIND, LIKE))
    return Florence2(bundle, tiny_model.backend, tiny_model._tokenizer)


def test_a_task_of_its_own_is_asked_by_its_name(tuned: Florence2) -> None:
    picture = Image.effect_noise((60, 50), 60).convert("RGB")
    usual = tuned.run(picture, "OD", options=SHORT)
    for name in ("FIND_DEFECTS", "<find_defects>", FIND):
        found = tuned.run(picture, name, options=SHORT)
        assert (found.token_ids, found.regions) == (usual.token_ids, usual.regions)
        assert set(found.to_hf()) == {"<FIND_DEFECTS>"}
    view = tuned.encode(picture, options=SHORT)
    liked = view.run("CAPTION_TO_PHRASE_GROUNDING", "a car")
    assert view.run("LIKE", "a car").token_ids == liked.token_ids
    two = tuned.run(picture, ["OD", "find_defects"], options=SHORT)
    assert [each.task.token for each in two] == ["<OD>", "<FIND_DEFECTS>"]
    (many,) = run_many(tuned, [picture], "FIND_DEFECTS", options=SHORT)
    assert many.results[0].token_ids == usual.token_ids


def test_a_task_that_does_not_exist_is_told_with_those_of_the_bundle(tuned: Florence2) -> None:
    with pytest.raises(RequestError, match=r"no task 'FIND_CRACKS'.*OD.*FIND_DEFECTS, like"):
        tuned.run(Image.new("RGB", (9, 9)), "FIND_CRACKS")
    with pytest.raises(RequestError, match="<like> needs a text"):
        tuned.run(Image.new("RGB", (9, 9)), "like")


def test_without_tasks_of_its_own_nothing_is_changed() -> None:
    for tasks in ("ODD", ["OD", "ODD"], 3, FIND):
        assert with_own(tasks, ()) is tasks  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (replace(FIND, token="FIND"), "not the name of a task"),
        (replace(FIND, token="<two words>"), "not the name of a task"),
        (replace(FIND, token="<od>"), "<od> already"),
        (replace(FIND, template="Find {input}"), "has no braces"),
        (replace(FIND, template="Find {"), "has no braces"),
        (replace(LIKE, template="Find it"), r"has \{input\} once"),
        (replace(LIKE, template="{input} or {input}"), r"has \{input\} once"),
    ],
)
def test_a_task_that_nobody_could_ask_is_refused(task: Task, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        check_own_tasks([task])


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match="already"):
        check_own_tasks([FIND, replace(FIND, token="<find_defects>")])


def test_the_command_finds_a_bundles_own_task(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = bundle_with_tasks(tiny_bundle, tmp_path / "b", [written(FIND)])
    assert Bundle.load(folder).tasks == (FIND,)
    given = parse_arguments([str(folder), "x.jpg", "--task", "OD,find_defects"])
    assert request_from(given).tasks == (TASKS["OD"], FIND)
    with pytest.raises(RequestError, match=r"no task 'ODD'.*FIND_DEFECTS"):
        request_from(parse_arguments([str(folder), "x.jpg", "--task", "ODD"]))


def test_a_manifest_with_a_broken_task_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    broken = {"token": "x", "template": "y", "answer": "bboxes", "needs": "nothing"}
    folder = bundle_with_tasks(tiny_bundle, tmp_path / "b", [broken])
    with pytest.raises(BundleError, match="not the name of a task"):
        Bundle.load(folder)
