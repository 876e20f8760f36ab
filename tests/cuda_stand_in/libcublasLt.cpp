// A stand-in for libcublasLt.so.13: products are logged and not computed.
#include "log.h"

#define MADE \
    X(cublasLtCreate) X(cublasLtMatmulDescCreate) X(cublasLtMatmulPreferenceCreate) \
    X(cublasLtMatrixLayoutCreate) X(cublasLtMatrixTransformDescCreate)
#define OTHERS \
    X(cublasLtDestroy) X(cublasLtMatmulAlgoConfigSetAttribute) X(cublasLtMatmulAlgoInit) \
    X(cublasLtMatmulDescDestroy) X(cublasLtMatmulDescSetAttribute) \
    X(cublasLtMatmulPreferenceDestroy) X(cublasLtMatmulPreferenceSetAttribute) \
    X(cublasLtMatrixLayoutDestroy) X(cublasLtMatrixLayoutSetAttribute) \
    X(cublasLtMatrixTransform) X(cublasLtMatrixTransformDescDestroy)

extern "C" {

#define X(name) int name(void** handle, ...) { static int made; *handle = &made; return 0; }
MADE
#undef X

#define X(name) int name(...) { return 0; }
OTHERS
#undef X

int cublasLtMatmul(...)
{
    logged("product cublasLtMatmul");
    return 0;
}
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int* found)
{
    *found = 1;
    return 0;
}

} // extern "C"
