"""GPTQ: inputs are rounded one after the other, and those to come make up for what each loses.

It minimizes the error of a product, |X W - X Q|^2, by what the product was seen to read: with H the
Gram matrix X'X and U the upper Cholesky factor of its inverse, rounding input i of an output is off
by e_i = (w_i - q_i) / U_ii, and each later input j takes over -e_i U_ij (Frantar et al., "GPTQ:
Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022, arXiv
2210.17323, algorithm 1). Scales of a block are found when its turn comes (`quantize_blocks`), and
in the end all scales of an output are once more the best for its levels: least squares by H.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .. import Float32s, Float64s
from .blockwise import BlockFormat, BlockWeight, as_half_holds, quantize_blocks

_DAMPING = 0.01  # of the mean of the diagonal, the authors' choice: what was hardly seen stays put
_RIDGE = 1e-6  # the same for scales
_CHUNK = 1 << 22  # numbers of the scales' equations at a time


def quantize_by_inputs(weight: Float32s, blocks: BlockFormat, gram: Float64s) -> BlockWeight:
    """Round a weight in blocks so that its product with what it reads changes least.

    Args:
        weight: float weights [inputs, outputs], finite.
        blocks: bits, size and symmetry.
        gram: X'X of rows X that the product was seen to read, [inputs, inputs].

    Raises:
        ValueError: the weight is not a matrix, or the Gram matrix another one's.
    """
    if weight.ndim != 2 or gram.shape != (len(weight), len(weight)):
        raise ValueError(
            f"a weight of shape {weight.shape} with a Gram matrix of {gram.shape}, expected "
            "[inputs, outputs] and [inputs, inputs]"
        )
    damping = _DAMPING * max(float(np.diag(gram).mean()), 1e-30)
    damped = gram + np.diag(np.full(len(gram), damping))
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    # An input's error counts by what later inputs cannot make up for.
    importance = 1 / np.square(np.diag(factor))
    rest = weight.astype(np.float32, copy=True)
    parts = []
    for start in range(0, len(weight), blocks.size):
        block = slice(start, min(start + blocks.size, len(weight)))
        part = quantize_blocks(rest[block], blocks, importance[block])
        levels, errors = _rounded(rest[block], part, factor[block, block])
        rest[block.stop :] -= factor[block, block.stop :].T @ errors
        part.levels[:, 0, : len(errors)] = levels.T
        parts.append(part)
    found = BlockWeight(
        format=blocks,
        inputs=len(weight),
        levels=np.concatenate([part.levels for part in parts], axis=1),
        scales=np.concatenate([part.scales for part in parts], axis=1),
        zero_points=np.concatenate([part.zero_points for part in parts], axis=1),
    )
    return replace(found, scales=_best_scales(weight, found, damped))


def _rounded(
    rows: Float32s, part: BlockWeight, factor: Float32s
) -> tuple[npt.NDArray[np.uint8], Float32s]:
    """Levels of a block's inputs [inputs, outputs], and what each is off by, divided by U_ii."""
    scales, zeros = part.scales[:, 0], part.zero_points[:, 0].astype(np.float32)
    rows = rows.copy()
    levels = np.empty(rows.shape, dtype=np.uint8)
    errors = np.empty_like(rows)
    for at, row in enumerate(rows):
        level = np.clip(np.rint(row / scales) + zeros, 0, part.format.highest)
        errors[at] = (row - (level - zeros) * scales) / factor[at, at]
        rows[at + 1 :] -= np.outer(factor[at, at + 1 :], errors[at])
        levels[at] = level
    return levels, errors


def _best_scales(weight: Float32s, found: BlockWeight, gram: Float64s) -> Float32s:
    """Scales [outputs, blocks] with which the levels' products are off least, in float16's numbers.

    An output's weights are A s, with A its levels by block and s its scales, so these are moved by
    what solves A'HA d = A'H (w - A s).
    """
    outputs, count, size = found.levels.shape
    filled = np.zeros((count * size, count * size))
    filled[: len(gram), : len(gram)] = gram
    scales = np.empty_like(found.scales)
    step = max(1, _CHUNK // (count * count))
    for start in range(0, outputs, step):
        some = slice(start, start + step)
        zeros = found.zero_points[some, :, None].astype(np.float64)
        levels = found.levels[some] - zeros
        rows = levels.reshape(len(levels), -1)
        products = np.empty((len(levels), count, count))
        for block in range(count):
            columns = slice(block * size, (block + 1) * size)
            read = (rows[:, columns] @ filled[columns]).reshape(levels.shape)
            products[:, :, block] = np.einsum("obk,obk->ob", read, levels)
        missing = np.zeros_like(rows)
        missing[:, : len(weight)] = weight[:, some].T
        missing -= (levels * found.scales[some, :, None]).reshape(rows.shape)
        wanted = np.einsum("obk,obk->ob", (missing @ filled).reshape(levels.shape), levels)
        ridge = _RIDGE * np.trace(products, axis1=1, axis2=2) / count + 1e-30
        products += ridge[:, None, None] * np.eye(count)
        moved = found.scales[some] + np.linalg.solve(products, wanted[..., None])[..., 0]
        scales[some] = np.where(moved * found.scales[some] > 0, moved, found.scales[some])
    return as_half_holds(scales)
