import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pycocotools")
pytest.importorskip("pycocoevalcap")

from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions
from florence_edge.errors import MissingPackageError, RequestError
from florence_edge_benchmarks.accuracy.ask import AskOptions, ask_all, check_gradable
from florence_edge_benchmarks.accuracy.data import VQA, DataQuestion, Truth, read_truth
from florence_edge_benchmarks.accuracy.run import measure_accuracy
from florence_edge_benchmarks.results_io import bundle_fingerprint
from florence_edge_calibration.scenes.held_out import FOLDER

from ..helpers.assets import Asset

GREEDY = GenerationOptions(num_beams=1, max_new_tokens=80)


def test_the_miniature_is_mostly_right_about_all_tasks(miniature_bundle: Path) -> None:
    truth = read_truth(FOLDER, limit=6)
    result = measure_accuracy(miniature_bundle, truth, AskOptions(options=GREEDY), threads=1)
    assert list(result.figures) == list(TASKS)
    assert (result.model, result.precision, result.images) == ("miniature", "fp32", 6)
    assert (result.bundle, result.beams, result.max_new_tokens) == (miniature_bundle.name, 1, 80)
    assert result.figures["OD"]["AP50"] > 0.6
    assert next(iter(result.figures["OD"])) == "AP50:95"
    assert result.figures["CAPTION"]["BLEU-1"] > 0.7
    assert result.figures["REFERRING_EXPRESSION_SEGMENTATION"]["polygon IoU"] > 0.4
    assert result.figures["OCR"]["word error rate"] < 0.5
    assert "tokenizer" in result.notes[0]


def test_photographs_with_cocos_annotations_go_the_whole_way(
    miniature_bundle: Path, asset: Asset
) -> None:
    truth = read_truth(asset("photos/coco_cc"), limit=3)
    result = measure_accuracy(miniature_bundle, truth, AskOptions(options=GREEDY), threads=1)
    assert list(result.figures) == ["OD", "CAPTION"]
    assert result.figures["OD"]["AP50:95"] < 0.1  # the miniature knows no photographs
    assert result.figures["OD"]["labels that are not a category"] > 0.5
    assert "CIDEr" in result.figures["CAPTION"]


def made_up(folder: Path, *asked: DataQuestion, broken: bool = False) -> Truth:
    Image.new("RGB", (64, 48), "red").save(folder / "0.jpg")
    (folder / "1.jpg").write_text("no picture" if broken else "")
    pictures = {0: folder / "0.jpg", 1: folder / "1.jpg"}
    return Truth(
        name="made up",
        fingerprint="f",
        pictures=pictures,
        questions=asked,
        categories=(),
        instances=(),
    )


def test_questions_about_one_picture_are_put_together(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    asked = [DataQuestion(image_id=0, task=VQA, text=f"{n}?", answers=("red",)) for n in range(5)]
    ask_options = AskOptions(options=GREEDY, batch=2, vqa_prompt="<DocVQA>{question}")
    found = ask_all(tiny_model, made_up(tmp_path, *asked), ask_options)
    assert (found.unread, found.unasked) == ([], [])
    prompts = [each.result.task.template for each in found.answered[VQA]]
    assert prompts == [f"<DocVQA>{n}?" for n in range(5)]


def test_a_picture_that_cannot_be_read_is_told_and_the_rest_goes_on(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    asked = [DataQuestion(image_id=number, task="OCR", words="A") for number in (0, 1)]
    truth = made_up(tmp_path, *asked, broken=True)
    found = ask_all(tiny_model, truth, AskOptions(options=GREEDY))
    assert len(found.answered["OCR"]) == 1
    assert "is not an image" in found.unread[0]
    only = replace(truth, questions=(asked[1],))
    with pytest.raises(RequestError, match=r"None of the questions .* is not an image"):
        ask_all(tiny_model, only, AskOptions(options=GREEDY))


def test_a_question_that_cannot_be_asked_is_told_and_those_beside_it_are_answered(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    long = "a red circle " * 400
    texts = ["a cat", long, "a dog"]
    asked = [
        *(
            DataQuestion(image_id=0, task="CAPTION_TO_PHRASE_GROUNDING", text=text)
            for text in texts
        ),
        DataQuestion(image_id=0, task="REGION_TO_OCR", text="nonsense", answer="x"),
    ]
    found = ask_all(tiny_model, made_up(tmp_path, *asked), AskOptions(options=GREEDY))
    (answers,) = found.answered.values()
    assert [each.question.text for each in answers] == ["a cat", "a dog"]
    region, phrase = found.unasked
    assert region.startswith("0.jpg, REGION_TO_OCR 'nonsense': ")
    assert "needs a region" in region
    assert phrase.startswith("0.jpg, CAPTION_TO_PHRASE_GROUNDING 'a red circle a red")
    assert "Shorten the text" in phrase
    assert len(phrase) < 300


def test_what_was_left_out_stands_in_the_result_and_many_are_counted(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bad = DataQuestion(image_id=0, task="REGION_TO_OCR", text="nonsense", answer="x")
    good = DataQuestion(image_id=0, task="OCR", words="A")
    truth = made_up(tmp_path, good, *[bad] * 7)
    result = measure_accuracy(tiny_bundle, truth, AskOptions(options=GREEDY), threads=1)
    assert list(result.figures) == ["OCR"]
    assert [note.partition(":")[0] for note in result.notes] == ["Not asked"] * 6
    assert result.notes[-1] == "Not asked: 2 more."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (GenerationOptions(num_beams=99), "num_beams is 99"),
        (GenerationOptions(max_new_tokens=100_000), "max_new_tokens is 100000"),
    ],
)
def test_impossible_options_are_told_once_and_before_any_picture(
    tiny_model: Florence2,
    tmp_path: Path,
    options: GenerationOptions,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    truth = made_up(tmp_path, DataQuestion(image_id=0, task="OCR", words="A"))
    with pytest.raises(RequestError, match=f"^{message}"):
        ask_all(tiny_model, truth, AskOptions(options=options))
    assert caplog.records == []


def test_what_answers_are_graded_with_is_looked_for_before_they_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = read_truth(FOLDER, limit=1)
    check_gradable(truth, AskOptions())
    for missing, task in (("pycocotools.cocoeval", "OD"), ("pycocoevalcap.bleu.bleu", "CAPTION")):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, missing, None)
            with pytest.raises(MissingPackageError, match=r"pip install .*\[bench\]"):
                check_gradable(truth, AskOptions(tasks=[task]))
            check_gradable(truth, AskOptions(tasks=["OCR"]))


def test_figures_name_bundle_and_data_by_their_content(
    miniature_bundle: Path, tmp_path: Path
) -> None:
    """Whatever folders are called and wherever they lie."""
    copied = shutil.copytree(miniature_bundle, tmp_path / "copied")
    assert bundle_fingerprint(copied) == bundle_fingerprint(miniature_bundle)
    manifest = copied / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"num_beams": 3', '"num_beams": 2'))
    assert bundle_fingerprint(copied) != bundle_fingerprint(miniature_bundle)
    three, again, four = (read_truth(FOLDER, limit=count) for count in (3, 3, 4))
    assert three.fingerprint == again.fingerprint != four.fingerprint


def test_tasks_without_truth_name_those_there_are(tiny_model: Florence2, tmp_path: Path) -> None:
    truth = made_up(tmp_path, DataQuestion(image_id=0, task="OCR", words="A"))
    with pytest.raises(RequestError, match="has no truth for these tasks"):
        ask_all(tiny_model, truth, AskOptions(tasks=["OD"], options=GREEDY))
