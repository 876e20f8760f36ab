"""Weight files as named tensors: safetensors mapped into memory, PyTorch's format through torch."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.errors import BundleError, MissingPackageError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor where it lies; `load` reads it as float32."""

    shape: tuple[int, ...]
    load: Callable[[], FloatArray]


def read_tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Name and place of every floating-point tensor in a weight file.

    Raises:
        BundleError: the file is damaged.
        MissingPackageError: it is PyTorch's, and PyTorch is not installed.
    """
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _read_safetensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors of one file, memory-mapped.

    The format is a length, a JSON header and raw bytes; read here rather than through the
    `safetensors` package because its numpy module does not read bfloat16.
    """
    damaged = f"{path} is damaged or cut short. Download it again."
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size - 8 - length
            if size < 0:
                raise BundleError(damaged)
            entries = _entries(json.loads(file.read(length)))
        data = np.memmap(path, np.uint8, "r", 8 + length) if size else np.empty(0, np.uint8)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}.") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(damaged) from error
    for name, dtype, shape, begin, end in entries:
        if not 0 <= begin <= end <= size or end - begin != math.prod(shape) * dtype.itemsize:
            raise BundleError(damaged)
        yield name, StoredTensor(shape, _slice_loader(data[begin:end], dtype, shape))


_Entry = tuple[str, np.dtype[Any], tuple[int, ...], int, int]


def _entries(header: Mapping[str, Any]) -> list[_Entry]:
    """Name, dtype, shape and bytes; integer buffers (position ids) carry no weights."""
    import ml_dtypes  # noqa: F401 - tells numpy what bfloat16 is; here, as --version needs no extra

    entries = []
    for name, entry in header.items():
        stored = _SAFETENSORS_DTYPES.get(entry.get("dtype", ""))
        if name != "__metadata__" and stored is not None:
            dtype = np.dtype(stored)
            shape = tuple(int(side) for side in entry["shape"])
            begin, end = entry["data_offsets"]
            entries.append((name, dtype, shape, int(begin), int(end)))
    return entries


def _slice_loader(
    raw: npt.NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Callable[[], FloatArray]:
    return lambda: np.asarray(raw.view(dtype).reshape(shape), dtype=np.float32)


def _read_torch(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        import torch
    except ImportError:
        raise MissingPackageError(
            f"{path.name} is a PyTorch file, and reading it needs PyTorch. Install "
            "florence-edge[verify], or convert the checkpoint to safetensors."
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # its text advises to switch the safety off: keep the first line
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"{path} cannot be read by PyTorch: {reason} Fetch it again.") from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise BundleError(f"{path} holds something else than named tensors. Fetch it again.")
    for name, tensor in state.items():
        if tensor.is_floating_point():
            yield name, StoredTensor(tuple(tensor.shape), _torch_loader(tensor))


def _torch_loader(tensor: Any) -> Callable[[], FloatArray]:
    return lambda: np.asarray(tensor.float().numpy())
