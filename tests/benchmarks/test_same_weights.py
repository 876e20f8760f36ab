from pathlib import Path

import pytest

from florence_edge.errors import BundleError, RequestError
from florence_edge_benchmarks.speed.same_weights import check_same_weights


def test_the_checkpoint_of_a_bundle_is_accepted(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    check_same_weights(tiny_bundle, str(tiny_checkpoint))


def test_another_checkpoint_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    from florence_edge_export.synthetic import write_checkpoint

    write_checkpoint(tmp_path, "tiny", seed=4, image_size=64)
    with pytest.raises(RequestError, match=r"was not exported from .* --checkpoint DIR"):
        check_same_weights(tiny_bundle, str(tmp_path))


def test_a_checkpoint_that_is_gone_is_told(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="There is no checkpoint folder tiny"):
        check_same_weights(tiny_bundle, "tiny")
