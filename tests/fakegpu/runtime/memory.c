/* Device memory and pinned memory are pages of the host. Pages that nobody writes cost nothing. */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include <cuda_runtime_api.h>

#include "counts.h"

#define TOTAL (141ull << 30)
#define CONTEXT (600ull << 20)
#define RANGES 65536

extern long fake_capturing;
size_t fake_used;
size_t fake_limit = TOTAL; /* cudaMalloc refuses more: a test sets it to see an out-of-memory */

static struct {
    char *at;
    size_t size;
    int pinned;
} ranges[RANGES];
static int n_ranges;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *take(size_t size, int pinned) {
    size = (size + 4095) & ~4095ull;
    if (!size) size = 4096;
    pthread_mutex_lock(&lock);
    char *at = 0;
    int free = 0;
    while (free < n_ranges && ranges[free].at) free++;
    if (free < RANGES && (pinned || fake_used + size <= fake_limit)) {
        at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) at = 0;
    }
    if (at) {
        if (free == n_ranges) n_ranges++;
        ranges[free].at = at;
        ranges[free].size = size;
        ranges[free].pinned = pinned;
        if (!pinned) fake_used += size;
    }
    pthread_mutex_unlock(&lock);
    return at;
}

/* The range that a pointer lies in, -1 for memory of the host. */
static int range_of(const void *p) {
    for (int i = 0; i < n_ranges; i++) {
        char *at = ranges[i].at;
        if (at && (char *)p >= at && (char *)p < at + ranges[i].size) return i;
    }
    return -1;
}

static void give(void *p) {
    pthread_mutex_lock(&lock);
    int i = range_of(p);
    if (i >= 0) {
        munmap(ranges[i].at, ranges[i].size);
        if (!ranges[i].pinned) fake_used -= ranges[i].size;
        ranges[i].at = 0;
    }
    pthread_mutex_unlock(&lock);
}

cudaError_t cudaMalloc(void **p, size_t size) {
    count(MALLOC);
    *p = take(size, 0);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p) {
    count(FREE);
    give(p);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags) {
    count(HOST_ALLOC);
    *p = take(size, 1);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void *p) {
    give(p);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    *total = TOTAL;
    *free = TOTAL - CONTEXT - fake_used;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *about, const void *p) {
    memset(about, 0, sizeof *about);
    int i = range_of(p);
    if (i < 0) {
        about->type = cudaMemoryTypeUnregistered;
        return cudaSuccess;
    }
    about->type = ranges[i].pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    about->devicePointer = (void *)p;
    if (ranges[i].pinned) about->hostPointer = (void *)p;
    return cudaSuccess;
}

/* The result of a kernel is arbitrary anyway, so a copy inside the device moves nothing. */
static void copy(void *to, const void *from, size_t size) {
    int target = range_of(to), source = range_of(from);
    int on_device = target >= 0 && !ranges[target].pinned;
    int of_device = source >= 0 && !ranges[source].pinned;
    if (on_device && of_device) {
        count(D2D);
        return;
    }
    if (on_device) count(source >= 0 ? H2D_PINNED : H2D);
    else if (of_device) count(target >= 0 ? D2H_PINNED : D2H);
    /* Numbers that are read back would be the result of a kernel, and no kernel has run. The loop
       reads four sums at a time, and what is not a number would end its trial. */
    if (of_device && size <= 4 * sizeof(double)) memset(to, 0, size);
    else memcpy(to, from, size);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    count(WAIT);
    copy(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    copy(to, from, size);
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
    count(D2D);
    return cudaSuccess;
}
cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t size, size_t offset,
                               enum cudaMemcpyKind kind) {
    return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int value, size_t size) {
    count(MEMSET);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t stream) {
    count(MEMSET);
    return cudaSuccess;
}
