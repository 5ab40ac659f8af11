/* cuDNN: nothing is computed. Its algorithms need no memory, and the first one is the best. */
#include <stdlib.h>
#include <string.h>

#include "counts.h"

#define WORK(name) \
    int name(void) { count_library(); return 0; }
WORK(cudnnBatchNormalizationBackwardEx)
WORK(cudnnBatchNormalizationForwardInference)
WORK(cudnnBatchNormalizationForwardTrainingEx)
WORK(cudnnConvolutionBackwardData)
WORK(cudnnConvolutionBackwardFilter)
WORK(cudnnConvolutionBiasActivationForward)
WORK(cudnnConvolutionForward)
WORK(cudnnPoolingForward)
WORK(cudnnSpatialTfGridGeneratorBackward)
WORK(cudnnSpatialTfGridGeneratorForward)
WORK(cudnnSpatialTfSamplerBackward)
WORK(cudnnSpatialTfSamplerForward)

#define OBJECT(name) \
    int name(void **object) { *object = calloc(1, 256); return 0; }
OBJECT(cudnnCreate) OBJECT(cudnnCreateActivationDescriptor) OBJECT(cudnnCreateCTCLossDescriptor)
OBJECT(cudnnCreateConvolutionDescriptor) OBJECT(cudnnCreateDropoutDescriptor)
OBJECT(cudnnCreateFilterDescriptor) OBJECT(cudnnCreatePoolingDescriptor)
OBJECT(cudnnCreateRNNDataDescriptor) OBJECT(cudnnCreateRNNDescriptor)
OBJECT(cudnnCreateSpatialTransformerDescriptor) OBJECT(cudnnCreateTensorDescriptor)

#define NOTHING(name) \
    int name(void) { return 0; }
NOTHING(cudnnBackendCreateDescriptor) NOTHING(cudnnBackendDestroyDescriptor)
NOTHING(cudnnBackendExecute) NOTHING(cudnnBackendFinalize) NOTHING(cudnnBackendGetAttribute)
NOTHING(cudnnBackendSetAttribute) NOTHING(cudnnCTCLoss) NOTHING(cudnnCTCLoss_v8)
NOTHING(cudnnDestroyActivationDescriptor) NOTHING(cudnnDestroyCTCLossDescriptor)
NOTHING(cudnnDestroyConvolutionDescriptor) NOTHING(cudnnDestroyDropoutDescriptor)
NOTHING(cudnnDestroyFilterDescriptor) NOTHING(cudnnDestroyRNNDataDescriptor)
NOTHING(cudnnDestroyRNNDescriptor) NOTHING(cudnnDestroySpatialTransformerDescriptor)
NOTHING(cudnnDestroyTensorDescriptor) NOTHING(cudnnDropoutGetStatesSize)
NOTHING(cudnnGetCTCLossWorkspaceSize) NOTHING(cudnnGetCTCLossWorkspaceSize_v8)
NOTHING(cudnnGetFilterNdDescriptor) NOTHING(cudnnGetRNNTempSpaceSizes)
NOTHING(cudnnGetRNNWeightParams) NOTHING(cudnnGetRNNWeightSpaceSize)
NOTHING(cudnnGetTensorNdDescriptor) NOTHING(cudnnRNNBackwardData_v8)
NOTHING(cudnnRNNBackwardWeights_v8) NOTHING(cudnnRNNForward) NOTHING(cudnnRestoreDropoutDescriptor)
NOTHING(cudnnSetActivationDescriptor) NOTHING(cudnnSetCTCLossDescriptorEx)
NOTHING(cudnnSetCTCLossDescriptor_v9) NOTHING(cudnnSetConvolutionGroupCount)
NOTHING(cudnnSetConvolutionMathType) NOTHING(cudnnSetConvolutionNdDescriptor)
NOTHING(cudnnSetDropoutDescriptor) NOTHING(cudnnSetFilterNdDescriptor)
NOTHING(cudnnSetPooling2dDescriptor) NOTHING(cudnnSetRNNDataDescriptor)
NOTHING(cudnnSetRNNDescriptor_v8) NOTHING(cudnnSetSpatialTransformerNdDescriptor)
NOTHING(cudnnSetStream) NOTHING(cudnnSetTensorNdDescriptor)

size_t cudnnGetVersion(void) { return 92400; }
size_t cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int error) { return "fake"; }
void cudnnGetLastErrorString(char *text, size_t size) {
    if (size) text[0] = 0;
}
int cudnnGetProperty(int what, int *value) {
    static const int version[] = {9, 24, 0};
    *value = version[what];
    return 0;
}
int cudnnGetStream(void *handle, void **stream) {
    *stream = 0;
    return 0;
}

typedef void *P;
struct algorithm {
    int number, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};
#define BEST(name)                                                              \
    int name(P handle, P a, P b, P c, P d, int most, int *got, struct algorithm *found) { \
        memset(found, 0, sizeof *found);                                        \
        found->number = found->determinism = *got = 1;                          \
        return 0;                                                               \
    }
BEST(cudnnGetConvolutionForwardAlgorithm_v7)
BEST(cudnnGetConvolutionBackwardDataAlgorithm_v7)
BEST(cudnnGetConvolutionBackwardFilterAlgorithm_v7)
#define SEARCH(name)                                                            \
    int name(P handle, P a, P a_data, P b, P b_data, P conv, P c, P c_data, int most, int *got, \
             struct algorithm *found, P workspace, size_t size) {               \
        memset(found, 0, sizeof *found);                                        \
        found->number = found->determinism = *got = 1;                          \
        return 0;                                                               \
    }
SEARCH(cudnnFindConvolutionForwardAlgorithmEx)
SEARCH(cudnnFindConvolutionBackwardDataAlgorithmEx)
SEARCH(cudnnFindConvolutionBackwardFilterAlgorithmEx)
#define SIZE(name)                                                              \
    int name(P handle, P a, P b, P c, P d, int algorithm, size_t *size) {       \
        *size = 0;                                                              \
        return 0;                                                               \
    }
SIZE(cudnnGetConvolutionForwardWorkspaceSize)
SIZE(cudnnGetConvolutionBackwardDataWorkspaceSize)
SIZE(cudnnGetConvolutionBackwardFilterWorkspaceSize)

int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(P h, int mode, int ops, P x, P z, P y,
                                                             P b, P a, size_t *size) {
    *size = 0;
    return 0;
}
int cudnnGetBatchNormalizationBackwardExWorkspaceSize(P h, int mode, int ops, P x, P y, P dy, P dz,
                                                      P dx, P b, P a, size_t *size) {
    *size = 0;
    return 0;
}
int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(P h, int mode, int ops, P a, P x,
                                                         size_t *size) {
    *size = 0;
    return 0;
}
