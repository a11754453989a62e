// Elements in f32 inside whatever the type outside, and sums over the lanes of a warp.

#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ void put(float *to, float x) { *to = x; }
__device__ __forceinline__ void put(__nv_bfloat16 *to, float x) { *to = __float2bfloat16(x); }
__device__ __forceinline__ void put(__half *to, float x) { *to = __float2half(x); }

// N elements that lie one behind the other, read and written at once.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack { T of[N]; };

template <int N, typename T> __device__ __forceinline__ Pack<T, N> pack(const T *x) { return *(const Pack<T, N> *)x; }

__device__ __forceinline__ float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}
