"""The shares of several machines in one folder."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from florence_edge import FlorenceEdgeError, RequestError

from . import arrow
from .own_file import own_file
from .parts import finished, part_path
from .plan import Plan, RunFolder
from .run import write_errors


@dataclass(frozen=True, slots=True)
class Merged:
    """What came together."""

    parts: int
    shards: int
    missing: tuple[int, ...]


def merge(folders: Sequence[Path], output: Path) -> Merged:
    """Copy the parts of all folders to `output`; a shard that several have stands once.

    What `output` has already stays, so a merge that was killed is given again.

    Raises:
        RequestError: a folder holds no run, or another one; the difference is named.
        FlorenceEdgeError: it cannot be written.
    """
    arrow.check_installed()
    plan = _one_plan(folders)
    target = RunFolder(output)
    target.check_usable()
    if target.run_json.exists() and target.read().fingerprint != plan.fingerprint:
        raise RequestError(f"{output} holds another run. Choose another --output.")
    try:
        target.parts.mkdir(parents=True, exist_ok=True)
        for folder in map(RunFolder, folders):
            done = finished(target.parts)
            for number in sorted(finished(folder.parts) - done):
                _copy(part_path(folder.parts, number), part_path(target.parts, number))
        first = RunFolder(folders[0])
        _copy(first.pictures, target.pictures)
        _copy(first.run_json, target.run_json)
        write_errors(target, plan)
    except OSError as error:
        if isinstance(error, FlorenceEdgeError):
            raise
        raise FlorenceEdgeError(f"Cannot merge into {output}: {error}. Make room.") from error
    missing = target.missing(plan)
    return Merged(plan.shards - len(missing), plan.shards, tuple(missing))


def _copy(source: Path, target: Path) -> None:
    with own_file(target) as unfinished:
        shutil.copyfile(source, unfinished)


def _one_plan(folders: Sequence[Path]) -> Plan:
    plans = [(folder, RunFolder(folder).read()) for folder in folders]
    first_folder, first = plans[0]
    for folder, plan in plans[1:]:
        if plan.fingerprint == first.fingerprint:
            continue
        pairs = zip(_facts(first), _facts(plan), strict=True)
        (name, one), (_, other) = next(pair for pair in pairs if pair[0] != pair[1])
        raise RequestError(
            f"{folder} is not of the same run as {first_folder}: {name} is {other!r:.80} there, "
            f"and {one!r:.80} here. All machines need the same bundle, source and options."
        )
    return first


def _facts(plan: Plan) -> list[tuple[str, object]]:
    options = sorted(plan.options.items())
    beside = ("pictures", plan.pictures), ("list of pictures", plan.list_sha256)
    return [("bundle", plan.bundle["sha256"]), *options, *beside, ("shard_size", plan.shard_size)]
