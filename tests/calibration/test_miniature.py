import json
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the miniature is trained with torch: [verify]")
pytest.importorskip("transformers")

from tokenizers import Tokenizer  # noqa: E402

from florence_edge.tokenizer import FLORENCE_TOKENS  # noqa: E402
from florence_edge_calibration.miniature import dense_head, publish  # noqa: E402
from florence_edge_calibration.miniature.data import BatchSource, ScenePool  # noqa: E402
from florence_edge_calibration.miniature.evaluate import CHECKPOINT  # noqa: E402
from florence_edge_calibration.miniature.train import TrainingPlan, start_training, train  # noqa: E402
from florence_edge_calibration.scenes import ask_everything, draw_scene, generate_scenes  # noqa: E402
from florence_edge_calibration.scenes.shapes import SHAPES  # noqa: E402

SCENES = list(generate_scenes(300, 8))


class PaintedScenes(ScenePool):
    """A pool of a few scenes without files."""

    def __init__(self) -> None:
        self.pixels = np.stack([np.asarray(draw_scene(scene, 128)) for scene in SCENES])

    def take(self, start, count):  # type: ignore[no-untyped-def]
        return self.pixels[:count], SCENES[:count]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


def source_of(tokenizer: Tokenizer) -> BatchSource:
    return BatchSource(
        pool=PaintedScenes(), tokenizer=tokenizer, seed=3, images=2, questions_each=4
    )


def test_the_checkpoint_is_small_and_half() -> None:
    weights = CHECKPOINT / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["dtype"] == "float16"


def test_tokens_stand_in_florences_order(tokenizer: Tokenizer) -> None:
    ids = tokenizer.get_vocab()
    added = [ids[token] for token in FLORENCE_TOKENS]
    assert added == list(range(added[0], added[0] + 1024))
    assert [ids[token] for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert ids["<image>"] == config["image_token_id"] == added[-1] + 1


def test_the_tokenizer_reads_back_answers(tokenizer: Tokenizer) -> None:
    for question in ask_everything(SCENES[0]):
        ids = tokenizer.encode(question.answer).ids
        text = f"<s>{question.answer}</s>"
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_image_tokens_have_the_truth_of_what_is_before_them() -> None:
    truth = dense_head.dense_truth(SCENES)
    for index, scene in enumerate(SCENES):
        shown = {int(shape) for shape in truth.shape[index]}
        assert {list(SHAPES).index(thing.shape) for thing in scene.objects} <= shown


def test_the_same_step_gives_the_same_batch(tokenizer: Tokenizer) -> None:
    one, other = source_of(tokenizer).batch(5), source_of(tokenizer).batch(5)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.pixels, other.pixels)
    assert one.labels.shape[0] == 8
    assert torch.equal(one.decoder_ids[:, 1:], one.labels[:, :-1].where(one.labels[:, :-1] >= 0, 1))


def test_training_goes_on_where_it_was_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    plan, source, cpu = (
        TrainingPlan(dense_steps=1, steps=1),
        source_of(tokenizer),
        torch.device("cpu"),
    )
    begun = start_training(plan, tokenizer, cpu)
    train(plan, begun, source, tmp_path, Event())
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()

    resumed = start_training(plan, tokenizer, cpu)
    resumed.load(tmp_path / "state.pt")
    assert resumed.step == 2
    longer = replace(plan, steps=2)
    for training in (begun, resumed):
        train(longer, training, source, tmp_path, Event())
    pairs = zip(begun.average.parameters(), resumed.average.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_table_of_the_readme_is_written_from_figures() -> None:
    row = {"headline": "AP50", "value": 0.876, "shuffled pictures": 0.01}
    readme = "before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n"
    written = publish.with_table(readme, publish.figure_table({"OD": row}))
    assert "| `OD` | AP50 | 0.88 | 0.01 |" in written
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
