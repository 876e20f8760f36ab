"""A fine-tune's own tasks, on their way from a file into the bundle."""

import json
from pathlib import Path

import pytest

from florence_edge import AnswerKind, Bundle, Needs, RequestError, Task
from florence_edge_export.checkpoint.task_file import read_tasks
from florence_edge_export.export import ExportOptions, export

FIND = {"prompt": "Find the defects in the image.", "answer": "description_with_bboxes"}
LIKE = {"prompt": "Outline {input} in the image.", "answer": "polygons"}
IN = {"prompt": "What is wrong at {input}?", "answer": "pure_text", "takes": "region"}


def _file(folder: Path, content: object) -> Path:
    path = folder / "tasks.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_what_a_task_takes_is_seen_from_its_prompt(tmp_path: Path) -> None:
    found = read_tasks(_file(tmp_path, {"<FIND>": FIND, "<LIKE>": LIKE, "<IN>": IN}))
    assert found == (
        Task("<FIND>", FIND["prompt"], AnswerKind.BOXES_WITH_LABELS),
        Task("<LIKE>", LIKE["prompt"], AnswerKind.POLYGONS, Needs.TEXT),
        Task("<IN>", IN["prompt"], AnswerKind.PURE_TEXT, Needs.REGION),
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "not a file of tasks"),
        ({"<FIND>": {}}, "prompt"),
        ({"<FIND>": {**FIND, "answer": "boxes"}}, "answer"),
        ({"FIND": FIND}, "not the name of a task"),
        ({"<OD>": FIND}, "already"),
        ({"<IN>": {**FIND, "takes": "region"}}, "once"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    tmp_path: Path, content: object, says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        read_tasks(_file(tmp_path, content))


def test_no_file_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not a file of tasks"):
        read_tasks(tmp_path / "gone.json")


def test_the_bundle_has_the_tasks_and_says_where_settings_come_from(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = read_tasks(_file(tmp_path, {"<FIND>": FIND}))
    caplog.set_level("INFO", logger="florence_edge_export")
    export("tiny", tiny_checkpoint, tmp_path / "b", ExportOptions(tasks=tasks))
    assert Bundle.load(tmp_path / "b").tasks == tasks
    (line,) = [each for each in caplog.messages if each.startswith("It generates with")]
    assert "num_beams" in line
    assert "(generation_config.json)" in line
    assert "(as transformers assumes)" in line
