"""onnxruntime-gpu for one visit: trimmed, packed and cut into what a call may carry.

    python -m gpu.parts cut WHEEL FOLDER 9.0     here: FOLDER/1, FOLDER/2 and what they hold
    python -m gpu.parts join FOLDER SITE         there: the package in SITE, its hash checked

A call carries 64 MiB, the repository included, and the wheel has 255 MB: of the CUDA provider only
the code for the GPU that is visited stays, and what the runtime does not need is left out.
"""

import hashlib
import io
import json
import lzma
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

from .fat_binaries import keep_only

NAME = "onnxruntime.tar.xz"
DESCRIBED = f"{NAME}.json"
PARTS = 2
_PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
_LEFT_OUT = (
    *(f"onnxruntime/{name}/" for name in ("transformers", "tools", "quantization", "datasets")),
    *("onnxruntime/backend/", "onnxruntime/capi/libonnxruntime.so"),
    *("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", "onnxruntime/ThirdPartyNotices.txt"),
)
_PRESET = 6  # of xz: 52 MB for the provider, in about a minute of one core; 9 brings 1 MB more


def cut(wheel: Path, folder: Path, *capabilities: str) -> None:
    """Write the parts, each into a folder of its own that one call carries."""
    packed = pack(wheel, *capabilities)
    size = -(-len(packed) // PARTS)
    for index in range(PARTS):
        place = folder / str(index + 1)
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob(f"{NAME}*"):
            old.unlink()
        part = packed[index * size : (index + 1) * size]
        (place / f"{NAME}.part-{index + 1}").write_bytes(part)
        sys.stdout.write(f"{place}: {len(part) / 2**20:.1f} MiB\n")
    described = {
        **{"wheel": wheel.name, "capabilities": capabilities, "parts": PARTS},
        **{"bytes": len(packed), "sha256": hashlib.sha256(packed).hexdigest()},
    }
    # With the last part: where it is, all are.
    (place / DESCRIBED).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def pack(wheel: Path, *capabilities: str) -> bytes:
    """The package of a wheel as .tar.xz, with code for these compute capabilities alone."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(wheel) as files,
        lzma.open(packed, "wb", preset=_PRESET) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as archive,
    ):
        for name in sorted(files.namelist()):
            if name.endswith("/") or name.startswith(_LEFT_OUT):
                continue
            content = bytearray(files.read(name))
            if name == _PROVIDER:
                keep_only(content, capabilities)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def join(folder: Path, site: Path) -> None:
    """Unpack the parts that were kept in `folder`.

    Raises:
        ValueError: a part is missing or damaged.
    """
    try:
        described = json.loads((folder / DESCRIBED).read_text(encoding="utf-8"))
        names = [f"{NAME}.part-{index + 1}" for index in range(described["parts"])]
        packed = b"".join((folder / name).read_bytes() for name in names)
    except FileNotFoundError as error:
        raise ValueError(f"{Path(error.filename).name} was not carried: keep it first") from error
    if hashlib.sha256(packed).hexdigest() != described["sha256"]:
        raise ValueError("a part is damaged: the hash of all together is another. Carry them again")
    shutil.rmtree(site / "onnxruntime", ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed)), mode="r:") as archive:
        archive.extractall(site, filter="data")
    sys.stdout.write(f"{described['wheel']}, {described['capabilities']}, is in {site}\n")


if __name__ == "__main__":
    try:
        if sys.argv[1] == "cut":
            cut(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
        else:
            join(Path(sys.argv[2]), Path(sys.argv[3]))
    except ValueError as error:
        sys.exit(f"gpu.parts: {error}.")
