"""Precision and its cost: float16, int8, metrics, scenes with known truth, and the miniature."""

import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
