"""The miniature's answers on an engine beside those of ONNX Runtime on the CPU."""

from pathlib import Path

import pytest

from florence_edge import Florence2, GenerationOptions

MAX_NEW_TOKENS = 48
SCENES = (11, 12)


def assert_same_answers(bundle: Path, device: str, num_beams: int) -> None:
    """Equal token ids for all 15 tasks, and scores within what float32 differs on a GPU."""
    scenes = pytest.importorskip("florence_edge_calibration.scenes")
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=MAX_NEW_TOKENS)
    models = [Florence2.load(bundle, device), Florence2.load(bundle, threads=2)]
    different, answers = [], 0
    for scene in SCENES:
        drawn = scenes.generate_scene(scene)
        picture = scenes.draw_scene(drawn, models[0].bundle.size.image_size)
        views = [model.encode(picture, options=options) for model in models]
        for asked in scenes.ask_everything(drawn):
            found, expected = (view.run(asked.task, asked.text or None) for view in views)
            answers += 1
            if found.token_ids != expected.token_ids:
                different.append((asked.task, found.raw_text, expected.raw_text))
                continue
            assert found.token_log_probs == pytest.approx(expected.token_log_probs, abs=2e-2)
            assert found.scores == pytest.approx(expected.scores, abs=2e-2)
    assert answers == 30
    assert different == []
