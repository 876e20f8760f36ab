// A stand-in for libcublas.so.13: products are logged and not computed.
#include "log.h"

#define PRODUCTS \
    X(cublasDgeam) X(cublasDgemmBatched) X(cublasDgemmStridedBatched) X(cublasDgemm_v2) \
    X(cublasDgetrfBatched) X(cublasDgetriBatched) X(cublasGemmBatchedEx) X(cublasGemmEx) \
    X(cublasGemmStridedBatchedEx) X(cublasSgeam) X(cublasSgemmBatched) \
    X(cublasSgemmStridedBatched) X(cublasSgemm_v2) X(cublasSgetrfBatched) X(cublasSgetriBatched)
#define OTHERS \
    X(cublasDestroy_v2) X(cublasScopy_v2) X(cublasSetMathMode) X(cublasSetStream_v2) \
    X(cublasSscal_v2)

extern "C" {

#define X(name) int name(...) { logged("product " #name); return 0; }
PRODUCTS
#undef X

#define X(name) int name(...) { return 0; }
OTHERS
#undef X

int cublasCreate_v2(void** handle)
{
    static int created;
    *handle = &created;
    return 0;
}
int cublasGetMathMode(void*, int* mode)
{
    *mode = 0;
    return 0;
}
const char* cublasGetStatusName(int) { return "a status of the stand-in"; }
const char* cublasGetStatusString(int) { return "a status of the stand-in"; }

} // extern "C"
