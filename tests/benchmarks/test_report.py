"""Reports of stored, invented results. After a change that is meant, write the expected ones anew,
with `python -m tests.benchmarks.test_report`, and look at them: in the stored page, the words of a
drawing stand in its place.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.cli import main
from florence_edge_benchmarks.report.html import page_of
from florence_edge_benchmarks.report.markdown import (
    BLOCK_BEGINS,
    BLOCK_ENDS,
    markdown_of,
    with_block,
)
from florence_edge_benchmarks.results import EnergyResult, SpeedResult
from florence_edge_benchmarks.results_io import read_result

from .conftest import STORED

RESULTS = [STORED / f"{name}.json" for name in ("accuracy", "energy", "gpu", "speed")]
_RUN = "import sys; from florence_edge_benchmarks.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def page() -> str:
    pytest.importorskip("matplotlib")
    return page_of([read_result(path) for path in RESULTS])


_DRAWING = re.compile(r"<svg .*?</svg>", re.DOTALL)


def without_drawings(page: str) -> str:
    """A page with the words of each drawing in its place: the lines are matplotlib's affair."""
    return _DRAWING.sub(lambda svg: " | ".join(re.findall(r"<text[^>]*>([^<]*)", svg[0])), page)


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_stored_results_give_the_stored_report(name: str, tmp_path: Path) -> None:
    if name.endswith("html"):
        pytest.importorskip("matplotlib")
    paths = [str(path) for path in reversed(RESULTS)]
    assert main(["report", *paths, "--output", str(tmp_path / name)]) == 0
    found, stored = (folder / name for folder in (tmp_path, STORED))
    assert without_drawings(found.read_text("utf-8")) == stored.read_text("utf-8")


def test_a_markdown_report_needs_no_matplotlib_and_a_page_names_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    paths = [str(path) for path in RESULTS]
    assert main(["report", *paths, "--output", str(tmp_path / "report.md")]) == 0
    assert main(["report", *paths, "--output", str(tmp_path / "report.html")]) == 1
    assert "[bench]" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_speed_comes_before_accuracy_and_energy_under_the_names_of_their_files() -> None:
    names = ["a.json", "b.json", "c.json"]
    results = [read_result(STORED / f"{name}.json") for name in ("energy", "accuracy", "speed")]
    text, page = markdown_of(results, names), page_of(results, names)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## c.json", "## b.json", "## a.json"
    ]  # fmt: skip
    assert page.index("File: c.json") < page.index("File: b.json") < page.index("File: a.json")
    assert "## " not in markdown_of(results)


def test_what_a_model_is_called_is_not_html() -> None:
    result = read_result(STORED / "energy.json")
    assert isinstance(result, EnergyResult)
    named = replace(result, settings={**result.settings, "model": "<script>a & b"})
    for text in (markdown_of([named], ["<script>.json"]), page_of([named], ["<script>.json"])):
        assert "<script" not in text
        assert "&lt;script>a &amp; b" in text.replace("&gt;", ">")


def test_a_task_stands_in_every_row_of_a_page_that_may_end_between_them(page: str) -> None:
    rows = re.findall(r'<tr class="again">.*?</tr>', page)
    assert rows
    assert not [row for row in rows if '<td class="name"></td>' in row]
    assert any("CAPTION, greedy, 4 tokens" in row for row in rows)


def test_the_order_of_sets_and_files_does_not_matter(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        paths = [str(path) for path in (RESULTS if seed == "1" else RESULTS[::-1])]
        output = ["--output", str(tmp_path / f"{seed}.html")]
        command = [sys.executable, "-c", _RUN, "report", *paths, *output]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


class References(HTMLParser):
    """Collects what a page would load, and every tag that was opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    references = References()
    references.feed(page)
    assert references.loaded == references.open == []
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page


def test_every_drawing_is_well_formed_and_names_model_and_machine(page: str) -> None:
    figures = page.split("<figure>")[1:]
    assert len(figures) == (3 + 2 + 1) + (1 + 1 + 2) + 2, "speed, GPU, accuracy against speed"
    for figure in figures:
        (svg,) = _DRAWING.findall(figure)
        ElementTree.fromstring(svg)
        caption = figure[figure.index("<figcaption>") :]
        assert "random base (seed 0, 768 px)" in caption
        assert "Test Processor" in caption


def test_energy_is_a_section_with_its_rails_and_no_invented_token(page: str) -> None:
    result = read_result(STORED / "energy.json")
    text = markdown_of([result])
    assert text.startswith("**Test model** on Test Orin, Test Processor, 6 cores")
    assert "Energy: int8 on tensorrt, OD, 3 beams:" in text
    assert "| an image | 1.250 J | 120 images, 0.500 J above rest |" in text
    assert "| a token | 0.0125 J | 12000 tokens, 0.0050 J above rest |" in text
    assert "| throttling | 2 x gpu-thermal |  |" in text
    assert "VDD_IN (the module) by hwmon, 1200 samples." in text
    assert "51 °C and 63 °C" in text
    assert "<h2>Energy of Test model</h2>" in page
    assert isinstance(result, EnergyResult)
    without = replace(result, energy=replace(result.energy, tokens=0))
    assert "a token" not in markdown_of([without])
    assert "Energy: int8" in markdown_of([result], brief=True)


def test_a_gpu_has_columns_that_a_cpu_has_not(page: str) -> None:
    text = markdown_of([read_result(STORED / "gpu.json")])
    assert "| host a token |" in text
    assert "| on the GPU |" in text
    assert "beyond the CUDA context" in text
    assert "for transformers by its own from_pretrained." in text
    assert "times transformers-fp16 on cuda" in text
    assert "GPU memory held after the answers" in page
    on_cpu = markdown_of([read_result(STORED / "speed.json")])
    assert "host a token" not in on_cpu
    assert "on the GPU" not in on_cpu


def test_failures_are_rows(page: str) -> None:
    assert "killed, perhaps for want of memory" in page
    text = markdown_of([read_result(STORED / "speed.json")])
    assert r"| ONNX Runtime failed while running: a \| b |" in text


def test_ratios_refer_to_the_baseline() -> None:
    result = read_result(STORED / "speed.json")
    assert isinstance(result, SpeedResult)
    text = markdown_of([result])
    assert "times transformers" in text
    seconds = {
        run.label: [each.seconds for each in run.rounds]
        for run in result.runs
        if run.workload.task == "CAPTION" and run.workload.beams == 1
    }
    pairs = zip(seconds["transformers"], seconds["fp32 on cpu"], strict=True)
    middle = sorted(theirs / ours for theirs, ours in pairs)[1]
    assert f"| {middle:.2f} (" in text


def test_a_readme_gets_its_block_and_keeps_the_rest(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BLOCK_BEGINS}\nobsolete\n{BLOCK_ENDS}\nafter\n")
    for _ in range(2):  # the second time changes nothing
        assert main(["report", str(STORED / "speed.json"), "--update", str(readme)]) == 0
        text = readme.read_text()
        assert text.startswith(f"before\n{BLOCK_BEGINS}\n**random base")
        assert text.endswith(f"|\n{BLOCK_ENDS}\nafter\n")
        assert "obsolete" not in text
        assert text.count("Latency") == 1


def test_a_page_without_marks_says_which_to_write() -> None:
    with pytest.raises(RequestError, match=f"Write the lines {BLOCK_BEGINS}"):
        with_block("nothing here", "text", "README.md")


def test_a_mistake_with_one_file_leaves_both_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, readme = tmp_path / "x.md", tmp_path / "README.md"
    for content, message in ((b"no marks", "Write the lines"), (b"\xff\xfe", "is not UTF-8")):
        readme.write_bytes(content)
        asked = ["--output", str(page), "--update", str(readme)]
        assert main(["report", str(STORED / "speed.json"), *asked]) == 1
        assert message in capsys.readouterr().err
        assert readme.read_bytes() == content
        assert not page.exists()


@pytest.mark.parametrize(("name", "begin"), [("X.HTML", "<!DOCTYPE html>"), ("X.MD", "## speed")])
def test_capitals_in_a_file_name_do_not_matter(name: str, begin: str, tmp_path: Path) -> None:
    output = tmp_path / name
    assert main(["report", str(STORED / "speed.json"), "--output", str(output)]) == 0
    assert output.read_text().startswith(begin)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere.json"], "Cannot read nowhere.json"),
        (["report", str(STORED / "speed.json"), "--output", "x.pdf"], "should end with .html"),
        (["report", str(STORED / "report.md")], "is not JSON"),
        (["report", str(STORED / "speed.json"), "--update", "nowhere.md"], "nowhere.md"),
    ],
)
def test_bad_input_gives_one_line_and_status_1(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    message_of = capsys.readouterr().err.strip()
    assert message_of.startswith("florence-bench: ")
    assert "\n" not in message_of
    assert message in message_of


def write_stored() -> None:
    """Write the expected reports anew."""
    paths = [str(path) for path in RESULTS]
    for name in ("report.md", "report.html"):
        main(["report", *paths, "--output", str(STORED / name)])
    page = STORED / "report.html"
    page.write_text(without_drawings(page.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_stored()
