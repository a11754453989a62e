// Segment Anything's mask decoder: attention between thousands of places and a few tokens, and masks from upscaled places.

#include "elements.cuh"

#define THREADS 128 // of a block, as `ops/cuda/masks.rs` says; eight blocks fit into a multiprocessor

// Attention of places over a few tokens. q [samples or 1, places, heads, W], k and v [samples, tokens, heads, W]. A thread has one
// head of one place; the tokens' keys and values lie in shared memory, one number further for each head: all banks are busy then.
template <int W, typename T>
__device__ void attend_few_keys(const T *q, const T *k, const T *v, T *y, int places, int tokens, int heads, int one_image,
                                float scale) {
    extern __shared__ float shared[];
    int stride = heads * (W + 1);
    float *keys = shared, *values = shared + tokens * stride;
    long sample = blockIdx.y;
    for (int i = threadIdx.x; i < tokens * heads * W; i += THREADS) {
        int to = i / (heads * W) * stride + i % (heads * W) / W * (W + 1) + i % W;
        keys[to] = wide(k[sample * tokens * heads * W + i]);
        values[to] = wide(v[sample * tokens * heads * W + i]);
    }
    __syncthreads();
    long i = (long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (long)places * heads) return;
    int head = i % heads;
    long all = (long)places * heads * W;
    float of_query[W], sum[W] = {};
    Pack<T, W> qs = pack<W>(q + (one_image ? 0 : sample * all) + i * W);
    for (int w = 0; w < W; w++) of_query[w] = wide(qs.of[w]) * scale;
    float most = -INFINITY, total = 0;
    for (int token = 0; token < tokens; token++) {
        const float *key = keys + token * stride + head * (W + 1), *value = values + token * stride + head * (W + 1);
        float score = 0;
        for (int w = 0; w < W; w++) score += of_query[w] * key[w];
        float higher = fmaxf(most, score), kept = __expf(most - higher), p = __expf(score - higher);
        most = higher, total = total * kept + p;
        for (int w = 0; w < W; w++) sum[w] = sum[w] * kept + p * value[w];
    }
    Pack<T, W> out;
    for (int w = 0; w < W; w++) put(out.of + w, sum[w] / total);
    *(Pack<T, W> *)(y + sample * all + i * W) = out;
}

// Attention of a few tokens over places. q [samples, tokens, heads, W], k and v [samples or 1, places, heads, W]. A block has one
// head of one token; its threads' parts are added in a fixed tree.
template <int W, typename T>
__device__ void attend_few_queries(const T *q, const T *k, const T *v, T *y, int places, int tokens, int heads, int one_image,
                                   float scale) {
    __shared__ float shared[THREADS / 32][W + 2];
    int head = blockIdx.x % heads;
    long sample = blockIdx.y, query = (sample * tokens * heads + blockIdx.x) * W;
    long image = one_image ? 0 : sample * places * heads * W;
    float of_query[W], sum[W] = {};
    Pack<T, W> qs = pack<W>(q + query);
    for (int w = 0; w < W; w++) of_query[w] = wide(qs.of[w]) * scale;
    float most = -INFINITY, total = 0;
    for (int place = threadIdx.x; place < places; place += THREADS) {
        long at = image + ((long)place * heads + head) * W;
        Pack<T, W> ks = pack<W>(k + at), vs = pack<W>(v + at);
        float score = 0;
        for (int w = 0; w < W; w++) score += of_query[w] * wide(ks.of[w]);
        float higher = fmaxf(most, score), kept = __expf(most - higher), p = __expf(score - higher);
        most = higher, total = total * kept + p;
        for (int w = 0; w < W; w++) sum[w] = sum[w] * kept + p * wide(vs.of[w]);
    }
    // threads that had no place: most is -inf, and their parts are nothing
    float highest = warp_max(most), factor = most == -INFINITY ? 0.f : __expf(most - highest);
    total = warp_sum(total * factor);
    for (int w = 0; w < W; w++) sum[w] = warp_sum(sum[w] * factor);
    int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) {
        shared[warp][W] = highest, shared[warp][W + 1] = total;
        for (int w = 0; w < W; w++) shared[warp][w] = sum[w];
    }
    __syncthreads();
    if (threadIdx.x >= W) return;
    float of_all = -INFINITY, all = 0, mine = 0;
    for (int i = 0; i < THREADS / 32; i++) of_all = fmaxf(of_all, shared[i][W]);
    for (int i = 0; i < THREADS / 32; i++) {
        float times = shared[i][W] == -INFINITY ? 0.f : __expf(shared[i][W] - of_all);
        all += shared[i][W + 1] * times, mine += shared[i][threadIdx.x] * times;
    }
    put(y + query + threadIdx.x, mine / all);
}

__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1 + erff(x * 0.70710678f)); }

// y = GELU(layer norm(x + bias)) over rows of `lanes` packs, a power of two up to a warp.
template <int N, typename T>
__device__ void biased_norm_gelu(const T *x, const T *bias, const T *weight, const T *shift, T *y, long rows, int lanes,
                                 float epsilon) {
    long place = (long)blockIdx.x * THREADS + threadIdx.x;
    bool inside = place < rows * lanes;
    int column = place % lanes * N;
    float sum = 0, squares = 0, of[N] = {};
    if (inside) {
        Pack<T, N> xs = pack<N>(x + place * N), bs = pack<N>(bias + column);
        for (int k = 0; k < N; k++) sum += of[k] = wide(xs.of[k]) + wide(bs.of[k]);
    }
    for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    float mean = sum / (lanes * N);
    for (int k = 0; k < N; k++) squares += (of[k] - mean) * (of[k] - mean);
    for (int step = lanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, step);
    if (!inside) return;
    float rstd = rsqrtf(squares / (lanes * N) + epsilon);
    Pack<T, N> ws = pack<N>(weight + column), ss = pack<N>(shift + column), out;
    for (int k = 0; k < N; k++) put(out.of + k, gelu((of[k] - mean) * rstd * wide(ws.of[k]) + wide(ss.of[k])));
    *(Pack<T, N> *)(y + place * N) = out;
}

#define OUTPUTS 4 // masks of a prompt at most

// Masks [kept, 4 side, 4 side]: pixels GELU(x + bias) times the numbers of each mask. x [samples, side^2, 2 x 2, 2 x 2, channels],
// hyper [samples, outputs, channels]; slots [samples, outputs] say which of the kept masks each is, -1: none.
template <int N, typename T>
__device__ void masks(const T *x, const T *bias, const T *hyper, const int *slots, T *y, int side, int channels, int outputs) {
    extern __shared__ float shared[];
    long sample = blockIdx.y;
    float *biases = shared, *numbers = shared + channels;
    for (int i = threadIdx.x; i < channels; i += THREADS) biases[i] = wide(bias[i]);
    for (int i = threadIdx.x; i < outputs * channels; i += THREADS) numbers[i] = wide(hyper[sample * outputs * channels + i]);
    __syncthreads();
    int pixels = 16 * side * side, i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= pixels) return;
    float sums[OUTPUTS] = {};
    const T *from = x + (sample * pixels + i) * channels;
    for (int c = 0; c < channels; c += N) {
        Pack<T, N> xs = pack<N>(from + c);
        for (int k = 0; k < N; k++) {
            float pixel = gelu(wide(xs.of[k]) + biases[c + k]);
#pragma unroll
            for (int m = 0; m < OUTPUTS; m++)
                if (m < outputs) sums[m] += pixel * numbers[m * channels + c + k];
        }
    }
    // squares of 2 x 2 squares of 2 x 2
    int position = i / 16, outer = i / 4 % 4, inner = i % 4;
    int row = 4 * (position / side) + outer / 2 * 2 + inner / 2, column = 4 * (position % side) + outer % 2 * 2 + inner % 2;
#pragma unroll
    for (int m = 0; m < OUTPUTS; m++)
        if (m < outputs && slots[sample * outputs + m] >= 0)
            put(y + (long)slots[sample * outputs + m] * pixels + row * 4 * side + column, sums[m]);
}

#define FOR_WIDTH(T, name, W)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) attend_few_keys_##W##_##name(                                    \
        const T *q, const T *k, const T *v, T *y, int places, int tokens, int heads, int one_image, float scale) {         \
        attend_few_keys<W>(q, k, v, y, places, tokens, heads, one_image, scale);                                           \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) attend_few_queries_##W##_##name(                                 \
        const T *q, const T *k, const T *v, T *y, int places, int tokens, int heads, int one_image, float scale) {         \
        attend_few_queries<W>(q, k, v, y, places, tokens, heads, one_image, scale);                                        \
    }
#define FOR_PACKS(T, name, N)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) biased_norm_gelu_##name(                                         \
        const T *x, const T *bias, const T *weight, const T *shift, T *y, long rows, int lanes, float epsilon) {           \
        biased_norm_gelu<N>(x, bias, weight, shift, y, rows, lanes, epsilon);                                              \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS) masks_##name(const T *x, const T *bias, const T *hyper,          \
                                                                       const int *slots, T *y, int side, int channels,     \
                                                                       int outputs) {                                      \
        masks<N>(x, bias, hyper, slots, y, side, channels, outputs);                                                       \
    }
#define FOR_TYPE(T, name, N)                                                                                               \
    FOR_WIDTH(T, name, 4)                                                                                                  \
    FOR_WIDTH(T, name, 8)                                                                                                  \
    FOR_WIDTH(T, name, 16)                                                                                                 \
    FOR_PACKS(T, name, N)

FOR_TYPE(float, f32, 4)
FOR_TYPE(__nv_bfloat16, bf16, 8)
FOR_TYPE(__half, f16, 8)
