"""No graph sends an engine to another file than its bundle's weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge import BundleError, Florence2
from florence_edge.external_data import ExternalTensor, relocate

from ..helpers.manifests import write_hash
from ..helpers.thorough import examples

DecodeError = pytest.importorskip("google.protobuf.message").DecodeError  # it has no types


def tensor(location: str = "/etc/passwd", **places: str) -> onnx.TensorProto:
    found = onnx.TensorProto(name="t", data_type=onnx.TensorProto.UINT8, dims=[4])
    found.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "4", **places}.items():
        found.external_data.add(key=key, value=value)
    return found


def empty_graph(**fields: Any) -> onnx.GraphProto:
    return onnx.GraphProto(name="g", **fields)


def node(*attributes: onnx.AttributeProto) -> onnx.NodeProto:
    return onnx.NodeProto(op_type="Constant", output=["c"], attribute=attributes)


def attribute(**fields: Any) -> onnx.AttributeProto:
    return onnx.AttributeProto(name="value", **fields)


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


INSIDE = onnx.TensorProto(name="i", data_type=onnx.TensorProto.INT64, dims=[1], int64_data=[0])

# Every place of onnx.proto that a tensor can stand at.
PLACES: dict[str, Callable[[onnx.TensorProto], dict[str, Any]]] = {
    "initializer": lambda t: {"graph": empty_graph(initializer=[t])},
    "sparse values": lambda t: {"graph": empty_graph(sparse_initializer=[sparse(t, INSIDE)])},
    "sparse indices": lambda t: {"graph": empty_graph(sparse_initializer=[sparse(INSIDE, t)])},
    "constant": lambda t: {"graph": empty_graph(node=[node(attribute(t=t))])},
    "constants": lambda t: {"graph": empty_graph(node=[node(attribute(tensors=[INSIDE, t]))])},
    "sparse constant": lambda t: {
        "graph": empty_graph(node=[node(attribute(sparse_tensor=sparse(t, INSIDE)))])
    },
    "sparse constants": lambda t: {
        "graph": empty_graph(node=[node(attribute(sparse_tensors=[sparse(INSIDE, t)]))])
    },
    "subgraph": lambda t: {
        "graph": empty_graph(node=[node(attribute(g=empty_graph(initializer=[t])))])
    },
    "subgraphs": lambda t: {
        "graph": empty_graph(
            node=[node(attribute(graphs=[empty_graph(), empty_graph(initializer=[t])]))]
        )
    },
    "subgraph of a subgraph": lambda t: {
        "graph": empty_graph(
            node=[
                node(
                    attribute(g=empty_graph(node=[node(attribute(g=empty_graph(initializer=[t])))]))
                )
            ]
        )
    },
    "function": lambda t: {
        "graph": empty_graph(),
        "functions": [onnx.FunctionProto(name="f", node=[node(attribute(t=t))])],
    },
    "default of a function": lambda t: {
        "graph": empty_graph(),
        "functions": [onnx.FunctionProto(name="f", attribute_proto=[attribute(t=t)])],
    },
    "training": lambda t: {
        "graph": empty_graph(),
        "training_info": [onnx.TrainingInfoProto(algorithm=empty_graph(initializer=[t]))],
    },
    "initialization of training": lambda t: {
        "graph": empty_graph(),
        "training_info": [onnx.TrainingInfoProto(initialization=empty_graph(initializer=[t]))],
    },
}


def found_in(model: bytes) -> list[ExternalTensor]:
    met: list[ExternalTensor] = []

    def keep(tensor: ExternalTensor) -> ExternalTensor:
        met.append(tensor)
        return tensor

    assert relocate(model, keep) == model
    return met


def external_in(message: Any) -> list[str]:
    """The locations that protobuf itself finds, wherever they are."""
    found = []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        values = [value] if hasattr(value, "ListFields") else list(value)
        if field.name == "external_data":
            found += [entry.value for entry in values if entry.key == "location"]
        else:
            for each in values:
                found += external_in(each)
    return found


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_met_wherever_the_format_allows_one(place: str) -> None:
    model = onnx.ModelProto(ir_version=10, **PLACES[place](tensor(offset="64")))
    assert external_in(model) == ["/etc/passwd"]
    assert found_in(model.SerializeToString()) == [ExternalTensor("/etc/passwd", 64, 4)]


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_moved_wherever_it_stands_and_nothing_else_is(place: str) -> None:
    def model(found: onnx.TensorProto) -> onnx.ModelProto:
        return onnx.ModelProto(ir_version=10, producer_name="p" * 200, **PLACES[place](found))

    new = ExternalTensor("b" * 300, 2**63, None)
    moved = onnx.load_from_string(relocate(model(tensor()).SerializeToString(), lambda _: new))
    expected = onnx.TensorProto()
    expected.CopyFrom(tensor())
    del expected.external_data[:]
    expected.external_data.add(key="location", value=new.location)
    expected.external_data.add(key="offset", value=str(2**63))
    assert moved == model(expected)


def test_all_fields_of_the_format_that_lead_to_tensors_are_followed() -> None:
    """Compared with the installed package's own description of the format."""
    from florence_edge.external_data import _INSIDE

    names = {
        "ModelProto": "model",
        "TrainingInfoProto": "training",
        "GraphProto": "graph",
        "FunctionProto": "function",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
    }

    def leads_to_tensors(kind: Any, seen: frozenset[str] = frozenset()) -> bool:
        if kind.name == "TensorProto":
            return True
        return any(
            field.message_type is not None
            and field.message_type.name not in seen
            and leads_to_tensors(field.message_type, seen | {field.message_type.name})
            for field in kind.fields
        )

    for name, ours in names.items():
        kind = getattr(onnx, name).DESCRIPTOR
        expected = {
            field.number: names[field.message_type.name]
            for field in kind.fields
            if field.message_type is not None and leads_to_tensors(field.message_type)
        }
        assert expected == (_INSIDE[ours] if ours != "tensor" else {}), name


@pytest.mark.parametrize(
    "places",
    [{"offset": "-1"}, {"offset": "1e3"}, {"length": "x"}, {"offset": "9" * 30}, {"offset": ""}],
)
def test_a_place_that_is_no_number_is_refused(places: dict[str, str]) -> None:
    model = onnx.ModelProto(graph=empty_graph(initializer=[tensor(**places)]))
    with pytest.raises(ValueError, match="is no place in a file"):
        found_in(model.SerializeToString())


def test_a_second_location_is_refused() -> None:
    twice = tensor("weights.bin")
    twice.external_data.add(key="location", value="/etc/passwd")
    model = onnx.ModelProto(graph=empty_graph(initializer=[twice]))
    with pytest.raises(ValueError, match="two values for 'location'"):
        found_in(model.SerializeToString())


def test_messages_are_followed_only_so_deep() -> None:
    graph = b""
    for _ in range(60):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # the graph of an attribute of a node of a graph
            graph = tag + _varint(len(graph)) + graph
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        found_in(b"\x3a" + _varint(len(graph)) + graph)


def _varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80, number >> 7])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x3a",
        b"\x3a\x05abc",
        b"\x38\x01",  # the graph as a number
        b"\x3a\xff\xff\xff\xff\x7f",
        b"\x3a" + b"\xff" * 20,
        b"\x3b\x3c\x3a\x00",  # a group
        b"\x00\x00\x3a\x00",  # a field numbered 0
        b"<?xml version='1.0'?><net/>",
        b"\xba\x80\x80\x80\x80\x01\x00",  # a tag of six bytes
    ],
)
def test_what_is_no_plain_model_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"it |field|number"):
        relocate(content, lambda found: found)


def test_fields_are_recognized_in_longer_encodings_too() -> None:
    """Protobuf reads 0xba 0x00 as the tag 0x3a: a graph could hide behind it."""
    graph = empty_graph(initializer=[tensor()]).SerializeToString()
    model = b"\xba\x00" + bytes([len(graph) | 0x80, 0]) + graph
    assert external_in(onnx.load_from_string(model)) == ["/etc/passwd"]
    assert [each.location for each in found_in(model)] == ["/etc/passwd"]


def test_parts_of_a_graph_that_protobuf_joins_are_all_met() -> None:
    parts = [empty_graph(initializer=[tensor(name)]).SerializeToString() for name in ("a", "b")]
    model = b"".join(b"\x3a" + bytes([len(part)]) + part for part in parts)
    assert external_in(onnx.load_from_string(model)) == ["a", "b"]
    assert [each.location for each in found_in(model)] == ["a", "b"]


@settings(max_examples=examples(300))
@given(data=st.data())
def test_whatever_protobuf_reads_is_met_or_refused(data: st.DataObject) -> None:
    """Random damage to models with a tensor at a random place: no location goes by unseen."""
    place = data.draw(st.sampled_from(sorted(PLACES)))
    content = bytearray(onnx.ModelProto(**PLACES[place](tensor())).SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            content[at:at] = data.draw(st.binary(max_size=4))
    try:
        met = [each.location for each in found_in(bytes(content))]
    except ValueError:
        return
    try:
        model = onnx.load_from_string(bytes(content))
    except DecodeError:  # and with it every engine
        return
    assert sorted(external_in(model)) == sorted(met)


@pytest.mark.parametrize("place", ["initializer", "subgraph of a subgraph", "function"])
@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../secret.bin", "secret.bin", "sub/../weights.bin", "*/_ORT_MEM_ADDR_/*", ""],
)
def test_a_bundle_that_names_another_file_is_refused_before_an_engine_sees_it(
    fresh_bundle: Path, monkeypatch: pytest.MonkeyPatch, place: str, location: str
) -> None:
    monkeypatch.setattr("florence_edge.model.open_engine", None)  # would be a TypeError
    path = fresh_bundle / "decoder.onnx"
    model = onnx.load(path, load_external_data=False)
    model.MergeFrom(onnx.ModelProto(**PLACES[place](tensor(location))))
    path.write_bytes(model.SerializeToString())
    write_hash(fresh_bundle, path.name)
    (fresh_bundle.parent / "secret.bin").write_bytes(bytes(64))
    with pytest.raises(BundleError, match=r"decoder\.onnx is not a graph .* a tensor lies in "):
        Florence2.load(fresh_bundle)


def test_a_tensor_beyond_the_end_of_the_weights_is_refused(fresh_bundle: Path) -> None:
    path = fresh_bundle / "decoder.onnx"
    model = onnx.load(path, load_external_data=False)
    size = (fresh_bundle / "weights.bin").stat().st_size
    model.graph.initializer.append(tensor("weights.bin", offset=str(size - 3)))
    path.write_bytes(model.SerializeToString())
    write_hash(fresh_bundle, path.name)
    with pytest.raises(BundleError, match=r"ends at byte \d+, behind the end of weights\.bin"):
        Florence2.load(fresh_bundle)
