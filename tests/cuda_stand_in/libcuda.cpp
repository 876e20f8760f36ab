// A stand-in for the driver's libcuda.so.1: the functions that are called by name or by NVRTC.
// Our kernels are loaded as cubins, which have to be ELF files, and their launches are logged.
#include <cstdlib>
#include <cstring>
#include <list>
#include <string>

#include "log.h"

namespace {

constexpr int NOT_FOUND = 500, INVALID_IMAGE = 200, NO_DEVICE = 101;

} // namespace

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version)
{
    *version = 13000;
    return 0;
}
int cuDeviceGetCount(int* count)
{
    *count = 1;
    return 0;
}
int cuDeviceGet(int* device, int index)
{
    *device = index;
    return index ? NO_DEVICE : 0;
}
int cuDeviceGetName(char* name, int length, int)
{
    strncpy(name, "stand-in for an H100", length);
    return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int)
{
    const char* requested = getenv("CUDA_STAND_IN_CAPABILITY");
    int capability = requested ? atoi(requested) : 90;
    switch (attribute) {
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    case 16: *value = 132; break; // multiprocessors
    case 18: *value = 0; break;   // integrated
    default: *value = 1;
    }
    return 0;
}
int cuGetErrorName(int, const char** name)
{
    *name = "an error of the stand-in";
    return 0;
}
int cuGetExportTable(const void** table, const void*) // NVRTC asks, and does without
{
    *table = nullptr;
    return NOT_FOUND;
}
int cuPointerGetAttribute(int* value, int attribute, unsigned long long)
{
    *value = attribute == 2 ? 2 : 0; // memory of a device, not managed, of the first
    return 0;
}
int cuTensorMapEncodeTiled(...) { return 0; }

int cuModuleLoadData(void** module, const void* image)
{
    if (memcmp(image, "\x7f" "ELF", 4))
        return INVALID_IMAGE;
    static int loaded;
    *module = &loaded;
    return 0;
}
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void*, const char* name)
{
    static std::list<std::string> names; // whose elements stay where they are
    names.emplace_back(name);
    *function = &names.back();
    return 0;
}
int cuLaunchKernel(
    void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
    void**)
{
    logged("kernel ours %s", static_cast<std::string*>(function)->c_str());
    return 0;
}

} // extern "C"
