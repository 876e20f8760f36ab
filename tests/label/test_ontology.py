"""Ontologies as files, and what every picture is asked."""

from pathlib import Path

import pytest

from florence_edge import RequestError
from florence_edge_label.ontology import Question, is_about, questions_for, read_ontology

SITE = {"a person": "person", "someone on a ladder": "person", "hard hat": "helmet"}


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="install florence-edge[label]")
    (tmp_path / "o.json").write_text('{"a person": "person", " hard hat ": "helmet"}')
    (tmp_path / "o.yaml").write_text("a person: person\nhard hat: helmet\n")
    expected = {"a person": "person", "hard hat": "helmet"}
    assert read_ontology(tmp_path / "o.json") == read_ontology(tmp_path / "o.yaml") == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("o.json", "["),
        ("o.json", "[]"),
        ("o.json", "{}"),
        ("o.json", '{"a": 1}'),
        ("o.json", '{"": "x"}'),
        ("o.yaml", "a: [b"),
        ("o.yaml", "- a"),
        ("o.yml", "1: person"),
    ],
)
def test_what_is_not_an_ontology_is_refused(tmp_path: Path, name: str, content: str) -> None:
    pytest.importorskip("yaml", reason="install florence-edge[label]")
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError, match=r"is not an ontology: .* Expected a class for each"):
        read_ontology(tmp_path / name)


def test_each_phrase_is_a_question_of_its_own() -> None:
    asked = questions_for(["OD", "CAPTION_TO_PHRASE_GROUNDING"], None, SITE)
    assert asked[0] == Question(task="OD")
    assert [(each.text, each.label) for each in asked[1:]] == list(SITE.items())
    assert {each.task for each in asked[1:]} == {"CAPTION_TO_PHRASE_GROUNDING"}


def test_an_ontology_alone_is_asked_by_open_vocabulary_detection() -> None:
    assert {each.task for each in questions_for([], None, SITE)} == {"OPEN_VOCABULARY_DETECTION"}


def test_a_text_goes_to_the_tasks_that_take_one() -> None:
    asked = questions_for(["CAPTION", "OPEN_VOCABULARY_DETECTION"], "a dog", {})
    assert asked == (
        Question(task="CAPTION"),
        Question(task="OPEN_VOCABULARY_DETECTION", text="a dog"),
    )


@pytest.mark.parametrize(
    ("tasks", "text", "ontology", "message"),
    [
        ([], None, {}, "nothing to ask"),
        (["OD"], None, SITE, "None of OD asks for phrases"),
        (["OD", "od"], None, {}, "OD stands twice"),
        (["REGION_TO_OCR"], "<loc_1><loc_2><loc_3><loc_4>", {}, "asks about a region"),
        (["NOTHING"], None, {}, "There is no task"),
        (["OPEN_VOCABULARY_DETECTION"], None, {}, "needs a text"),
        (["OPEN_VOCABULARY_DETECTION"], "x", SITE, "leave --text out"),
        (["OD"], "x", {}, "takes no text"),
    ],
)
def test_questions_that_do_not_fit_are_refused(
    tasks: list[str], text: str | None, ontology: dict[str, str], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        questions_for(tasks, text, ontology)


@pytest.mark.parametrize(
    ("label", "phrase", "about"),
    [
        ("a circle", "A Circle", True),
        ("white circle", "a circle", True),
        ("circle", "the circle", True),
        ("white moon", "a circle", False),  # what the miniature says where there is no circle
        ("a ladder", "someone on a ladder", False),  # grounding names the parts of a phrase
        ("", "a circle", True),  # outlines have no label
    ],
)
def test_what_was_not_found_gives_nothing(label: str, phrase: str, about: bool) -> None:
    assert is_about(label, phrase) == about
