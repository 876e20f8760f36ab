"""Results on disk: JSON that a report, and a person, can read years later.

Results name files and folders, and not where on a machine they were. Which bundle and which data a
figure is of is known by fingerprints, wherever they lay and whatever they were called.
"""

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from florence_edge import files
from florence_edge.bundle import MANIFEST, sha256
from florence_edge.errors import RequestError
from florence_edge_jetson.power.energy import Energy

from .results import AccuracyResult, EnergyResult, SpeedResult

# Folders at the front of an absolute path; in `tokens/s`, `a / b` and `https://x` there are none.
_FOLDERS = re.compile(
    r"(?<![\w.:/~<\\-])(?:~?/(?:[^\s/,;:'\"()<>]+/)*(?=[^\s/])|[A-Za-z]:\\(?:[^\s\\,;'\"]+\\)*)"
)


def without_folders(value: Any) -> Any:
    """Plain JSON in which every absolute path is its last part: `/home/me/base8` is `base8`."""
    if isinstance(value, str):
        whole = value.startswith("/") and "," not in value and ": " not in value
        return PurePosixPath(value).name if whole else _FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [without_folders(each) for each in value]
    return value


_FINGERPRINT_DIGITS = 16  # of 64: enough to tell apart what one report compares


def bundle_fingerprint(folder: Path) -> str:
    """Of what was exported: the manifest has the hashes of all files and how answers are generated.

    Engines that were built from it later do not count.
    """
    return sha256(folder / MANIFEST)[:_FINGERPRINT_DIGITS]


def data_fingerprint(tables: Sequence[Path], pictures: Iterable[int]) -> str:
    """Of the files of truth, and of which pictures were taken of those they name, by id."""
    taken = ",".join(map(str, pictures))
    content = sha256(*sorted(tables, key=lambda path: path.name))
    return hashlib.sha256(f"{content} {taken}".encode()).hexdigest()[:_FINGERPRINT_DIGITS]


AnyResult = SpeedResult | AccuracyResult | EnergyResult

_KINDS: Mapping[str, type[SpeedResult] | type[AccuracyResult] | type[EnergyResult]] = {
    "speed": SpeedResult,
    "accuracy": AccuracyResult,
    "energy": EnergyResult,
}
_SCHEMA = 1
_DIGITS = 6  # microseconds


def write_result(path: Path, result: AnyResult) -> None:
    """Write a result; there is either the whole file or what was there before.

    Of paths there is the last part: where something lay on this machine is nobody's business.

    Raises:
        RequestError: it cannot be written, or a figure of it is NaN or infinite.
    """
    kind = next(name for name, of_kind in _KINDS.items() if isinstance(result, of_kind))
    fields = _with_shares(result) if isinstance(result, EnergyResult) else _rounded(asdict(result))
    content = {"florence-bench": kind, "schema": _SCHEMA, **without_folders(fields)}
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RequestError(
            f"Nothing was written to {path}: a figure is NaN or infinite; JSON has neither."
        ) from error
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole (see `florence_edge.files.write_whole`), with the folders above it.

    Raises:
        RequestError: it cannot be written; what was there before is left.
    """
    try:
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, text)
    except OSError as error:
        raise RequestError(f"Cannot write {path}: {error}. Choose another --output.") from error


def check_writable(path: Path | None) -> None:
    """Refuse before the measurement what could not be written after it.

    Raises:
        RequestError: the place is a folder, in something that is not a folder, or in one that
            takes no new file.
    """
    if path is None:
        return
    if path.is_dir():
        raise RequestError(f"Cannot write {path}: it is a folder. Choose another file.")
    if path.exists() and not path.is_file():  # a pipe, a device: written to as it is
        return
    above = next(parent for parent in path.resolve().parents if parent.exists())
    if not above.is_dir():
        raise RequestError(f"Cannot write {path}: {above} is not a folder. Choose another file.")
    try:
        with tempfile.TemporaryFile(dir=above):  # what is written whole begins as a new file
            pass
    except OSError as error:
        raise RequestError(
            f"Cannot write {path}: {above} takes no new file ({error.strerror}). Choose another "
            "file."
        ) from error


def read_result(path: Path) -> AnyResult:
    """Read a result; every field is checked against its annotation, and by its class.

    Raises:
        RequestError: it is missing, or not a result of florence-bench; the message names the field.
    """
    try:
        found = files.read_json(path)
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}. {_again(path)}") from error
    kind = found.pop("florence-bench", None) if isinstance(found, dict) else None
    of_kind = _KINDS.get(kind) if isinstance(kind, str) else None
    if of_kind is None or found.pop("schema", None) != _SCHEMA:
        raise RequestError(f"{path} is not a result of this florence-bench. {_again(path)}")
    try:
        result = files.from_json(of_kind, found)
        if isinstance(result, EnergyResult):
            _check_shares(result.energy, found["energy"])
    except ValueError as error:
        raise RequestError(
            f"{path} is not a result of this florence-bench: {error}. {_again(path)}"
        ) from error
    return result


# Names of figures that follow from others: they stand in the file for those who read it alone.
_PER_IMAGE, _PER_TOKEN = "joules_per_image", "joules_per_token"


def _with_shares(result: EnergyResult) -> dict[str, Any]:
    fields, energy = asdict(result), result.energy
    fields["energy"] |= {_PER_IMAGE: energy.per_image, _PER_TOKEN: energy.per_token}
    return fields


def _check_shares(energy: Energy, found: Mapping[str, Any]) -> None:
    """Refuse joules per image or token, gross and net, that do not follow from the others."""
    for name, expected in ((_PER_IMAGE, energy.per_image), (_PER_TOKEN, energy.per_token)):
        if found.get(name) is None:
            continue
        pair = files.from_json(tuple[float, float], found[name])
        if expected is None or not all(map(_close, pair, expected)):
            raise ValueError(f"energy.{name} is {pair}, expected {expected}")


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


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
