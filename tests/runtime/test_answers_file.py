"""florence-run --answers: a file of JSON lines that a later run goes on with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.cli.main import main
from florence_edge.files import hold

from ..helpers.disk import recorded

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
    """The lines but for the first, which says where the answers come from."""
    text = (tmp_path / "out.jsonl").read_text()
    assert text.endswith("\n")
    first, *others = [json.loads(line) for line in text.splitlines()]
    assert list(first) == ["florence-run", "bundle", "options"]
    assert not any("florence-run" in line for line in others)
    return others


def rewrite(tmp_path: Path, *kept: int) -> None:
    """Keep these lines of the file; 0 is the first."""
    path = tmp_path / "out.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[number] for number in kept))


def texts(tmp_path: Path) -> list[tuple[str, str]]:
    return [(line["image"], line["raw_text"]) for line in lines(tmp_path)]


def names(tmp_path: Path) -> list[str]:
    return [Path(line["image"]).stem for line in lines(tmp_path)]


def test_answers_go_to_the_file_as_they_would_be_printed(run: Run, tmp_path: Path) -> None:
    status, out, err = run()
    wrote = f"florence-run: Wrote the answers in {tmp_path / 'out.jsonl'}.\n"
    assert (status, out, err) == (0, "", wrote)
    assert names(tmp_path) == list("abcd")
    (tmp_path / "out.jsonl").rename(tmp_path / "first.jsonl")
    _, out, _ = run("--json")
    printed = [json.loads(line) for line in out.splitlines()]
    assert {line["engine"]["device"] for line in printed} == {"cpu"}  # a file may have several
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
    rewrite(tmp_path, 0, 2, 3)
    assert run("--resume")[0] == 0
    assert names(tmp_path) == ["b", "c", "a", "d"]
    assert run("--resume")[0] == 0
    assert len(lines(tmp_path)) == 4


def test_resuming_without_a_file_begins_one(run: Run, tmp_path: Path) -> None:
    assert run("--resume")[0] == 0
    assert names(tmp_path) == list("abcd")


def test_of_a_picture_that_is_answered_in_part_only_the_rest_is_added(
    run: Run, tmp_path: Path
) -> None:
    run(task="OD,CAPTION")
    rewrite(tmp_path, 0, 1, 2, 3)  # killed between two tasks of b
    assert run("--resume", task="OD,CAPTION")[0] == 0
    assert names(tmp_path) == list("aabbccdd")
    assert len({(line["image"], line["task"]) for line in lines(tmp_path)}) == 8


def test_a_run_that_was_killed_before_its_first_answer_is_begun_anew(
    run: Run, tmp_path: Path
) -> None:
    for begun in ("", '{"florence-run": "0.1.0", "bun'):
        (tmp_path / "out.jsonl").write_text(begun)
        assert run("--resume")[0] == 0
        assert names(tmp_path) == list("abcd")
    (tmp_path / "out.jsonl").write_text("")
    assert run()[0] == 0, "an empty file is none that could be lost"


@pytest.mark.parametrize("torn", ['{"image": "a', '{"image": "x", "error": "y"}', "\u00e4"])
def test_a_torn_last_line_is_taken_off(run: Run, tmp_path: Path, torn: str) -> None:
    run()
    whole = (tmp_path / "out.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes("".join(whole[:3]).encode() + torn.encode()[:-1])
    assert run("--resume")[0] == 0
    assert names(tmp_path) == list("abcd")


@pytest.mark.parametrize("kept", [0, 10, -1])
def test_zeros_that_a_power_cut_left_are_taken_off(run: Run, tmp_path: Path, kept: int) -> None:
    """The length of a file may be on the disk before its content is."""
    run()
    whole = texts(tmp_path)
    path = tmp_path / "out.jsonl"
    content = path.read_bytes().splitlines(keepends=True)
    last = content.pop()[:kept]
    path.write_bytes(b"".join(content) + last + bytes(5000) + b"}\n")
    assert run("--resume")[0] == 0
    assert texts(tmp_path) == whole
    path.write_bytes(bytes(5000))
    assert run("--resume")[0] == 0
    assert texts(tmp_path) == whole


@pytest.mark.parametrize("resume", [["--resume"], []])
def test_a_file_that_another_process_writes_is_left_to_it(
    run: Run, tmp_path: Path, resume: list[str]
) -> None:
    run()
    rewrite(tmp_path, 0, 1)
    path = tmp_path / "out.jsonl"
    before = path.read_text()
    with path.open("a") as file:
        hold(file.fileno(), path)
        status, _, err = run(*resume)
        assert (status, path.read_text()) == (1, before)
        assert "out.jsonl is being written by another process. Wait" in err
    assert run("--resume")[0] == 0
    assert len(lines(tmp_path)) == 4


def test_two_processes_that_resume_one_file_write_each_answer_once(
    tiny_bundle: Path, photos: Path, run: Run, tmp_path: Path
) -> None:
    command = "import sys; from florence_edge.cli.main import main; sys.exit(main())"
    asked = ["--task", "OD", "--answers", str(tmp_path / "out.jsonl"), "--resume"]
    short = ["--beams", "1", "--max-new-tokens", "8", "--threads", "1"]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", command, str(tiny_bundle), str(photos), *asked, *short],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=60)[1] for process in both]
    refused = ["is being written by another process" in error for error in errors]
    assert [process.returncode for process in both] == [int(each) for each in refused]
    assert not all(refused)
    assert names(tmp_path) == list("abcd")


def test_answers_are_brought_to_the_disk(run: Run, tmp_path: Path) -> None:
    with recorded() as events:
        run()
    assert ("sync", str(tmp_path / "out.jsonl")) in events


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


def test_the_region_is_a_matter_of_the_tasks_that_take_one(run: Run, tmp_path: Path) -> None:
    for beside, expected in ((("--region", "1%,2%,30%,40%"), 8), (("--region", "5,5,9,9"), 12)):
        assert run("--resume", *beside, task="OD,REGION_TO_OCR")[0] == 0
        assert len(lines(tmp_path)) == expected
    assert [(line["task"], line["region"]) for line in lines(tmp_path)] == [
        *[("<OD>", None), ("<REGION_TO_OCR>", [0.01, 0.02, 0.3, 0.4])] * 4,
        *[("<REGION_TO_OCR>", [5, 5, 9, 9])] * 4,
    ]


def test_a_picture_that_fails_has_a_line_with_its_error_and_is_tried_again(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    good = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(b"no picture")
    status, _, err = run()
    assert status == 1
    assert "florence-run: 1 of 4 images failed.\n" in err
    assert names(tmp_path) == list("abcd")
    assert list(lines(tmp_path)[1]) == ["image", "error"]
    assert "not an image in a format that is opened here" in lines(tmp_path)[1]["error"]
    assert run("--resume")[0] == 1
    assert names(tmp_path) == list("abcd")  # it still cannot be read: that is reported already
    (photos / "b.png").write_bytes(good)
    assert run("--resume")[0] == 0
    assert names(tmp_path) == list("abcdb")


# Where answers come from.


@pytest.mark.parametrize(
    ("others", "then", "now"),
    [
        (["--beams", "2"], "num_beams 1", "num_beams 2"),
        (["--max-new-tokens", "9"], "max_new_tokens 8", "max_new_tokens 9"),
        (["--max-time", "50"], "no max_time", "max_time 50.0"),
        (["--min-score", "0.5"], "min_score 0.0", "min_score 0.5"),
        (["--convention", "microsoft"], "convention native", "convention microsoft"),
        (["--beams", "2", "--min-score", "1"], "num_beams 1, min_score", "num_beams 2, min_score"),
    ],
)
def test_other_options_are_refused_with_what_differs(
    run: Run, tmp_path: Path, others: list[str], then: str, now: str
) -> None:
    run()
    before = (tmp_path / "out.jsonl").read_bytes()
    status, _, err = run("--resume", *others)
    assert status == 1
    assert err.count("\n") == 1
    assert f"was begun with {then}" in err
    assert f"requested now: {now}" in err
    assert "Request the same as then to go on with it, or choose another --answers." in err
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_another_bundle_is_refused_whatever_its_name(
    run: Run,
    pointing_bundle: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run()
    answers = ["--answers", str(tmp_path / "out.jsonl"), "--resume"]
    short = ["--beams", "1", "--max-new-tokens", "8", "--threads", "1"]
    assert main([str(pointing_bundle), str(photos), "--task", "OD", *answers, *short]) == 1
    err = capsys.readouterr().err
    assert "was begun with bundle tiny fp32 for any (" in err
    assert "requested now: bundle pointing fp32 for any (" in err


def test_the_same_bundle_elsewhere_and_other_threads_go_on(
    run: Run,
    tiny_bundle: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run()
    rewrite(tmp_path, 0, 1)
    moved = tmp_path / "moved"
    moved.symlink_to(tiny_bundle)
    answers = ["--answers", str(tmp_path / "out.jsonl"), "--resume"]
    same = ["--beams", "1", "--max-new-tokens", "8", "--threads", "2", "--batch", "2"]
    assert main([str(moved), str(photos), "--task", "OD", *answers, *same]) == 0
    assert names(tmp_path) == list("abcd")


def test_files_that_were_joined_may_have_several_first_lines(run: Run, tmp_path: Path) -> None:
    run()
    rewrite(tmp_path, 0, 1, 0, 2)
    assert run("--resume")[0] == 0
    rewrite(tmp_path, 0, 1, 3, 4, 5)
    assert names(tmp_path) == list("abcd")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a", "task": "<OD>", "text_input": null}', "does not begin with the bundle"),
        ('{"image": "a", "error": "b"}', "does not begin with the bundle"),
        ('{"florence-run": "9"}', "This florence-run cannot read where the answers in"),
        (
            '{"florence-run": "9", "bundle": 3, "options": {}}',
            "florence-run cannot read where the answers in",
        ),
    ],
)
def test_answers_of_unknown_origin_are_left_alone(
    run: Run, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "out.jsonl").write_text(f"{line}\n")
    status, _, err = run("--resume")
    assert status == 1
    assert message in err
    assert "Choose another --answers" in err
    assert (tmp_path / "out.jsonl").read_text() == f"{line}\n"


def test_batches_answer_alike(run: Run, tmp_path: Path) -> None:
    (photos := tmp_path / "photos" / "b.png").write_bytes(b"no picture")
    run(task="OD,CAPTION")
    alone = lines(tmp_path)
    (tmp_path / "out.jsonl").unlink()
    status, _, err = run("--batch", "3", task="OD,CAPTION")
    assert (status, err.count(str(photos))) == (1, 1)
    for expected, found in zip(alone, lines(tmp_path), strict=True):
        for line in (expected, found):
            line.pop("seconds", None)
            line.pop("scores", None)
            line.pop("label_scores", None)
        assert found == expected


@pytest.mark.parametrize("line", ["no json", "[1]", '{"image": "a"}', "3", '"error"'])
def test_a_file_of_something_else_is_left_alone(run: Run, tmp_path: Path, line: str) -> None:
    (tmp_path / "out.jsonl").write_text(f"{line}\n")
    status, _, err = run("--resume")
    assert status == 1
    assert "Line 1 of" in err
    assert "is not an answer of florence-run" in err
    assert (tmp_path / "out.jsonl").read_text() == f"{line}\n"


@pytest.mark.parametrize("content", ["precious", "a poem\n\nof two lines", "{"])
def test_what_is_not_ours_is_not_cut_where_its_last_line_does_not_end(
    run: Run, tmp_path: Path, content: str
) -> None:
    (tmp_path / "out.jsonl").write_text(content)
    status, _, err = run("--resume")
    if content == "{":  # may be the beginning of ours, and is nothing to lose
        assert status == 0
        return
    assert status == 1
    assert "is not an answer of florence-run" in err
    assert (tmp_path / "out.jsonl").read_text() == content


def test_a_full_disk_is_one_message_that_says_how_to_go_on(run: Run, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs the device /dev/full of Linux")
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    status, _, err = run()
    assert status == 1
    assert err.count("\n") == 1
    assert "No space left on device. Make room, then go on with --resume" in err


@pytest.mark.parametrize(
    "arguments", [["--resume"], ["--every", "2"], ["--track"], ["--show"], ["--save", "x"]]
)
def test_options_that_go_with_others_are_refused_alone(
    tiny_bundle: Path, photos: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([str(tiny_bundle), str(photos), "--task", "OD", *arguments])
    assert leaving.value.code == 2
    assert " needs " in capsys.readouterr().err


def test_a_video_has_no_batches(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([str(tiny_bundle), "--source", "0", "--task", "OD", "--batch", "2"])
    assert leaving.value.code == 2
    assert "--batch does not go with a camera or a video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("resume", "reason"), [((), "a pipe that nobody reads"), (("--resume",), "a pipe that nobody")]
)
def test_a_pipe_that_nobody_reads_is_refused_at_once(
    run: Run, tmp_path: Path, resume: tuple[str, ...], reason: str
) -> None:
    os.mkfifo(tmp_path / "out.jsonl")
    status, _, err = run(*resume)
    assert status == 1
    assert reason in err


def test_a_pipe_that_is_read_takes_answers_and_cannot_be_gone_on_with(
    run: Run, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "out.jsonl")
    reader = os.open(tmp_path / "out.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run()[0] == 0
        assert len(os.read(reader, 1 << 20).splitlines()) == 5
        status, _, err = run("--resume")
        assert status == 1
        assert "is not a file, so there is nothing to go on with" in err
    finally:
        os.close(reader)
