"""What florence-run prints and draws."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions, __version__
from florence_edge.cli.main import main
from florence_edge.results.result import Result

from ..helpers.disk import check_synced_before_it_got_its_name, recorded
from .command_line import SIZE, Run, lines

KEYS = [
    *("image", "frame", "timestamp", "elapsed", "task", "text_input", "raw_text", "token_ids"),
    *("result", "scores", "label_scores", "status", "cut_off", "image_size", "seconds"),
    *("region", "track_ids", "stats", "engine"),
]
FRAME_KEYS = ("frame", "timestamp", "elapsed", "track_ids", "stats")  # null about a picture


@pytest.mark.parametrize("task", TASKS)
def test_every_task_prints_one_json_object(run: Run, photo: Path, task: str) -> None:
    beside = {"text": ["--text", "a red car"], "region": ["--region", "1,2,30,40"], "nothing": []}
    status, out, err = run(photo, "--task", task, *beside[TASKS[task].needs.value], "--json")
    assert (status, err) == (0, "")
    (answer,) = lines(out)
    assert list(answer) == KEYS
    assert answer["image"] == str(photo)
    assert all(answer[key] is None for key in FRAME_KEYS)
    assert answer["region"] == ([1, 2, 30, 40] if "region" in TASKS[task].needs.value else None)
    assert answer["task"] == f"<{task}>"
    assert list(answer["result"]) == [f"<{task}>"]
    assert answer["token_ids"][:2] == [2, 0]
    assert answer["status"] in ("ok", "empty", "unparsed", "truncated")
    assert list(answer["seconds"]) == ["image", "vision", "prefill", "decode", "parse"]


def test_sources_may_stand_behind_options(run: Run, photo: Path) -> None:
    behind = run("--task", "CAPTION", "--json", photo, photo)
    assert behind[0] == 0
    assert [answer["image"] for answer in lines(behind[1])] == [str(photo)] * 2


def test_the_answer_is_that_of_the_library(run: Run, photo: Path, tiny_model: Florence2) -> None:
    (answer,) = lines(run(photo, "--task", "<OD>", "--beams", "2", "--json")[1])
    options = GenerationOptions(num_beams=2, max_new_tokens=12)
    expected = tiny_model.run(photo, "OD", options=options).to_json()
    assert answer["engine"] == {"device": "cpu", "threads": 1, "spinning": False}
    assert {key: answer[key] for key in expected if key != "seconds"} == {
        key: value for key, value in expected.items() if key != "seconds"
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


def test_pictures_are_on_the_disk_before_they_get_their_name(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    with recorded() as events:
        assert run(photo, "--task", "OD", "--output", tmp_path / "out")[0] == 0
    (written,) = (tmp_path / "out").iterdir()
    check_synced_before_it_got_its_name(events, written)


def test_an_answer_without_a_region_that_scores_enough_says_so(
    run: Run, photo: Path, pointing_bundle: Path
) -> None:
    status, out, _ = run(photo, "--task", "OD", "--min-score", "1", bundle=pointing_bundle)
    assert status == 0
    assert "no region was kept" in out or "cut off" in out
