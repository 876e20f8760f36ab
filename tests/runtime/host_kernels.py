"""kernels.cu compiled by the host's C++ compiler: its own arithmetic, run.

The threads of a block run one after the other, in either order; where a kernel has barriers, each
runs to the next of them before any goes on, which is an error if some reach none.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from florence_edge.cuda.kernels import CONSTANTS, THREADS

from .fake_kernels import SIGNATURES

_C_TYPES = {ctypes.c_void_p: "void*", ctypes.c_int: "int", ctypes.c_longlong: "long long"}

_BEFORE = """
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>
struct Dim { int x, y, z; };
static Dim blockIdx, blockDim, threadIdx, gridDim;
#define __global__
#define __device__
#define __shared__ static
static void atomicAdd(int* at, int value) { *at += value; }
static void atomicOr(unsigned* at, unsigned bits) { *at |= bits; }

struct Thread { ucontext_t context; std::vector<char> stack; bool done; };
static std::vector<Thread> threads;
static ucontext_t between;
static std::function<void()> body;
static void __syncthreads() { swapcontext(&threads[threadIdx.x].context, &between); }
static void enter()
{
    body();
    threads[threadIdx.x].done = true;
    swapcontext(&threads[threadIdx.x].context, &between);
}
// Whether all threads reached the same barriers.
static bool run_block(bool backwards)
{
    int count = blockDim.x, finished = 0;
    threads.resize(count);
    for (Thread& thread : threads) {
        thread.stack.resize(1 << 14);
        thread.done = false;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        makecontext(&thread.context, enter, 0);
    }
    while (!finished) {
        for (int i = 0; i < count; ++i) {
            threadIdx.x = backwards ? count - 1 - i : i;
            swapcontext(&between, &threads[threadIdx.x].context);
            finished += threads[threadIdx.x].done;
        }
    }
    return finished == count;
}
"""

_RUN = """
extern "C" int run_{name}(int gx, int gy, int gz, int bx, int barriers, int backwards, void** a)
{{
    gridDim = {{gx, gy, gz}}; blockDim = {{bx, 1, 1}};
    auto call = [a] {{ {name}({arguments}); }};
    body = call;
    for (blockIdx.z = 0; blockIdx.z < gz; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < gy; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < gx; ++blockIdx.x)
        if (barriers) {{
            if (!run_block(backwards))
                return 1;
        }} else
            for (threadIdx.x = 0; threadIdx.x < bx; ++threadIdx.x)
                call();
    return 0;
}}
"""

Launch = Callable[..., None]  # (name, (x, y, z) threads, *arguments)


def compile_for_host(folder: Path) -> Launch:
    """A launch over the compiled kernels; skips where there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    kernels = (files("florence_edge.cuda") / "kernels.cu").read_text(encoding="utf-8")
    source = _BEFORE + kernels
    for name, kinds in SIGNATURES.items():
        arguments = ", ".join(
            f"({_typed(kernels, name, i)})*({_C_TYPES[kind]}*)a[{i}]"
            for i, kind in enumerate(kinds)
        )
        source += _RUN.format(name=name, arguments=arguments)
    (folder / "kernels.cpp").write_text(source, encoding="utf-8")
    options = [f"-D{name}={value}" for name, value in CONSTANTS.items()]
    library = folder / "kernels.so"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", *options, "-o", library, folder / "kernels.cpp"],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))

    def launch(
        name: str, threads: tuple[int, int, int], *arguments: Any, backwards: bool = False
    ) -> None:
        kinds = SIGNATURES[name]
        values = [kind(argument) for kind, argument in zip(kinds, arguments, strict=True)]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        x, y, z = threads
        barriers = "__syncthreads" in _text_of(kernels, name)
        grid = -(-x // THREADS), y, z
        failed = getattr(loaded, f"run_{name}")(*grid, THREADS, barriers, backwards, addresses)
        assert not failed, f"some threads of {name} wait where others do not"

    return launch


def _text_of(kernels: str, name: str) -> str:
    return kernels.partition(f"void {name}(")[2].partition("\n}\n")[0]


def _typed(kernels: str, name: str, argument: int) -> str:
    """The C type of an argument as kernels.cu declares it."""
    declared = _text_of(kernels, name).partition(")")[0].split(",")[argument]
    return declared.strip().rpartition(" ")[0]
