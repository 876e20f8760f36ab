import numpy as np
import pytest

from florence_edge.results.parse import parse
from florence_edge.tasks import TASKS
from florence_edge_calibration.scenes import (
    Scene,
    ask_everything,
    draw_scene,
    generate_scene,
    generate_scenes,
)
from florence_edge_calibration.scenes.held_out import coco_truth, draw_truth, load_held_out
from florence_edge_calibration.scenes.layout import GRID, SceneObject, SceneWord
from florence_edge_calibration.scenes.questions import has_no_repeated_trigram, location_tokens
from florence_edge_calibration.scenes.shapes import COLOURS, SHAPES
from florence_edge_calibration.scenes.words import WORDS, letter_ends

SCENES = list(generate_scenes(5_000, 60))

HOUSE = Scene(
    seed=1,
    background="plain",
    noise=0.0,
    objects=(
        SceneObject(shape="square", colour="red", size="large", box=(0, 0, 20, 20), depth=0),
        SceneObject(shape="circle", colour="blue", size="small", box=(40, 40, 52, 52), depth=1),
    ),
    words=(SceneWord(text="HOUSE", box=(10, 30, 38, 38), dark=True, plate=True),),
)


def answers_of(scene: Scene) -> dict[str, str]:
    return {question.task: question.answer for question in ask_everything(scene)}


def test_the_same_seed_gives_the_same_scene_and_picture() -> None:
    scene = generate_scene(7)
    assert scene == generate_scene(7)
    assert scene != generate_scene(8)
    assert np.array_equal(np.asarray(draw_scene(scene, 96)), np.asarray(draw_scene(scene, 96)))


def test_scenes_are_as_varied_as_promised() -> None:
    counts = [len(scene.objects) for scene in SCENES]
    assert set(counts) == {1, 2, 3, 4, 5}
    assert 2.5 < np.mean(counts) < 3.5
    assert len(SHAPES) >= 8
    assert len(COLOURS) >= 8
    assert len(set(WORDS)) == 300
    assert all(3 <= len(word) <= 7 for word in WORDS)
    backgrounds = {scene.background for scene in SCENES}
    assert backgrounds == {"plain", "textured", "photographic"}


def test_nothing_is_too_small_to_see_or_outside_the_picture() -> None:
    for scene in SCENES:
        for thing in scene.objects:
            x1, y1, x2, y2 = thing.box
            assert min(x2 - x1, y2 - y1) >= 0.12 * GRID
        for word in scene.words:
            assert word.box[3] - word.box[1] >= 0.10 * GRID
        boxes = [thing.box for thing in scene.objects] + [word.box for word in scene.words]
        assert all(min(box) >= 0 and max(box) <= GRID for box in boxes)


def test_corners_of_a_polygon_stay_in_its_box() -> None:
    for scene in SCENES:
        for thing in scene.objects:
            x1, y1, x2, y2 = thing.box
            assert all(x1 <= x <= x2 and y1 <= y <= y2 for x, y in thing.polygon)


@pytest.mark.parametrize("image_size", [64, 128, 500])
def test_pictures_have_any_size(image_size: int) -> None:
    assert draw_scene(SCENES[0], image_size).size == (image_size, image_size)


def test_things_are_drawn_where_their_boxes_are() -> None:
    pixels = np.asarray(draw_scene(HOUSE, 128)).astype(int)
    red, blue = pixels[20, 20], pixels[92, 92]  # the middles of square and circle
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100


def test_answers_are_worded_as_florence_words_them() -> None:
    answers = answers_of(HOUSE)
    assert answers["CAPTION"] == "red square and blue circle"
    assert answers["OCR"] == "HOUSE"
    assert answers["OD"] == (
        "square<loc_0><loc_0><loc_312><loc_312>circle<loc_625><loc_625><loc_812><loc_812>"
    )
    assert answers["MORE_DETAILED_CAPTION"] == (
        "A plain picture with 2 objects, from left to right: large red square and small blue "
        'circle. The word reads "HOUSE".'
    )


def test_every_task_has_an_answer_that_can_be_read_back() -> None:
    for scene in SCENES[:20]:
        questions = ask_everything(scene)
        assert [question.task for question in questions] == list(TASKS)
        for question in questions:
            assert question.prompt
            found = parse(question.task, question.answer, image_size=(1000, 1000))
            assert all(found.values())


def test_no_answer_repeats_three_tokens() -> None:
    assert has_no_repeated_trigram("red circle, red square")
    assert not has_no_repeated_trigram("red circle, a red circle, a red square")
    assert all(
        has_no_repeated_trigram(answer) for scene in SCENES for answer in answers_of(scene).values()
    )


def test_the_last_location_token_is_999() -> None:
    assert location_tokens([(0, GRID)]) == "<loc_0><loc_999>"


def test_truth_is_in_coco_form() -> None:
    truth = coco_truth([HOUSE], image_size=640)
    square = truth["annotations"][0]
    assert square["bbox"] == [0, 0, 200, 200]
    assert square["area"] == 200 * 200
    assert square["segmentation"] == [[0, 0, 200, 0, 200, 200, 0, 200]]
    assert truth["words"][0]["quad"] == [100, 300, 380, 300, 380, 380, 100, 380]
    assert len(truth["captions"]) == 3


def test_letters_end_where_they_are_printed() -> None:
    ends = letter_ends("WIND")
    assert ends[-1] == 1
    assert ends[1] - ends[0] < ends[0]  # an I is narrower than a W


def test_the_committed_scenes_have_pictures_and_all_questions() -> None:
    scenes = load_held_out()
    assert len(scenes) == 200
    assert all(scene.picture.exists() for scene in scenes)
    assert all([q.task for q in scene.questions] == list(TASKS) for scene in scenes)


def test_truth_can_be_drawn_for_a_person() -> None:
    plain, drawn = draw_scene(HOUSE, 256), draw_truth(HOUSE, 256)
    assert np.any(np.asarray(plain) != np.asarray(drawn))
