"""The engine of processes with real ones: what they write is what this process would."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from florence_edge import BackendError, GenerationOptions, RequestError
from florence_edge.cpu import usable_cores
from florence_edge_label.engines.capacity import Workers
from florence_edge_label.engines.processes import answer_in_processes
from florence_edge_label.labeller import Labeller, Shard, Watcher, WorkerSettings
from florence_edge_label.ontology import questions_for
from florence_edge_label.picture_list import Entry

from .conftest import Command


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (KeyError("x"), BackendError, "A worker cannot go on: KeyError: 'x'. Please report"),
        (RequestError("The list is damaged."), RequestError, "The list is damaged"),
        (OSError("gone"), OSError, "gone"),
    ],
)
def test_whatever_goes_wrong_in_a_thread_ends_the_run(
    error: Exception, expected: type[Exception], message: str
) -> None:
    def shards() -> Iterator[Shard]:
        raise error
        yield

    settings = WorkerSettings(bundle="b", questions=(), run="r")
    with pytest.raises(expected, match=message):
        list(answer_in_processes(shards(), settings, Workers(count=2, threads=1), 1.0))


def test_a_worker_gives_a_sign_of_life_at_every_answer(tiny_bundle: Path, photos: Path) -> None:
    settings = WorkerSettings(
        bundle=str(tiny_bundle),
        questions=questions_for(["OD", "CAPTION", "OCR"], None, {}),
        run="r",
        options=GenerationOptions(max_new_tokens=2),
    )
    entries = tuple(Entry(name=n, place=str(photos / n), image_id=1) for n in ("a.png", "b.png"))
    signs: list[None] = []
    with closing(Labeller(settings)) as labeller:
        labeller.answer(Shard(number=0, entries=entries), Watcher(alive=lambda: signs.append(None)))
    assert len(signs) == 1 + 3 * 2  # the batch is encoded; three answers about each picture


def test_processes_write_what_one_process_would(
    label: Command, photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    several = str(min(2, usable_cores().count))
    assert label(photos, tmp_path / "several", "--workers", several) == 0
    request.getfixturevalue("in_process")
    assert label(photos, tmp_path / "here") == 0
    parts = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "parts").iterdir()}
        for name in ("several", "here")
    ]
    assert parts[0] == parts[1]
    assert len(parts[0]) == 3
