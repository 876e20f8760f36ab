"""Outlier channels: where their division goes, that it changes nothing, and when it is worth it."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge_calibration.graph_edit import (
    Insertion,
    LinearNode,
    by_activation,
    find_linears,
)
from florence_edge_calibration.quantization import equalize
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.dataset import CalibrationSample
from florence_edge_calibration.quantization.equalize import (
    Choice,
    FoldTarget,
    choose,
    fold,
    foldable_into,
)
from florence_edge_calibration.quantization.histogram import ChannelHistogram
from florence_edge_calibration.quantization.range_selection import limit_by_minmax, limit_by_mse

from .int8_errors import Measured
from .plain_histogram import histogram_of

ENCODERS = (contract.VISION_ENCODER, contract.TEXT_ENCODER)


@pytest.fixture(scope="module")
def measured(floats: Bundle, samples: list[CalibrationSample]) -> Measured:
    return Measured.by(floats, samples[:2])


@pytest.fixture(scope="module")
def planted_measured(planted: Bundle, samples: list[CalibrationSample]) -> Measured:
    return Measured.by(planted, samples[:2])


def load(bundle: Bundle, graph: str) -> tuple[ir.Model, dict[str, list[LinearNode]]]:
    model = ir.load(bundle.graph_file(graph))
    return model, by_activation(find_linears(model.graph))


def choices(
    groups: dict[str, list[LinearNode]], table: CalibrationTable, *, equalize: bool = True
) -> dict[str, Choice]:
    return {
        name: choose(linears, table.activations[name], limit_by_mse, equalize=equalize)
        for name, linears in groups.items()
    }


def apply_in_float(graph: ir.Graph, chosen: Iterable[Choice]) -> None:
    """Divide and multiply back, with nothing rounded."""
    for choice in chosen:
        fold(choice, graph)
    for choice in chosen:
        first = choice.linears[0]
        insertion = Insertion(graph, first.scope, before=first.node)
        factors = insertion.constant(1 / choice.factors, "equalize")
        divided = (
            insertion.op("Mul", [first.activation, factors], ir.DataType.FLOAT)
            if choice.fold_target is FoldTarget.MULTIPLY
            else first.activation
        )
        for linear in choice.linears:
            shape = [1] * linear.weight_values().ndim
            shape[linear.in_axis] = -1
            values = linear.weight_values() * choice.factors.reshape(shape)
            linear.node.replace_input_with(0, divided)
            linear.weight.const_value = ir.tensor(values, name=linear.weight.name)


@pytest.mark.parametrize("graph", ENCODERS)
@pytest.mark.parametrize("place", [FoldTarget.NORM, FoldTarget.VALUES])
@pytest.mark.parametrize("outliers", [False, True])
def test_folding_changes_nothing_that_the_float_model_says(
    graph: str, place: FoldTarget, outliers: bool, request: pytest.FixtureRequest
) -> None:
    prefix = "planted" if outliers else ""
    bundle = request.getfixturevalue("planted" if outliers else "floats")
    table = request.getfixturevalue(f"{prefix}_table".lstrip("_"))
    measured = request.getfixturevalue(f"{prefix}_measured".lstrip("_"))
    model, groups = load(bundle, graph)
    chosen = [each for each in choices(groups, table).values() if each.fold_target is place]
    assert any(np.abs(each.shifts).max() > 1 for each in chosen)
    apply_in_float(model.graph, chosen)
    assert measured.error(bundle, graph, model) < 3e-6


def test_a_fold_without_its_counterpart_would_be_noticed(
    floats: Bundle, table: CalibrationTable, measured: Measured
) -> None:
    model, groups = load(floats, contract.VISION_ENCODER)
    for choice in choices(groups, table).values():
        fold(choice, model.graph)
    assert measured.error(floats, contract.VISION_ENCODER, model) > 0.01


def test_an_explicit_multiplication_changes_nothing_either(
    planted: Bundle,
    planted_table: CalibrationTable,
    planted_measured: Measured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(equalize, "_MAX_ERROR_SHARE", 0.9)  # few of the tiny model halve the error
    model, groups = load(planted, contract.VISION_ENCODER)
    chosen = [
        each
        for each in choices(groups, planted_table).values()
        if each.fold_target is FoldTarget.MULTIPLY
    ]
    if not chosen:
        pytest.fail("no activation of the tiny model gains by a multiplication any more")
    apply_in_float(model.graph, chosen)
    assert planted_measured.error(planted, contract.VISION_ENCODER, model) < 3e-6


_PLACES = {
    "spatial_block.window_attn.q_proj": FoldTarget.NORM,
    "spatial_block.window_attn.proj": FoldTarget.VALUES,
    "channel_block.channel_attn.q_proj": FoldTarget.NORM,
    "channel_block.channel_attn.proj": FoldTarget.MULTIPLY,  # channels are mixed, not averaged
    "ffn.fc1": FoldTarget.NORM,
    "ffn.fc2": FoldTarget.MULTIPLY,  # nothing folds through GELU
    "conv": FoldTarget.NORM,
    "image_projection": FoldTarget.MULTIPLY,
    "self_attn.q_proj": FoldTarget.MULTIPLY,  # BART: the norm's output is the residual, too
    "self_attn.out_proj": FoldTarget.VALUES,
    "cross.0.k_proj": FoldTarget.NORM,  # of the last layer, whose output nobody else reads
    "0.fc1": FoldTarget.MULTIPLY,
    "0.fc2": FoldTarget.MULTIPLY,
    "1.fc1": FoldTarget.MULTIPLY,
    "1.fc2": FoldTarget.MULTIPLY,
}


@pytest.mark.parametrize("graph", ENCODERS)
def test_divisions_go_where_they_are_exact(floats: Bundle, graph: str) -> None:
    _, groups = load(floats, graph)
    for name, linears in groups.items():
        (ending,) = {max((end for end in _PLACES if name.endswith(end)), key=len)}
        assert foldable_into(linears) is _PLACES[ending], name


def test_a_norm_that_a_float_linear_reads_too_is_left_alone(floats: Bundle) -> None:
    _, groups = load(floats, contract.TEXT_ENCODER)
    readers = groups["text_encoder.cross.0.k_proj"]
    assert foldable_into(readers) is FoldTarget.NORM
    assert foldable_into(readers[1:]) is FoldTarget.MULTIPLY


def test_planted_outliers_are_found_and_moved(
    planted: Bundle, planted_table: CalibrationTable
) -> None:
    found = 0
    for graph in ENCODERS:
        _, groups = load(planted, graph)
        for name, choice in choices(groups, planted_table).items():
            before = planted_table.activations[name].abs_max
            if before.max() < 20 * np.median(before):
                continue
            found += 1
            assert choice.fold_target in (FoldTarget.NORM, FoldTarget.VALUES), name
            assert choice.factors.argmax() == before.argmax()
            assert choice.histogram.abs_max.max() < 0.3 * before.max()
            assert choice.error < 0.1 * choice.plain_error
    assert found >= 20


def test_nothing_is_moved_where_equalization_is_off(
    planted: Bundle, planted_table: CalibrationTable
) -> None:
    _, groups = load(planted, contract.VISION_ENCODER)
    for choice in choices(groups, planted_table, equalize=False).values():
        assert choice.fold_target is FoldTarget.NOWHERE
        assert not choice.shifts.any()
        assert choice.error == choice.plain_error


def rows(channels: int, outlier: float = 1.0) -> ChannelHistogram:
    values = np.random.default_rng(0).standard_normal((4000, channels))
    values[:, 7] *= outlier
    return histogram_of(values)


@pytest.mark.parametrize(
    ("outlier", "place"), [(1, FoldTarget.NOWHERE), (100, FoldTarget.MULTIPLY)]
)
def test_a_multiplication_is_put_only_where_it_wins(
    floats: Bundle, outlier: float, place: FoldTarget
) -> None:
    _, groups = load(floats, contract.TEXT_ENCODER)
    linears = groups["text_encoder.layers.0.fc1"]
    choice = choose(linears, rows(linears[0].channels, outlier), limit_by_mse)
    assert choice.fold_target is place
    if place is FoldTarget.MULTIPLY:
        assert choice.error < 0.5 * choice.plain_error
        assert choice.factors.argmax() == 7


def test_no_choice_is_expected_to_be_worse_than_none(
    floats: Bundle, table: CalibrationTable
) -> None:
    for graph in ENCODERS:
        _, groups = load(floats, graph)
        for choice in choices(groups, table).values():
            assert choice.error <= choice.plain_error
            if choice.fold_target is FoldTarget.MULTIPLY:
                assert choice.error <= 0.5 * choice.plain_error


def test_the_best_of_all_migrations_is_taken(floats: Bundle) -> None:
    """The factors are SmoothQuant's, for one of the strengths, by brute force over weights."""
    _, groups = load(floats, contract.VISION_ENCODER)
    name = "vision_encoder.blocks.1.0.spatial_block.ffn.fc1"
    (linear,) = groups[name]
    activation = rows(linear.channels, 60)
    choice = choose([linear], activation, limit_by_minmax)
    largest = np.abs(linear.weight_rows()).max(axis=1)
    matching = []
    for strength in (0.25, 0.5, 0.75):
        factors = activation.abs_max**strength / largest ** (1 - strength)
        factors /= np.exp2(np.median(np.log2(factors)))
        matching.append(bool(np.abs(np.log2(choice.factors / factors)).max() <= 0.126))
    assert any(matching)


@pytest.mark.parametrize("dead", ["activation", "weight", "both"])
def test_dead_channels_do_no_harm(floats: Bundle, dead: str) -> None:
    _, groups = load(floats, contract.VISION_ENCODER)
    (linear,) = groups["vision_encoder.blocks.1.0.spatial_block.ffn.fc1"]
    values = np.random.default_rng(0).standard_normal((100, linear.channels))
    if dead != "weight":
        values[:, 3] = 0
    if dead != "activation":
        weight = linear.weight_values().copy()
        weight[3] = 0
        linear.weight.const_value = ir.tensor(weight, name=linear.weight.name)
    choice = choose([linear], histogram_of(values), limit_by_mse)
    assert choice.shifts[3] == 0
    assert np.isfinite([choice.error, choice.limit]).all()


def test_an_activation_that_is_always_zero_has_a_limit_above_zero(floats: Bundle) -> None:
    _, groups = load(floats, contract.VISION_ENCODER)
    (linear,) = groups["vision_encoder.blocks.1.0.spatial_block.ffn.fc1"]
    silent: npt.NDArray[np.float64] = np.zeros((10, linear.channels))
    choice = choose([linear], histogram_of(silent), limit_by_mse)
    assert choice.limit > 0
    assert np.isfinite(choice.error)
