"""Teacher forcing: what is counted and left out, and that the float model follows itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from florence_edge import Florence2
from florence_edge.options import GenerationConfig
from florence_edge.search import Scores
from florence_edge.tasks import TASKS
from florence_edge_calibration.quantization.agreement import (
    TIE,
    Agreement,
    TeacherForcing,
    Transcript,
    _follow,
    total,
)
from florence_edge_calibration.quantization.dataset import CalibrationSample, no_progress

# --- arithmetic

SOME = Agreement(positions=10, equal=7, decided=8, decided_equal=6, drop=2.5)


def test_loss_is_the_share_of_decided_positions_that_changed() -> None:
    assert SOME.loss == pytest.approx(1 - 6 / 8)
    assert SOME.as_json() == {
        "positions": 10,
        "decided": 8,
        "loss": 0.25,
        "top1_agreement": 0.7,
        "mean_log_prob_drop": 0.25,
    }


def test_agreements_add_up() -> None:
    other = Agreement(positions=2, equal=2, decided=1, decided_equal=1, drop=-0.5)
    assert total([SOME, other]) == Agreement(
        positions=12, equal=9, decided=9, decided_equal=7, drop=2.0
    )


def test_where_nothing_was_decided_nothing_is_lost() -> None:
    nothing = total([])
    assert nothing.positions == 0
    assert nothing.as_json()["top1_agreement"] == 0
    assert replace(nothing, positions=3).loss == 0


# --- scripted models


@dataclass
class Scripted:
    """Prefers, step by step, the tokens it is given, with log-probabilities it is given."""

    preferred: Sequence[Sequence[int]]  # [images][steps]
    log_probs: Mapping[int, float]  # of tokens; all others have -9
    fed: list[list[int]]

    def step(self, tokens: npt.NDArray[np.int64], parents: npt.NDArray[np.int64]) -> list[Scores]:
        step = len(self.fed)
        self.fed.append(tokens[:, 0].tolist())
        assert (parents == 0).all()
        return [self._scores(steps[min(step, len(steps) - 1)]) for steps in self.preferred]

    def _scores(self, best: int) -> Scores:
        full = np.full((1, 20), -9.0, np.float32)
        for token, value in self.log_probs.items():
            full[0, token] = value
        full[0, best] = -0.1
        order = np.argsort(-full, axis=1, kind="stable")[:, :4]
        top = np.take_along_axis(full, order, axis=1)
        return Scores(top, order, -top[:, 0], lambda: full)


def scripted(*preferred: Sequence[int], **more: Any) -> Scripted:
    return Scripted(preferred=preferred, log_probs=more.get("log_probs", {}), fed=[])


# </s><s> 11 12 13 </s>: the step after </s> is forced, the others are free.
TRANSCRIPT = Transcript(
    token_ids=(2, 0, 11, 12, 13, 2),
    positions=(1, 2, 3, 4),
    best=(11, 12, 13, 2),
    leads=(3.0, 3.0, TIE / 2, 3.0),
    log_probs=(-0.1, -0.2, -0.3, -0.4),
)


def test_a_model_that_prefers_the_same_agrees_everywhere() -> None:
    model = scripted([9, 11, 12, 13, 2])
    found = _follow(model, [TRANSCRIPT])
    assert (found.positions, found.equal, found.decided, found.decided_equal) == (4, 4, 3, 3)
    assert found.drop == pytest.approx(-1.0 + 4 * 0.1)
    assert model.fed == [[2], [0], [11], [12], [13]]


def test_scores_that_are_not_finite_agree_nowhere_and_are_counted() -> None:
    """Their ids are chance: here they are even the right ones."""
    model = scripted([9, 11, 12, 13, 2])
    scores = model._scores
    model._scores = lambda best: replace(  # type: ignore[method-assign]
        scores(best), top_logits=np.full((1, 4), np.nan, np.float32)
    )
    found = _follow(model, [TRANSCRIPT])
    assert (found.positions, found.equal, found.decided_equal, found.broken) == (4, 0, 0, 4)
    assert found.loss == 1
    assert found.as_json()["not_finite"] == 4
    assert total([found, SOME]).broken == 4


def test_forced_positions_are_not_asked_about() -> None:
    for at_the_forced_step in (0, 5, 19):
        assert _follow(scripted([at_the_forced_step, 11, 12, 13, 2]), [TRANSCRIPT]).equal == 4


@pytest.mark.parametrize(
    ("preferred", "equal", "decided_equal"),
    [
        ([9, 5, 12, 13, 2], 3, 2),  # another first word
        ([9, 11, 12, 5, 2], 3, 3),  # another one where the float model hesitated
        ([9, 5, 5, 5, 5], 0, 0),
    ],
)
def test_a_model_that_differs_is_counted_and_led_on(
    preferred: list[int], equal: int, decided_equal: int
) -> None:
    model = scripted(preferred)
    found = _follow(model, [TRANSCRIPT])
    assert (found.positions, found.equal, found.decided) == (4, equal, 3)
    assert found.decided_equal == decided_equal
    assert model.fed == [[2], [0], [11], [12], [13]]  # whatever it prefers


def test_the_drop_is_of_the_float_models_token_even_beyond_the_best_k() -> None:
    unlikely = _follow(
        scripted([9, 5, 5, 5, 5]), [TRANSCRIPT]
    )  # all words have -9, outside the top
    assert unlikely.drop == pytest.approx(sum(TRANSCRIPT.log_probs) + 4 * 9)
    likelier = _follow(scripted([9, 5, 12, 13, 2], log_probs={11: -1.0}), [TRANSCRIPT])
    assert likelier.drop == pytest.approx(sum(TRANSCRIPT.log_probs) + 1.0 + 3 * 0.1)


def test_answers_of_unequal_length_are_followed_together() -> None:
    short = Transcript(
        token_ids=(2, 0, 15, 2),
        positions=(1, 2),
        best=(15, 2),
        leads=(1.0, 1.0),
        log_probs=(-0.1, -0.1),
    )
    model = scripted([9, 11, 12, 13, 2], [9, 15, 2, 7, 7])
    found = _follow(model, [TRANSCRIPT, short])
    assert (found.positions, found.equal) == (6, 6)
    assert [step[1] for step in model.fed] == [2, 0, 15, 2, 2]
    for parts in ([TRANSCRIPT, short], [short, TRANSCRIPT]):
        alone = total(_follow(scripted([9, *part.best]), [part]) for part in parts)
        assert (alone.positions, alone.equal) == (6, 6)


def test_a_banned_favourite_is_still_what_the_float_model_prefers() -> None:
    """Rules make the float model write 4 where it prefers 3: the preferences are compared."""
    bent = replace(TRANSCRIPT, token_ids=(2, 0, 4, 12, 13, 2), best=(3, 12, 13, 2))
    assert _follow(scripted([9, 3, 12, 13, 2]), [bent]).equal == 4
    assert _follow(scripted([9, 4, 12, 13, 2]), [bent]).equal == 3


# --- the model


@pytest.fixture(scope="module")
def teacher_forcing(tiny_model: Florence2, samples: list[CalibrationSample]) -> TeacherForcing:
    return TeacherForcing(tiny_model, samples[:3], no_progress, max_new_tokens=6)


def test_the_float_model_follows_itself_perfectly(
    tiny_model: Florence2, teacher_forcing: TeacherForcing
) -> None:
    found = teacher_forcing.judge(tiny_model, no_progress)
    assert list(found) == list(TASKS)
    for agreement in found.values():
        assert agreement.equal == agreement.positions > 0
        assert agreement.loss == 0
        assert agreement.drop == pytest.approx(0, abs=1e-4)
    assert sum(each.positions for each in found.values()) == teacher_forcing.positions


def test_positions_that_rules_decide_are_left_out(
    tiny_model: Florence2, teacher_forcing: TeacherForcing
) -> None:
    generation: GenerationConfig = tiny_model.bundle.generation
    assert (generation.forced_bos_token_id, generation.forced_eos_token_id) == (0, 2)
    for batch in teacher_forcing._transcripts:
        for transcript in batch:
            assert 0 not in transcript.positions  # behind </s> comes <s>
            assert transcript.token_ids[1] == 0
            free = (
                len(transcript.token_ids) - 2 - (len(transcript.token_ids) == 7)
            )  # the last one, forced
            assert len(transcript.positions) == free
            assert (
                len(transcript.best) == len(transcript.leads) == len(transcript.log_probs) == free
            )
            assert all(lead >= 0 for lead in transcript.leads)


def test_the_transcripts_are_the_answers_of_the_float_model(
    tiny_model: Florence2, teacher_forcing: TeacherForcing, samples: list[CalibrationSample]
) -> None:
    from florence_edge import GenerationOptions

    options = GenerationOptions(num_beams=1, max_new_tokens=6)
    views = tiny_model.encode([sample.read() for sample in samples[:3]])
    for place in (0, 7):
        prompts = [sample.prompts[place] for sample in samples[:3]]
        results = tiny_model.answer(views, prompts, options)
        for result, transcript in zip(results, teacher_forcing._transcripts[place], strict=True):
            assert tuple(result.token_ids) == transcript.token_ids


def test_batches_do_not_change_what_is_found(
    tiny_model: Florence2, samples: list[CalibrationSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from florence_edge_calibration.quantization import agreement as module

    whole = TeacherForcing(tiny_model, samples[:5], no_progress, max_new_tokens=6)
    monkeypatch.setattr(module, "_BATCH", 2)
    parts = TeacherForcing(tiny_model, samples[:5], no_progress, max_new_tokens=6)
    assert whole.positions == parts.positions
    found = parts.judge(tiny_model, no_progress)
    assert list(found) == list(TASKS)
    assert all(each.loss == 0 for each in found.values())


def test_another_model_loses_positions(
    other_model: Florence2, teacher_forcing: TeacherForcing
) -> None:
    found = total(teacher_forcing.judge(other_model, no_progress).values())
    assert found.equal < found.positions
    assert found.drop > 1


def test_judging_ends_when_a_task_is_certain_to_lose_too_much(
    other_model: Florence2, teacher_forcing: TeacherForcing
) -> None:
    shown: list[tuple[int, int]] = []
    found = teacher_forcing.judge(other_model, lambda *both: shown.append(both), budget=0.01)
    ((task, at_least),) = found.items()
    assert not shown  # the first batch was not over
    whole = teacher_forcing.judge(other_model, no_progress)[task]
    assert 0.01 < at_least.loss <= whole.loss
    assert (at_least.positions, at_least.decided) == (whole.positions, whole.decided)


def test_what_holds_the_budget_is_judged_to_the_end(
    tiny_model: Florence2, teacher_forcing: TeacherForcing
) -> None:
    assert list(teacher_forcing.judge(tiny_model, no_progress, budget=0.0)) == list(TASKS)


def test_random_weights_never_end_an_answer(teacher_forcing: TeacherForcing) -> None:
    assert teacher_forcing.ended == 0


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Florence2:
    """The same architecture with other weights."""
    from florence_edge_export import synthetic
    from florence_edge_export.export import ExportOptions, export

    folder = tmp_path_factory.mktemp("other")
    synthetic.write_checkpoint(folder / "checkpoint", "tiny", seed=4, image_size=64)
    export("other", folder / "checkpoint", folder / "bundle", ExportOptions())
    return Florence2.load(folder / "bundle", threads=1)


def test_progress_is_shown_after_every_batch(
    tiny_model: Florence2, samples: list[CalibrationSample]
) -> None:
    shown: list[tuple[int, int]] = []
    TeacherForcing(tiny_model, samples[:2], lambda *both: shown.append(both), max_new_tokens=3)
    assert shown == [(2, 2)]
