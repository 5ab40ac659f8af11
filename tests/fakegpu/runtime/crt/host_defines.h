/* The words of nvcc that CUDA's headers use; torch's wheel brings the headers without this file. */
#pragma once
#define __host__
#define __device__
#define __global__
#define __shared__
#define __constant__
#define __managed__
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define CUDAAPI
#define __align__(n) __attribute__((aligned(n)))
#define __location__(a)
#define __builtin_align__(a) __align__(a)
#define __forceinline__ inline
#define __noinline__
#define __specialization_static static
#define __cluster_dims__(...)
#define __grid_constant__
#define CUDART_DEVICE
