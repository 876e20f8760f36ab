from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pycocotools")
pytest.importorskip("pycocoevalcap")

from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions
from florence_edge.errors import RequestError
from florence_edge_benchmarks.accuracy import (
    Examination,
    examine,
    measure_accuracy,
)
from florence_edge_benchmarks.truth import VQA, Asked, Truth, read_truth
from florence_edge_calibration.held_out import FOLDER

GREEDY = GenerationOptions(num_beams=1, max_new_tokens=80)


def test_the_miniature_is_mostly_right_about_all_tasks(miniature: Path) -> None:
    truth = read_truth(FOLDER, limit=6)
    result = measure_accuracy(miniature, truth, Examination(options=GREEDY), threads=1)
    assert list(result.figures) == list(TASKS)
    assert (result.model, result.precision, result.images) == ("miniature", "fp32", 6)
    assert result.figures["OD"]["AP50"] > 0.6
    assert next(iter(result.figures["OD"])) == "AP50:95"
    assert result.figures["CAPTION"]["BLEU-1"] > 0.7
    assert result.figures["REFERRING_EXPRESSION_SEGMENTATION"]["polygon IoU"] > 0.4
    assert result.figures["OCR"]["word error rate"] < 0.5
    assert "tokenizer" in result.notes[0]


def test_photographs_with_cocos_annotations_go_the_whole_way(miniature: Path, assets: Path) -> None:
    truth = read_truth(assets / "photos" / "coco_cc", limit=3)
    result = measure_accuracy(miniature, truth, Examination(options=GREEDY), threads=1)
    assert list(result.figures) == ["OD", "CAPTION"]
    assert result.figures["OD"]["AP50:95"] < 0.1  # the miniature knows no photographs
    assert result.figures["OD"]["labels that are no category"] > 0.5
    assert "CIDEr" in result.figures["CAPTION"]


def made_up(folder: Path, *asked: Asked, broken: bool = False) -> Truth:
    Image.new("RGB", (64, 48), "red").save(folder / "0.jpg")
    (folder / "1.jpg").write_text("no picture" if broken else "")
    pictures = {0: folder / "0.jpg", 1: folder / "1.jpg"}
    return Truth(name="made up", pictures=pictures, asked=asked, categories=(), instances=())


def test_questions_about_one_picture_are_put_together(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    asked = [Asked(image_id=0, task=VQA, text=f"{n}?", answers=("red",)) for n in range(5)]
    examination = Examination(options=GREEDY, batch=2, vqa_prompt="<DocVQA>{question}")
    answered, unread = examine(tiny_model, made_up(tmp_path, *asked), examination)
    assert unread == []
    prompts = [each.result.task.template for each in answered[VQA]]
    assert prompts == [f"<DocVQA>{n}?" for n in range(5)]


def test_a_picture_that_cannot_be_read_is_told_and_the_rest_goes_on(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    asked = [Asked(image_id=number, task="OCR", words="A") for number in (0, 1)]
    truth = made_up(tmp_path, *asked, broken=True)
    answered, unread = examine(tiny_model, truth, Examination(options=GREEDY))
    assert len(answered["OCR"]) == 1
    assert "is not an image" in unread[0]
    only = replace(truth, asked=(asked[1],))
    with pytest.raises(RequestError, match="None of the pictures of made up could be read"):
        examine(tiny_model, only, Examination(options=GREEDY))


def test_tasks_without_truth_name_those_there_are(tiny_model: Florence2, tmp_path: Path) -> None:
    truth = made_up(tmp_path, Asked(image_id=0, task="OCR", words="A"))
    with pytest.raises(RequestError, match="has no truth for these tasks"):
        examine(tiny_model, truth, Examination(tasks=["OD"], options=GREEDY))
