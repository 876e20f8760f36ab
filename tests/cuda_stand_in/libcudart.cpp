// A stand-in for libcudart.so.13. Device memory is host memory, copies are made at once, kernels are
// logged and compute nothing. What may not happen during a capture fails there, and spoils it, as in
// CUDA. A graph that is launched is logged and does nothing.
//
// The log goes to the file that CUDA_STAND_IN_LOG names, a line an event; CUDA_STAND_IN_CAPTURE=refused
// makes every capture fail.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "log.h"

#undef cudaGetDeviceProperties

namespace {

std::mutex guard;
bool capturing = false, spoilt = false;
thread_local cudaError_t last_error = cudaSuccess;

// What a function that fails returns: as in CUDA, the thread is told of it until somebody asks.
cudaError_t failed(cudaError_t error) { return last_error = error; }

FILE* log_file()
{
    static FILE* file = [] {
        const char* path = getenv("CUDA_STAND_IN_LOG");
        FILE* opened = fopen(path ? path : "/dev/null", "a");
        if (!opened)
            abort();
        setvbuf(opened, nullptr, _IOLBF, 0);
        return opened;
    }();
    return file;
}

// Fails during a capture, and spoils it.
cudaError_t outside_captures()
{
    if (!capturing)
        return cudaSuccess;
    spoilt = true;
    return failed(cudaErrorStreamCaptureUnsupported);
}

void* zeros(size_t size)
{
    size = (size + 4096) / 4096 * 4096;
    void* memory = aligned_alloc(4096, size);
    return memory ? memset(memory, 0, size) : nullptr;
}

cudaError_t allocate(const char* what, void** memory, size_t size)
{
    logged("%s %zu", what, size);
    if (cudaError_t error = outside_captures())
        return error;
    *memory = zeros(size);
    return *memory ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

cudaError_t release(const char* what, void* memory)
{
    logged("%s", what);
    if (cudaError_t error = outside_captures())
        return error;
    free(memory);
    return cudaSuccess;
}

const char* direction(cudaMemcpyKind kind)
{
    static const char* names[] = {"host-host", "host-device", "device-host", "device-device", "any"};
    return names[kind];
}

template <typename Handle> cudaError_t new_handle(Handle* handle)
{
    static size_t last = 0x5000;
    std::lock_guard<std::mutex> lock(guard);
    *handle = reinterpret_cast<Handle>(last += 16);
    return cudaSuccess;
}

// Kernels are known by the address of their stub on the host.
std::map<const void*, std::string>& kernels()
{
    static auto* names = new std::map<const void*, std::string>;
    return *names;
}

void launch(const void* kernel)
{
    auto found = kernels().find(kernel);
    std::string name = found == kernels().end() ? "?" : found->second;
    int status;
    if (char* readable = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status)) {
        name = readable;
        free(readable);
    }
    logged("kernel %.400s", name.c_str());
}

struct Configuration {
    dim3 grid, block;
    size_t shared;
    void* stream;
};
thread_local std::vector<Configuration> configurations;

int compute_capability()
{
    const char* requested = getenv("CUDA_STAND_IN_CAPABILITY");
    return requested ? atoi(requested) : 90;
}

} // namespace

extern "C" {

void stand_in_log(const char* line) { fprintf(log_file(), "%s%s\n", capturing ? "captured " : "", line); }

// For tests: what follows in the log belongs to this section.
void stand_in_section(const char* name) { fprintf(log_file(), "section %s\n", name); }

// What nvcc's code calls.

void** __cudaRegisterFatBinary(void*)
{
    static void* handle;
    return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(
    void**, const char* kernel, char*, const char* name, int, void*, void*, void*, void*, int*)
{
    kernels()[kernel] = name;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* stream)
{
    configurations.push_back({grid, block, shared, stream});
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream)
{
    Configuration last = configurations.back();
    configurations.pop_back();
    *grid = last.grid, *block = last.block, *shared = last.shared;
    *static_cast<void**>(stream) = last.stream;
    return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub)
{
    *kernel = (cudaKernel_t)stub;
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t)
{
    launch(kernel);
    return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3, dim3, void**, size_t, cudaStream_t)
{
    launch(kernel);
    return cudaSuccess;
}
cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3, dim3, void**, size_t, cudaStream_t)
{
    launch(kernel);
    return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void* kernel, void**)
{
    launch(kernel);
    return cudaSuccess;
}

// The device: an H100, or what CUDA_STAND_IN_CAPABILITY says (90 is 9.0).

cudaError_t cudaGetDeviceCount(int* count)
{
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int* index)
{
    *index = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int index)
{
    return index == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice);
}
cudaError_t cudaDriverGetVersion(int* version)
{
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version)
{
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int)
{
    memset(found, 0, sizeof *found);
    strcpy(found->name, "stand-in for an H100");
    found->totalGlobalMem = 80ull << 30;
    found->sharedMemPerBlock = 49152;
    found->sharedMemPerBlockOptin = 232448;
    found->sharedMemPerMultiprocessor = 233472;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->warpSize = 32;
    found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->maxGridSize[0] = 2147483647;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->major = compute_capability() / 10;
    found->minor = compute_capability() % 10;
    found->multiProcessorCount = 132;
    found->maxThreadsPerMultiProcessor = 2048;
    found->maxBlocksPerMultiProcessor = 32;
    found->l2CacheSize = 50 << 20;
    found->memoryBusWidth = 5120;
    found->canMapHostMemory = found->unifiedAddressing = found->memoryPoolsSupported = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int)
{
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = compute_capability() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = compute_capability() % 10; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrIntegrated: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    default: *value = 1;
    }
    return cudaSuccess;
}

// Memory.

cudaError_t cudaMalloc(void** memory, size_t size) { return allocate("malloc", memory, size); }
cudaError_t cudaFree(void* memory) { return release("free", memory); }
cudaError_t cudaMallocHost(void** memory, size_t size) { return allocate("host-malloc", memory, size); }
cudaError_t cudaHostAlloc(void** memory, size_t size, unsigned)
{
    return allocate("host-malloc", memory, size);
}
cudaError_t cudaFreeHost(void* memory) { return release("host-free", memory); }
cudaError_t cudaMallocFromPoolAsync(void** memory, size_t size, cudaMemPool_t, cudaStream_t)
{
    return allocate("malloc", memory, size);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) { return release("free", memory); }
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned)
{
    *device = host;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total)
{
    *available = 70ull << 30;
    *total = 80ull << 30;
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void* target, const void* source, size_t size, cudaMemcpyKind kind)
{
    logged("wait copy %s %zu", direction(kind), size);
    if (cudaError_t error = outside_captures())
        return error;
    memcpy(target, source, size);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(
    void* target, const void* source, size_t size, cudaMemcpyKind kind, cudaStream_t)
{
    logged("copy %s %zu", direction(kind), size);
    memcpy(target, source, size);
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(
    void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width,
    size_t height, cudaMemcpyKind kind, cudaStream_t)
{
    logged("copy %s %zux%zu", direction(kind), width, height);
    for (size_t row = 0; row < height; ++row)
        memcpy((char*)target + row * target_pitch, (const char*)source + row * source_pitch, width);
    return cudaSuccess;
}
cudaError_t cudaMemcpyFromSymbol(void* target, const void*, size_t size, size_t, cudaMemcpyKind)
{
    memset(target, 0, size);
    return outside_captures();
}
cudaError_t cudaMemset(void* target, int value, size_t size)
{
    logged("memset %zu", size);
    memset(target, value, size);
    return outside_captures();
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t size, cudaStream_t)
{
    logged("memset %zu", size);
    memset(target, value, size);
    return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) { return new_handle(pool); }
cudaError_t cudaMemPoolDestroy(cudaMemPool_t) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value)
{
    *static_cast<size_t*>(value) = 0;
    return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* memory)
{
    memset(found, 0, sizeof *found);
    found->type = cudaMemoryTypeDevice;
    found->devicePointer = const_cast<void*>(memory);
    return cudaSuccess;
}

// Streams and events.

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return new_handle(stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return new_handle(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    logged("wait stream");
    return outside_captures();
}
cudaError_t cudaDeviceSynchronize()
{
    logged("wait device");
    return outside_captures();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event) { return new_handle(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return new_handle(event); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    logged("wait event");
    return outside_captures();
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t)
{
    *milliseconds = 1;
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data)
{
    logged("host-function");
    function(data);
    return cudaSuccess;
}

// Graphs.

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    logged("begin capture");
    const char* requested = getenv("CUDA_STAND_IN_CAPTURE");
    capturing = true;
    spoilt = requested && !strcmp(requested, "refused");
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph)
{
    capturing = false;
    logged(spoilt ? "end spoilt capture" : "end capture");
    *graph = nullptr;
    return spoilt ? failed(cudaErrorStreamCaptureInvalidated) : new_handle(graph);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status)
{
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t, unsigned long long)
{
    return new_handle(executable);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t)
{
    logged("launch graph");
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }

// Kernels' attributes, and libraries of kernels, which are not there.

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*)
{
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->numRegs = 32;
    found->binaryVersion = found->ptxVersion = compute_capability();
    found->maxDynamicSharedSizeBytes = 232448;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int, int)
{
    return cudaSuccess;
}
cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t, const char*)
{
    *kernel = nullptr;
    return failed(cudaErrorNotSupported);
}
cudaError_t cudaLibraryLoadData(
    cudaLibrary_t*, const void*, cudaJitOption*, void**, unsigned, cudaLibraryOption*, void**, unsigned)
{
    return failed(cudaErrorNotSupported);
}
cudaError_t cudaLibraryUnload(cudaLibrary_t) { return cudaSuccess; }
cudaError_t cudaGetDriverEntryPointByVersion(
    const char*, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result)
{
    *function = nullptr;
    if (result)
        *result = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void*, int, size_t, unsigned)
{
    *blocks = 2;
    return cudaSuccess;
}

// Errors.

const char* cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    default: return "an error of the stand-in";
    }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

} // extern "C"
