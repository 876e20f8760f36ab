import pytest

from florence_edge import Device
from florence_edge.errors import RequestError
from florence_edge_benchmarks.systems.system import SystemDevice, parse_device


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
    found = parse_device(text)
    assert found == SystemDevice(Device.parse(engine), precision)
    assert found.name == name


def test_a_precision_for_all_goes_to_those_that_have_a_choice_and_name_none() -> None:
    texts = ("cpu", "openvino", "openvino+fp32")
    found = [parse_device(text, precision="bf16").name for text in texts]
    assert found == ["cpu", "openvino, bf16", "openvino, fp32"]


@pytest.mark.parametrize(
    ("text", "gpu"),
    [("cuda", 0), ("cuda:2", 2), ("tensorrt", 0), ("tensorrt-rtx:1", 1)],
)
def test_nvidias_gpus_have_a_number(text: str, gpu: int) -> None:
    assert parse_device(text).gpu == gpu


@pytest.mark.parametrize("text", ["cpu", "openvino:GPU.0"])
def test_others_have_none(text: str) -> None:
    assert parse_device(text).gpu is None


@pytest.mark.parametrize("text", ["", "+bf16", "a@b", "a b", "cudax", "openvino+", "cpu+b+c"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"devices are: auto, cpu|Expected cpu, cuda:1 or open"):
        parse_device(text)
