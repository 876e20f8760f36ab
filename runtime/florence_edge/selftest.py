"""The self-test: whether an engine computes what the exporter computed, on inputs made here.

`reference.npz` in a bundle holds what `sample` gave on ONNX Runtime's CPU when the bundle was made:
a few values of every graph's outputs. An engine that is built later answers the same inputs and
must come close.
"""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .backends.base import Backend, NamedArrays
from .bundle import Bundle
from .contract import TOP_K
from .errors import BundleError
from .extras import pip_install
from .files import open_plain

REFERENCE = "reference.npz"

PROMPT_TOKENS = 8
_SAMPLED_TOKENS = 9
_NPY_HEADER_BYTES = 1 << 12  # of a .npy file; ours has 128
_ANSWER = (2, 0, 10, 11)  # fed whatever the engine prefers: a near tie must not change the inputs


def sample(bundle: Bundle, backend: Backend) -> NamedArrays:
    """Run all three graphs on made-up inputs and keep a small part of what comes out.

    Returns:
        `image_features` [9 tokens, d_model] and `top_log_probs` [steps, K], float32.
    """
    size = bundle.size
    features = backend.encode_image(_ramps(size.image_size))
    input_ids = np.arange(PROMPT_TOKENS, dtype=np.int64)[None] + 4  # 0 to 3 are special
    mask = np.ones((1, size.image_tokens + PROMPT_TOKENS), dtype=np.int64)
    decoder = backend.prefill(features, input_ids, mask, beams=1)
    rows = []
    for token in _ANSWER:
        (scores,) = decoder.step(np.array([[token]]), np.zeros((1, 1), dtype=np.int64))
        rows.append(scores.top_log_probs[0].copy())
    tokens = np.linspace(0, size.image_tokens - 1, _SAMPLED_TOKENS).astype(np.int64)
    return {
        "image_features": np.asarray(features)[0, tokens].astype(np.float32),
        "top_log_probs": np.array(rows, dtype=np.float32),
    }


def self_test(bundle: Bundle, backend: Backend) -> dict[str, float]:
    """How far the engine is from the reference: the largest error of each sampled output.

    Raises:
        BundleError: the bundle has no reference, or a damaged one, or there are values that are
            not finite.
    """
    if REFERENCE not in bundle.files:
        raise BundleError(
            f"{bundle.folder} has no {REFERENCE} to compare with. Export it again where ONNX "
            f"Runtime is installed: {pip_install('cpu')}"
        )
    expected = read_reference(bundle)
    found = finite_sample(bundle, backend)
    return {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}


def finite_sample(bundle: Bundle, backend: Backend) -> NamedArrays:
    """What `sample` gives, all of it numbers.

    Raises:
        BundleError: naming the output that is not finite, and what may help this bundle.
    """
    found = sample(bundle, backend)
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise BundleError(
                f"{bundle.folder} computes values that are not finite (NaN or infinite) in {name}. "
                f"{remedy_for_nan(bundle.precision)}"
            )
    return found


def remedy_for_nan(precision: str) -> str:
    """What to do about a bundle of this precision that computes NaN or infinite values."""
    if precision == "fp32":
        return (
            "Nothing has more range than its float32: try device='cpu', and look for values that "
            "are not finite, or huge, in the checkpoint."
        )
    return "Export the checkpoint again with --precision fp32."


def read_reference(bundle: Bundle) -> NamedArrays:
    """The values that `sample` gave when the bundle was made: its names, shapes and dtypes.

    Raises:
        BundleError: the file is missing, damaged, or holds something else.
    """
    shapes = {
        "image_features": (_SAMPLED_TOKENS, bundle.size.d_model),
        "top_log_probs": (len(_ANSWER), TOP_K),
    }
    path = bundle.folder / REFERENCE
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive:
            if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in shapes):
                raise ValueError(f"it holds {', '.join(archive.namelist())!r:.80}")
            return {name: _read_array(archive, name, shape) for name, shape in shapes.items()}
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _bad_reference(path, error) from error  # RuntimeError: an encrypted archive
    except (zipfile.BadZipFile, zlib.error) as error:
        raise _bad_reference(path, error) from error


def _bad_reference(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path} is not a reference that florence-export writes: {error}. Copy it again, or export "
        "the bundle again."
    )


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> Any:
    """A float32 array of this shape; no more than that is unpacked, and nothing unpickled."""
    most = _NPY_HEADER_BYTES + 4 * int(np.prod(shape))
    with archive.open(f"{name}.npy") as member:
        content = io.BytesIO(member.read(most + 1))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError(f"{name} is of another version of numpy's format than 1.0")
    found, by_columns, dtype = np.lib.format.read_array_header_1_0(content)
    values = content.read()
    if (found, by_columns, dtype) != (shape, False, np.dtype(np.float32)):
        raise ValueError(f"{name} is {dtype} {found!s:.40}, expected float32 {shape}")
    if len(values) != 4 * int(np.prod(shape)):
        raise ValueError(f"{name} is cut short, or has more values than its shape")
    array = np.frombuffer(values, np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    return array


def write_reference(bundle: Bundle, backend: Backend, folder: Path) -> None:
    """Write `reference.npz` from an engine that is trusted."""
    arrays: Any = sample(bundle, backend)  # numpy's stub knows no array called otherwise
    np.savez_compressed(folder / REFERENCE, **arrays)


def _ramps(side: int) -> npt.NDArray[np.uint8]:
    """[1, side, side, 3]: brightness that rises to the right, to the bottom and to both."""
    ramp = np.linspace(0, 255, side)
    across, down = np.meshgrid(ramp, ramp)
    picture = np.stack([across, down, (across + down) / 2], axis=-1)
    return picture.astype(np.uint8)[None]
