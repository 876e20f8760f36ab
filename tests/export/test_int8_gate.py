"""The gate: how few blocks return to float, and what is written when they do."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge import Florence2
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError
from florence_edge_calibration.quantization import agreement as agreement_module
from florence_edge_calibration.quantization.agreement import Agreement, Judged
from florence_edge_calibration.quantization.dataset import scene_samples
from florence_edge_calibration.quantization.recipe import (
    IntegerPrecision,
    KeptPrecision,
    Recipe,
    Target,
    pattern_of,
)
from florence_edge_calibration.quantization.sensitivity import Sensitivity
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.quantization import export as int8_export
from florence_edge_export.quantization import gate as gate_module
from florence_edge_export.quantization.export import QuantizationOptions, pass_gate
from florence_edge_export.quantization.gate import (
    Cost,
    Gate,
    Passage,
    Trial,
    lift,
    open_gate,
)

from .test_int8_export import fidelity


def agreement(loss: float) -> Agreement:
    return Agreement(
        positions=1000,
        equal=1000,
        decided=1000,
        decided_equal=1000 - round(1000 * loss),
        drop=0.0,
    )


def trial(loss: float) -> Trial:
    return Trial(Judged({"OD": agreement(loss), "OCR": agreement(loss / 2)}), Cost(1.0, 2.0))


def close(worst: tuple[str, float], task: str, loss: float) -> bool:
    return worst[0] == task and abs(worst[1] - loss) < 1e-9


RECIPE = Recipe(target="portable", kept={"decoder.shared": "fp32"})
NAMES = [f"text_encoder.layers.{index}.self_attn" for index in range(40)]


class Scripted:
    """A gate that holds from a number of lifted blocks on; remembers what was written.

    Graphs are numbers here: how many blocks the recipe that they come from has in float.
    """

    floats = table = None
    budget = 0.01

    def __init__(self, blocks: int, needed: int) -> None:
        self.blocks = NAMES[:blocks]
        self.needed = needed
        self.written: list[int] = []

    def lifted(self, recipe: Recipe) -> int:
        lifted = [name for name in self.blocks if pattern_of(name) in recipe.finer]
        assert lifted == self.blocks[: len(lifted)]  # the most sensitive first
        return len(lifted)

    def quantize_graphs(self, floats: None, table: None, recipe: Recipe) -> int:
        return self.lifted(recipe)

    def save_bundle(self, folder: object, source: object, form: object, graphs: int) -> int:
        self.written.append(graphs)
        return graphs

    def judge(self, bundle: int, *, whole: bool) -> Trial:
        assert whole == (bundle == 0)
        if bundle == 0:
            return trial(0.4)
        return trial(0.001 if bundle >= self.needed else 0.5)

    def check_trained(self, tried: Trial) -> None:
        assert close(tried.judged.worst, "OD", 0.4)

    def rank_blocks(self, recipe: Recipe) -> list[str]:
        assert recipe == RECIPE
        return self.blocks

    def run(self) -> Passage:
        anything: Any = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(int8_export, "quantize_graphs", self.quantize_graphs)
            patch.setattr(int8_export, "save_bundle", self.save_bundle)
            return pass_gate(cast(Gate, self), RECIPE, anything, anything)


@given(st.integers(2, 40), st.data())
def test_the_fewest_blocks_that_hold_are_lifted(blocks: int, data: st.DataObject) -> None:
    needed = data.draw(st.integers(1, blocks // 2))
    scripted = Scripted(blocks, needed)
    passage = scripted.run()
    assert passage.lifted == tuple(NAMES[:needed])
    assert scripted.lifted(passage.recipe) == needed
    assert close(passage.trial.judged.worst, "OD", 0.001)
    assert passage.before is not None
    assert close(passage.before.judged.worst, "OD", 0.4)


@given(st.integers(2, 40), st.data())
def test_the_last_bundle_written_is_the_one_that_passed(blocks: int, data: st.DataObject) -> None:
    scripted = Scripted(blocks, data.draw(st.integers(1, blocks // 2)))
    passage = scripted.run()
    assert scripted.written[-1] == len(passage.lifted)


def test_bisection_tries_few() -> None:
    for needed in range(1, 21):
        scripted = Scripted(40, needed)
        scripted.run()
        assert len(scripted.written) <= 8  # the one without any comes first


@given(st.integers(1, 40), st.data())
def test_a_budget_that_half_of_the_blocks_do_not_hold_fails(
    blocks: int, data: st.DataObject
) -> None:
    scripted = Scripted(blocks, data.draw(st.integers(blocks // 2 + 1, blocks + 1)))
    lost = "0.5000" if blocks > 1 else "0.4000"  # of one block, half is none
    message = (
        rf"OD loses {lost} of its positions, where the budget is 0.01, even with the "
        rf"{blocks // 2} most sensitive of {blocks} blocks finer. "
        r".*--budget.*--precision, such as fp16.*"
        "florence-calibrate --sensitivity, with the same --precision"
    )
    with pytest.raises(BundleError, match=message):
        scripted.run()
    assert scripted.written == ([0, blocks // 2] if blocks > 1 else [0])


def test_what_the_user_keeps_stays_kept_as_it_was() -> None:
    lifted = lift(RECIPE, ["text_encoder.layers.1.fc", "decoder.shared"])
    assert lifted.kept_as("decoder.shared") is not None
    assert lifted.kept_as("text_encoder.layers.1.fc2") == "fp16"
    assert lifted.kept_as("text_encoder.layers.11.fc2") is None
    assert RECIPE.kept == {"decoder.shared": "fp32"}


def test_what_the_user_keeps_in_int8_is_lifted_to_float() -> None:
    kept: dict[str, KeptPrecision] = {"decoder.layers.0.*": "int8", "decoder.layers.1.fc2": "fp32"}
    recipe = Recipe(target="portable", precision="int4", kept=kept)
    assert recipe.kept_as("decoder.layers.0.fc1") is None
    lifted = lift(recipe, ["decoder.layers.0.fc", "decoder.layers.1.fc"])
    assert lifted.kept_as("decoder.layers.0.fc1") == "fp16"
    assert lifted.kept_as("decoder.layers.0.self_attn.q_proj") is None  # as it was
    assert lifted.bits_of("decoder.layers.0.self_attn.q_proj") == 8
    assert lifted.kept_as("decoder.layers.1.fc1") is None
    assert lifted.bits_of("decoder.layers.1.fc1") == 8
    assert lifted.kept_as("decoder.layers.1.fc2") == "fp32"  # and is no coarser for it


@pytest.mark.parametrize("block", ["decoder.shared", "text_encoder.shared"])
@pytest.mark.parametrize(
    ("pattern", "expected"), [("decoder.shared", None), ("text*.shared", None), ("*", "fp16")]
)
def test_an_embedding_of_which_a_part_is_kept_in_int8_is_stored_once(
    block: str, pattern: str, expected: str | None
) -> None:
    recipe = Recipe(target="portable", precision="int4", kept={pattern: "int8"})
    lifted = lift(recipe, [block])
    for name in ("decoder.shared", "text_encoder.shared"):
        assert lifted.kept_as(name) == expected
        assert lifted.bits_of(name) == 8 or expected


@pytest.mark.parametrize(("target", "kept"), [("portable", "fp16"), ("cpu", "fp32")])
def test_position_tables_are_int8_already_and_return_to_float(target: Target, kept: str) -> None:
    recipe = Recipe(target=target, precision="int4")
    lifted = lift(recipe, ["decoder.embed_positions"])
    assert recipe.kept_as("decoder.embed_positions") is None
    assert lifted.kept_as("decoder.embed_positions") == kept
    assert lifted.kept_as("text_encoder.embed_positions") is None


@pytest.mark.parametrize(("precision", "kept"), [("int8", "fp16"), ("int4", None)])
def test_the_embedding_returns_in_both_text_models(
    precision: IntegerPrecision, kept: str | None
) -> None:
    lifted = lift(Recipe(target="portable", precision=precision), ["decoder.shared"])
    for name in ("decoder.shared", "text_encoder.shared"):
        assert lifted.kept_as(name) == kept
        assert lifted.bits_of(name) == 8


def test_lifted_blocks_are_float32_on_the_cpu() -> None:
    lifted = lift(Recipe(target="cpu"), ["vision_encoder.convs.1"])
    assert lifted.kept_as("vision_encoder.convs.1.conv") == "fp32"


def test_the_worst_task_decides() -> None:
    tried = Trial(Judged({"OD": agreement(0.0), "OCR": agreement(0.02)}), Cost(1, 1))
    assert close(tried.judged.worst, "OCR", 0.02)
    assert not tried.judged.holds(0.01)
    assert tried.judged.holds(0.03)
    verdict = "OCR loses 0.0200 of its positions, where the budget is 0.01"
    assert tried.judged.verdict(0.01) == verdict


def test_a_bundle_that_is_not_finite_somewhere_never_holds() -> None:
    broken = Agreement(
        positions=1000, equal=999, decided=1000, decided_equal=999, drop=0.0, broken=1
    )
    tried = Trial(Judged({"OD": agreement(0.0), "OCR": broken}), Cost(1, 1))
    assert tried.judged.worst[1] < 0.01
    assert not tried.judged.holds(0.01)
    assert tried.judged.verdict(0.01) == "Scores are not finite at 1 positions"


# --- with models


def gate_of(model: Florence2, pictures: int) -> Gate:
    table: Any = None
    samples = scene_samples(pictures, image_size=model.bundle.size.image_size)
    return open_gate(model, table, samples, 0.0)


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MAX_NEW_TOKENS", 4)


@pytest.fixture
def written(tiny_model: Florence2, monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes of the bundles that are written; each is a student that follows perfectly."""
    recipes: list[Recipe] = []
    monkeypatch.setattr(
        int8_export, "quantize_graphs", lambda floats, table, recipe: recipes.append(recipe)
    )
    monkeypatch.setattr(int8_export, "save_bundle", lambda *_: tiny_model.bundle)
    return recipes


@pytest.mark.usefixtures("short_answers")
def test_too_few_positions_to_judge_by_are_refused(
    tiny_model: Florence2, written: list[Recipe]
) -> None:
    message = r"^1 pictures give \d+ positions to judge by, expected at least 2000.*--no-gate"
    with pytest.raises(BundleError, match=message):
        gate_of(tiny_model, 1)
    assert not written


@pytest.mark.usefixtures("short_answers")
def test_a_model_that_is_decided_nowhere_ends_early(
    tiny_model: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MIN_POSITIONS", 20)
    monkeypatch.setattr(agreement_module, "TIE", 100.0)
    with pytest.raises(BundleError, match=r"decided at 0 of \d+ positions.*Is this checkpoint tra"):
        gate_of(tiny_model, 2)


@pytest.mark.usefixtures("short_answers")
def test_what_holds_at_once_is_written_once(
    tiny_model: Florence2, written: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MIN_POSITIONS", 20)
    anything: Any = None
    passage = pass_gate(gate_of(tiny_model, 2), RECIPE, anything, anything)
    assert written == [RECIPE]
    assert (passage.recipe, passage.lifted, passage.before) == (RECIPE, (), None)
    assert passage.trial.judged.worst[1] == 0
    assert passage.trial.cost.megabytes == pytest.approx(
        sum(stored.bytes for stored in tiny_model.bundle.files.values()) / 1e6, abs=0.01
    )


@pytest.mark.usefixtures("short_answers")
def test_random_weights_that_lose_too_much_end_before_blocks_are_ranked(
    tiny_model: Florence2, written: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "MIN_POSITIONS", 20)
    monkeypatch.setattr(Judged, "holds", lambda *_: False)
    monkeypatch.setattr(Gate, "rank_blocks", lambda *_: pytest.fail("ranked"))
    gate = gate_of(tiny_model, 2)
    assert gate.teacher.ended == 0
    anything: Any = None
    with pytest.raises(BundleError, match="none of the float model's own answers ends within 4 to"):
        pass_gate(gate, RECIPE, anything, anything)
    assert len(written) == 1


def test_blocks_are_ranked_by_their_errors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = {"a": 0.1, "b": 0.7, "decoder.shared": 0.2, "c": 0.3, "text_encoder.shared": 0.4}
    asked: list[Sequence[Any]] = []

    def sweep(*arguments: Any) -> Iterator[Sensitivity]:
        asked.append(arguments)
        for block, error in errors.items():
            yield Sensitivity(graph="g", block=block, error=error, saved=0.0, agreement=None)

    monkeypatch.setattr(gate_module, "sweep", sweep)
    monkeypatch.setattr(gate_module, "blocks_of", lambda *_: {"g": list(errors)})
    caplog.set_level("INFO")
    model: Any = SimpleNamespace(bundle="floats")
    nothing: Any = None
    samples: Any = ["one", "two", "three"]
    gate = Gate(model=model, teacher=nothing, table=nothing, samples=samples, budget=0.0)
    assert gate.rank_blocks(RECIPE) == ["b", "text_encoder.shared", "c", "a"]  # one embedding
    assert caplog.messages == ["Ranking: 5 of 5 blocks"]
    assert asked == [("floats", None, RECIPE, ["one", "two"])]


_RANKED = (
    "vision_encoder.convs.3",
    "vision_encoder.convs.2",
    "text_encoder.layers.0.fc",
    "decoder.shared",
)


def export_miniature(output: Path, budget: float, checkpoint: Path | None = None) -> Bundle:
    """The miniature, or another checkpoint under its name: with scenes to judge by."""
    options = QuantizationOptions(target="portable", samples=8, budget=budget)
    export(
        MINIATURE,
        checkpoint or find_checkpoint(MINIATURE),
        output,
        ExportOptions(precision="int8", quantization=options),
    )
    return Bundle.load(output)


def test_a_bundle_with_lifted_blocks_says_so(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing, but for the ranking, which takes longer than all else, and the verdict."""
    monkeypatch.setattr(int8_export, "_JUDGING_SCENES", 1)
    monkeypatch.setattr(int8_export, "compare_tasks", lambda *_: {})
    monkeypatch.setattr(gate_module, "MIN_POSITIONS", 20)
    monkeypatch.setattr(gate_module, "MAX_NEW_TOKENS", 8)
    monkeypatch.setattr(Gate, "rank_blocks", lambda *_: list(_RANKED))
    monkeypatch.setattr(Gate, "check_trained", lambda *_: None)
    verdicts = iter([False, True, True])  # none, two, one
    known: dict[int, bool] = {}

    def holds(tried: Judged, budget: float) -> bool:
        if id(tried) not in known:
            known[id(tried)] = next(verdicts)
        return known[id(tried)]

    monkeypatch.setattr(Judged, "holds", holds)
    bundle = export_miniature(tmp_path / "b", 0.01, tiny_checkpoint)
    found = fidelity(bundle)
    assert found["kept"] == {}  # what the user asked for; what had to be stands apart
    lifted = found["gate"]["lifted"]
    stored = ir.load(bundle.graph_file("vision_encoder")).graph.initializers
    assert stored["vision_encoder.convs.3.conv.weight"].dtype == ir.DataType.FLOAT16
    assert stored["vision_encoder.convs.2.conv.int8"].dtype == ir.DataType.INT8
    assert lifted["blocks"] == ["vision_encoder.convs.3"]
    assert set(lifted["because"]) == {"task", "loss"}
    assert lifted["megabytes_without"] < found["gate"]["megabytes"]
    assert lifted["encoding_speed_without"] > 0
    page = (bundle.folder / "fidelity.md").read_text(encoding="utf-8")
    assert re.search(r"In float, because \w+ lost [\d.]+ without: `vision_encoder.convs.3`", page)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.slow
def test_a_budget_that_cannot_be_held_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_export, "_JUDGING_SCENES", 1)
    monkeypatch.setattr(gate_module, "MIN_POSITIONS", 20)
    monkeypatch.setattr(gate_module, "MAX_NEW_TOKENS", 8)
    monkeypatch.setattr(Gate, "rank_blocks", lambda *_: list(_RANKED))
    monkeypatch.setattr(Gate, "check_trained", lambda *_: None)
    monkeypatch.setattr(Judged, "holds", lambda *_: False)
    with pytest.raises(BundleError, match="even with the 2 most sensitive of 4 blocks finer"):
        export_miniature(tmp_path / "b", 0.01, tiny_checkpoint)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_miniature_is_lifted_until_a_small_budget_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_export, "_JUDGING_SCENES", 16)
    ungated = export_miniature(tmp_path / "loose", 0.9)
    worst = max(task["loss"] for task in fidelity(ungated)["tasks"].values())
    assert worst > 0
    budget = 0.7 * worst
    found = fidelity(export_miniature(tmp_path / "tight", budget))
    assert found["gate"]["lifted"]["blocks"]
    assert found["gate"]["lifted"]["because"]["loss"] == pytest.approx(worst, abs=1e-4)
    assert max(task["loss"] for task in found["tasks"].values()) <= budget
