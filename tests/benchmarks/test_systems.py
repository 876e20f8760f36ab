from pathlib import Path

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.systems import Comparison, systems_of


def test_every_bundle_runs_on_every_device(tiny_bundle: Path) -> None:
    found = systems_of([tiny_bundle], Comparison(devices=["cpu", "openvino"], threads=2))
    assert [system.label for system in found] == ["fp32 on cpu", "fp32 on openvino"]
    assert {system.threads for system in found} == {2}


def test_two_bundles_of_one_kind_are_told_apart(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other"
    copy.symlink_to(tiny_bundle)
    labels = [system.label for system in systems_of([tiny_bundle, copy], Comparison())]
    assert labels == [f"fp32 on cpu ({tiny_bundle})", f"fp32 on cpu ({copy})"]


def test_competitors_take_the_checkpoint_that_the_bundle_names(tiny_bundle: Path) -> None:
    comparison = Comparison(competitors=["transformers-bf16"])
    (_, found) = systems_of([tiny_bundle], comparison)
    assert (found.kind, found.variant, found.checkpoint) == (
        "transformers", "transformers-bf16", "tiny"
    )  # fmt: skip
    given = Comparison(competitors=["transformers"], checkpoint="elsewhere")
    assert systems_of([tiny_bundle], given)[-1].checkpoint == "elsewhere"


def test_competitors_are_compared_with_a_bundle_that_could_be_made(tiny_bundle: Path) -> None:
    bundles = [Path("failed"), tiny_bundle]
    found = systems_of(bundles, Comparison(competitors=["transformers"]), failed=["failed"])
    assert [system.bundle for system in found] == ["failed", str(tiny_bundle), str(tiny_bundle)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keras", "There is no 'keras' to compare with: transformers,"),
        ("optimum", "--optimum-python"),
    ],
)
def test_impossible_competitors_say_what_to_do(tiny_bundle: Path, name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        systems_of([tiny_bundle], Comparison(competitors=[name]))
    with pytest.raises(RequestError, match="name one, or use --architecture"):
        systems_of([], Comparison(competitors=["transformers"]))
