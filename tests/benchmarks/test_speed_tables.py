from dataclasses import replace

from florence_edge_benchmarks.report.speed_tables import within_table
from florence_edge_benchmarks.results import Round, RunRow, SpeedResult
from florence_edge_benchmarks.results_io import read_result
from florence_edge_benchmarks.systems.workload import Workload
from florence_edge_benchmarks.timing import STAGES

from .conftest import STORED

WORKLOAD = Workload(task="OD", beams=1, new_tokens=10, batch=1, image="a.jpg")


def run(
    workload: Workload, *seconds: float, label: str = "fp32 on cpu", decoder: float = 1.0
) -> RunRow:
    stages = {**dict.fromkeys(STAGES, 0.0), "decoder": decoder, "search": 0.5}
    return RunRow(
        label=label,
        workload=workload,
        rounds=tuple(Round(seconds=each, stages=stages, tokens=10) for each in seconds),
        steps=(),
        step_p50=None,
        step_p90=None,
        step_count=0,
        same_tokens=None,
        error=None if seconds else "it failed",
    )


def table(*runs: RunRow) -> list[tuple[str, ...]]:
    result = read_result(STORED / "speed.json")
    assert isinstance(result, SpeedResult)
    return list(within_table(replace(result, runs=runs)).rows)


def test_beams_are_compared_with_greedy_by_the_step() -> None:
    beams = replace(WORKLOAD, beams=3)
    rows = table(
        run(WORKLOAD, 2, 2), run(beams, 3, 3, decoder=1.3), run(beams, 3, label="transformers")
    )
    what = "a step of 3 beams to a greedy one"
    assert rows == [(beams.name, "fp32 on cpu", what, "1.20 (1.20 to 1.20)")]


def test_batches_are_compared_with_single_pictures_round_by_round() -> None:
    batch = replace(WORKLOAD, batch=4)
    ((_, _, what, ratio),) = table(run(WORKLOAD, 2, 1, 4), run(batch, 4, 4, 8))
    assert what == "pictures a second in batches of 4 to single ones"
    assert ratio == "2.00 (1.00 to 2.00)"


def test_what_has_no_counterpart_has_no_row() -> None:
    batch = replace(WORKLOAD, batch=4)
    longer = replace(WORKLOAD, new_tokens=20)
    assert table(run(longer, 2), run(batch, 4)) == []
    assert table(run(WORKLOAD, 2), run(batch, 4, 4)) == [], "a round is missing"
    assert table(run(WORKLOAD), run(batch)) == []
