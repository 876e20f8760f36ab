import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import CutOff
from florence_edge.errors import RequestError
from florence_edge.regions import Convention, location_tokens
from florence_edge.results.parse import parse
from florence_edge.results.result import Result, TokenPiece, read_answer
from florence_edge.tasks import TASKS, find_task

SIZE = (1000, 1000)
CAR = "car<loc_1><loc_2><loc_3><loc_4>"
BUS = "a bus<loc_5><loc_6><loc_70><loc_80>"


def pieces_of(text: str, log_probs: dict[str, float] | None = None) -> list[TokenPiece]:
    """One piece a tag, one a word; log-probability -1 unless `log_probs` says otherwise."""
    pieces = [TokenPiece(2, "</s>", 0.0, forced=True), TokenPiece(0, "<s>", -9.0, forced=True)]
    for token_id, part in enumerate(re.findall(r"<[^>]*>|\s?[^<\s]+|\s", text), start=100):
        pieces.append(TokenPiece(token_id, part, (log_probs or {}).get(part, -1.0)))
    return [*pieces, TokenPiece(2, "</s>", -0.5)]


def answer(task: str, text: str, log_probs: dict[str, float] | None = None) -> Result:
    return read_answer(find_task(task), pieces_of(text, log_probs), image_size=SIZE)


TEXT_OF_EACH_TASK = {
    "OCR_WITH_REGION": "STOP<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>",
    "REGION_PROPOSAL": "<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>",
    "REFERRING_EXPRESSION_SEGMENTATION": "<loc_1><loc_2><loc_3><loc_4><sep><loc_5><loc_6>",
    "REGION_TO_SEGMENTATION": "<poly><loc_1><loc_2><loc_3><loc_4></poly>",
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("convention", ["native", "microsoft"])
def test_a_result_gives_the_dictionary_that_parsing_its_text_gives(
    task: str, convention: Convention
) -> None:
    pieces = pieces_of(TEXT_OF_EACH_TASK.get(task, CAR + BUS))
    result = read_answer(find_task(task), pieces, image_size=SIZE, convention=convention)
    assert result.to_hf() == parse(task, result.raw_text, image_size=SIZE, convention=convention)
    assert result.status == "ok"
    assert len(result.scores) == (len(result.regions) or 1)


def test_a_region_is_scored_by_its_locations_and_its_label_by_its_words() -> None:
    result = answer("OD", CAR + BUS, {"<loc_2>": -5.0, "a": -0.2, " bus": -0.4})
    car, bus = result.regions
    assert car.score == pytest.approx(math.exp(-2))
    assert car.label_score == pytest.approx(math.exp(-1))
    assert bus.score == pytest.approx(math.exp(-1))
    assert bus.label_score == pytest.approx(math.exp(-0.3))
    assert result.scores == (car.score, bus.score)


def test_boxes_of_one_label_have_scores_of_their_own() -> None:
    result = answer("OD", CAR + "<loc_5><loc_6><loc_7><loc_8>", {"<loc_7>": -3.0})
    assert result.scores == pytest.approx((math.exp(-1), math.exp(-1.5)))
    assert len({region.label_score for region in result.regions}) == 1


def test_several_start_markers_do_not_shift_the_scores() -> None:
    pieces = pieces_of("<s><s>" + CAR, {"car": -3.0, "<s>": -20.0})
    (region,) = read_answer(find_task("OD"), pieces, image_size=SIZE).regions
    assert region.score == pytest.approx(math.exp(-1))
    assert region.label_score == pytest.approx(math.exp(-3))


def test_markers_spelled_out_inside_a_label_do_not_shift_the_scores() -> None:
    pieces = [
        TokenPiece(1, "c<", -1.0),
        TokenPiece(2, "s>ar", -2.0),
        *pieces_of("<loc_1><loc_2><loc_3><loc_4>", {"<loc_4>": -5.0})[2:],
    ]
    (region,) = read_answer(find_task("OD"), pieces, image_size=SIZE).regions
    assert region.label == "car"
    assert region.label_score == pytest.approx(math.exp(-1.5))
    assert region.score == pytest.approx(math.exp(-2))


def test_a_region_without_a_label_has_no_label_score() -> None:
    (region, _) = answer("REGION_PROPOSAL", TEXT_OF_EACH_TASK["REGION_PROPOSAL"]).regions
    assert region.label_score is None


def test_forced_locations_leave_the_region_with_the_score_of_the_whole() -> None:
    pieces = [
        TokenPiece(piece.token_id, piece.text, piece.log_prob, forced="loc" in piece.text)
        for piece in pieces_of(CAR, {"car": -0.7})
    ]
    (region,) = read_answer(find_task("OD"), pieces, image_size=SIZE).regions
    assert region.score == pytest.approx(math.exp(-0.7))


def test_plain_text_has_one_score_and_an_empty_one_none() -> None:
    assert answer("CAPTION", "A car.", {" car.": -2.0}).scores == pytest.approx((math.exp(-1.5),))
    assert answer("CAPTION", "").scores == ()
    assert answer("CAPTION", "").score == 0.0


@pytest.mark.parametrize(
    ("task", "text", "cut_off", "status"),
    [
        ("OD", CAR, None, "ok"),
        ("OD", CAR, "length", "truncated"),
        ("OD", "car<loc_1>", None, "unparsed"),
        ("OD", "car<loc_1>", "time", "truncated"),
        ("OD", "", None, "empty"),
        ("OD", "", "cancel", "truncated"),
        ("OD", "<s><pad>", None, "empty"),
        ("CAPTION", "A car.", None, "ok"),
        ("CAPTION", "A car.", "length", "truncated"),
        ("CAPTION", "", None, "empty"),
    ],
)
def test_status_tells_how_the_answer_ended(
    task: str, text: str, cut_off: CutOff | None, status: str
) -> None:
    result = read_answer(find_task(task), pieces_of(text), image_size=SIZE, cut_off=cut_off)
    assert (result.status, result.cut_off) == (status, cut_off)


def test_a_description_names_the_task_and_its_columns() -> None:
    assert answer("OD", CAR + BUS).describe().splitlines() == [
        "<OD>:",
        "score     x1    y1    x2    y2  label",
        " 0.37      1     2     3     4  car",
        " 0.37      5     6    70    80  a bus",
    ]
    assert answer("CAPTION", "A car.").describe() == "<CAPTION>:\nscore  text\n 0.37  A car."


def test_a_description_says_what_the_task_was_asked_with() -> None:
    task = find_task("CAPTION_TO_PHRASE_GROUNDING")
    result = read_answer(task, pieces_of(CAR), image_size=SIZE, text_input="a red car")
    assert result.describe().startswith("<CAPTION_TO_PHRASE_GROUNDING> a red car:\nscore ")


@pytest.mark.parametrize(
    ("cut_off", "note"),
    [
        ("length", "(cut off: it reached the longest length of an answer, max_new_tokens)"),
        ("time", "(cut off: its time was up, max_time)"),
        ("cancel", "(cut off: it was cancelled)"),
    ],
)
def test_a_description_says_why_an_answer_was_cut_off(cut_off: CutOff, note: str) -> None:
    for text in (CAR, ""):
        cut = read_answer(find_task("OD"), pieces_of(text), image_size=SIZE, cut_off=cut_off)
        assert cut.describe().splitlines()[-1] == note


def test_a_description_says_why_there_is_no_line() -> None:
    assert answer("OD", "").describe() == "<OD>:\n(the model said nothing)"
    assert answer("OD", CAR).filter(1.0).describe() == "<OD>:\n(no region was kept)"
    unparsed = answer("OD", "a car").describe().splitlines()
    assert unparsed[1:] == ["(the answer names no region; raw text follows)", "</s><s>a car</s>"]


def test_filtering_drops_weak_regions_from_everything_made_of_them() -> None:
    result = answer("OD", CAR + BUS, {"<loc_2>": -5.0}).filter(0.3)
    assert result.to_hf() == {"<OD>": {"bboxes": [[5, 6, 70, 80]], "labels": ["a bus"]}}
    assert len(result.scores) == len(result.to_json()["label_scores"]) == 1
    assert result.raw_text == f"</s><s>{CAR}{BUS}</s>"


def test_filtering_leaves_plain_text_to_its_reader() -> None:
    result = answer("CAPTION", "A car.")
    assert result.filter(1.0) == result


def test_json_holds_plain_types_under_the_promised_names() -> None:
    task, pieces = find_task("OPEN_VOCABULARY_DETECTION"), pieces_of(CAR)
    result = read_answer(task, pieces, image_size=SIZE, text_input="car")
    assert json.loads(json.dumps(result.to_json())) == {
        "task": "<OPEN_VOCABULARY_DETECTION>",
        "text_input": "car",
        "raw_text": f"</s><s>{CAR}</s>",
        "token_ids": [2, 0, 100, 101, 102, 103, 104, 2],
        "result": {
            "<OPEN_VOCABULARY_DETECTION>": {
                "bboxes": [[1, 2, 3, 4]],
                "bboxes_labels": ["car"],
                "polygons": [],
                "polygons_labels": [],
            }
        },
        "scores": [math.exp(-1)],
        "label_scores": [math.exp(-1)],
        "status": "ok",
        "cut_off": None,
        "image_size": [1000, 1000],
        "seconds": {},
    }


def test_drawing_puts_plain_text_under_the_picture_and_regions_on_it() -> None:
    picture = Image.new("RGB", SIZE, "white")
    assert answer("CAPTION", "A car.").draw(picture).height > SIZE[1]
    drawn = answer("OD", BUS).draw(picture)
    assert drawn.size == SIZE
    assert drawn.tobytes() != picture.tobytes()


def test_an_array_of_opencv_is_drawn_on_in_its_own_colours() -> None:
    bgr = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    bgr[..., 0] = 255
    assert answer("OD", BUS).draw(bgr, color="bgr").getpixel((99, 99)) == (0, 0, 255)
    assert answer("OD", BUS).draw(bgr).getpixel((99, 99)) == (255, 0, 0)


def test_drawing_shows_the_region_that_was_asked_about() -> None:
    picture = Image.new("RGB", SIZE)
    where = location_tokens((10, 10, 60, 40), SIZE)
    about = replace(answer("REGION_TO_CATEGORY", "car"), text_input=where)
    drawn = about.draw(picture)
    assert drawn.getpixel((10, 25)) == (250, 250, 250)


def test_drawing_on_another_picture_is_refused() -> None:
    with pytest.raises(RequestError, match="Draw on the picture that was asked about"):
        answer("OD", CAR).draw(Image.new("RGB", (10, 20)))


def test_a_result_cannot_be_changed() -> None:
    result: Any = answer("OD", CAR)
    with pytest.raises(AttributeError):
        result.status = "ok"
