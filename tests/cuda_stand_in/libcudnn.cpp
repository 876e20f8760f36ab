// A stand-in for libcudnn.so.9: what it would compute is logged.
#include <cstddef>
#include <cstdio>
#include <cstring>

#include "log.h"

#define MADE \
    X(cudnnCreate) X(cudnnCreateActivationDescriptor) X(cudnnCreateConvolutionDescriptor) \
    X(cudnnCreateDropoutDescriptor) X(cudnnCreateFilterDescriptor) X(cudnnCreateLRNDescriptor) \
    X(cudnnCreatePoolingDescriptor) X(cudnnCreateRNNDataDescriptor) X(cudnnCreateRNNDescriptor) \
    X(cudnnCreateReduceTensorDescriptor) X(cudnnCreateTensorDescriptor)
#define COMPUTED \
    X(cudnnActivationForward) X(cudnnAddTensor) X(cudnnBackendExecute) \
    X(cudnnBatchNormalizationForwardInference) X(cudnnBatchNormalizationForwardTraining) \
    X(cudnnConvolutionBiasActivationForward) X(cudnnConvolutionForward) \
    X(cudnnLRNCrossChannelForward) X(cudnnPoolingForward) X(cudnnRNNForward) \
    X(cudnnReduceTensor) X(cudnnSoftmaxForward)
#define OTHERS \
    X(cudnnBackendDestroyDescriptor) X(cudnnBackendFinalize) X(cudnnBackendSetAttribute) \
    X(cudnnDeriveBNTensorDescriptor) X(cudnnDestroy) X(cudnnDestroyActivationDescriptor) \
    X(cudnnDestroyConvolutionDescriptor) X(cudnnDestroyDropoutDescriptor) \
    X(cudnnDestroyFilterDescriptor) X(cudnnDestroyLRNDescriptor) \
    X(cudnnDestroyPoolingDescriptor) X(cudnnDestroyRNNDataDescriptor) \
    X(cudnnDestroyRNNDescriptor) X(cudnnDestroyReduceTensorDescriptor) \
    X(cudnnDestroyTensorDescriptor) X(cudnnDropoutGetStatesSize) \
    X(cudnnGetConvolutionForwardAlgorithm_v7) X(cudnnGetRNNTempSpaceSizes) \
    X(cudnnGetRNNWeightParams) X(cudnnGetReductionIndicesSize) X(cudnnGetReductionWorkspaceSize) \
    X(cudnnGetStream) X(cudnnGetTensorNdDescriptor) X(cudnnSetActivationDescriptor) \
    X(cudnnSetConvolutionGroupCount) X(cudnnSetConvolutionMathType) \
    X(cudnnSetConvolutionNdDescriptor) X(cudnnSetDropoutDescriptor) \
    X(cudnnSetFilterNdDescriptor) X(cudnnSetLRNDescriptor) X(cudnnSetPoolingNdDescriptor) \
    X(cudnnSetRNNDataDescriptor) X(cudnnSetRNNDescriptor_v8) X(cudnnSetReduceTensorDescriptor) \
    X(cudnnSetStream) X(cudnnSetTensorNdDescriptor)

extern "C" {

#define X(name) int name(void** handle, ...) { static int made; *handle = &made; return 0; }
MADE
#undef X

#define X(name) int name(...) { logged("cudnn " #name); return 0; }
COMPUTED
#undef X

#define X(name) int name(...) { return 0; }
OTHERS
#undef X

int cudnnBackendCreateDescriptor(int, void** descriptor)
{
    static int made;
    *descriptor = &made;
    return 0;
}
// Of plans: one engine without notes, which needs no memory. Kinds are those of cudnnBackendAttributeType_t.
int cudnnBackendGetAttribute(void*, int, int kind, long requested, long* count, void* values)
{
    enum { INT64 = 3, FLOAT = 4, DESCRIPTOR = 15, INT32 = 23 };
    if (count)
        *count = kind == INT64 || kind == FLOAT || kind == DESCRIPTOR || kind == INT32;
    if (values && requested > 0 && kind == INT32)
        *static_cast<int*>(values) = 0;
    if (values && requested > 0 && (kind == INT64 || kind == FLOAT))
        *static_cast<long*>(values) = 0;
    return 0;
}
int cudnnFindConvolutionForwardAlgorithmEx(
    void*, void*, const void*, void*, const void*, void*, void*, void*, int, int* count, int* found, void*,
    size_t)
{
    *count = 1;
    memset(found, 0, 48);
    *found = 1;
    return 0;
}
int cudnnGetConvolutionForwardWorkspaceSize(void*, void*, void*, void*, void*, int, size_t* size)
{
    *size = 0;
    return 0;
}
const char* cudnnGetErrorString(int) { return "a status of the stand-in"; }
void cudnnGetLastErrorString(char* message, size_t size) { snprintf(message, size, "a stand-in"); }
size_t cudnnGetVersion() { return 91200; }

} // extern "C"
