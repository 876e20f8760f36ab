"""Accuracy beside speed: which figure belongs to which run."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from florence_edge_benchmarks.report.charts import ScatterChart
from florence_edge_benchmarks.report.figures import CaptionedChart, trade_off_figures
from florence_edge_benchmarks.report.html import page_of
from florence_edge_benchmarks.report.speed_tables import latency_table
from florence_edge_benchmarks.report.tables import accuracy_beside, accuracy_note, accuracy_tables
from florence_edge_benchmarks.results import AccuracyResult, SpeedResult
from florence_edge_benchmarks.results_io import read_result

from .conftest import STORED


@pytest.fixture
def speed() -> SpeedResult:
    result = read_result(STORED / "speed.json")
    assert isinstance(result, SpeedResult)
    return result


@pytest.fixture
def accuracy() -> AccuracyResult:
    result = read_result(STORED / "accuracy.json")
    assert isinstance(result, AccuracyResult)
    return result


def cells(speed: SpeedResult, *accuracies: AccuracyResult) -> dict[tuple[str, str], str]:
    table = latency_table(replace(speed, accuracy=accuracies))
    return {(row[0], row[1]): row[-1] for row in table.rows}


def scatter(figure: CaptionedChart) -> ScatterChart:
    assert isinstance(figure.chart, ScatterChart)
    return figure.chart


def points(figure: CaptionedChart) -> int:
    return sum(len(series.marks) for series in scatter(figure).series)


def test_two_bundles_of_one_precision_and_engine_have_each_their_own(
    speed: SpeedResult, accuracy: AccuracyResult
) -> None:
    """As two int8 bundles for one CPU, which only their content tells apart."""
    int8 = next(row for row in speed.systems if row.system.label == "int8 on cpu")
    other = replace(
        int8, system=replace(int8.system, label="int8 on cpu (p8)"), fingerprint="another"
    )
    runs = [run for run in speed.runs if run.label == "int8 on cpu" and run.rounds]
    speed = replace(
        speed,
        systems=(*speed.systems, other),
        runs=(*speed.runs, *(replace(run, label=other.system.label) for run in runs)),
    )
    figures = {"CAPTION": {"CIDEr": 1.0}}
    own = replace(accuracy, fingerprint=int8.fingerprint, precision="int8", figures=figures)
    figures = {"CAPTION": {"CIDEr": 0.5}}
    another = replace(own, fingerprint="another", figures=figures)
    found = cells(speed, own, another)
    task = "CAPTION, 3 beams, 4 tokens"
    assert found[task, "int8 on cpu"] == "CIDEr 1.000"
    assert found[task, "int8 on cpu (p8)"] == "CIDEr 0.500"
    assert found[task, "fp32 on cpu"] == "-"


def test_a_figure_stands_beside_the_beams_it_was_measured_with_alone(
    speed: SpeedResult, accuracy: AccuracyResult
) -> None:
    found = cells(speed, accuracy)
    assert found["CAPTION, 3 beams, 4 tokens", "fp32 on cpu"] == "every object named 0.750"
    assert found["CAPTION, greedy, 4 tokens", "fp32 on cpu"] == "-"
    assert found["CAPTION, 3 beams, 4 tokens", "transformers"] == "-"
    greedy = replace(accuracy, beams=1, figures={"CAPTION": {"every object named": 0.5}})
    both = cells(speed, accuracy, greedy)
    assert both["CAPTION, greedy, 4 tokens", "fp32 on cpu"] == "every object named 0.500"


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": "another"}, {"device": "openvino"}, {"beams": 2}, {"max_new_tokens": 5}],
    ids=str,
)
def test_accuracy_of_anything_else_is_left_out(
    speed: SpeedResult, accuracy: AccuracyResult, other: dict[str, object]
) -> None:
    (row,) = (row for row in speed.systems if row.system.label == "fp32 on cpu")
    run = next(run for run in speed.runs if run.label == "fp32 on cpu" and run.workload.beams == 3)
    assert accuracy_beside(row, run, [accuracy]) == [accuracy]
    assert accuracy_beside(row, run, [replace(accuracy, **other)]) == []  # type: ignore[arg-type]
    assert trade_off_figures([speed], [replace(accuracy, **other)]) == []  # type: ignore[arg-type]


def test_files_of_before_fingerprints_match_nothing(
    speed: SpeedResult, accuracy: AccuracyResult
) -> None:
    rows = tuple(replace(row, fingerprint="") for row in speed.systems)
    assert (
        trade_off_figures([replace(speed, systems=rows)], [replace(accuracy, fingerprint="")]) == []
    )


def test_the_table_says_how_its_accuracy_was_measured(
    speed: SpeedResult, accuracy: AccuracyResult
) -> None:
    assert "Accuracy" not in latency_table(speed).note
    note = latency_table(replace(speed, accuracy=(accuracy,))).note
    assert "the same bundle, engine and number of beams on 200 pictures of held_out" in note
    assert note.endswith("not after the number of tokens that was timed.")
    free = [replace(run, workload=replace(run.workload, new_tokens=None)) for run in speed.runs]
    assert "that was timed" not in accuracy_note(free, [accuracy])


def test_different_measures_and_data_stand_in_different_plots(
    speed: SpeedResult, accuracy: AccuracyResult
) -> None:
    def measured(measure: str, **fields: str) -> AccuracyResult:
        return replace(accuracy, figures={"CAPTION": {measure: 0.5}}, **fields)  # type: ignore[arg-type]

    figures = trade_off_figures(
        [speed],
        [
            measured("every object named"),
            measured("CIDEr"),
            measured("CIDEr", data="coco", data_fingerprint="coco"),
            measured("CIDEr", data_fingerprint="of the same name"),
        ],
    )
    assert [figure.title for figure in figures] == [
        "CAPTION, every object named on 200 pictures of held_out: up and left is better",
        "CAPTION, CIDEr on 200 pictures of held_out: up and left is better",
        "CAPTION, CIDEr on 200 pictures of coco: up and left is better",
        "CAPTION, CIDEr on 200 pictures of held_out: up and left is better",
    ]
    assert [points(figure) for figure in figures] == [1, 1, 1, 1]
    assert "200 pictures of coco" in figures[2].caption


def test_one_figure_in_two_files_is_one_point_and_errors_are_better_low(
    speed: SpeedResult, accuracy: AccuracyResult
) -> None:
    errors = replace(accuracy, figures={"OD": {"word error rate": 0.2}})
    (figure,) = trade_off_figures([speed], [errors, errors])
    assert points(figure) == 1
    assert figure.title.endswith("down and left is better")
    assert scatter(figure).x_name == "median milliseconds of OD, 3 beams, 10 tokens"
    assert scatter(figure).y_name == "word error rate"


def test_beams_of_one_system_are_points_with_their_number(
    speed: SpeedResult, accuracy: AccuracyResult
) -> None:
    greedy = replace(accuracy, beams=1, figures={"CAPTION": {"every object named": 0.5}})
    figure, _ = trade_off_figures([speed], [accuracy, greedy])
    assert figure.title.startswith("CAPTION, every object named")
    (series,) = scatter(figure).series
    assert series.name == "fp32 on cpu"
    assert figure.caption.endswith("A number at a point is that of its beams.")
    assert [(mark.word, mark.y) for mark in series.marks] == [("1", 0.5), ("3", 0.75)]


def test_accuracy_and_speed_meet_though_files_know_different_tasks(
    speed: SpeedResult, accuracy: AccuracyResult
) -> None:
    parts = [replace(accuracy, figures={task: accuracy.figures[task]}) for task in accuracy.figures]
    titles = [figure.title for figure in trade_off_figures([speed], parts)]
    assert [title.partition(",")[0] for title in titles] == ["CAPTION", "OD"]
    assert "Accuracy against speed" in page_of([speed, *parts])


def rows_of(results: Sequence[AccuracyResult]) -> list[list[tuple[str, ...]]]:
    return [[row[:4] for row in table.rows] for table in accuracy_tables(results)]


def test_bundles_on_the_same_pictures_stand_in_one_table_and_others_apart(
    accuracy: AccuracyResult,
) -> None:
    task = {"OD": {"AP50:95": 0.8}}
    first = replace(accuracy, figures=task)
    second = replace(first, bundle="p8", precision="int8", beams=1)
    elsewhere = replace(first, data_fingerprint="another", max_new_tokens=5)
    assert rows_of([first, second, elsewhere]) == [
        [
            ("OD", "fp32 on cpu (base), 3 beams", "AP50:95", "0.800"),
            ("OD", "int8 on cpu (p8), greedy", "AP50:95", "0.800"),
        ],
        [("OD", "fp32 on cpu (base), 3 beams, cut after 5 tokens", "AP50:95", "0.800")],
    ]
