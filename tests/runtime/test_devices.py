"""Device strings."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge import Device, RequestError
from florence_edge.devices import WRITTEN


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("auto", Device("auto")),
        ("cpu", Device("cpu")),
        ("cuda", Device("cuda")),
        ("cuda:1", Device("cuda", 1)),
        ("tensorrt", Device("tensorrt")),
        ("tensorrt:2", Device("tensorrt", 2)),
        ("tensorrt-rtx", Device("tensorrt-rtx")),
        ("tensorrt-rtx:12", Device("tensorrt-rtx", 12)),
        ("openvino", Device("openvino")),
        ("openvino:GPU", Device("openvino", openvino_device="GPU")),
        ("openvino:GPU.1", Device("openvino", openvino_device="GPU.1")),
        ("openvino:NPU", Device("openvino", openvino_device="NPU")),
    ],
)
def test_a_device_is_read_and_written_as_users_write_it(text: str, device: Device) -> None:
    assert Device.parse(text) == device
    assert str(device) == text
    assert Device.parse(device) is device


@pytest.mark.parametrize(
    ("text", "shortest"),
    [("cuda:0", "cuda"), ("tensorrt:00", "tensorrt"), ("openvino:CPU", "openvino")],
)
def test_what_goes_without_saying_is_left_out(text: str, shortest: str) -> None:
    assert str(Device.parse(text)) == shortest
    assert Device.parse(text) == Device.parse(shortest)


@given(st.from_regex(r"(cuda|tensorrt|tensorrt-rtx)(:[0-9]{1,3})?|openvino:[A-Z]+", fullmatch=True))
def test_what_is_written_is_read_as_the_same_device(text: str) -> None:
    device = Device.parse(text)
    assert Device.parse(str(device)) == device


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "tpu",
            "CPU",
            "cpu:0",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "cuda:1:2",
            "cuda:1.5",
            "gpu",
            "auto:1",
        ),
        *(" cuda", "cuda\n", "tensorrt-", "tensorrt_rtx", "openvino:gpu", "openvino:"),
        *("openvino:GPU.", "openvino:GPU.x", None, 0, b"cpu", ["cpu"]),
    ],
)
def test_what_is_not_a_device_is_refused_with_those_there_are(text: Any) -> None:
    with pytest.raises(RequestError, match="There is no device") as refused:
        Device.parse(text)
    assert repr(text) in str(refused.value)
    assert all(written in str(refused.value) for written in WRITTEN)


def test_the_devices_that_are_listed_can_be_read() -> None:
    for written in WRITTEN:
        assert Device.parse(written.replace("N", "0")).engine in written


def test_families_and_nvidia_gpus() -> None:
    devices = {text: Device.parse(text) for text in ("cpu", "cuda", "tensorrt", "openvino")}
    devices["tensorrt-rtx"] = Device.parse("tensorrt-rtx:1")
    assert {text for text, device in devices.items() if device.on_nvidia} == {
        *("cuda", "tensorrt", "tensorrt-rtx")
    }
    assert devices["tensorrt-rtx"].family == devices["tensorrt"].family == "tensorrt"
    assert devices["cuda"].family == "cuda"
