/* What the fake GPU was asked to do. A test reads and zeroes `fake_counts` through ctypes. */
#pragma once

enum Count {
    LAUNCH,       /* a kernel, or a whole graph */
    LIBRARY,      /* a product or convolution of cuBLAS or cuDNN */
    H2D,          /* a copy from pageable memory to the device: the host waits for it */
    H2D_PINNED,   /* the same from pinned memory: the host goes on */
    D2H,          /* a copy to pageable memory: the host waits for it */
    D2H_PINNED,   /* the same to pinned memory: the host goes on */
    D2D,
    MEMSET,
    WAIT,         /* the host waits for a stream, the device, an event or a blocking copy */
    MALLOC,       /* cudaMalloc: memory that torch's allocator did not have */
    FREE,
    HOST_ALLOC,   /* pinned memory that torch's allocator did not have */
    CAPTURED,     /* kernels and library calls while a graph is captured */
    REFUSED,      /* waits and allocations while a graph is captured, which CUDA forbids */
    N_COUNTS
};

extern long fake_counts[N_COUNTS];

static inline void count(enum Count what) {
    __atomic_fetch_add(&fake_counts[what], 1, __ATOMIC_RELAXED);
}

/* Count one launch of a kernel, or its place in the graph that is being captured. */
void count_launch(void);
void count_library(void);
