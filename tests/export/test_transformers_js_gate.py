"""The rungs of --layout transformers.js, and how its gate climbs them; no engine is needed."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from florence_edge_calibration.overflow import Lifted
from florence_edge_calibration.quantization.agreement import Agreement
from florence_edge_export.transformers_js import layout
from florence_edge_export.transformers_js.fidelity import DtypeFidelity, Fidelity, Recommended
from florence_edge_export.transformers_js.gate import Gate, Passage
from florence_edge_export.transformers_js.recipes import EIGHT, FOUR, Bits, ladder

# Linears as the graphs of base have them, each with its share of the weights.
VISION = {
    "vision_tower.blocks.0.0.spatial_block.window_attn.qkv": 300,
    "vision_tower.blocks.0.0.spatial_block.window_attn.proj": 100,
    "vision_tower.blocks.0.0.spatial_block.ffn.fc1": 400,
    "vision_tower.blocks.0.0.spatial_block.ffn.fc2": 400,
    "multi_modal_projector.image_projection": 10,
}
DECODER = {
    "language_model.shared": 390,
    "language_model.decoder.layers.0.self_attn.q_proj": 140,
    "language_model.decoder.layers.0.encoder_attn.out_proj": 140,
    "language_model.decoder.layers.0.fc1": 140,
    "language_model.decoder.layers.0.fc2": 140,
}
ENCODER = {f"language_model.encoder.layers.0.self_attn.{name}_proj": 140 for name in "qk"}
ENCODER |= {f"language_model.encoder.layers.0.{name}": 140 for name in ("fc1", "fc2")}
# The same with all of its projections, so that a third of it is fc1.
WHOLE = {f"language_model.encoder.layers.0.self_attn.{name}_proj": 140 for name in "qkv"}
WHOLE |= {"language_model.encoder.layers.0.self_attn.out_proj": 140}
WHOLE |= {f"language_model.encoder.layers.0.{name}": 560 for name in ("fc1", "fc2")}
# A model whose table of words is small beside its layers.
SMALL = {**DECODER, "language_model.shared": 200}


@pytest.mark.parametrize(
    ("bits", "linears", "words"),
    [
        (4, VISION, ["the image projection", "the image projection and attention"]),
        (8, VISION, ["", "the image projection", "the image projection and attention"]),
        (4, ENCODER, ["", "attention"]),
        (4, WHOLE, ["", "attention", "attention and the second feed-forward linear"]),
        (4, DECODER, ["", "the table of words", "the table of words and cross-attention"]),
        (8, DECODER, ["", "the table of words", "the table of words and cross-attention"]),
        (
            4,
            SMALL,
            [
                "",
                "the table of words",
                "the table of words and cross-attention",
                "the table of words and cross-attention and attention",
            ],
        ),
        (8, {"language_model.shared": 390}, [""]),
    ],
)
def test_each_rung_is_another_and_a_third_of_the_weights_keeps_its_bits(
    bits: Bits, linears: Mapping[str, int], words: list[str]
) -> None:
    usual, other, named = (FOUR, EIGHT, "8 bits") if bits == 4 else (EIGHT, None, "float")
    rungs = ladder(bits, linears)
    expected = [f"{bits} bits; {named}: {each}" if each else f"{bits} bits" for each in words]
    assert [rung.words for rung in rungs] == expected
    stored = [{name: rung.blocks.of(name) for name in linears} for rung in rungs]
    for forms, after in pairwise(stored):
        assert forms != after
        assert all(after[name] == other for name in linears if forms[name] == other)
    for forms in stored:
        assert set(forms.values()) <= {usual, other}
        kept = sum(linears[name] for name in linears if forms[name] == usual)
        assert kept >= sum(linears.values()) / 3


def agreement(equal: int) -> Agreement:
    return Agreement(positions=100, equal=equal, decided=100, decided_equal=equal, drop=1.0)


class Teacher:
    """Loses 10 of 100 positions whatever it is shown, and breaks off where a budget is given."""

    def judge(self, student: Any, progress: Any, *, budget: float | None = None) -> Any:
        whole = {"OD": agreement(90), "OCR": agreement(100)}
        return whole if budget is None else {"OD": agreement(90)}


class Student:
    def __enter__(self) -> "Student":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_graph_is_judged_on_its_own_rungs_and_what_broke_off_is_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Gate, "_student", lambda *_: Student())
    teacher: Any = Teacher()
    nothing: Any = None
    gate = Gate(
        answers=nothing, teacher=teacher, few=teacher, model=nothing, floats={}, budget=0.01
    )
    written: list[tuple[str, int]] = []

    def write(graph: str, rung: int) -> Path:
        written.append((graph, rung))
        return Path(f"{graph}_{rung}")

    rungs = {
        layout.VISION_ENCODER: 2,
        layout.EMBED_TOKENS: 1,
        layout.ENCODER: 2,
        layout.DECODER: 3,
    }
    passage = gate.pass_dtype(write, dict.fromkeys(layout.GRAPHS, 0), rungs)
    assert passage.rungs == {graph: count - 1 for graph, count in rungs.items()}
    assert sorted(written) == sorted(
        (g, rung) for g, count in rungs.items() for rung in range(count)
    )
    assert passage.judged.broken_off
    assert not gate.judge({}).broken_off

    found = as_json({"q4": passage, "q8": Passage(gate.judge({}), rungs)})
    assert found["q4"]["broken_off"] is True
    assert "all_tasks" not in found["q4"]
    assert found["q4"]["worst"] == {"task": "OD", "loss": 0.1}
    assert found["q4"]["stored"] == {"embed_tokens": "8 bits"}
    assert "broken_off" not in found["q8"]
    assert found["q8"]["all_tasks"]["positions"] == 200


def as_json(passages: Mapping[Any, Passage]) -> dict[str, Any]:
    fidelity = Fidelity(
        dtypes={
            name: DtypeFidelity(
                passage=each, stored={"embed_tokens": "8 bits"}, deviations={}, bytes={}
            )
            for name, each in passages.items()
        },
        usual=Recommended(dtypes={}, judged=None),
        webgpu=Recommended(dtypes={}, judged=None),
        pictures=1,
        budget=0.01,
        lifted=Lifted(),
    )
    found: dict[str, Any] = fidelity.as_json()["against_float"]["dtypes"]
    return found
