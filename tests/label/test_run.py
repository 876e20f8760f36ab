"""Runs: what is resumed, what is refused, machines that share, and what failed."""

import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from florence_edge import TASKS, AnswerKind, Task
from florence_edge_label import run as running
from florence_edge_label.cli import main
from florence_edge_label.labeller import Part
from florence_edge_label.parts import part_path
from florence_edge_label.plan import RunFolder, Slice, default_shard_size

from ..helpers.own_tasks import bundle_with_tasks, written
from .conftest import Command, draw

pytestmark = pytest.mark.usefixtures("in_process")


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "parts").iterdir())}


@pytest.fixture(scope="module")
def labelled_once() -> dict[str, Path]:
    return {}


@pytest.fixture
def labelled(
    label: Command,
    photos: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    labelled_once: dict[str, Path],
) -> Path:
    """A finished run of the photos, labelled once and copied."""
    if not labelled_once:
        labelled_once["out"] = tmp_path_factory.mktemp("labelled") / "out"
        assert label(photos, labelled_once["out"]) == 0
    return Path(shutil.copytree(labelled_once["out"], tmp_path / "out"))


def test_all_pictures_are_there_once_and_a_second_run_does_nothing(
    label: Command, photos: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = parts(labelled)
    assert list(before) == [f"part-00000{number}.parquet" for number in range(3)]
    assert label(photos, labelled, "--format", "jsonl") == 0
    assert "0 pictures answered: 3 of 3 parts" in capsys.readouterr().out
    assert parts(labelled) == before
    lines = (labelled / "labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == [
        "a.png", "b.png", "cats/1.png", "cats/old/2.png", "d.png", "e.png",
    ]  # fmt: skip


def test_a_part_that_is_missing_is_made_again_to_the_last_bit(
    label: Command, photos: Path, labelled: Path
) -> None:
    before = parts(labelled)
    part_path(labelled / "parts", 1).unlink()
    assert label(photos, labelled) == 0
    assert parts(labelled) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--task", "OD,CAPTION"), "begun with task OD; requested now: task OD,CAPTION"),
        (("--beams", "1"), "begun with num_beams 3; requested now: num_beams 1"),
        (("--min-score", "0.5"), "no min_score; .* min_score 0.5. .*florence-label export"),
        (("--shard-size", "4"), "begun with shard_size 2; requested now: shard_size 4"),
        (("--convention", "microsoft"), "convention native"),
    ],
)
def test_other_options_are_refused_and_named(
    label: Command,
    photos: Path,
    labelled: Path,
    arguments: tuple[str, ...],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = parts(labelled)
    assert label(photos, labelled, *arguments) == 1
    assert re.search(named, capsys.readouterr().err)
    assert parts(labelled) == before


def test_another_bundle_is_refused(
    label: Command, photos: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = json.loads((labelled / "run.json").read_text())
    run["bundle"]["sha256"] = "another"
    (labelled / "run.json").write_text(json.dumps(run))
    assert label(photos, labelled) == 1
    assert "was begun with bundle tiny fp32 for any (another)" in capsys.readouterr().err


def test_other_pictures_are_refused_and_the_first_is_named(
    label: Command, photos: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(photos, ["c.png"])
    assert label(photos, labelled) == 1
    assert "picture 3 was cats/1.png" not in capsys.readouterr().out
    (photos / "c.png").unlink()
    assert label(photos, labelled) == 0


def test_a_source_that_moved_is_the_same_source(
    label: Command, photos: Path, labelled: Path, tmp_path: Path
) -> None:
    assert label(photos, labelled) == 0
    photos.rename(tmp_path / "elsewhere")
    part_path(labelled / "parts", 2).unlink()
    assert label(tmp_path / "elsewhere", labelled) == 0


def test_a_folder_with_other_things_is_left_alone(
    label: Command, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    assert label(photos, tmp_path / "thesis") == 1
    assert "holds other things (chapter.tex)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_broken_pictures_are_listed_and_the_rest_goes_on(
    label: Command, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.png").write_bytes(b"not a picture")
    (photos / "c.jpg").symlink_to("nowhere.jpg")
    assert label(photos, tmp_path / "out", "--task", "OD,CAPTION") == 1
    lines = (tmp_path / "out" / "errors.jsonl").read_text()
    errors = [json.loads(line) for line in lines.splitlines()]
    assert [(each["image"], each["task"]) for each in errors] == [("b.png", None), ("c.jpg", None)]
    assert "is not an image" in errors[0]["error"]
    assert "broken link" in errors[1]["error"]
    assert "2 pictures failed" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "out"), "--format", "coco"]) == 0
    images = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert len(images) == 5


def test_pictures_that_failed_are_asked_again_on_request(
    label: Command, photos: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (photos / "cats/1.png").read_bytes()
    (photos / "cats/1.png").write_bytes(b"\0" * len(good))  # what a network may make of it
    out = tmp_path / "retried"
    assert label(photos, out) == 1
    (error,) = map(json.loads, (out / "errors.jsonl").read_text().splitlines())
    assert (error["image"], error["part"]) == ("cats/1.png", "part-000001.parquet")
    assert "--retry-errors asks again" in capsys.readouterr().err
    (photos / "cats/1.png").write_bytes(good)
    assert label(photos, out) == 1
    assert "0 pictures answered" in capsys.readouterr().out
    assert label(photos, out, "--retry-errors") == 0
    assert "2 pictures answered" in capsys.readouterr().out
    assert parts(out) == parts(labelled)
    assert (out / "errors.jsonl").read_text() == ""


def test_a_run_that_left_shards_out_did_not_succeed(
    label: Command,
    photos: Path,
    labelled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def nothing(*_: object) -> Generator[Part, None, None]:
        yield from ()

    part_path(labelled / "parts", 1).unlink()
    monkeypatch.setattr(running, "answer_in_processes", nothing)
    assert label(photos, labelled) == 1
    assert "1 of this run's shards have no part" in capsys.readouterr().err
    assert label(photos, labelled, "--shards", "1/2") == 0  # another machine's


def test_a_list_that_is_the_same_stays_the_file_it_is(
    label: Command, photos: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label(photos, labelled) == 0  # `labelled` is of photos elsewhere
    listed = labelled / "pictures.parquet"
    before = listed.stat().st_ino
    left = labelled / f".pictures.parquet.{socket.gethostname()}-999999999.unfinished"
    left.touch()
    assert label(photos, labelled) == 0
    assert listed.stat().st_ino == before
    assert not left.exists()
    whole = listed.read_bytes()
    listed.write_bytes(whole[:50])
    assert main(["export", str(labelled), "--format", "coco"]) == 1
    assert "pictures.parquet is missing or damaged" in capsys.readouterr().err
    assert label(photos, labelled) == 0
    assert listed.read_bytes() == whole


def test_machines_that_share_make_the_parts_of_one(
    label: Command, photos: Path, labelled: Path, tmp_path: Path
) -> None:
    """Each into its own folder, then merged; and all into one."""
    shares = [tmp_path / f"share-{number}" for number in (1, 2)]
    for number, share in enumerate(shares, 1):
        assert label(photos, share, "--shards", f"{number}/2", "--format", "coco") == 0
        assert not (share / "coco.json").exists()
        assert label(photos, tmp_path / "together", "--shards", f"{number}/2") == 0
    whole = tmp_path / "whole"
    assert main(["merge", str(shares[0]), "--output", str(whole)]) == 1
    assert main(["merge", *map(str, shares), "--output", str(whole)]) == 0
    assert parts(whole) == parts(tmp_path / "together") == parts(labelled)
    assert label(photos, whole) == 0


def test_shares_of_different_runs_are_not_merged(
    label: Command,
    photos: Path,
    labelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert label(photos, tmp_path / "other", "--beams", "1") == 0
    capsys.readouterr()
    assert main(["merge", str(labelled), str(tmp_path / "other"), "--output", "x"]) == 1
    assert "num_beams is 1 there, and 3 here" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_before_anything_starts(
    label: Command, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in [
        (("--workers", "999"), "999 CPUs are needed"),
        (("--threads", "999"), "999 CPUs are needed"),
        (("--shards", "0/2"), "expected such as 3/16"),
        (("--shards", "3/2"), "expected such as 3/16"),
        (("--no-ray", "--address", "auto"), "exclude each other"),
        (("--format", "csv"), "There is no format 'csv'. The formats: coco"),
        (("--min-score", "x"), "expected a score"),
        (("--device", "gpu"), "There is no device 'gpu'"),
    ]:
        assert label(photos, tmp_path / "out", *arguments) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_an_unfinished_run_is_exported_on_request_alone(
    labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part_path(labelled / "parts", 0).unlink()
    assert main(["export", str(labelled), "--format", "coco"]) == 1
    assert "1 of 3 shards" in capsys.readouterr().err
    assert main(["export", str(labelled), "--format", "coco", "--partial"]) == 0
    assert len(json.loads((labelled / "coco.json").read_text())["images"]) == 4
    assert main(["look", str(labelled)]) == 0


def test_an_ontology_names_what_its_phrases_find(
    label: Command, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "o.json").write_text('{"a person": "person", "hard hat": "helmet"}')
    assert label(photos, tmp_path / "out", "--ontology", tmp_path / "o.json") == 0
    run = RunFolder(tmp_path / "out").read()
    assert run.options["nms"] == 0.5
    main(["export", str(tmp_path / "out"), "--format", "jsonl"])
    lines = (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    for line in lines:
        answers = json.loads(line)["answers"]
        assert [each["text_input"] for each in answers] == ["a person", "hard hat"]
        for answer, label_ in zip(answers, ("person", "helmet"), strict=True):
            assert {region["label"] for region in answer["regions"]} <= {label_}


def test_a_bundles_own_task_is_asked_and_its_answers_are_exported(
    tiny_bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [
        Task("<FIND_DEFECTS>", TASKS["OD"].template, AnswerKind.BOXES_WITH_LABELS),
        Task("<judge>", TASKS["CAPTION"].template, AnswerKind.PURE_TEXT),
    ]
    bundle = bundle_with_tasks(tiny_bundle, tmp_path / "tuned", [written(each) for each in own])
    out, short = tmp_path / "out", ("--max-new-tokens", "5", "--workers", "1")
    given = [str(bundle), str(photos), "--output", str(out), *short]
    assert main([*given, "--task", "find_defects,judge,CAPTION", "--format", "jsonl"]) == 0
    lines = (out / "labels.jsonl").read_text().splitlines()
    answers = [answer for line in lines for answer in json.loads(line)["answers"]]
    assert [each["task"] for each in answers] == ["FIND_DEFECTS", "judge", "CAPTION"] * 6
    assert {each["text"] for each in answers if each["task"] == "judge"} == {
        each["text"] for each in answers if each["task"] == "CAPTION"
    }
    assert main(["export", str(out), "--format", "coco", "--task", "<find_defects>"]) == 0
    assert main(["export", str(out), "--format", "coco", "--task", "judge"]) == 1
    assert "There are: FIND_DEFECTS." in capsys.readouterr().err
    assert main(["look", str(out)]) == 0


def test_a_source_that_cannot_be_listed_is_no_fault_of_the_output(
    label: Command,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scandir = os.scandir

    def refuse_cats(folder: str) -> Any:
        if str(folder).endswith("cats"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse_cats)
    assert label(photos, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert f"The pictures of {photos} cannot be listed" in said
    assert "Permission denied" in said
    assert "Cannot write" not in said


def test_shards_depend_on_the_list_alone() -> None:
    assert [default_shard_size(count, 8) for count in (1, 200, 2_000, 20_000, 10**6)] == [
        32, 32, 32, 256, 256,
    ]  # fmt: skip
    assert default_shard_size(126_000_000, 8) == 3_848


def test_slices_cover_every_shard_once() -> None:
    slices = [Slice.parse(f"{number}/5") for number in range(1, 6)]
    for shard in range(23):
        assert sum(each.has(shard) for each in slices) == 1
