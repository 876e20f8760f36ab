"""Results on disk: JSON that a report, and a person, can read years later."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from florence_edge import whole_file
from florence_edge.errors import RequestError

from .energy_result import EnergyResult
from .start import Start
from .systems import System
from .workload import Workload

SPEED, ACCURACY, ENERGY = "speed", "accuracy", "energy"
_SCHEMA = 1
_DIGITS = 6  # microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRow:
    """A compared system: what it is, what starting it costs, or why it did not start."""

    system: System
    model: str
    precision: str
    start: Start | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One timed answer."""

    seconds: float
    stages: Mapping[str, float]
    tokens: int
    host: float | None = None
    """See `Timing.host`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """All rounds of one system with one workload, or why there are none."""

    label: str
    workload: Workload
    rounds: tuple[Round, ...]
    steps: tuple[float, ...]
    """Median engine time of each decoder step, by its position in the answer."""
    step_p50: float | None
    step_p90: float | None
    step_count: int
    same_tokens: bool | None
    """Whether every answer has the token ids of the baseline's; None for the baseline itself."""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """What `florence-bench accuracy` measured: by task, figures by name."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    model: str
    precision: str
    device: str
    data: str
    images: int
    figures: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedResult:
    """What `florence-bench speed` measured; `baseline` is the label that ratios refer to."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    baseline: str
    systems: tuple[SystemRow, ...]
    runs: tuple[RunRow, ...]
    accuracy: tuple[AccuracyResult, ...] = ()
    """Of the bundles, where truth was given."""

    @property
    def models(self) -> str:
        """The models that were measured."""
        started = [row.model for row in self.systems if row.error is None]
        return ", ".join(dict.fromkeys(started)) or "nothing that started"


Result = SpeedResult | AccuracyResult | EnergyResult


def write_result(path: Path, result: SpeedResult | AccuracyResult) -> None:
    """Write a result; there is either the whole file or what was there before."""
    kind = SPEED if isinstance(result, SpeedResult) else ACCURACY
    content = {"florence-bench": kind, "schema": _SCHEMA, **_rounded(asdict(result))}
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole (see `florence_edge.whole_file`), with the folders above it.

    Raises:
        RequestError: it cannot be written; what was there before is left.
    """
    try:
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
        whole_file.write_whole(path, text)
    except OSError as error:
        raise RequestError(f"Cannot write {path}: {error}. Choose another --output.") from error


def check_writable(path: Path | None) -> None:
    """Refuse before the measurement what could not be written after it.

    Raises:
        RequestError: the place is a folder, or in something that is none.
    """
    if path is None:
        return
    if path.is_dir():
        raise RequestError(f"Cannot write {path}: it is a folder. Choose another file.")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise RequestError(f"Cannot write {path}: {above} is no folder. Choose another file.")


def read_result(path: Path) -> Result:
    """Read a result.

    Raises:
        RequestError: it is not there, or no result of florence-bench.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}. {_EXPECTED}") from error
    kind = found.pop("florence-bench", None) if isinstance(found, dict) else None
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None or found.pop("schema", None) != _SCHEMA:
        raise RequestError(f"{path} is no result of this florence-bench. {_EXPECTED}")
    try:
        return read(found)
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} lacks or garbles a field: {error}. {_EXPECTED}") from error


_EXPECTED = "Expected what `florence-bench speed`, `accuracy` or `energy` wrote with --output."


def _speed(found: Mapping[str, Any]) -> SpeedResult:
    systems = [
        SystemRow(
            **{
                **row,
                "system": System.from_json(row["system"]),
                "start": Start(**row["start"]) if row["start"] else None,
            }
        )
        for row in found["systems"]
    ]
    runs = [
        RunRow(
            **{
                **row,
                "workload": Workload.from_json(row["workload"]),
                "rounds": tuple(Round(**each) for each in row["rounds"]),
                "steps": tuple(row["steps"]),
            }
        )
        for row in found["runs"]
    ]
    accuracy = tuple(_accuracy(each) for each in found["accuracy"])
    return SpeedResult(
        **{**found, "systems": tuple(systems), "runs": tuple(runs), "accuracy": accuracy}
    )


def _accuracy(found: Mapping[str, Any]) -> AccuracyResult:
    return AccuracyResult(**{**found, "notes": tuple(found["notes"])})


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Result]] = {
    SPEED: _speed,
    ACCURACY: _accuracy,
    ENERGY: EnergyResult.from_json,
}


def _rounded(value: Any) -> Any:
    """Floats to microseconds: more digits are noise, and differ in every line."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(each) for each in value]
    return value
