from pathlib import Path

import pytest

from florence_edge.errors import BundleError, RequestError
from florence_edge_benchmarks.speed.comparison import (
    BundleOnDevices,
    ComparisonPlan,
    compared_systems,
    parse_bundle,
)
from florence_edge_benchmarks.systems.checkpoint import check_same_weights
from florence_edge_benchmarks.systems.system import parse_device


def test_every_bundle_runs_on_every_device(tiny_bundle: Path) -> None:
    devices = tuple(map(parse_device, ("cpu", "openvino", "openvino+bf16")))
    found = compared_systems([BundleOnDevices(tiny_bundle, devices)], ComparisonPlan(threads=2))
    labels = ["fp32 on cpu", "fp32 on openvino", "fp32 on openvino, bf16"]
    assert [system.label for system in found] == labels
    assert [system.engine_precision for system in found] == ["", "", "bf16"]
    assert {system.threads for system in found} == {2}


def test_two_bundles_of_one_kind_have_different_labels(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other"
    copy.symlink_to(tiny_bundle)
    labels = [
        system.label
        for system in compared_systems(
            [BundleOnDevices(tiny_bundle), BundleOnDevices(copy)], ComparisonPlan()
        )
    ]
    assert labels == [f"fp32 on cpu ({tiny_bundle.name})", "fp32 on cpu (other)"]
    again = tmp_path / "elsewhere" / tiny_bundle.name
    again.parent.mkdir()
    again.symlink_to(tiny_bundle)
    found = compared_systems(
        [BundleOnDevices(tiny_bundle), BundleOnDevices(again)], ComparisonPlan()
    )
    labels = [system.label for system in found]
    assert labels == [f"fp32 on cpu ({tiny_bundle})", f"fp32 on cpu ({again})"]


def test_competitors_take_the_checkpoint_that_the_bundle_names(tiny_bundle: Path) -> None:
    comparison = ComparisonPlan(competitors=["transformers-bf16"])
    (_, found) = compared_systems([BundleOnDevices(tiny_bundle)], comparison)
    assert (found.kind, found.variant, found.checkpoint) == (
        "transformers", "transformers-bf16", "tiny"
    )  # fmt: skip
    given = ComparisonPlan(competitors=["transformers"], checkpoint="elsewhere")
    assert compared_systems([BundleOnDevices(tiny_bundle)], given)[-1].checkpoint == "elsewhere"


def test_competitors_are_compared_with_a_bundle_that_could_be_made(tiny_bundle: Path) -> None:
    bundles = [BundleOnDevices(Path("failed")), BundleOnDevices(tiny_bundle)]
    found = compared_systems(
        bundles, ComparisonPlan(competitors=["transformers"]), failed=["failed"]
    )
    assert [system.bundle for system in found] == ["failed", str(tiny_bundle), str(tiny_bundle)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keras", "There is no 'keras' to compare with: transformers,"),
        ("optimum", "--optimum-python"),
        ("optimum@cuda", "on the CPU alone"),
        ("openvino-notebook", "--notebook-python"),
        ("transformersjs", "--transformersjs-modules"),
        ("openvino-notebook@cuda", "on the CPU alone"),
        ("transformers@openvino", "transformers runs on cpu, cuda or cuda:N"),
        ("transformers@tensorrt", "transformers runs on cpu, cuda or cuda:N"),
    ],
)
def test_impossible_competitors_say_what_to_do(tiny_bundle: Path, name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        compared_systems([BundleOnDevices(tiny_bundle)], ComparisonPlan(competitors=[name]))
    with pytest.raises(RequestError, match="name one, or use --architecture"):
        compared_systems([], ComparisonPlan(competitors=["transformers"]))


def test_a_bundle_may_bring_its_own_devices(tmp_path: Path) -> None:
    given = (parse_device("cpu"),)
    assert parse_bundle("b", given) == BundleOnDevices(Path("b"), given)
    own = parse_bundle("a/b@cuda,openvino+bf16", given)
    assert own == BundleOnDevices(
        Path("a/b"), (parse_device("cuda"), parse_device("openvino+bf16"))
    )
    odd = tmp_path / "at@home"
    odd.mkdir()
    assert parse_bundle(str(odd), given) == BundleOnDevices(odd, given)
    assert parse_bundle(f"{odd}@cuda", given) == BundleOnDevices(odd, (parse_device("cuda"),))


def test_what_is_named_twice_runs_once(tiny_bundle: Path) -> None:
    twice = [BundleOnDevices(tiny_bundle), BundleOnDevices(tiny_bundle)]
    found = compared_systems(twice, ComparisonPlan(competitors=["transformers", "transformers"]))
    assert [system.label for system in found] == ["fp32 on cpu", "transformers"]


def test_transformers_is_where_the_bundles_are(tiny_bundle: Path) -> None:
    devices = tuple(map(parse_device, ("cpu", "tensorrt:1")))
    names = ["transformers-fp16", "transformers-fp16-compile", "transformers@cpu"]
    *_, plain, compiled, on_cpu = compared_systems(
        [BundleOnDevices(tiny_bundle, devices)], ComparisonPlan(competitors=names)
    )
    assert (plain.label, plain.device) == ("transformers-fp16 on cuda:1", "cuda:1")
    assert (compiled.variant, compiled.device) == ("transformers-fp16-compile", "cuda:1")
    assert (on_cpu.label, on_cpu.device) == ("transformers", "cpu")


def test_the_checkpoint_of_a_bundle_is_accepted(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    check_same_weights(tiny_bundle, str(tiny_checkpoint))


def test_another_checkpoint_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    from florence_edge_export.synthetic import write_checkpoint

    write_checkpoint(tmp_path, "tiny", seed=4, image_size=64)
    with pytest.raises(RequestError, match=r"was not exported from .* --checkpoint DIR"):
        check_same_weights(tiny_bundle, str(tmp_path))


def test_a_checkpoint_that_is_gone_is_named(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"There is no checkpoint folder tiny.* --checkpoint"):
        check_same_weights(tiny_bundle, "tiny")
