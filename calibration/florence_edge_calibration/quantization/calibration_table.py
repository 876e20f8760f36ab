"""calibration.json: the histograms of every activation, for one checkpoint at one picture size."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import RequestError
from florence_edge.files import from_json, read_json, write_whole

from .histogram import BINS, BINS_AN_OCTAVE, LOWEST_OCTAVE, ChannelHistogram

_FORMAT = 1
_TABLE_BYTES = 1 << 30  # that of large has some 20 MB
_BINS = {"count": BINS, "an_octave": BINS_AN_OCTAVE, "lowest_octave": LOWEST_OCTAVE}
# Counts are stored in steps of an eighth of an octave, one byte each: +-4.4 %, a third of the size.
_STEPS_AN_OCTAVE = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationTable:
    """What a float bundle's linears read over pictures and prompts.

    `checkpoint` is the manifest's hash of the weights; `activations` goes by the name of the first
    linear that reads each.
    """

    model: str
    checkpoint: str
    image_size: int
    pictures: int
    prompts: int
    activations: Mapping[str, ChannelHistogram]

    def check(self, bundle: Bundle) -> None:
        """Refuse a table of another model.

        Raises:
            RequestError: the table was made from another checkpoint or picture size.
        """
        if self.checkpoint != bundle.checkpoint:
            raise RequestError(
                f"The calibration table was made from {self.model}, whose weights are not those "
                f"of {bundle.model}. Calibrate this checkpoint, or leave the table out."
            )
        if self.image_size != bundle.size.image_size:
            raise RequestError(
                f"The calibration table is for pictures of {self.image_size} pixels, this export "
                f"for {bundle.size.image_size}. Calibrate again at this size."
            )

    def save(self, path: Path) -> None:
        """Write the table as JSON; the counts are compressed, all else can be read."""
        stored = _StoredTable(
            format=_FORMAT,
            contract=contract.CONTRACT_VERSION,
            model=self.model,
            checkpoint=self.checkpoint,
            image_size=self.image_size,
            pictures=self.pictures,
            prompts=self.prompts,
            bins=_BINS,
            activations={name: _pack(each) for name, each in self.activations.items()},
        )
        write_whole(path, json.dumps(asdict(stored)) + "\n")

    @staticmethod
    def load(path: Path) -> "CalibrationTable":
        """Read a table.

        Raises:
            RequestError: it cannot be read, is not a table, or is of another version.
        """
        try:
            content = read_json(path, most=_TABLE_BYTES)
            _check_version(path, content)
            stored = from_json(_StoredTable, content)
            activations = {name: _unpack(each) for name, each in stored.activations.items()}
        except RequestError:
            raise
        except (OSError, ValueError, zlib.error) as error:
            raise RequestError(
                f"{path} is not a calibration table: {error}. Make one with florence-calibrate."
            ) from error
        return CalibrationTable(
            model=stored.model,
            checkpoint=stored.checkpoint,
            image_size=stored.image_size,
            pictures=stored.pictures,
            prompts=stored.prompts,
            activations=activations,
        )


def empty_table(bundle: Bundle) -> CalibrationTable:
    """The table of a recipe that rounds no activations."""
    return CalibrationTable(
        model=bundle.model,
        checkpoint=bundle.checkpoint,
        image_size=bundle.size.image_size,
        pictures=0,
        prompts=0,
        activations={},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredHistogram:
    """A `ChannelHistogram` as JSON; `counts` are logarithms, compressed, in base64."""

    lows: list[float]
    highs: list[float]
    counts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """What a file must be of, before its other fields are looked at."""

    format: int
    contract: int
    bins: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredTable:
    """The file, field by field in its order."""

    format: int
    contract: int
    model: str
    checkpoint: str
    image_size: int
    pictures: int
    prompts: int
    bins: dict[str, Any]
    activations: dict[str, _StoredHistogram]


def _check_version(path: Path, content: Any) -> None:
    """Refuse a table whose other fields may mean something else.

    Raises:
        RequestError: it is of another version.
        ValueError: it is not a table.
    """
    version = from_json(_Version, content)
    expected = _Version(format=_FORMAT, contract=contract.CONTRACT_VERSION, bins=_BINS)
    if version != expected:
        raise RequestError(
            f"{path} is a table of format {version.format} for contract {version.contract}, "
            f"expected {expected.format} and {expected.contract}. Calibrate again with "
            "florence-calibrate."
        )


def _pack(histogram: ChannelHistogram) -> _StoredHistogram:
    octaves = np.log2(1.0 + histogram.counts.clip(max=2**31))
    counts = zlib.compress(np.rint(octaves * _STEPS_AN_OCTAVE).astype(np.uint8).tobytes(), level=9)
    return _StoredHistogram(
        lows=[float(f"{value:.6g}") for value in histogram.min_values],
        highs=[float(f"{value:.6g}") for value in histogram.max_values],
        counts=base64.b64encode(counts).decode("ascii"),
    )


def _unpack(stored: _StoredHistogram) -> ChannelHistogram:
    """The histogram of a file.

    Raises:
        ValueError: the counts are not base64, or of another number of channels than the extremes,
            or those are not finite.
        zlib.error: the counts are damaged.
    """
    most = len(stored.lows) * BINS + 1  # however much is said to be in there
    packed = zlib.decompressobj().decompress(base64.b64decode(stored.counts), most)
    steps = np.frombuffer(packed, dtype=np.uint8)
    counts = np.rint(2.0 ** (steps / _STEPS_AN_OCTAVE) - 1).astype(np.int64)
    low, high = (np.array(values, dtype=np.float64) for values in (stored.lows, stored.highs))
    if not low.shape == high.shape == (counts.size // BINS,):
        raise ValueError("an activation has counts of another number of channels than extremes")
    if not (np.abs([low, high]) <= np.finfo(np.float32).max).all() or (low > high).any():
        raise ValueError("an activation has extremes that no float32 model has")
    return ChannelHistogram(
        min_values=low.astype(np.float32),
        max_values=high.astype(np.float32),
        counts=counts.reshape(-1, BINS),
    )
