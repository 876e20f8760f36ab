"""The trained miniature beside transformers: graphs, answers, and the path that a user takes.

Trained weights matter: random ones never end an answer and hardly ever read a picture.
"""

from pathlib import Path
from typing import Any

import pytest

from florence_edge import GenerationOptions, contract
from florence_edge.results.result import Result
from florence_edge.tasks import TASKS
from florence_edge_calibration.scenes import ask_everything, draw_scene, generate_scene
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint

from .parity import Answers, Pair, assert_equal, pair_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
MAX_NEW_TOKENS = 48
SCENE = 11
PICTURE = (320, 200)  # neither square nor of the model's size


@pytest.fixture(scope="module")
def pair(miniature_bundle: Path) -> Pair:
    return pair_of(find_checkpoint(MINIATURE), miniature_bundle)


def test_the_graphs_equal_transformers(pair: Pair) -> None:
    assert pair.vision_error(2) < TOLERANCE
    assert pair.text_error([1]) < TOLERANCE
    assert pair.text_error([3, 17, 8]) < TOLERANCE
    assert pair.decoder_error([3, 14, 6], 2, steps=6) < TOLERANCE


def test_the_decoder_equals_transformers_when_its_cache_grows(pair: Pair) -> None:
    assert pair.decoder_error([4], 1, steps=2 * contract.MIN_CACHE_CAPACITY + 3) < TOLERANCE


@pytest.mark.parametrize(
    "beams",
    [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)],
)
def test_answers_to_all_15_tasks_equal_transformers(pair: Pair, beams: int) -> None:
    answers = [pair.answers(beams, MAX_NEW_TOKENS, scene) for scene in (SCENE, SCENE + 1)]
    assert_equal(answers)
    lengths = [length for several in answers for length in several.lengths]
    assert len(lengths) == 2 * len(TASKS)
    assert min(lengths) < MAX_NEW_TOKENS  # some end by themselves


def test_what_a_user_gets_is_what_transformers_gives_from_the_same_folder(pair: Pair) -> None:
    """Its own model, processor and generation settings, with nothing of ours between."""
    folder = pair.checkpoint.folder
    original = transformers.Florence2ForConditionalGeneration.from_pretrained(folder)
    original = original.float().eval()  # stored in half, which both compute in float32
    processor = transformers.AutoProcessor.from_pretrained(folder)
    drawn = generate_scene(SCENE)
    picture = draw_scene(drawn, PICTURE[0]).resize(PICTURE)
    options = GenerationOptions(max_new_tokens=MAX_NEW_TOKENS)
    answers, structured = Answers([], []), 0
    for question in ask_everything(drawn):
        marker = TASKS[question.task].token
        inputs = processor(text=marker + question.text, images=picture, return_tensors="pt")
        with torch.inference_mode():
            ids = original.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)[0].tolist()
        found = pair.model.run(picture, question.task, question.text or None, options=options)
        hidden = pair.reference.encode(_features(original, inputs), _prompt(original, inputs))
        answers.add(
            list(found.token_ids), ids, lambda ids, h=hidden: pair.reference.log_probs(h, ids)
        )
        if answers.verdicts[-1] == "equal":
            assert found.to_hf() == _read(processor, ids, found)
            structured += bool(found.regions)
    assert len(answers.verdicts) == len(TASKS)
    assert structured
    assert_equal([answers])


def test_the_folder_has_florences_settings(pair: Pair) -> None:
    theirs = transformers.GenerationConfig.from_pretrained(pair.checkpoint.folder)
    ours = pair.model.generation_config()
    for name in ("num_beams", "early_stopping", "no_repeat_ngram_size", "forced_bos_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.num_beams, ours.early_stopping, ours.no_repeat_ngram_size) == (3, True, 3)


def _read(processor: Any, ids: list[int], found: Result) -> Any:
    (text,) = processor.batch_decode([ids], skip_special_tokens=False)
    assert text == found.raw_text
    return processor.post_process_generation(
        text=text, task=found.task.token, image_size=found.image_size
    )


def _features(original: Any, inputs: Any) -> Any:
    with torch.inference_mode():
        return original.get_image_features(inputs["pixel_values"]).pooler_output.numpy()


def _prompt(original: Any, inputs: Any) -> list[int]:
    """Without the places of the picture."""
    ids = inputs["input_ids"][0].tolist()
    return [token for token in ids if token != original.config.image_token_id]
