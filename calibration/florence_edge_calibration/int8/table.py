"""calibration.json: what was seen of every activation, for one checkpoint at one picture size."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import RequestError
from florence_edge.whole_file import write_whole

from .activations import BINS, BINS_AN_OCTAVE, LOWEST_OCTAVE, Activation

_FORMAT = 1
# Counts are stored in steps of an eighth of an octave, one byte each: +-4.4 %, a third of the size.
_STEPS_AN_OCTAVE = 8

_BINS = {"count": BINS, "an_octave": BINS_AN_OCTAVE, "lowest_octave": LOWEST_OCTAVE}


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
    activations: Mapping[str, Activation]

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
        content = {
            "format": _FORMAT,
            "contract": contract.CONTRACT_VERSION,
            "model": self.model,
            "checkpoint": self.checkpoint,
            "image_size": self.image_size,
            "pictures": self.pictures,
            "prompts": self.prompts,
            "bins": _BINS,
            "activations": {name: _pack(seen) for name, seen in self.activations.items()},
        }
        write_whole(path, json.dumps(content) + "\n")

    @staticmethod
    def load(path: Path) -> "CalibrationTable":
        """Read a table.

        Raises:
            RequestError: it cannot be read, is no table, or is of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _check_version(path, content)
            return CalibrationTable(
                model=str(content["model"]),
                checkpoint=str(content["checkpoint"]),
                image_size=int(content["image_size"]),
                pictures=int(content["pictures"]),
                prompts=int(content["prompts"]),
                activations={
                    name: _unpack(entry) for name, entry in content["activations"].items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise RequestError(
                f"{path} is no calibration table: {error}. Make one with florence-calibrate."
            ) from error


def _check_version(path: Path, content: Mapping[str, Any]) -> None:
    found = (content["format"], content["contract"])
    if found != (_FORMAT, contract.CONTRACT_VERSION) or content["bins"] != _BINS:
        raise RequestError(
            f"{path} is a table of format {found[0]} for contract {found[1]}, expected "
            f"{_FORMAT} and {contract.CONTRACT_VERSION}. Calibrate again with florence-calibrate."
        )


def _pack(seen: Activation) -> dict[str, Any]:
    octaves = np.log2(1.0 + seen.counts.clip(max=2**31))
    counts = zlib.compress(np.rint(octaves * _STEPS_AN_OCTAVE).astype(np.uint8).tobytes(), level=9)
    return {
        "lows": [float(f"{value:.6g}") for value in seen.lows],
        "highs": [float(f"{value:.6g}") for value in seen.highs],
        "counts": base64.b64encode(counts).decode("ascii"),
    }


def _unpack(entry: Mapping[str, Any]) -> Activation:
    steps = np.frombuffer(zlib.decompress(base64.b64decode(entry["counts"])), dtype=np.uint8)
    counts = np.rint(2.0 ** (steps / _STEPS_AN_OCTAVE) - 1).astype(np.int64)
    lows, highs = (np.array(entry[name], dtype=np.float32) for name in ("lows", "highs"))
    if not lows.shape == highs.shape == (counts.size // BINS,):
        raise ValueError("an activation has counts of another number of channels than extremes")
    return Activation(lows=lows, highs=highs, counts=counts.reshape(-1, BINS))
