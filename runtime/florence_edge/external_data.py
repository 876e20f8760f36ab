"""Where the tensors of an ONNX file lie that are not inside of it.

A file of onnx.proto names other files beside it ("external data"), by paths that an engine follows:
a stranger's could name any file of this machine. `relocate` meets every such path, wherever the
format allows one: initializers, sparse ones, constants in nodes, subgraphs, functions. It needs no
package, refuses what is not plainly encoded, and can put other names in their place.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """What a tensor says of its bytes: the file, and where they are in it.

    `length` is None where it is left out: all that follows `offset`.
    """

    location: str
    offset: int
    length: int | None


Locate = Callable[[ExternalTensor], ExternalTensor]
"""Gives the place to write instead of the tensor's, or the same; may raise."""

_MAX_DEPTH = 100  # messages within messages, as protobuf's own parsers allow
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}

# The fields of onnx.proto that lead to tensors, by message: number -> message inside.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_GRAPH = 7  # ModelProto.graph
_EXTERNAL_DATA = 13  # TensorProto.external_data, a StringStringEntryProto
_KEY, _VALUE = 1, 2  # of that entry


class _Field(NamedTuple):
    """A message, or text, in a message: its number there, and where it, and its bytes, lie."""

    number: int
    start: int
    value: int
    end: int


def relocate(model: bytes, locate: Locate) -> bytes:
    """The ONNX file with each external tensor at the place that `locate` gives.

    Where no place changes, the bytes that came in.

    Raises:
        ValueError: this is not an ONNX file, or one in an encoding that parsers may disagree on.
    """
    data = memoryview(model)
    if not any(_fields(data, (_GRAPH,))):
        raise ValueError("it has no graph")
    changed = _relocated(data, "model", locate, 0)
    return model if changed is None else changed


def _relocated(data: memoryview, message: str, locate: Locate, depth: int) -> bytes | None:
    """The message with other locations inside; None where nothing changes."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"messages are nested more than {_MAX_DEPTH} deep")
    if message == "tensor":
        return _relocated_tensor(data, locate)
    inside = _INSIDE[message]
    changes: list[tuple[_Field, bytes]] = []
    for field in _fields(data, inside):
        content = data[field.value : field.end]
        part = _relocated(content, inside[field.number], locate, depth + 1)
        if part is not None:
            changes.append((field, _encoded(field.number, part)))
    return _with_changes(data, changes)


def _relocated_tensor(data: memoryview, locate: Locate) -> bytes | None:
    found: dict[str, str] = {}
    places: dict[str, _Field] = {}
    for field in _fields(data, (_EXTERNAL_DATA,)):
        key, value = _entry(data[field.value : field.end])
        if key in found:
            raise ValueError(f"a tensor has two values for {key!r:.40}")
        found[key], places[key] = value, field
    if not found:
        return None
    if "location" not in found:
        raise ValueError("a tensor outside of the file has no location")
    tensor = ExternalTensor(
        found["location"],
        _whole_number(found.get("offset", "0")),
        _whole_number(found["length"]) if "length" in found else None,
    )
    moved = locate(tensor)
    if moved == tensor:
        return None
    first, *others = sorted(places.values(), key=lambda field: field.start)
    return _with_changes(
        data, [(first, _external_data(moved)), *((field, b"") for field in others)]
    )


def _external_data(tensor: ExternalTensor) -> bytes:
    """The entries of a tensor's external data."""
    values = {"location": tensor.location, "offset": str(tensor.offset)}
    if tensor.length is not None:
        values["length"] = str(tensor.length)
    entries = (_encoded(_KEY, key) + _encoded(_VALUE, value) for key, value in values.items())
    return b"".join(_encoded(_EXTERNAL_DATA, entry) for entry in entries)


def _entry(data: memoryview) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto, of which each stands there once."""
    parts: dict[int, str] = {}
    for field in _fields(data, (_KEY, _VALUE)):
        if field.number in parts:
            raise ValueError("an entry of external data is not one key and one value")
        text = bytes(data[field.value : field.end])
        parts[field.number] = text.decode()  # what is not UTF-8 is a ValueError, too
    return parts.get(_KEY, ""), parts.get(_VALUE, "")


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text!r:.40} is no place in a file")
    return int(text)


def _fields(data: memoryview, wanted: Container[int]) -> Iterator[_Field]:
    """The fields of a message that have these numbers, in their order; all are checked."""
    at, size = 0, len(data)
    while at < size:
        start = at
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(data, start, 5)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"it has a field numbered {number}")
        value = at
        if wire == _BYTES:
            length, value = _varint(data, at, 5)
            at = value + length
        elif wire == _VARINT:
            _, at = _varint(data, at, 10)
        elif wire in _FIXED:
            at += _FIXED[wire]
        else:
            raise ValueError(f"it has a field of wire type {wire}")
        if at > size:
            raise ValueError("it is cut short")
        if number in wanted:
            if wire != _BYTES:
                raise ValueError(f"field {number} is not a message")
            yield _Field(number, start, value, at)


def _varint(data: memoryview, at: int, longest: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    number = 0
    for shift in range(0, 7 * longest, 7):
        if at >= len(data):
            raise ValueError("it is cut short")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number has too many bytes")


def _with_changes(data: memoryview, changes: list[tuple[_Field, bytes]]) -> bytes | None:
    """The message with other bytes in place of some of its fields."""
    if not changes:
        return None
    parts: list[bytes | memoryview] = []
    kept = 0
    for field, encoded in changes:
        parts += [data[kept : field.start], encoded]
        kept = field.end
    return b"".join([*parts, data[kept:]])


def _encoded(number: int, content: bytes | str) -> bytes:
    """A field of bytes or text."""
    raw = content.encode() if isinstance(content, str) else content
    return _encoded_varint(number << 3 | _BYTES) + _encoded_varint(len(raw)) + raw


def _encoded_varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
