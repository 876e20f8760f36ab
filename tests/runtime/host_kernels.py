"""kernels.cu compiled by the host's C++ compiler, thread after thread: its own arithmetic, run."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from florence_edge import contract
from florence_edge.cuda.kernels import PRECISION_BITS

from .fake_kernels import SIGNATURES

_C_TYPES = {ctypes.c_void_p: "void*", ctypes.c_int: "int", ctypes.c_longlong: "long long"}

_BEFORE = """
struct Dim { int x, y, z; };
static Dim blockIdx, blockDim, threadIdx, gridDim;
#define __global__
"""

_LOOP = """
    gridDim = {gx, gy, gz}; blockDim = {bx, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < gz; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < gy; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < gx; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < bx; ++threadIdx.x)
"""

Launch = Callable[..., None]  # (name, (x, y, z) threads, *arguments)


def compile_for_host(folder: Path) -> Launch:
    """A launch over the compiled kernels; skips where there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    source = _BEFORE + (files("florence_edge.cuda") / "kernels.cu").read_text(encoding="utf-8")
    for name, kinds in SIGNATURES.items():
        arguments = ", ".join(
            f"({_typed(name, i)})*({_C_TYPES[kind]}*)a[{i}]" for i, kind in enumerate(kinds)
        )
        source += f'extern "C" void run_{name}(int gx, int gy, int gz, int bx, void** a)'
        source += f"{{ {_LOOP} {name}({arguments}); }}\n"
    (folder / "kernels.cpp").write_text(source, encoding="utf-8")
    options = [f"-DMAX_BEAMS={contract.MAX_BEAMS}", f"-DPRECISION_BITS={PRECISION_BITS}"]
    library = folder / "kernels.so"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", *options, "-o", library, folder / "kernels.cpp"],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))

    def launch(name: str, threads: tuple[int, int, int], *arguments: Any) -> None:
        block = 64
        kinds = SIGNATURES[name]
        values = [kind(argument) for kind, argument in zip(kinds, arguments, strict=True)]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        x, y, z = threads
        getattr(loaded, f"run_{name}")(-(-x // block), y, z, block, addresses)

    return launch


def _typed(name: str, argument: int) -> str:
    """The C type of an argument as kernels.cu declares it."""
    text = (files("florence_edge.cuda") / "kernels.cu").read_text(encoding="utf-8")
    declared = text.partition(f"void {name}(")[2].partition(")")[0].split(",")[argument]
    return declared.strip().rpartition(" ")[0]
