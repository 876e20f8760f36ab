"""Pictures, a tiny bundle's labeller in this process, and labelled sets without any model."""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

pytest.importorskip("pyarrow", reason="install florence-edge[label]")

from florence_edge import Region
from florence_edge_label import run as running
from florence_edge_label.cli import main
from florence_edge_label.engines.capacity import Workers
from florence_edge_label.labeller import Labeller, Part, Shard, Watcher, WorkerSettings
from florence_edge_label.parts import Row, encode, write_part
from florence_edge_label.picture_list import Entry, write_list
from florence_edge_label.plan import Plan, RunFolder

Command = Callable[..., int]


def draw(folder: Path, names: Sequence[str]) -> Path:
    """Small pictures that differ."""
    for number, name in enumerate(names):
        picture = Image.new("RGB", (40 + number, 30), (20 * number % 255, 90, 200))
        ImageDraw.Draw(picture).ellipse((5, 5, 15 + number, 25), fill=(250, 200, 20 * number % 255))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures, two of them in folders below."""
    names = ("a.png", "b.png", "cats/1.png", "cats/old/2.png", "d.png", "e.png")
    return draw(tmp_path / "photos", names)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engine of processes answers in this one, which saves their start."""
    kept: list[Labeller] = []

    def answer(
        shards: Iterator[Shard], settings: WorkerSettings, workers: Workers, patience: float
    ) -> Generator[Part, None, None]:
        labeller = Labeller(settings)
        kept.append(labeller)
        for shard in shards:
            yield labeller.answer(shard, Watcher())

    monkeypatch.setattr(running, "answer_in_processes", answer)
    yield
    for labeller in kept:
        labeller.close()


@pytest.fixture
def label(tiny_bundle: Path) -> Command:
    """florence-label with the tiny bundle, four pictures a shard and short answers."""

    def run(source: Path | str, output: Path, *arguments: str | Path) -> int:
        usual = ("--batch", "2", "--shard-size", "2", "--max-new-tokens", "5", "--workers", "1")
        given = [str(each) for each in (tiny_bundle, source, "--output", output, *usual)]
        task = () if "--task" in arguments or "--ontology" in arguments else ("--task", "OD")
        return main([*given, *task, *map(str, arguments)])

    return run


def box(label: str, left: int, top: int, right: int, bottom: int, score: float = 0.9) -> Region:
    ring = (left, top, right, bottom)
    return Region(label=label, shape="box", rings=(ring,), score=score, label_score=0.8)


def answered(entry: Entry, regions: Sequence[Region], size: tuple[int, int] = (64, 48)) -> Row:
    return Row(
        image_id=entry.image_id or 0,
        image=entry.name,
        width=size[0],
        height=size[1],
        task="OD",
        text="",
        score=0.5,
        status="ok" if regions else "empty",
        raw_text="",
        regions=tuple(regions),
    )


def captioned(entry: Entry, text: str, size: tuple[int, int] = (64, 48)) -> Row:
    row = answered(entry, (), size)
    return Row(
        image_id=row.image_id,
        image=row.image,
        width=row.width,
        height=row.height,
        task="CAPTION",
        text=text,
        score=0.7,
        status="ok",
        raw_text=text,
    )


def write_run(
    folder: Path,
    pictures: Path,
    rows_of: Callable[[Entry], Sequence[Row]],
    options: dict[str, object] | None = None,
) -> Path:
    """A labelled set of the pictures in a folder, two a shard, with rows of one's choice."""
    target = RunFolder(folder)
    target.parts.mkdir(parents=True)
    paths = sorted(path for path in pictures.rglob("*") if path.is_file())
    entries = [
        Entry(name=path.relative_to(pictures).as_posix(), place=str(path), image_id=number)
        for number, path in enumerate(paths, 1)
    ]
    summary = write_list(target.pictures, entries)
    plan = Plan(
        bundle={"model": "tiny", "precision": "fp32", "target": "any", "sha256": "0"},
        options={"task": "OD,CAPTION", "min_score": None, "nms": None, **(options or {})},
        source=str(pictures),
        pictures=summary.count,
        list_sha256=summary.sha256,
        shard_size=2,
    )
    target.run_json.write_text(json.dumps(plan.to_json()), encoding="utf-8")
    for number in range(plan.shards):
        some = [row for entry in entries[2 * number : 2 * number + 2] for row in rows_of(entry)]
        write_part(target.parts, number, encode(some, plan.fingerprint))
    return folder
