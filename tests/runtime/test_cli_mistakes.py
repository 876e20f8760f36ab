"""What florence-run says about pictures, words and bundles that it cannot use."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from florence_edge.cli.main import main

from .command_line import SIZE, Run, lines

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


@pytest.mark.parametrize("score", ["-0.1", "1.5", "nan", "high"])
def test_a_score_that_is_none_is_refused(
    run: Run, photo: Path, score: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(photo, "--task", "OD", f"--min-score={score}")
    assert "expected 0 to 1" in capsys.readouterr().err
