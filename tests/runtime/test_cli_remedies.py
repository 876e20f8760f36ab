"""florence-run refuses, and what its message tells to do is done."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge.cli.main import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def run(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> tuple[int, str]:
        short = ("--max-new-tokens", "4", "--threads", "1", "--beams", "1")
        capsys.readouterr()
        try:
            status = main([str(tiny_bundle), *map(str, arguments), *short])
        except SystemExit as ended:  # argparse's
            status = int(ended.code or 0)
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("refused", "advice"),
    [
        ("--task REGION_TO_OCR --region 0.1,0.2,0.5,0.6", r"command line: (--region [\d%,]+)"),
        ("--task REGION_TO_OCR", r"in fractions \((--region [\d%,]+)\)"),
        (
            "--task OD --max-pixels 100",
            r"max_pixels=(?P<number>\d+) \(.*(?P<option>--max-pixels)\)",
        ),
        ("--task OPEN_VOCABULARY_DETECTION", r"(--text '\.\.\.')"),
    ],
)
def test_an_option_with_its_value_is_given(
    run: Run, photo: Path, refused: str, advice: str
) -> None:
    status, message = run(photo, *refused.split())
    assert status == 1
    found = re.search(advice, message)
    assert found, message
    parts = found.groupdict()
    told = f"{parts['option']} {parts['number']}" if parts else found[1]
    assert run(photo, *refused.split(), *told.replace("'", "").split()) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refused", "advice", "followed"),
    [
        ("--task OD --resume", "--resume needs --answers", "--task OD --answers {new}"),
        ("--task CAPTION --save-txt {new}", "Add one, or leave --save-txt out", "--task CAPTION"),
        (
            "--task OD,REGION_PROPOSAL --save-txt {new}",
            "once for each",
            "--task OD --save-txt {new}",
        ),
        ("--prompt x --text y", "leave --text and --region out", "--prompt x"),
        ("--task OD --text y", "takes no text", "--task OD"),
        ("--task OD --every 2", "--every needs a camera or a video", "--task OD"),
        ("--task OD --csv {new} --answers {new}", "a place of its own", "--task OD --csv {new}"),
        ("--task OD --line-width x", "expected 1 or more", "--task OD --line-width 2"),
        ("--task OD --device cpu:1", "The devices are: auto, cpu", "--task OD --device cpu"),
        ("--task DO", "OD", "--task OD"),
    ],
)
def test_what_does_not_go_together_is_parted(
    run: Run, photo: Path, tmp_path: Path, refused: str, advice: str, followed: str
) -> None:
    def asked(arguments: str) -> list[str]:
        return arguments.format(new=tmp_path / "new").split()

    status, message = run(photo, *asked(refused))
    assert status in (1, 2)
    assert advice in message
    assert run(photo, *asked(followed))[0] == 0


@pytest.mark.slow
def test_answers_that_are_there_are_gone_on_with(run: Run, photo: Path, tmp_path: Path) -> None:
    asked = (photo, "--task", "OD", "--answers", tmp_path / "a.jsonl")
    assert run(*asked)[0] == 0
    status, message = run(*asked)
    assert status == 1
    assert "Add --resume to go on with it" in message
    assert run(*asked, "--resume")[0] == 0
    status, message = run(*asked, "--resume", "--min-score", "0.5")
    assert status == 1
    assert "Request the same as then" in message
    assert run(*asked, "--resume", "--min-score", "0.0")[0] == 0
