"""Floors: weights of a step, and the table that sets runs beside them."""

from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge import Bundle, ModelSize
from florence_edge_benchmarks.report.speed_tables import floor_table
from florence_edge_benchmarks.results import Floors, SpeedResult
from florence_edge_benchmarks.results_io import read_result
from florence_edge_benchmarks.speed.floors import decoder_weights, floors_of

from .conftest import STORED


def base(size: ModelSize) -> ModelSize:
    return replace(size, d_model=768, decoder_layers=6, vocab_size=51289, image_size=768)


def test_a_step_of_base_reads_356_megabytes_in_float32(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    bundle = replace(bundle, size=base(bundle.size))
    assert decoder_weights(bundle.size) * 4 == pytest.approx(356e6, rel=0.01)
    assert floors_of(bundle, "int8").step_bytes == pytest.approx(89e6, rel=0.01)
    assert floors_of(bundle, "int4").step_bytes == pytest.approx(50e6, rel=0.01)
    assert floors_of(bundle, "fp32").vision_flop == 370e9


def test_a_size_that_nobody_counted_has_no_floor_of_vision(tiny_bundle: Path) -> None:
    assert floors_of(Bundle.load(tiny_bundle), "fp32").vision_flop is None


def test_a_run_stands_beside_its_floors() -> None:
    result = read_result(STORED / "speed.json")
    assert isinstance(result, SpeedResult)
    floors = Floors(vision_flop=370e9, step_bytes=356e6)
    systems = tuple(replace(row, floors=floors) for row in result.systems)
    table = floor_table(replace(result, systems=systems))
    run = next(run for run in result.runs if run.label == table.rows[0][1])
    assert run.step_p50 is not None
    assert table.rows[0][5] == "356 MB"
    assert table.rows[0][7] == f"{356e6 / run.step_p50 / 1e9:.1f}"
    assert floor_table(result).rows == (), "older results have none"
