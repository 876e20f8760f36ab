from pathlib import Path

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.speed.entrants import Comparison, Entrant, entrant_of, systems_of
from florence_edge_benchmarks.systems.devices import device_of


def test_every_bundle_runs_on_every_device(tiny_bundle: Path) -> None:
    devices = tuple(map(device_of, ("cpu", "openvino", "openvino+bf16")))
    found = systems_of([Entrant(tiny_bundle, devices)], Comparison(threads=2))
    labels = ["fp32 on cpu", "fp32 on openvino", "fp32 on openvino, bf16"]
    assert [system.label for system in found] == labels
    assert [system.engine_precision for system in found] == ["", "", "bf16"]
    assert {system.threads for system in found} == {2}


def test_two_bundles_of_one_kind_are_told_apart(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other"
    copy.symlink_to(tiny_bundle)
    labels = [
        system.label for system in systems_of([Entrant(tiny_bundle), Entrant(copy)], Comparison())
    ]
    assert labels == [f"fp32 on cpu ({tiny_bundle.name})", "fp32 on cpu (other)"]
    again = tmp_path / "elsewhere" / tiny_bundle.name
    again.parent.mkdir()
    again.symlink_to(tiny_bundle)
    found = systems_of([Entrant(tiny_bundle), Entrant(again)], Comparison())
    labels = [system.label for system in found]
    assert labels == [f"fp32 on cpu ({tiny_bundle})", f"fp32 on cpu ({again})"]


def test_competitors_take_the_checkpoint_that_the_bundle_names(tiny_bundle: Path) -> None:
    comparison = Comparison(competitors=["transformers-bf16"])
    (_, found) = systems_of([Entrant(tiny_bundle)], comparison)
    assert (found.kind, found.variant, found.checkpoint) == (
        "transformers", "transformers-bf16", "tiny"
    )  # fmt: skip
    given = Comparison(competitors=["transformers"], checkpoint="elsewhere")
    assert systems_of([Entrant(tiny_bundle)], given)[-1].checkpoint == "elsewhere"


def test_competitors_are_compared_with_a_bundle_that_could_be_made(tiny_bundle: Path) -> None:
    bundles = [Entrant(Path("failed")), Entrant(tiny_bundle)]
    found = systems_of(bundles, Comparison(competitors=["transformers"]), failed=["failed"])
    assert [system.bundle for system in found] == ["failed", str(tiny_bundle), str(tiny_bundle)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keras", "There is no 'keras' to compare with: transformers,"),
        ("optimum", "--optimum-python"),
        ("optimum@cuda", "on the CPU alone"),
        ("transformers@openvino", "transformers runs on cpu, cuda or cuda:N"),
        ("transformers@tensorrt", "transformers runs on cpu, cuda or cuda:N"),
    ],
)
def test_impossible_competitors_say_what_to_do(tiny_bundle: Path, name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        systems_of([Entrant(tiny_bundle)], Comparison(competitors=[name]))
    with pytest.raises(RequestError, match="name one, or use --architecture"):
        systems_of([], Comparison(competitors=["transformers"]))


def test_a_bundle_may_bring_its_own_devices(tmp_path: Path) -> None:
    given = (device_of("cpu"),)
    assert entrant_of("b", given) == Entrant(Path("b"), given)
    own = entrant_of("a/b@cuda,openvino+bf16", given)
    assert own == Entrant(Path("a/b"), (device_of("cuda"), device_of("openvino+bf16")))
    odd = tmp_path / "at@home"
    odd.mkdir()
    assert entrant_of(str(odd), given) == Entrant(odd, given)
    assert entrant_of(f"{odd}@cuda", given) == Entrant(odd, (device_of("cuda"),))


def test_what_is_named_twice_runs_once(tiny_bundle: Path) -> None:
    twice = [Entrant(tiny_bundle), Entrant(tiny_bundle)]
    found = systems_of(twice, Comparison(competitors=["transformers", "transformers"]))
    assert [system.label for system in found] == ["fp32 on cpu", "transformers"]


def test_transformers_is_where_the_bundles_are(tiny_bundle: Path) -> None:
    devices = tuple(map(device_of, ("cpu", "tensorrt:1")))
    names = ["transformers-fp16", "transformers-fp16-compile", "transformers@cpu"]
    *_, plain, compiled, on_cpu = systems_of(
        [Entrant(tiny_bundle, devices)], Comparison(competitors=names)
    )
    assert (plain.label, plain.device) == ("transformers-fp16 on cuda:1", "cuda:1")
    assert (compiled.variant, compiled.device) == ("transformers-fp16-compile", "cuda:1")
    assert (on_cpu.label, on_cpu.device) == ("transformers", "cpu")
