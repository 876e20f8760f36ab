"""The machine code in a CUDA library by GPU, and the library without that for other GPUs.

    python -m gpu.fat_binaries LIBRARY [OUTPUT 9.0 ...]

lists what there is and, with an output, writes the library with the code for all but the named
compute capabilities zeroed: it loads as before, and then compresses to a part of its size. A kernel
of which no code is left fails with cudaErrorNoKernelImageForDevice.

nvcc puts code into containers (fatbinary.h of the CUDA toolkit has the first header, the second was
read off libraries): magic 0xBA55ED50, u16 version 1, u16 bytes of this header, u64 bytes behind it;
then one entry behind the other: u16 kind, u16, u32 bytes of its header, u64 bytes of code, and at
byte 28 of the header the compute capability as u32 (90 is 9.0).
"""

import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = struct.pack("<I", 0xBA55ED50)
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQ")
_KINDS = {1: "PTX", 2: "SASS"}
_CAPABILITY_AT = 28
_LONGEST_HEADER = 256


class Code(NamedTuple):
    """What one kernel file is compiled to for one GPU: `library[begin:end]`."""

    kind: str
    capability: str
    begin: int
    end: int


def find_code(library: bytes | bytearray) -> Iterator[Code]:
    """All code in a library, in its order.

    Raises:
        ValueError: a container holds what this program does not know.
    """
    at = 0
    while (at := library.find(_MAGIC, at)) >= 0:
        _, version, header, size = _CONTAINER.unpack_from(library, at)
        end = at + header + size
        if (version, header) != (1, _CONTAINER.size) or end > len(library):
            at += len(_MAGIC)  # the same four bytes by chance
            continue
        yield from _entries(library, at + header, end)
        at = end


def _entries(library: bytes | bytearray, at: int, end: int) -> Iterator[Code]:
    while at + _ENTRY.size < end:  # at most padding is left
        kind, _, header, size = _ENTRY.unpack_from(library, at)
        if kind not in _KINDS or not _CAPABILITY_AT < header <= _LONGEST_HEADER:
            raise ValueError(f"byte {at} holds code of kind {kind}; expected {_KINDS}")
        (capability,) = struct.unpack_from("<I", library, at + _CAPABILITY_AT)
        begin, at = at + header, at + header + size
        yield Code(_KINDS[kind], f"{capability // 10}.{capability % 10}", begin, at)


def keep_only(library: bytearray, capabilities: Collection[str]) -> int:
    """Zero the code for other GPUs in place.

    Returns:
        How many bytes were zeroed.

    Raises:
        ValueError: there is none for one of `capabilities`.
    """
    code = list(find_code(library))
    if absent := set(capabilities) - {each.capability for each in code}:
        raise ValueError(f"there is no code for {', '.join(sorted(absent))} in this library")
    others = [each for each in code if each.capability not in capabilities]
    for each in others:
        library[each.begin : each.end] = bytes(each.end - each.begin)
    return sum(each.end - each.begin for each in others)


def main(library: Path, output: Path | None = None, *capabilities: str) -> None:
    content = bytearray(library.read_bytes())
    sizes: Counter[tuple[str, str]] = Counter()
    for each in find_code(content):
        sizes[each.capability, each.kind] += each.end - each.begin
    for (capability, kind), size in sorted(sizes.items()):
        sys.stdout.write(f"{capability:>5} {kind:5} {size / 1e6:8.1f} MB\n")
    if output is not None:
        zeroed = keep_only(content, capabilities)
        output.write_bytes(content)
        sys.stdout.write(f"zeroed {zeroed / 1e6:.1f} of {len(content) / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None, *sys.argv[3:])
