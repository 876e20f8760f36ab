"""Weight files as named tensors: safetensors mapped into memory, PyTorch's format through torch."""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.errors import BundleError, MissingPackageError
from florence_edge.extras import pip_install
from florence_edge.files import open_plain

FloatArray = npt.NDArray[np.float32]

_LFS_POINTER = b"version https://git-lfs"
_FETCH = (
    "It is damaged, cut short or not what its name says: fetch it again, or compare its size with "
    "that of the original."
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor where it lies; `load` reads it as float32.

    `kind` is how its numbers are stored, in the file format's word; `load` raises BundleError for
    what are not floats of 16 bits or more.
    """

    shape: tuple[int, ...]
    load: Callable[[], FloatArray]
    kind: str = "F32"


def read_tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Name and place of every tensor in a weight file.

    Raises:
        BundleError: the file is damaged, or not a plain file.
        MissingPackageError: it is PyTorch's, and PyTorch is not installed.
    """
    try:
        with open_plain(path) as file:
            beginning = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}.") from error
    if beginning == _LFS_POINTER:
        raise BundleError(
            f"{path} is a pointer of Git LFS and not the weights. Run git lfs pull in its folder."
        )
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


_SAFETENSORS_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _read_safetensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors of one file, memory-mapped.

    The package checks the file and reads no further, because its numpy module does not know
    bfloat16; then a length, a JSON header and raw bytes are read here.
    """
    import ml_dtypes  # noqa: F401 - tells numpy what bfloat16 is; here, as --version needs no extra
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(begin - 8))
        empty = path.stat().st_size == begin
        data = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, "r", begin)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{path} cannot be read by safetensors: {error}. {_FETCH}") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}.") from error
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, _stored(path, name, entry, data)


def _stored(
    path: Path, name: str, entry: Mapping[str, Any], data: npt.NDArray[np.uint8]
) -> StoredTensor:
    """One entry of a header that the package found to be right."""
    shape, kind = tuple(entry["shape"]), str(entry["dtype"])
    if kind not in _SAFETENSORS_FLOATS:
        return StoredTensor(shape, _refuse(path, name, kind), kind)
    begin, end = entry["data_offsets"]
    dtype = np.dtype(_SAFETENSORS_FLOATS[kind])
    return StoredTensor(shape, _slice_loader(data[begin:end], dtype, shape), kind)


def _refuse(path: Path, name: str, kind: str) -> Callable[[], FloatArray]:
    def load() -> FloatArray:
        raise BundleError(
            f"{path} stores {name} as {kind}, expected floats of 16 bits or more. If the "
            "checkpoint is quantized, export the one it was made from."
        )

    return load


def _slice_loader(
    raw: npt.NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Callable[[], FloatArray]:
    def load() -> FloatArray:
        with np.errstate(over="ignore"):  # of float64; whoever uses it looks for infinities
            return np.asarray(raw.view(dtype).reshape(shape), dtype=np.float32)

    return load


def _read_torch(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        import torch
    except ImportError:
        raise MissingPackageError(
            f"{path.name} is a PyTorch file, and reading it needs PyTorch. Convert the checkpoint "
            f"to safetensors, or install it with: {pip_install('verify')}"
        ) from None
    # What torch.save wrote before PyTorch 1.6 is no archive, and cannot be mapped into memory.
    archive = zipfile.is_zipfile(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:
        if str(error).startswith("Weights only load failed"):  # and PyTorch advises to risk it
            raise BundleError(
                f"{path} is damaged, or holds objects beside tensors, which are not loaded: that "
                "could run code of a stranger. Save the model's state_dict() alone, best as "
                "safetensors, or fetch the file again."
            ) from error
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        reason = reason or type(error).__name__
        raise BundleError(f"{path} cannot be read by PyTorch: {reason}. {_FETCH}") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in state.items()
    ):
        raise BundleError(
            f"{path} holds something else than tensors by name: {_contents(state)}. Save a model's "
            "state_dict(), or the whole model with save_pretrained."
        )
    for name, tensor in state.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        plain = tensor.layout is torch.strided and kind in _TORCH_FLOATS
        load = _torch_loader(tensor) if plain else _refuse(path, name, kind)
        yield name, StoredTensor(tuple(tensor.shape), load, kind)


_TORCH_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})


def _contents(state: object) -> str:
    """What a PyTorch file holds, in a few words."""
    if not isinstance(state, dict):
        return f"a {type(state).__name__}"
    others = [(key, value) for key, value in state.items() if not hasattr(value, "dtype")]
    key, value = others[0] if others else next(iter(state.items()))
    return f"a {type(value).__name__} under {str(key)[:40]!r}"


def _torch_loader(tensor: Any) -> Callable[[], FloatArray]:
    # Values of named_parameters() are Parameters, which numpy takes only detached.
    return lambda: np.asarray(tensor.detach().float().numpy())
