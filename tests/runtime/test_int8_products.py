"""int8 products on ONNX Runtime's CPU: exact on every processor."""

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from florence_edge.backends import int8_products
from florence_edge.backends.open import open_engine
from florence_edge.bundle import Bundle

pytest.importorskip("onnxruntime")


class Options:
    """Records what a session is told."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


def test_the_product_that_is_tried_is_what_its_comment_says() -> None:
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    values = {
        "a": (kinds.UINT8, ["m", "k"]),
        "b": (kinds.INT8, ["k", "n"]),
        "c": (kinds.INT32, ["m", "n"]),
    }
    a, b, c = (helper.make_tensor_value_info(name, *of) for name, of in values.items())
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "g", [a, b], [c]
    )
    opset = helper.make_opsetid("", 10)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="")
    assert onnx.load_model_from_string(int8_products._PRODUCT) == model


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="an x86-64 matter")
def test_products_saturate_where_the_processor_has_no_vnni() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert int8_products.int8_products_saturate() is not ("vnni" in flags)


@pytest.mark.parametrize("saturates", [True, False])
def test_sessions_are_told_only_where_products_saturate(
    saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_products, "int8_products_saturate", lambda: saturates)
    options = Options()
    assert int8_products.keep_products_exact(options) is saturates
    wanted = {"session.x64quantprecision": "1", "session.disable_quant_qdq": "1"}
    assert options.entries == (wanted if saturates else {})


@pytest.mark.parametrize("saturates", [True, False])
@pytest.mark.parametrize(("target", "named"), [("any", "portable"), ("cpu", "cpu")])
def test_int8_of_an_older_export_names_the_export_to_run_where_products_saturate(
    target: str,
    named: str,
    saturates: bool,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[bool] = []

    def saturate() -> bool:
        tried.append(saturates)
        return saturates

    monkeypatch.setattr(int8_products, "int8_products_saturate", saturate)
    exact = replace(Bundle.load(tiny_bundle), precision="int8", target=target)
    assert exact.exact_products
    open_engine(exact, "cpu", threads=1).backend.close()
    assert not tried  # nothing to find out
    assert not caplog.messages
    open_engine(replace(exact, exact_products=False), "cpu", threads=1).backend.close()
    assert (f"--precision int8 --target {named} --calibration" in caplog.text) is saturates


def test_the_largest_products_come_out_right_with_a_constant_weight() -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    weight = np.full((64, 16), 127, np.int8)
    model = onnx.load_model_from_string(int8_products._PRODUCT)
    del model.graph.input[1]
    # With zero points, as our bundles have them: ONNX Runtime 1.20 aborts without.
    for name, values in (("b", weight), ("a_zero", np.uint8(0)), ("b_zero", np.int8(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values), name))
    model.graph.node[0].input.extend(["a_zero", "b_zero"])
    options = onnxruntime.SessionOptions()
    int8_products.keep_products_exact(options)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"a": np.full((3, 64), 255, np.uint8)})
    assert (found == 64 * 255 * 127).all()
