"""Equalization keeps the promise: outlier channels cost int8 hardly more than none."""

import os
from pathlib import Path

import pytest

from .int8_errors import (
    OUTLIERS,
    PAIRS,
    PROMISED,
    ROUNDING,
    Errors,
    export_floats,
    int8_errors,
    ratios,
    record,
)

# The decoder's v_proj is planted, too: in tiny two channels of the caches then hold nine tenths of
# their power, and the error is that of these two alone. By channel it grows by 4 %.
_ALLOWED = {
    "tiny": {"image_features": PROMISED, "cross_caches": 1.5},
    "base": {"image_features": PROMISED, "cross_caches": PROMISED},
}


def errors_of(name: str, outliers: float, folder: Path) -> Errors:
    pair = PAIRS[name]
    return int8_errors(export_floats(pair, outliers, folder / f"{outliers:g}"), pair.pictures)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "base"])
def test_outliers_cost_little_with_equalization_and_much_without(name: str, tmp_path: Path) -> None:
    plain, planted = (errors_of(name, outliers, tmp_path) for outliers in (1.0, OUTLIERS))
    if os.environ.get("FLORENCE_EDGE_RECORD"):
        record(name, plain, planted)
    for variant, found in ratios(plain, planted).items():
        for output, ratio in found.items():
            if variant.endswith(", equalized"):
                assert ratio < _ALLOWED[name][output], (variant, output)
                assert plain[variant][output] < 0.05
            else:
                assert ratio > 2, (variant, output)
    for target in ROUNDING:  # where there is nothing to even out, it does no harm
        for output, error in plain[f"{target}, equalized"].items():
            assert error < 1.1 * plain[f"{target}, not equalized"][output]
