"""Results on disk: JSON that a report, and a person, can read years later."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from florence_edge import whole_file
from florence_edge.errors import RequestError

from .accuracy import AccuracyResult
from .energy import EnergyResult
from .paths import without_folders
from .speed import SpeedResult

Result = SpeedResult | AccuracyResult | EnergyResult

_KINDS: Mapping[str, type[SpeedResult] | type[AccuracyResult] | type[EnergyResult]] = {
    "speed": SpeedResult,
    "accuracy": AccuracyResult,
    "energy": EnergyResult,
}
_SCHEMA = 1
_DIGITS = 6  # microseconds


def write_result(path: Path, result: Result) -> None:
    """Write a result; there is either the whole file or what was there before.

    Of paths there is the last part: where something lay on this machine is nobody's business.

    Raises:
        RequestError: it cannot be written, or a figure of it is NaN or infinite.
    """
    kind = next(name for name, of_kind in _KINDS.items() if isinstance(result, of_kind))
    fields = asdict(result) if isinstance(result, EnergyResult) else _rounded(asdict(result))
    content = {"florence-bench": kind, "schema": _SCHEMA, **without_folders(fields)}
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RequestError(
            f"Nothing was written to {path}: a figure is NaN or infinite; JSON has neither."
        ) from error
    write_whole(path, text + "\n")


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
        RequestError: the place is a folder, in something that is none, or in a folder that takes
            no new file.
    """
    if path is None:
        return
    if path.is_dir():
        raise RequestError(f"Cannot write {path}: it is a folder. Choose another file.")
    if path.exists() and not path.is_file():  # a pipe, a device: written to as it is
        return
    above = next(parent for parent in path.resolve().parents if parent.exists())
    if not above.is_dir():
        raise RequestError(f"Cannot write {path}: {above} is no folder. Choose another file.")
    try:
        with tempfile.TemporaryFile(dir=above):  # what is written whole begins as a new file
            pass
    except OSError as error:
        raise RequestError(
            f"Cannot write {path}: {above} takes no new file ({error.strerror}). Choose another "
            "file."
        ) from error


def read_result(path: Path) -> Result:
    """Read a result; every field is checked against its annotation, and by its class.

    Raises:
        RequestError: it is not there, or no result of florence-bench; the message names the field.
    """
    msgspec = _msgspec()
    try:
        found = msgspec.json.decode(path.read_bytes())
        kind = found.pop("florence-bench", None) if isinstance(found, dict) else None
        of_kind = _KINDS.get(kind) if isinstance(kind, str) else None
        if of_kind is None or found.pop("schema", None) != _SCHEMA:
            raise RequestError(f"{path} is no result of this florence-bench. {_again(path)}")
        result: Result = msgspec.convert(found, of_kind)
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror}.") from error
    except msgspec.ValidationError as error:
        raise RequestError(
            f"{path} is no result of this florence-bench: {error}. {_again(path)}"
        ) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"{path} is not JSON: {error}. {_again(path)}") from error
    return result


def _msgspec() -> Any:
    try:
        import msgspec
    except ImportError as error:
        raise RequestError(
            "Results are read by msgspec, which is not installed. Install florence-edge[bench]."
        ) from error
    return msgspec


def _again(path: Path) -> str:
    return f"Measure again: `florence-bench speed`, `accuracy` or `energy` with --output {path}."


def _rounded(value: Any) -> Any:
    """Floats to microseconds: more digits are noise, and differ in every line."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(each) for each in value]
    return value
