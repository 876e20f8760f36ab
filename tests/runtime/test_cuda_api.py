"""The functions of CUDA that are called: NVIDIA's names, arguments, numbers and errors."""

import re
from typing import Any

import pytest

from florence_edge.cuda import api
from florence_edge.cuda.api import FUNCTIONS, Enum, Out


def module_of(cuda_bindings: Any, name: str) -> Any:
    if name.startswith("cuda"):
        return cuda_bindings.runtime
    return cuda_bindings.nvrtc if name.startswith("nvrtc") else cuda_bindings.driver


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_exists_in_cuda_bindings_with_as_many_arguments(
    cuda_bindings: Any, name: str
) -> None:
    signature = getattr(module_of(cuda_bindings, name), name).__doc__.splitlines()[0]
    matched = re.fullmatch(rf"{name}\((.*)\)", signature)
    assert matched
    listed = re.sub(r"\[.*?\]", "", matched[1])  # Optional[tuple[bytes] | ...]
    given = [kind for kind in FUNCTIONS[name] if not isinstance(kind, Out)]
    assert len([part for part in listed.split(",") if part.strip()]) == len(given)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_enumeration_is_where_cuda_bindings_want_one(cuda_bindings: Any, name: str) -> None:
    signature = getattr(module_of(cuda_bindings, name), name).__doc__.splitlines()[0]
    wanted = set(re.findall(r": ((?:cuda|CU)\w+)", signature))
    assert wanted == {kind.name for kind in FUNCTIONS[name] if isinstance(kind, Enum)}


def test_the_numbers_are_those_of_cuda(cuda_bindings: Any) -> None:
    runtime = cuda_bindings.runtime
    attributes = runtime.cudaDeviceAttr
    assert attributes.cudaDevAttrIntegrated == api.ATTRIBUTE_INTEGRATED
    assert attributes.cudaDevAttrComputeCapabilityMajor == api.ATTRIBUTE_MAJOR
    assert attributes.cudaDevAttrComputeCapabilityMinor == api.ATTRIBUTE_MINOR
    assert runtime.cudaHostAllocMapped == api.HOST_ALLOC_MAPPED
    assert runtime.cudaStreamNonBlocking == api.STREAM_NON_BLOCKING
    assert runtime.cudaEventDisableTiming == api.EVENT_DISABLE_TIMING
    assert runtime.cudaMemcpyKind.cudaMemcpyDefault == api.COPY_DEFAULT
    capture = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert capture == api.CAPTURE_THREAD_LOCAL
    assert int(runtime.cudaStreamLegacy) == api.LEGACY_STREAM
    driver = cuda_bindings.driver
    pointer = driver.CUpointer_attribute
    assert pointer.CU_POINTER_ATTRIBUTE_MEMORY_TYPE == api.POINTER_MEMORY_TYPE
    assert pointer.CU_POINTER_ATTRIBUTE_IS_MANAGED == api.POINTER_IS_MANAGED
    assert pointer.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL == api.POINTER_DEVICE
    assert driver.CUmemorytype.CU_MEMORYTYPE_DEVICE == api.MEMORY_OF_A_DEVICE


def test_every_error_that_has_advice_is_one_of_cuda(cuda_bindings: Any) -> None:
    names = {error.name for error in cuda_bindings.runtime.cudaError_t}
    assert set(api._ADVICE) <= names
    assert set(api._ADVICE) == set(api._OTHER_NAMES)


def test_errors_are_known_by_what_cuda_calls_them_in_words(cuda_bindings: Any) -> None:
    runtime = cuda_bindings.runtime
    for name, others in api._OTHER_NAMES.items():
        _, words = runtime.cudaGetErrorString(getattr(runtime.cudaError_t, name))
        assert others[0] in words.decode()
        for said in (name, *others):
            assert api.advice_on(f"failure 2: {said} ; GPU=0") == api._ADVICE[name]
    assert api.advice_on("CUDNN_STATUS_BAD_PARAM") == ""


def test_an_error_names_the_function_the_error_and_what_to_do() -> None:
    error = api.failure("cudaMalloc", "cudaErrorMemoryAllocation")
    assert "cudaMalloc with cudaErrorMemoryAllocation" in str(error)
    assert "fewer beams" in str(error)
    assert "device='cpu'" in str(api.failure("cudaFree", "cudaErrorUnknown"))
