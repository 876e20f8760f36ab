import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from florence_edge.errors import RequestError
from florence_edge.tasks import TASKS
from florence_edge_benchmarks.accuracy.data import VQA, read_truth
from florence_edge_calibration.scenes.held_out import FOLDER

from ..helpers.assets import Asset

IMAGES = [{"id": 5, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}]


def write(folder: Path, name: str, **tables: Any) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"images": IMAGES, **tables}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "val2017").mkdir()
    for row in IMAGES:
        Image.new("RGB", (40, 30)).save(tmp_path / "val2017" / str(row["file_name"]))
    return tmp_path


def test_cocos_own_folder_is_read(folder: Path) -> None:
    categories = [{"id": 1, "name": "cat"}]
    boxes = [{"id": 9, "image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0}]
    write(folder, "annotations/instances_val2017.json", categories=categories, annotations=boxes)
    said = [
        {"id": 1, "image_id": 5, "caption": "One."},
        {"id": 2, "image_id": 5, "caption": "Two."},
    ]
    write(folder, "annotations/captions_val2017.json", annotations=said)
    write(folder, "annotations/person_keypoints_val2017.json", annotations=boxes)
    truth = read_truth(folder)
    assert [path.name for path in truth.pictures.values()] == ["a.jpg", "b.jpg"]
    assert len(truth.instances) == len(truth.categories) == 1
    asked = {(each.image_id, each.task): each.references for each in truth.questions}
    assert asked == {(3, "OD"): (), (5, "OD"): (), (5, "CAPTION"): ("One.", "Two.")}


def test_every_other_table_becomes_a_question(folder: Path) -> None:
    write(
        folder,
        "truth.json",
        phrases=[
            {"image_id": 3, "caption": "a cat and a dog", "phrase": "a cat", "bbox": [1, 2, 3, 4]},
            {"image_id": 3, "caption": "a cat and a dog", "phrase": "a dog", "bbox": [0, 0, 9, 9]},
        ],
        expressions=[{"image_id": 3, "text": "the cat", "segmentation": [[0, 0, 5, 0, 5, 5]]}],
        words=[{"image_id": 5, "text": "STOP"}, {"image_id": 5, "text": "HERE"}],
        vqa=[{"image_id": 5, "question": "What colour?", "answers": ["red"]}],
    )
    phrases, expression, words, vqa = sorted(
        read_truth(folder).questions, key=lambda each: (each.image_id, each.task)
    )
    assert phrases.boxes is not None
    assert phrases.boxes.boxes == [(1, 2, 4, 6), (0, 0, 9, 9)]
    assert (phrases.text, phrases.boxes.labels) == ("a cat and a dog", ["a cat", "a dog"])
    assert expression.outline == ((0, 0, 5, 0, 5, 5),)
    assert (words.task, words.words) == ("OCR", "STOP HERE")
    assert (vqa.task, vqa.text, vqa.answers) == (VQA, "What colour?", ("red",))


def test_the_held_out_scenes_ask_every_task_once_a_picture() -> None:
    truth = read_truth(FOLDER, limit=3)
    assert [each.task for each in truth.questions] == [*TASKS] * 3
    assert {row["image_id"] for row in truth.instances} == {0, 1, 2}
    captions = [each for each in truth.questions if each.task == "CAPTION"]
    assert [each.references for each in captions] == [(each.answer,) for each in captions]


def test_cocos_photographs_are_read(asset: Asset) -> None:
    truth = read_truth(asset("photos/coco_cc"))
    assert len(truth.pictures) == 40
    assert {each.task for each in truth.questions} == {"OD", "CAPTION"}
    assert all(each.references for each in truth.questions if each.task == "CAPTION")


def test_pictures_that_are_not_there_are_left_out(folder: Path) -> None:
    (folder / "val2017" / "a.jpg").unlink()
    write(folder, "t.json", words=[{"image_id": 3, "text": "A"}, {"image_id": 5, "text": "B"}])
    truth = read_truth(folder)
    assert list(truth.pictures) == [5]
    assert [each.words for each in truth.questions] == ["B"]
    (folder / "val2017" / "b.jpg").unlink()
    with pytest.raises(RequestError, match=r"^None of the 2 pictures"):
        read_truth(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "has no table `images`"),
        ('{"images": 3}', "has no table `images`"),
        ('{"images": [3]}', "row 1 of `images` is not an object"),
        ('{"images": [{"id": 3}]}', "row 1 of `images` lacks 'file_name', expected a text"),
        ('{"images": [{"id": 3, "file_name": "a.jpg"}], "questions": [{"image_id": 3}]}', "'task'"),
        ('{"images": [{"id": 3, "file_name": "a.jpg"}], "vqa": [{"image_id": 3}]}', "'question'"),
    ],
)
def test_other_files_give_one_clear_message(folder: Path, content: str, message: str) -> None:
    (folder / "truth.json").write_text(content)
    with pytest.raises(RequestError, match=message):
        read_truth(folder)


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("images", {"id": "a", "file_name": "a.jpg"}, "'id' is 'a', expected a whole number"),
        ("annotations", {"bbox": [1, 2], "category_id": 1}, "expected x, y, width, height"),
        ("annotations", {"bbox": [1, 2, 3, float("nan")], "category_id": 1}, "expected x, y"),
        ("annotations", {"bbox": [1, 2, 3, 4]}, "lacks 'category_id'"),
        ("annotations", {"bbox": [1, 2, 3, 4], "category_id": 9}, "name the category 9"),
        ("annotations", {"caption": 7}, "'caption' is 7, expected a text"),
        ("captions", {"caption": " "}, "'caption' is ' ', expected a text"),
        ("words", {"text": None}, "'text' is None, expected a text"),
        ("phrases", {"caption": "a", "phrase": "a", "bbox": "x" * 99}, r"'xxx+\.\.\., expected"),
        ("expressions", {"text": "a", "segmentation": [[1, 2]]}, "expected polygons"),
        ("vqa", {"question": 3, "answers": ["a"]}, "'question' is 3, expected a text"),
        ("vqa", {"question": "a", "answers": []}, r"'answers' is \[\], expected texts"),
        ("questions", {"task": "FLY", "text": None, "answer": "x"}, "There is no task 'FLY'"),
        ("words", 3, "row 1 of `words` is not an object"),
        ("annotations", {"bbox": [1, 2, 3, -4], "category_id": 1}, "expected x, y, width, height"),
        ("annotations", {"bbox": [1, 2, 3, 10**400], "category_id": 1}, "expected x, y, width"),
        ("annotations", {"bbox": [1, 2, 3, 4], "category_id": 1, "area": "big"}, "'area' is 'big'"),
        ("annotations", {"bbox": [1, 2, 3, 4], "category_id": 1, "area": None}, "'area' is None"),
        (
            "annotations",
            {"bbox": [1, 2, 3, 4], "category_id": 1, "iscrowd": "x"},
            "expected 0 or 1",
        ),
        ("annotations", {"bbox": [1, 2, 3, 4], "category_id": 1, "iscrowd": None}, "expected 0 or"),
        (
            "annotations",
            {"image_id": [1], "keypoints": [1]},
            r"'image_id' is \[1\], expected a whole",
        ),
        ("captions", {"caption": "..."}, r"'caption' is '\.\.\.', expected a text with a word"),
    ],
)
def test_a_row_that_is_wrong_is_named(folder: Path, table: str, row: Any, message: str) -> None:
    rows = [{"image_id": 3, **row} if isinstance(row, dict) else row]
    write(folder, "truth.json", **{table: rows})
    with pytest.raises(RequestError, match=message):
        read_truth(folder)


@pytest.mark.parametrize(
    ("task", "answer", "message"),
    [
        ("OD", "no loc here", "expected regions as <OD> writes them"),
        ("OD", "<loc_1><loc_2><loc_3><loc_4>", "expected regions as <OD>"),
        ("OCR_WITH_REGION", "A<loc_1><loc_2><loc_3><loc_4>", "expected regions as <OCR_WITH_REG"),
        ("<CAPTION_TO_PHRASE_GROUNDING>", "a cat", "expected regions as <CAPTION_TO_PHRASE"),
        ("REFERRING_EXPRESSION_SEGMENTATION", "<loc_1><loc_2>", "expected regions as <REFERRING"),
        ("DETAILED_CAPTION", "?!", "expected a text with a word in it"),
    ],
)
def test_an_answer_that_nothing_can_be_compared_with_is_refused(
    folder: Path, task: str, answer: str, message: str
) -> None:
    row = {"image_id": 3, "task": task, "text": None, "answer": answer}
    write(folder, "truth.json", questions=[row])
    with pytest.raises(RequestError, match=rf"row 1 of `questions`: 'answer' is .*{message}"):
        read_truth(folder)


def test_what_every_task_answers_about_held_out_scenes_can_be_compared_with() -> None:
    """Each task once, so that none is refused for want of what only another's answers have."""
    assert {each.task for each in read_truth(FOLDER, limit=1).questions} == set(TASKS)


def test_ids_that_do_not_match_are_told_from_truth_that_is_not_there(folder: Path) -> None:
    write(folder, "truth.json", words=[{"image_id": 77, "text": "A"}])
    with pytest.raises(RequestError, match=r"is about any of the 2 pictures .* An `image_id`"):
        read_truth(folder)
    write(folder, "truth.json")
    with pytest.raises(RequestError, match="has pictures, but no truth about them"):
        read_truth(folder)


def test_crowds_alone_are_no_detections_to_find(folder: Path) -> None:
    crowd = {"image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1}
    words, categories = [{"image_id": 3, "text": "A"}], [{"id": 1, "name": "cat"}]
    write(folder, "truth.json", annotations=[crowd], categories=categories, words=words)
    truth = read_truth(folder)
    assert [each.task for each in truth.questions] == ["OCR"]
    assert not truth.has_boxes
    write(folder, "truth.json", annotations=[crowd, {**crowd, "iscrowd": 0}], categories=categories)
    truth = read_truth(folder)
    assert [each.task for each in truth.questions] == ["OD", "OD"]
    assert truth.has_boxes


def test_json_that_is_nested_too_deeply_is_one_message(folder: Path) -> None:
    (folder / "truth.json").write_text("[" * 200_000)
    with pytest.raises(RequestError, match=r"truth\.json cannot be read: .*recursion"):
        read_truth(folder)


def test_a_table_that_is_not_a_list_is_named_with_its_file(folder: Path) -> None:
    write(folder, "truth.json", captions=5)
    with pytest.raises(RequestError, match=r"truth\.json: table `captions` is not a list"):
        read_truth(folder)


def test_a_task_may_be_written_as_its_token(folder: Path) -> None:
    asked = {"image_id": 3, "task": "<OCR>", "text": None, "answer": "STOP"}
    write(folder, "truth.json", questions=[asked], words=[{"image_id": 3, "text": "STOP"}])
    assert [each.task for each in read_truth(folder).questions] == ["OCR"]


def test_a_folder_without_truth_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no annotations/instances_val\*\.json"):
        read_truth(tmp_path)
    with pytest.raises(RequestError, match=r"There is no folder .*nowhere"):
        read_truth(tmp_path / "nowhere")
