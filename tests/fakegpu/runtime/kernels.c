/* Kernels: torch registers them when its libraries are loaded. A launch is counted, not run. */
#include <cuda_runtime_api.h>

#include "counts.h"

long fake_counts[N_COUNTS];
long fake_capturing; /* streams in capture */

/* The error of the next launch, and its countdown: a test sets both to see how torch reports it. */
int fake_launch_error;
long fake_launches_before_error;
static __thread int last_error;

void count_launch(void) { count(fake_capturing ? CAPTURED : LAUNCH); }
void count_library(void) { count(fake_capturing ? CAPTURED : LIBRARY); }

static cudaError_t launch(void) {
    count_launch();
    if (fake_launch_error && fake_launches_before_error-- <= 0) {
        last_error = fake_launch_error;
        fake_launch_error = 0;
        return last_error;
    }
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    int error = last_error;
    last_error = 0;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

void **__cudaRegisterFatBinary(void *binary) {
    static void *handle[1];
    return handle;
}
void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) {}
char __cudaInitModule(void **handle) { return 1; }
void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name,
                            int limit, void *a, void *b, void *c, void *d, int *e) {}
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int ext,
                       size_t size, int constant, int global) {}

/* `kernel<<<grid, block>>>(...)` pushes its configuration and pops it in the kernel's stub. */
static __thread struct {
    dim3 grid, block;
    size_t shared;
    void *stream;
} pushed;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *st) {
    pushed.grid = grid;
    pushed.block = block;
    pushed.shared = shared;
    pushed.stream = st;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    *(void **)stream = pushed.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host) {
    *kernel = (cudaKernel_t)host;
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **args,
                               size_t shared, cudaStream_t stream) {
    return launch();
}
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **args, size_t shared,
                             cudaStream_t stream) {
    return launch();
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **args) {
    return launch();
}
cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **args,
                                        size_t shared, cudaStream_t stream) {
    return launch();
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *about, const void *kernel) {
    *about = (struct cudaFuncAttributes){
        .maxThreadsPerBlock = 1024, .numRegs = 32, .ptxVersion = 90, .binaryVersion = 90};
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute what, int value) {
    return cudaSuccess;
}
cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute what,
                                            int value, int device) {
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel,
                                                                   int size, size_t shared,
                                                                   unsigned flags) {
    *blocks = 8;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int size,
                                                          size_t shared) {
    *blocks = 8;
    return cudaSuccess;
}
