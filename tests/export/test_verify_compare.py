import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge import Florence2
from florence_edge.bundle import FIDELITY, MANIFEST
from florence_edge.errors import BundleError, MissingPackageError
from florence_edge.image import pixels
from florence_edge.tasks import TASKS
from florence_edge_export import export as export_module
from florence_edge_export.checkpoint.config import read_config
from florence_edge_export.checkpoint.defaults import read_generation, read_image_processing
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.graphs.weights import GraphWeights
from florence_edge_export.verify import compare
from florence_edge_export.verify.compare import Closeness, ReferenceAgreement, check_finite

from . import folders

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from florence_edge_export.verify.reference import Reference


@pytest.fixture
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "SCENES", 1)
    monkeypatch.setattr(compare, "MAX_NEW_TOKENS", 8)


@pytest.mark.usefixtures("_briefly")
@pytest.mark.parametrize("layout", [pytest.param("native", marks=pytest.mark.slow), "microsoft"])
def test_a_bundle_that_equals_transformers_says_so(
    request: pytest.FixtureRequest, tmp_path: Path, layout: str
) -> None:
    export("x", request.getfixturevalue(layout), tmp_path / "b", ExportOptions(verify=True))
    found = json.loads((tmp_path / "b" / FIDELITY).read_text())["against_reference"]
    assert found["reference"].startswith("transformers ")
    assert set(found["graphs"]) == {"vision_encoder", "text_encoder", "decoder"}
    for closeness in found["graphs"].values():
        assert 0 < closeness["mean_error"] <= closeness["max_error"]
        assert closeness["max_error"] < 1e-4 * closeness["deviation"]
    assert set(found["token_ids"]) == {task.token for task in TASKS.values()}
    for counts in found["token_ids"].values():
        assert set(counts) == {"beams_1", "beams_3"}
        for count in counts.values():
            assert count["answers"] == count["equal"] + count["ties"] == 1
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    assert FIDELITY in manifest["files"]


@pytest.mark.usefixtures("_briefly")
@pytest.mark.parametrize(
    ("tensor", "graph"),
    [
        ("model.vision_tower.blocks.2.0.channel_block.norm2.bias", "vision_encoder"),
        pytest.param(
            *("model.language_model.encoder.layers.1.fc1.bias", "text_encoder"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("model.language_model.decoder.layers.0.encoder_attn.v_proj.weight", "text_encoder"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("model.language_model.decoder.layers.1.encoder_attn.out_proj.weight", "decoder"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_one_changed_weight_fails_and_names_the_graph(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensor: str, graph: str
) -> None:
    _export_something_else(monkeypatch, native, tmp_path, lambda t: _nudge(t[tensor]))
    with pytest.raises(BundleError, match=f"{graph} differs from transformers by .*report it"):
        export("x", native, tmp_path / "b", ExportOptions(verify=True))
    assert not (tmp_path / "b").exists()


@pytest.mark.usefixtures("verify_briefly")
def test_fp16_is_reported_and_does_not_fail(native: Path, tmp_path: Path) -> None:
    options = ExportOptions(verify=True, precision="fp16")
    export("x", native, tmp_path / "b", options)
    found = json.loads((tmp_path / "b" / FIDELITY).read_text())["against_reference"]
    worst = max(c["max_error"] / c["deviation"] for c in found["graphs"].values())
    assert 1e-4 < worst < 0.1


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_the_reference_the_message_says_what_to_install(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[verify\]"):
        export("x", native, tmp_path / "b", ExportOptions(verify=True))
    assert not (tmp_path / "b").exists()


def test_features_that_transformers_does_not_know_cannot_be_verified(
    microsoft: Path, tmp_path: Path
) -> None:
    def state(config: dict[str, Any]) -> None:
        config["vision_config"]["image_feature_source"] = ["last_frame"]

    folders.edit_config(microsoft, state)
    with pytest.raises(BundleError, match="it can be exported, but not verified"):
        export("x", microsoft, tmp_path / "b", ExportOptions(verify=True))


def test_errors_are_counted_in_deviations() -> None:
    assert Closeness(0.5, 0.1, 2.0).relative == 0.25


def test_what_is_not_finite_is_further_than_anything() -> None:
    """`max` would otherwise step over it."""
    broken = Closeness(float("nan"), float("nan"), 1.0)
    for order in ([Closeness(0.5, 0.1, 2.0), broken], [broken, Closeness(0.5, 0.1, 2.0)]):
        assert max(order, key=lambda closeness: closeness.relative) is broken
    with pytest.raises(BundleError, match=r"not finite.*--precision fp32"):
        check_finite({"decoder": broken}, "fp16")
    with pytest.raises(BundleError, match=r"not finite.*in the checkpoint") as told:
        check_finite({"decoder": broken}, "fp32")
    assert "--precision fp32" not in str(told.value)


def test_an_output_without_variation_can_be_judged() -> None:
    assert Closeness(0.0, 0.0, 0.0).relative == 0
    assert Closeness(1e-3, 1e-3, 0.0).relative > compare.TOLERANCE


@pytest.mark.parametrize(
    ("answers", "ties", "accepted"),
    [(60, 0, True), (60, 1, True), (60, 2, False), (400, 2, True), (400, 3, False)],
)
def test_one_answer_in_200_may_be_a_tie(answers: int, ties: int, accepted: bool) -> None:
    graphs = {"decoder": Closeness(0.0, 0.0, 1.0)}
    agreements = {("<OD>", 3): ReferenceAgreement(answers, answers - ties, ties)}
    if accepted:
        compare.check(graphs, agreements)
    else:
        with pytest.raises(BundleError, match=f"{ties} ties of {answers}"):
            compare.check(graphs, agreements)


def test_a_different_answer_fails_and_names_the_task() -> None:
    graphs = {"decoder": Closeness(0.0, 0.0, 1.0)}
    agreements = {
        ("<OD>", 3): ReferenceAgreement(400, 399, 0),
        ("<OCR>", 1): ReferenceAgreement(400, 400, 0),
    }
    with pytest.raises(BundleError, match=r"<OD> with 3 beams, by more than rounding explains\. T"):
        compare.check(graphs, agreements, ("<OD>", 3))


@pytest.mark.usefixtures("verify_briefly")
@pytest.mark.parametrize(
    ("verdicts", "patience", "told"),
    [
        (["different"] * 4, [False] * 4, None),
        (["equal", "tie", "equal", "equal"], [True] * 4, ""),
        (["tie"] * 4, [True, True, False, False], r"^4 ties of 4 answers: .* --keep-failed keeps"),
        (["tie", "tie", "different", "different"], [True, True, False, False], "^2 ties of 4"),
        (
            ["equal", "different", "different", "equal"],
            [True, True, False, False],
            r"<[A-Z_]+> with 3 beams, by more .*explains\. Not looked into: 1 more of 4\.",
        ),
    ],
)
def test_rounding_is_looked_for_where_that_may_still_save_the_bundle(
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdicts: list[str],
    patience: list[bool],
    told: str | None,
) -> None:
    """Not where it is only reported (`told` is None), nor after what refuses it in any case."""
    left, seen = list(verdicts), list[bool]()

    def answer(_: object, prompt: object, beams: int, *, patient: bool) -> str:
        seen.append(patient)
        return left.pop(0)

    monkeypatch.setattr(compare._Comparison, "answer", answer)
    monkeypatch.setattr(compare, "BEAMS", (2, 3))
    checkpoint = read_checkpoint(tiny_checkpoint)
    image = read_image_processing(tiny_checkpoint)
    if told:
        with pytest.raises(BundleError, match=told):
            compare.verify(tiny_bundle, checkpoint, image, strict=True)
    else:
        compare.verify(tiny_bundle, checkpoint, image, strict=told is not None)
    assert seen == patience


def test_a_graph_that_is_far_off_refuses_the_bundle_already() -> None:
    so_far = compare._SoFar(total=60)
    so_far.add_graph("decoder", Closeness(1e-4, 0.0, 1.0))
    assert not so_far.refused
    so_far.add_graph("decoder", Closeness(float("nan"), 0.0, 1.0))
    so_far.add_graph("decoder", Closeness(1e-4, 0.0, 1.0))
    assert so_far.refused


@pytest.mark.parametrize(
    ("found", "expected", "gap"),
    [
        ([2, 0, 5], [2, 0, 4], 0.25),
        ([2, 0, 4, 9], [2, 0, 5, 9], 0.25),
        ([2, 0], [2, 0, 4], float("inf")),
        ([2, 0, 4, 2], [2, 0, 4], float("inf")),
    ],
)
def test_a_tie_is_judged_where_the_answers_part(
    found: list[int], expected: list[int], gap: float
) -> None:
    """By the reference's own log-probabilities after what both have in common."""

    class Scored:
        def log_probs(self, hidden: object, ids: list[int]) -> np.ndarray[Any, Any]:
            assert ids == [2, 0]
            rows = np.full((len(ids), 10), -9.0)
            rows[-1, [4, 5]] = -1.0, -1.25
            return rows

    comparison = object.__new__(compare._Comparison)
    comparison._reference = Scored()  # type: ignore[assignment]
    assert comparison._gap(np.zeros(1), found, expected) == gap


@pytest.mark.usefixtures("verify_briefly")
@pytest.mark.parametrize(
    "setting",
    [{"repetition_penalty": 5.0}, pytest.param({"max_new_tokens": 3}, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_generation_setting_that_was_lost_is_noticed(
    native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, float]
) -> None:
    """The reference generates by what transformers reads in the folder, not by the bundle."""
    without = read_generation(native, read_config(native))
    folders.edit_json(native / "generation_config.json", lambda config: config.update(setting))
    export("x", native, tmp_path / "b", ExportOptions(verify=True))
    monkeypatch.setattr(export_module, "read_generation", lambda *_: without)
    with pytest.raises(BundleError, match="Answers differ from transformers"):
        export("x", native, tmp_path / "lost", ExportOptions(verify=True))


@pytest.mark.parametrize("most", [3, 12])
@pytest.mark.parametrize("length_penalty", [1.0, -0.5])
def test_hypotheses_are_scored_as_transformers_scores_them(
    native: Path, length_penalty: float, most: int
) -> None:
    reference = Reference(read_checkpoint(native))
    own = reference.own_generation(3, most)
    own.length_penalty = length_penalty
    own.return_dict_in_generate = own.output_scores = True
    features = np.random.default_rng(0).standard_normal((1, 5, 64)).astype(np.float32)
    hidden = reference.encode(features, [0, 40, 41, 2])
    found = reference.model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=torch.from_numpy(hidden)),
        attention_mask=torch.ones(hidden.shape[:2], dtype=torch.long),
        generation_config=own,
    )
    comparison = object.__new__(compare._Comparison)
    comparison._reference = reference
    score = comparison.score(hidden, found.sequences[0].tolist(), own)
    assert score == pytest.approx(float(found.sequences_scores[0]), rel=1e-5)


def test_a_hypothesis_that_the_reference_scores_as_high_is_a_tie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though one is the beginning of the other, or their first difference is large.

    A better one is, too: two random checkpoints had -525.32 in place of transformers' -525.44, and
    under 1e-7 of noise on its features transformers itself gave it.
    """
    verdicts = []
    for difference in (0.0, compare.TIE / 2, -0.12, compare.TIE * 2, float("nan")):
        comparison = object.__new__(compare._Comparison)
        monkeypatch.setattr(compare._Comparison, "_gap", lambda *_: float("inf"))
        scores = iter((-1.0, -1.0 + difference))
        monkeypatch.setattr(compare._Comparison, "score", lambda *_, scores=scores: next(scores))
        own = transformers.GenerationConfig(num_beams=3)
        verdicts.append(comparison._verdict(np.zeros(1), [2, 0, 5, 2], [2, 0, 4, 2], own))
    assert verdicts == ["tie", "tie", "tie", "different", "different"]
    own = transformers.GenerationConfig(num_beams=1)
    assert comparison._verdict(np.zeros(1), [2, 0, 5, 2], [2, 0, 4, 2], own) == "different"
    assert comparison._verdict(np.zeros(1), [2, 0, 5, 2], [2, 0, 5, 2], own) == "equal"


@pytest.mark.usefixtures("verify_briefly")
@pytest.mark.parametrize("rounding_gives_ours", [True, False])
def test_an_answer_that_rounding_gives_is_a_tie_and_no_other_is(
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounding_gives_ours: bool,
) -> None:
    """The reference keeps a beam that it drops where its numbers are shaken, or always keeps it."""
    real: Callable[..., list[int]] = Reference.generate
    others: list[list[int]] = []

    def generate(self: Reference, hidden: np.ndarray[Any, Any], config: Any) -> list[int]:
        found = real(self, hidden, config)
        if config.num_beams == 1 or (rounding_gives_ours and others):
            return found
        others.append([*found[:2], *reversed(found[2:-1]), found[-1]])
        return others[-1]

    monkeypatch.setattr(Reference, "generate", generate)
    # It is far away, and better by the reference's own sums.
    monkeypatch.setattr(compare._Comparison, "_gap", lambda *_: 1.0)
    monkeypatch.setattr(compare._Comparison, "score", lambda _, h, ids, own: float(ids in others))
    checkpoint = read_checkpoint(tiny_checkpoint)
    image = read_image_processing(tiny_checkpoint)
    if rounding_gives_ours:
        found = compare.verify(tiny_bundle, checkpoint, image, strict=True)["token_ids"]
        assert [counts["beams_3"]["ties"] for counts in found.values()] == [1, 0]
        return
    with pytest.raises(BundleError, match="This is a defect: please report it"):
        compare.verify(tiny_bundle, checkpoint, image, strict=True)
    assert len(others) == 2 + len(compare.NOISES) * compare.DRAWS  # looked for once, not twice


@pytest.mark.slow
@pytest.mark.usefixtures("verify_briefly")
def test_checkpoints_at_the_edge_of_another_answer_leave_a_bundle(
    native: Path, tiny_model: Florence2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much noise on the embedding as turns an answer of the reference around, and no more.

    The bundle is of the one side of that edge, and is compared with the other: by rounding alone
    they are different.
    """
    monkeypatch.setattr(compare, "MAX_NEW_TOKENS", 16)
    monkeypatch.setattr(compare, "BEAMS", (3,))
    ties = 0
    for seed in range(5):
        folder = folders.copy(native, tmp_path / str(seed))
        sides = _edge(folder, tiny_model, seed)
        tensors = folders.read(folder)
        with monkeypatch.context() as patch:
            _write_embedding(folder, tensors, sides[1])
            _export_something_else(patch, folder, tmp_path / f"{seed}-graphs", lambda _: None)
            _write_embedding(folder, tensors, sides[0])
            output = tmp_path / f"{seed}-bundle"
            export("x", folder, output, ExportOptions(verify=True, tensorrt_decoders=False))
        found = json.loads((output / FIDELITY).read_text())["against_reference"]["token_ids"]
        ties += sum(counts["beams_3"]["ties"] for counts in found.values())
    assert ties >= 2  # the others were rounded to the reference's own side


_EMBEDDING = "model.language_model.shared.weight"
Arrays = np.ndarray[Any, Any]


def _write_embedding(folder: Path, tensors: folders.Tensors, values: Arrays) -> None:
    folders.write(folder, {**tensors, _EMBEDDING: values})


def _edge(folder: Path, model: Florence2, seed: int) -> tuple[Arrays, Arrays]:
    """Two embeddings, a rounding apart, with which the reference answers the first question
    in two ways."""
    (picture, (prompt, *_)), *_ = compare._scenes(64)
    ids = model.encode_prompts([prompt])[0][0].tolist()
    checkpoint, image = read_checkpoint(folder), read_image_processing(folder)
    reference = Reference(checkpoint)
    features = reference.image_features(compare._normalized(pixels(picture, 64), image))
    own = reference.own_generation(3, compare.MAX_NEW_TOKENS)
    embedding = reference.model.get_input_embeddings().weight
    begin = embedding.detach().numpy().copy()
    noise = np.random.default_rng(seed).standard_normal(begin.shape) * begin.std()

    def at(share: float) -> Arrays:
        return np.asarray(begin + share * noise, np.float32)

    def answer(share: float) -> list[int]:
        with torch.no_grad():
            embedding.copy_(torch.from_numpy(at(share)))
        return reference.generate(reference.encode(features, ids), own)

    low, high, before = 0.0, 0.3, answer(0.0)
    assert answer(high) != before
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if answer(middle) == before else (low, middle)
    return at(low), at(high)


def _export_something_else(
    patch: pytest.MonkeyPatch,
    checkpoint: Path,
    tmp_path: Path,
    change: Callable[[folders.Tensors], object],
) -> None:
    """The graphs get other weights than those that are verified against."""
    other = folders.copy(checkpoint, tmp_path / "other")
    tensors = folders.read(other)
    change(tensors)
    folders.write(other, tensors)

    def of_the_other(_: object, *arguments: Any) -> Any:
        return GraphWeights(read_checkpoint(other), *arguments)

    patch.setattr(export_module, "GraphWeights", of_the_other)


def _nudge(values: np.ndarray[Any, Any]) -> None:
    values.flat[0] += 0.5
