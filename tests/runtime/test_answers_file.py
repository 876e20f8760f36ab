"""florence-run --answers: a file of JSON lines that a later run goes on with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        noise = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        noise.resize((80, 60)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def run(tiny_bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on the folder, with answers to `tmp_path / out.jsonl`."""

    def run(*arguments: str, task: str = "OD") -> tuple[int, str, str]:
        capsys.readouterr()
        answers = ("--answers", str(tmp_path / "out.jsonl"))
        short = ("--beams", "1", "--max-new-tokens", "8", "--threads", "1")
        status = main([str(tiny_bundle), str(photos), "--task", task, *answers, *short, *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    text = (tmp_path / "out.jsonl").read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def names(tmp_path: Path) -> list[str]:
    return [Path(line["image"]).stem for line in lines(tmp_path)]


def test_answers_go_to_the_file_as_they_would_be_printed(run: Run, tmp_path: Path) -> None:
    status, out, err = run()
    assert (status, out, err) == (0, "", "")
    assert names(tmp_path) == list("abcd")
    (tmp_path / "out.jsonl").rename(tmp_path / "first.jsonl")
    _, out, _ = run("--json")
    printed = [json.loads(line) for line in out.splitlines()]
    assert printed == lines(tmp_path)


def test_several_tasks_have_a_line_each(run: Run, tmp_path: Path) -> None:
    run(task="OD,CAPTION")
    assert names(tmp_path) == list("aabbccdd")
    assert [line["task"] for line in lines(tmp_path)] == ["<OD>", "<CAPTION>"] * 4


def test_a_file_that_is_there_is_not_written_over(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    status, _, err = run()
    assert status == 1
    assert "is there already. Add --resume to go on with it" in err
    assert (tmp_path / "out.jsonl").read_text() == "precious"


def test_resuming_skips_what_is_answered(run: Run, tmp_path: Path) -> None:
    run()
    whole = lines(tmp_path)
    (tmp_path / "out.jsonl").write_text("".join(json.dumps(each) + "\n" for each in whole[1:3]))
    assert run("--resume")[0] == 0
    assert names(tmp_path) == ["b", "c", "a", "d"]
    assert run("--resume")[0] == 0
    assert len(lines(tmp_path)) == 4


def test_resuming_without_a_file_begins_one(run: Run, tmp_path: Path) -> None:
    assert run("--resume")[0] == 0
    assert names(tmp_path) == list("abcd")


@pytest.mark.parametrize("torn", ['{"image": "a', '{"image": "x", "error": "y"}', "\u00e4"])
def test_a_torn_last_line_is_taken_off(run: Run, tmp_path: Path, torn: str) -> None:
    run()
    whole = (tmp_path / "out.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes("".join(whole[:2]).encode() + torn.encode()[:-1])
    assert run("--resume")[0] == 0
    assert names(tmp_path) == list("abcd")


def test_another_task_is_another_question(run: Run, tmp_path: Path) -> None:
    run(task="OD")
    assert run("--resume", task="CAPTION")[0] == 0
    assert [line["task"] for line in lines(tmp_path)] == ["<OD>"] * 4 + ["<CAPTION>"] * 4


@pytest.mark.parametrize(
    ("task", "option", "first", "second"),
    [
        ("OPEN_VOCABULARY_DETECTION", "--text", "a car", "a bus"),
        ("REGION_TO_OCR", "--region", "1,2,30,40", "5,5,9,9"),
    ],
)
def test_another_text_or_region_is_another_question(
    run: Run, tmp_path: Path, task: str, option: str, first: str, second: str
) -> None:
    for beside, expected in ((first, 4), (first, 4), (second, 8), (first, 8), (second, 8)):
        assert run("--resume", option, beside, task=task)[0] == 0
        assert len(lines(tmp_path)) == expected


def test_a_picture_that_fails_has_a_line_with_its_error_and_is_tried_again(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    good = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(b"no picture")
    status, _, err = run()
    assert status == 1
    assert err.splitlines()[-1] == "florence-run: 1 of 4 images failed."
    assert names(tmp_path) == list("abcd")
    assert list(lines(tmp_path)[1]) == ["image", "error"]
    assert "not an image that Pillow can read" in lines(tmp_path)[1]["error"]
    (photos / "b.png").write_bytes(good)
    assert run("--resume")[0] == 0
    assert names(tmp_path) == list("abcdb")


@pytest.mark.parametrize("line", ["no json", "[1]", '{"image": "a"}', "3"])
def test_a_file_of_something_else_is_left_alone(run: Run, tmp_path: Path, line: str) -> None:
    (tmp_path / "out.jsonl").write_text(f"{line}\n")
    status, _, err = run("--resume")
    assert status == 1
    assert "Line 1 of" in err
    assert "is no answer of florence-run" in err
    assert (tmp_path / "out.jsonl").read_text() == f"{line}\n"


def test_a_full_disk_is_one_message_that_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs the device /dev/full of Linux")
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    status, _, err = run("--resume")
    assert status == 1
    assert err.count("\n") == 1
    assert "No space left on device. Make room, then go on with --resume" in err


@pytest.mark.parametrize("arguments", [["--resume"], ["--every", "2"], ["--track"], ["--show"]])
def test_options_that_go_with_others_are_refused_alone(
    tiny_bundle: Path, photos: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([str(tiny_bundle), str(photos), "--task", "OD", *arguments])
    assert leaving.value.code == 2
    assert "needs --" in capsys.readouterr().err
