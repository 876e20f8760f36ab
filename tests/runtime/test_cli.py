import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions, __version__
from florence_edge.cli.main import main
from florence_edge.results.result import Result

from ..helpers.disk import check_synced_before_it_got_its_name, recorded
from ..helpers.paused import let_hang_ups_count

SIZE = (80, 60)
KEYS = [
    *("image", "task", "text_input", "raw_text", "token_ids"),
    *("result", "scores", "label_scores", "status", "cut_off", "image_size", "seconds", "engine"),
]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process on the tiny bundle: status, output, errors."""

    def run(*arguments: str | Path, bundle: Path = tiny_bundle) -> tuple[int, str, str]:
        short = ("--max-new-tokens", "12", "--threads", "1")
        capsys.readouterr()
        status = main([str(bundle), *map(str, arguments), *short])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two pictures and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.PNG"):
        noise = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        noise.resize(SIZE).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def photo(photos: Path) -> Path:
    return photos / "a.jpg"


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# Answers.


@pytest.mark.parametrize("task", TASKS)
def test_every_task_prints_one_json_object(run: Run, photo: Path, task: str) -> None:
    beside = {"text": ["--text", "a red car"], "region": ["--region", "1,2,30,40"], "nothing": []}
    status, out, err = run(photo, "--task", task, *beside[TASKS[task].needs.value], "--json")
    assert (status, err) == (0, "")
    (answer,) = lines(out)
    assert list(answer) == KEYS
    assert answer["image"] == str(photo)
    assert answer["task"] == f"<{task}>"
    assert list(answer["result"]) == [f"<{task}>"]
    assert answer["token_ids"][:2] == [2, 0]
    assert answer["status"] in ("ok", "empty", "unparsed", "truncated")
    assert list(answer["seconds"]) == ["image", "vision", "prefill", "decode", "parse"]


def test_the_answer_is_that_of_the_library(run: Run, photo: Path, tiny_model: Florence2) -> None:
    (answer,) = lines(run(photo, "--task", "<OD>", "--beams", "2", "--json")[1])
    options = GenerationOptions(num_beams=2, max_new_tokens=12)
    expected = tiny_model.run(photo, "OD", options=options).to_json()
    assert answer["engine"] == {"device": "cpu", "threads": 1, "spinning": False}
    assert {k: v for k, v in answer.items() if k not in ("image", "seconds", "engine")} == {
        k: v for k, v in expected.items() if k != "seconds"
    }


def test_every_setting_of_the_command_line_is_the_librarys(
    run: Run, photo: Path, tiny_model: Florence2
) -> None:
    settings = {
        "min_new_tokens": 6,
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.5,
        "length_penalty": 0.3,
    }
    given = [
        part
        for name, value in settings.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    (answer,) = lines(run(photo, "--task", "OD", "--beams", "3", *given, "--json")[1])
    options = GenerationOptions(num_beams=3, max_new_tokens=12, **settings)  # type: ignore[arg-type]
    assert tuple(answer["token_ids"]) == tiny_model.run(photo, "OD", options=options).token_ids


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--repetition-penalty", "nan"), "repetition_penalty is nan; it must be"),
        (("--length-penalty", "-9"), "length_penalty is -9.0; it must be a number from -1 to 10"),
        (("--min-new-tokens", "-1"), "min_new_tokens is -1; it must be"),
        (("--max-time", "inf"), "max_time is inf; it must be"),
    ],
)
def test_settings_out_of_range_are_refused(
    run: Run, photo: Path, given: tuple[str, str], said: str
) -> None:
    status, _, err = run(photo, "--task", "OD", *given)
    assert status != 0
    assert said in err


def test_a_prompt_of_ones_own_is_asked(run: Run, photo: Path) -> None:
    status, out, _ = run(photo, "--prompt", "What colour is it?", "--json")
    (answer,) = lines(out)
    assert status == 0
    assert list(answer["result"]) == ["What colour is it?"]


def test_the_convention_decides_on_fractions(run: Run, photo: Path, pointing_bundle: Path) -> None:
    def edges(convention: str) -> list[float]:
        task = ("--task", "REGION_PROPOSAL", "--convention", convention, "--json")
        (answer,) = lines(run(photo, *task, bundle=pointing_bundle)[1])
        return [edge for box in answer["result"]["<REGION_PROPOSAL>"]["bboxes"] for edge in box]

    assert edges("native")
    assert all(isinstance(edge, int) for edge in edges("native"))
    assert all(isinstance(edge, float) for edge in edges("microsoft"))


def test_without_json_an_answer_is_a_text_for_people(run: Run, photo: Path) -> None:
    status, out, _ = run(photo, "--task", "REGION_PROPOSAL")
    assert status == 0
    assert "{" not in out
    assert out.startswith("<REGION_PROPOSAL>:\n")
    assert "(cut off: it reached the longest length of an answer, max_new_tokens)" in out


def test_boxes_stand_under_a_legend(run: Run, photo: Path, pointing_bundle: Path) -> None:
    _, out, _ = run(photo, "--task", "REGION_PROPOSAL", bundle=pointing_bundle)
    assert out.splitlines()[1].split() == ["score", "x1", "y1", "x2", "y2", "label"]
    assert len(out.splitlines()[2].split()) == 5


def test_an_answer_whose_time_was_up_says_so(run: Run, photo: Path) -> None:
    _, out, _ = run(photo, "--task", "CAPTION", "--max-time", "1e-9")
    assert out.endswith("(cut off: its time was up, max_time)\n")
    (line,) = lines(run(photo, "--task", "CAPTION", "--max-time", "1e-9", "--json")[1])
    assert (line["status"], line["cut_off"]) == ("truncated", "time")


def test_regions_without_an_area_are_left_out_on_request(
    run: Run, photo: Path, pointing_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Result] = []
    clean = Result.clean

    def noted(result: Result) -> Result:
        taken.append(result)
        return clean(result)

    monkeypatch.setattr(Result, "clean", noted)
    asked = (photo, "--task", "REGION_PROPOSAL", "--json")
    run(*asked, bundle=pointing_bundle)
    assert not taken
    (line,) = lines(run(*asked, "--clean", bundle=pointing_bundle)[1])
    assert line["result"] == clean(taken[0]).to_hf()


def test_several_pictures_are_told_apart(run: Run, photos: Path) -> None:
    status, out, _ = run(photos, photos / "a.jpg", "--task", "OD", "--json")
    assert status == 0
    named = [photos / "a.jpg", photos / "b.PNG", photos / "a.jpg"]
    assert [answer["image"] for answer in lines(out)] == [str(path) for path in named]
    status, out, _ = run(photos, "--task", "CAPTION")
    assert f"{photos / 'a.jpg'}:\n" in out
    assert f"{photos / 'b.PNG'}:\n" in out


def test_a_low_score_is_left_out_of_regions_but_not_of_captions(
    run: Run, photo: Path, pointing_bundle: Path
) -> None:
    def answer(task: str, min_score: str) -> dict[str, Any]:
        arguments = (photo, "--task", task, "--min-score", min_score, "--json")
        (answer,) = lines(run(*arguments, bundle=pointing_bundle)[1])
        return answer

    every, none = answer("REGION_PROPOSAL", "0"), answer("REGION_PROPOSAL", "1")
    assert every["scores"]
    assert none["scores"] == []
    assert none["result"] == {"<REGION_PROPOSAL>": {"bboxes": [], "labels": []}}
    assert none["token_ids"] == every["token_ids"]
    assert answer("CAPTION", "1")["result"]["<CAPTION>"]


def test_annotated_pictures_are_written(
    run: Run, photos: Path, tmp_path: Path, pointing_bundle: Path
) -> None:
    output, task = tmp_path / "new" / "folder", ("--task", "REGION_PROPOSAL")
    arguments = (photos, *task, "--output", output)
    status, _, _ = run(*arguments, bundle=pointing_bundle)
    assert status == 0
    names = sorted(path.name for path in output.iterdir())
    kind = "region_proposal"
    assert names == [f"a.jpg.{kind}.png", f"b.PNG.{kind}.png"]
    for path in output.iterdir():
        with Image.open(path) as picture:
            assert picture.size == SIZE
            drawn = np.asarray(picture.convert("RGB"), dtype=int)
        with Image.open(photos / path.name.split(".region")[0]) as plain:
            assert np.abs(drawn - np.asarray(plain.convert("RGB"), dtype=int)).max() > 50


def test_a_caption_is_written_under_the_picture(run: Run, photo: Path, tmp_path: Path) -> None:
    run(photo, "--task", "<CAPTION>", "--output", tmp_path)
    with Image.open(tmp_path / "a.jpg.caption.png") as picture:
        assert picture.height > SIZE[1]


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out == f"florence-edge {__version__}\n"


# What goes wrong with one picture.


def test_a_broken_picture_is_named_and_the_rest_goes_on(run: Run, photos: Path) -> None:
    broken = photos / "aa.jpg"
    broken.write_bytes((photos / "a.jpg").read_bytes()[:300])
    status, out, err = run(photos, photos / "gone.jpg", "--task", "OD", "--json")
    assert status == 1
    assert [Path(answer["image"]).name for answer in lines(out)] == ["a.jpg", "b.PNG"]
    first, second, last, left_out = err.splitlines()
    assert first.startswith(f"florence-run: {broken} cannot be decoded: ")
    assert second == f"florence-run: There is no file {photos / 'gone.jpg'}."
    assert last == "florence-run: 2 of 4 images failed."
    assert left_out == f"florence-run: {photos}: 1 file that is not a picture left out."


def test_every_picture_of_a_folder_is_answered_or_fails_and_the_rest_is_counted(
    run: Run, photos: Path
) -> None:
    names = ["c.jp2", "d.pgm", "e.jfif", "f.JPE", "g.Tiff"]
    with Image.open(photos / "a.jpg") as picture:
        for name in names:
            picture.save(photos / name)
    (photos / "broken.webp").symlink_to(photos / "gone.webp")
    (photos / "table.csv").touch()
    (photos / "below").mkdir()
    (photos / "below" / "bb.jpg").write_bytes((photos / "a.jpg").read_bytes())
    status, out, err = run(photos, "--task", "OD", "--json")
    assert status == 1
    expected = ["a.jpg", "b.PNG", "bb.jpg", *names]
    assert [Path(answer["image"]).name for answer in lines(out)] == expected
    assert err.splitlines() == [
        f"florence-run: {photos / 'broken.webp'} is a broken link: there is no "
        f"{photos / 'gone.webp'}.",
        "florence-run: 1 of 9 images failed.",
        f"florence-run: {photos}: 2 files that are not pictures left out.",
    ]


def test_an_empty_path_is_wrong_usage_and_not_this_folder(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    with pytest.raises(SystemExit) as leaving:
        run("", "--task", "OD")
    assert leaving.value.code == 2
    assert "the path is empty; expected a picture or a folder" in capsys.readouterr().err


def test_the_largest_picture_is_named_by_its_pixels(run: Run, photo: Path) -> None:
    most = SIZE[0] * SIZE[1]
    assert run(photo, "--task", "OD", "--max-pixels", str(most))[0] == 0
    status, _, err = run(photo, "--task", "OD", "--max-pixels", str(most - 1))
    assert status == 1
    assert f"{photo} is too large: 80 x 60 are 4,800 pixels, and at most 4,799 are read." in err
    assert "--max-pixels" in err


def test_dark_grey_is_scaled_by_its_own_range_on_request(run: Run, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 16, (60, 80), dtype=np.uint16)
    dark, bright = tmp_path / "dark.png", tmp_path / "bright.png"
    Image.fromarray(values * 273).save(dark)
    Image.fromarray((values * 17).astype(np.uint8)).save(bright)

    def answer(*arguments: str | Path) -> Any:
        (found,) = lines(run(*arguments, "--task", "OD", "--json")[1])
        return found["token_ids"], found["scores"]

    assert answer(dark, "--deep-range", "own") == answer(bright)


def test_a_region_in_percent_is_the_same_as_in_pixels(run: Run, photo: Path) -> None:
    def answer(region: str) -> Any:
        (found,) = lines(run(photo, "--task", "REGION_TO_OCR", "--region", region, "--json")[1])
        return found["text_input"], found["token_ids"]

    assert answer("10%,20%, 50%,60%") == answer("8,12,40,36")


def test_a_region_that_fits_one_picture_only_is_refused_for_the_other(
    run: Run, photos: Path
) -> None:
    Image.new("RGB", (20, 20)).save(photos / "small.png")
    region = ("--region", "0,0,50,50")
    status, out, err = run(photos, "--task", "REGION_TO_OCR", *region, "--json")
    assert status == 1
    assert len(lines(out)) == 2
    assert f"{photos / 'small.png'}: The region (0, 0, 50, 50) leaves the picture" in err


# What goes wrong with all of them: said once, before any picture is read.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "COUNT"], "There is no task 'COUNT'. The tasks are: CAPTION, DETAILED_CAPTION"),
        (["--task", "CAPTION_TO_PHRASE_GROUNDING"], "needs a text"),
        (["--task", "REGION_TO_OCR"], "needs a region"),
        (["--task", "REGION_TO_OCR", "--text", "car"], "needs a region, but got the text 'car'"),
        (["--task", "REGION_TO_OCR", "--region", "5,5,1,1"], "has no area"),
        (["--task", "REGION_TO_OCR", "--region=-5,5,10,10"], "leaves the picture"),
        (["--task", "REGION_TO_OCR", "--region", "nan,0,1,1"], "is not a region"),
        (["--task", "REGION_TO_OCR", "--region", "0.1,0.2,0.5,0.6"], "--region 10%,20%,50%,60%"),
        (["--task", "OD", "--text", "car"], "takes no text"),
        (["--task", "OD", "--region", "1,2,3,4"], "takes no region"),
        (["--prompt", " "], "The prompt is empty"),
        (["--prompt", "What?", "--text", "car"], "leave --text and --region out"),
        (["--prompt", "What?", "--region", "1,2,3,4"], "leave --text and --region out"),
        (["--task", "OD", "--beams", "9"], "num_beams is 9; it must be a whole number: 1 (greedy)"),
        (["--task", "OD", "--beams", "0"], "num_beams is 0"),
        (["--task", "OD", "--device", "tpu"], "There is no device 'tpu'"),
    ],
)
def test_a_mistake_is_explained_once(
    run: Run, photos: Path, arguments: list[str], message: str
) -> None:
    status, out, err = run(photos, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("florence-run: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("tokens", ["0", "1025"])
def test_an_answer_longer_than_the_model_can_write_is_refused(
    tiny_bundle: Path, photos: Path, tokens: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_bundle), str(photos), "--task", "OD", "--max-new-tokens", tokens]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "must be a whole number: 1 to 1024, this model's decoder positions" in err


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "100000000"])
def test_a_number_of_threads_that_cannot_be_is_refused(
    tiny_bundle: Path, photos: Path, threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_bundle), str(photos), "--task", "OD", "--threads", threads]) == 1
    assert "threads is" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--task", "OD", "--prompt", "What?"],
        ["--task", "OD", "--region", "1,2,3"],
        ["--task", "OD", "--region", "a,b,c,d"],
        ["--task", "OD", "--region", "10%,20%,50,60"],
        ["--task", "OD", "--max-pixels", "0"],
        ["--task", "OD", "--max-pixels", "9" * 5000],
        ["--task", "OD", "--deep-range", "half"],
        ["--task", "OD", "--beams", "two"],
        ["--task", "OD", "--convention", "torch"],
        ["--task", "OD", "--colour"],
    ],
)
def test_wrong_usage_is_status_two(
    run: Run, photo: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        run(photo, *arguments)
    assert leaving.value.code == 2
    assert "usage: florence-run" in capsys.readouterr().err


def test_a_folder_without_pictures_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, _, err = run(tmp_path / "empty", "--task", "OD")
    assert status == 1
    assert f"There is no picture in {tmp_path / 'empty'}. Looked for .apng, .avif, " in err


def test_a_folder_called_like_a_picture_is_passed_over(run: Run, photos: Path) -> None:
    (photos / "folder.jpg").mkdir()
    status, out, _ = run(photos, "--task", "OD", "--json")
    assert status == 0
    assert len(lines(out)) == 2


def test_a_missing_bundle_and_a_checkpoint_are_told_apart(
    run: Run, photo: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    status, _, err = run(photo, "--task", "OD", bundle=tmp_path / "none")
    assert status == 1
    assert "There is no bundle at" in err
    status, _, err = run(photo, "--task", "OD", bundle=tiny_checkpoint)
    assert status == 1
    assert f"florence-export {tiny_checkpoint} --output" in err


def test_an_output_that_is_no_folder_is_named(
    run: Run, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit):
        run(photo, "--task", "OD", "--output", tmp_path / "file")
    assert f"{tmp_path / 'file'} is not a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_that_may_not_be_read_is_an_error_without_traceback(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Iterator[Any]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("florence_edge.image_file.os.scandir", refuse)
    status, _, err = run(photos, "--task", "OD")
    assert status == 1
    assert "Permission denied" in err


def test_stopping_it_is_status_130(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("florence_edge.batch.prepare_images", interrupt)
    status, _, err = run(photo, "--task", "OD")
    assert status == 130
    assert err == "florence-run: stopped.\n"


def test_pictures_are_on_the_disk_before_they_get_their_name(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    with recorded() as events:
        assert run(photo, "--task", "OD", "--output", tmp_path / "out")[0] == 0
    (written,) = (tmp_path / "out").iterdir()
    check_synced_before_it_got_its_name(events, written)


# As a process of its own.


def process(
    bundle: Path, *arguments: str | Path | bytes, **options: Any
) -> subprocess.CompletedProcess[str]:
    command = "import sys; from florence_edge.cli.main import main; sys.exit(main())"
    short = ("--max-new-tokens", "5", "--threads", "1")
    ending = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    done = subprocess.run(
        [sys.executable, "-c", command, str(bundle), *arguments, *short],
        check=False,
        text=True,
        **ending,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


def test_the_command_answers(tiny_bundle: Path, photo: Path) -> None:
    done = process(tiny_bundle, photo, "--task", "OD", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout)[0]["task"] == "<OD>"


def test_a_reader_that_leaves_ends_the_command_quietly(tiny_bundle: Path, photos: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = process(tiny_bundle, photos, "--task", "OD", stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full of Linux")
def test_a_full_disk_behind_the_output_is_one_message(tiny_bundle: Path, photos: Path) -> None:
    with open("/dev/full", "w") as full:
        done = process(tiny_bundle, photos, "--task", "OD", stdout=full)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_full_disk_leaves_the_picture_that_was_there(
    tiny_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert process(tiny_bundle, photo, "--task", "OD", "--output", output).returncode == 0
    (picture,) = output.iterdir()
    before = picture.read_bytes()

    def limit() -> None:  # writing beyond fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    assert len(before) > 500
    done = process(tiny_bundle, photo, "--task", "OD", "--output", output, preexec_fn=limit)
    assert done.returncode == 1
    assert f"Cannot write {picture}" in done.stderr
    assert [path.name for path in output.iterdir()] == [picture.name]
    assert picture.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_one_line_and_leaves_nothing_unfinished(
    tiny_bundle: Path, photo: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    program = f"""
import os, sys, time
from PIL import Image
def save(picture, file):
    file.write_bytes(b"half")
    os.kill(os.getpid(), {int(number)})
    time.sleep(5)
Image.Image.save = save
from florence_edge.cli.main import main
sys.exit(main())
"""
    asked = ("--task", "OD", "--max-new-tokens", "5", "--output", str(output))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_bundle), str(photo), *asked],
        check=False,
        text=True,
        capture_output=True,
        preexec_fn=let_hang_ups_count,
    )
    assert (done.returncode, done.stderr) == (128 + number, "florence-run: stopped.\n")
    assert not list(output.iterdir())


def test_names_do_not_steer_the_terminal(tiny_bundle: Path, photos: Path) -> None:
    odd = photos / "a\n\x1b[2J\x9b.png"
    odd.write_bytes((photos / "b.PNG").read_bytes())
    broken = photos / "b\n\x1b[31m.png"
    broken.write_text("no picture")
    for shown in ((), ("--json",)):
        done = process(tiny_bundle, photos, "--task", "OD", *shown)
        assert done.returncode == 1
        for text in (done.stdout, done.stderr):
            assert not set(text) & {"\x1b", "\x9b"}
        assert "a\\n\\u001b" in done.stdout if shown else "a\\n\\x1b[2J\\x9b.png:" in done.stdout
        assert "b\\n\\x1b[31m.png" in done.stderr
    done = process(tiny_bundle, photos, "--task", "OD", "--x\x1b[2J")
    assert done.returncode == 2
    assert "unrecognized arguments: --x\\x1b[2J" in done.stderr


def test_a_damaged_exif_is_one_line_and_no_python(tiny_bundle: Path, photo: Path) -> None:
    file = io.BytesIO()
    Image.open(photo).convert("RGB").save(
        file, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"
    )
    odd = photo.with_name("odd.jpg")
    odd.write_bytes(file.getvalue())
    done = process(tiny_bundle, odd, "--task", "OD")
    assert done.returncode == 0
    assert "Warning" not in done.stderr
    assert done.stderr.count("\n") <= 1


def test_names_and_texts_in_no_encoding_are_no_stumbling_block(
    tiny_bundle: Path, photos: Path
) -> None:
    odd = os.fsencode(photos) + b"/caf\xe9 \xf0\x9f\xa6\x9c.png"
    Path(os.fsdecode(odd)).write_bytes((photos / "b.PNG").read_bytes())
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    task = ("--task", "OPEN_VOCABULARY_DETECTION", "--text", b"caf\xe9")
    done = process(tiny_bundle, photos, odd, *task, env=ascii_only)
    left_out = f"florence-run: {photos}: 1 file that is not a picture left out.\n"
    assert (done.returncode, done.stderr) == (0, left_out)
    assert "\\udce9" in done.stdout
    done = process(tiny_bundle, odd, b"gone-\xe9.png", *task, "--json", env=ascii_only)
    assert done.returncode == 1
    assert lines(done.stdout)[0]["text_input"] == "caf\udce9"
    assert "There is no file gone-\\udce9.png" in done.stderr


def test_changed_weights_are_found_unless_they_are_not_to_be_verified(
    run: Run, photo: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    weights = bytearray((bundle / "weights.bin").read_bytes())
    weights[100] ^= 1
    (bundle / "weights.bin").write_bytes(weights)
    assert run(photo, "--task", "OD", "--no-verify", bundle=bundle)[0] == 0
    for checked in ([], ["--check"], ["--check", "--no-verify"]):
        status, _, err = run(photo, "--task", "OD", *checked, bundle=bundle)
        assert status == 1
        assert "weights.bin is not what was exported" in err


def test_an_answer_without_a_region_that_scores_enough_says_so(
    run: Run, photo: Path, pointing_bundle: Path
) -> None:
    status, out, _ = run(photo, "--task", "OD", "--min-score", "1", bundle=pointing_bundle)
    assert status == 0
    assert "no region was kept" in out or "cut off" in out


@pytest.mark.parametrize("score", ["-0.1", "1.5", "nan", "high"])
def test_a_score_that_is_none_is_refused(
    run: Run, photo: Path, score: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(photo, "--task", "OD", f"--min-score={score}")
    assert "expected 0 to 1" in capsys.readouterr().err
