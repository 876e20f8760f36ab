import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.systems.devices import Device, device_of


@pytest.mark.parametrize(
    ("text", "engine", "precision", "name"),
    [
        ("cpu", "cpu", "", "cpu"),
        ("openvino:GPU.0", "openvino:GPU.0", "", "openvino:GPU.0"),
        ("openvino+bf16", "openvino", "bf16", "openvino, bf16"),
    ],
)
def test_a_device_is_written_with_its_precision_behind_it(
    text: str, engine: str, precision: str, name: str
) -> None:
    found = device_of(text)
    assert found == Device(engine, precision)
    assert found.name == name


def test_a_precision_for_all_goes_to_those_that_have_a_choice_and_say_none() -> None:
    texts = ("cpu", "openvino", "openvino+fp32")
    found = [device_of(text, precision="bf16").name for text in texts]
    assert found == ["cpu", "openvino, bf16", "openvino, fp32"]


@pytest.mark.parametrize(
    ("text", "gpu"),
    [("cuda", 0), ("cuda:2", 2), ("tensorrt", 0), ("tensorrt-rtx:1", 1)],
)
def test_nvidias_gpus_have_a_number(text: str, gpu: int) -> None:
    assert device_of(text).gpu == gpu


@pytest.mark.parametrize("text", ["cpu", "openvino:GPU.0", "cudax"])
def test_others_have_none(text: str) -> None:
    assert device_of(text).gpu is None


@pytest.mark.parametrize("text", ["", "+bf16", "a+b+c", "a@b", "a b"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="Expected cpu, cuda:1 or openvino"):
        device_of(text)
