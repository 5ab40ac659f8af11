/* The driver's library, libcuda.so.1, which Triton and Ray use. Kernels are counted, not run. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

#include "counts.h"

/* The counters are those of the preloaded runtime. */
static int launched(void) {
    static void (*count_there)(void);
    if (!count_there) count_there = dlsym(RTLD_DEFAULT, "count_launch");
    if (count_there) count_there();
    return 0;
}

int cuLaunchKernel(void) { return launched(); }
int cuLaunchKernelEx(void) { return launched(); }
int cuLaunchCooperativeKernel(void) { return launched(); }

#define NOTHING(name) \
    int name(void) { return 0; }
NOTHING(cuInit)
NOTHING(cuCtxGetLimit)
NOTHING(cuCtxSetLimit)
NOTHING(cuCtxSetCurrent)
NOTHING(cuFuncSetAttribute)
NOTHING(cuFuncSetCacheConfig)
NOTHING(cuLinkAddData_v2)
NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate_v2)
NOTHING(cuModuleUnload)
NOTHING(cuPointerGetAttributes)
NOTHING(cuTensorMapEncodeIm2col)
NOTHING(cuTensorMapEncodeTiled)

#define NUMBER(name, value) \
    int name(int *n) { *n = value; return 0; }
NUMBER(cuCtxGetDevice, 0)
NUMBER(cuDeviceGet, 0)
NUMBER(cuDeviceGetCount, 1)
NUMBER(cuDriverGetVersion, 13000)
NUMBER(cuOccupancyMaxActiveBlocksPerMultiprocessor, 8)
NUMBER(cuOccupancyMaxActiveClusters, 1)

#define OBJECT(name) \
    int name(void **object) { *object = calloc(1, 64); return 0; }
OBJECT(cuModuleLoad)
OBJECT(cuModuleLoadData)
OBJECT(cuModuleLoadDataEx)
OBJECT(cuModuleGetFunction)

static int context;
int cuCtxGetCurrent(void **current) {
    *current = &context;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **primary, int device) {
    *primary = &context;
    return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = 1;
    return 0;
}
int cuPointerGetAttribute(void **data, int what, void *p) {
    *data = p;
    return 0;
}
int cuGetErrorString(int error, const char **text) {
    *text = "fake";
    return 0;
}

/* The numbers are CUdevice_attribute's; cuda.h is not in torch's wheel. */
int cuDeviceGetAttribute(int *value, int what, int device) {
    switch (what) {
    case 1: *value = 1024; break;            /* threads per block */
    case 8: *value = 49152; break;           /* shared memory per block */
    case 10: *value = 32; break;             /* warp */
    case 12: case 82: *value = 65536; break; /* registers per block and per multiprocessor */
    case 13: *value = 1980000; break;        /* clock */
    case 16: *value = 132; break;            /* multiprocessors */
    case 36: *value = 2619000; break;        /* clock of the memory */
    case 37: *value = 5120; break;           /* width of its bus */
    case 39: *value = 2048; break;           /* threads per multiprocessor */
    case 75: *value = 9; break;              /* compute capability */
    case 76: *value = 0; break;
    case 81: *value = 233472; break;         /* shared memory per multiprocessor */
    case 97: *value = 232448; break;         /* shared memory per block, opted in */
    default: *value = 1;
    }
    return 0;
}
int cuFuncGetAttribute(int *value, int what, void *function) {
    *value = what == 4 ? 32 : what == 0 ? 1024 : 0;
    return 0;
}

int cuGetProcAddress(const char *name, void **function) {
    *function = dlsym(RTLD_DEFAULT, name);
    return *function ? 0 : 500;
}
int cuGetProcAddress_v2(const char *name, void **function) {
    return cuGetProcAddress(name, function);
}
