/* cuBLAS and cuBLASLt: nothing is multiplied. Their headers need more than torch's wheel has. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "counts.h"

#define NOTHING(name) \
    int name(void) { return 0; }
NOTHING(cublasDestroy_v2)
NOTHING(cublasSetStream_v2)
NOTHING(cublasSetWorkspace_v2)
NOTHING(cublasSetMathMode)
NOTHING(cublasSetPointerMode_v2)
NOTHING(cublasSetSmCountTarget)
NOTHING(cublasLtMatmulDescDestroy)
NOTHING(cublasLtMatmulDescSetAttribute)
NOTHING(cublasLtMatrixLayoutDestroy)
NOTHING(cublasLtMatrixLayoutSetAttribute)
NOTHING(cublasLtMatmulPreferenceDestroy)
NOTHING(cublasLtMatmulPreferenceSetAttribute)

#define OBJECT(name) \
    int name(void **object) { *object = calloc(1, 64); return 0; }
OBJECT(cublasLtMatmulDescCreate)
OBJECT(cublasLtMatrixLayoutCreate)
OBJECT(cublasLtMatmulPreferenceCreate)

/* The status of cublasCreate: a test sets 3, which is CUBLAS_STATUS_ALLOC_FAILED. */
int fake_cublas_status;
int cublasCreate_v2(void **object) {
    *object = calloc(1, 64);
    return fake_cublas_status;
}

int cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return 0;
}
int cublasGetPointerMode_v2(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

struct heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *op, void *a, void *b, void *c, void *d,
                                   void *preference, int most, struct heuristic *found, int *got) {
    memset(found, 0, sizeof *found);
    *got = 1;
    return 0;
}

#define PRODUCT(name) \
    int name(void) { count_library(); return fake_cublas_status; }
PRODUCT(cublasLtMatmul)
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasGemmEx)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasDgemmStridedBatched)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasDgemv_v2)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasDdot_v2)
PRODUCT(cublasDotEx)
