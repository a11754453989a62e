// Operations on rows and columns of a matrix, in f32 inside whatever the type outside.
//
// One warp has one row: every lane adds its elements in a fixed order and the lanes are added in a fixed tree, so that a
// row's result depends on that row alone and is the same in every run.

#include "elements.cuh"

#define WARPS 4 // of a block, as the launches in `ops/cuda/launch.rs` say

// y = softmax(scale x) over rows of n. Row r is query r % queries of sample r / (queries heads); of its keys it sees the first
// `keys`, with `causal` those up to its own place, with `valid` [samples, keys] those that are 1. What is not seen becomes
// zeros, as does a row that sees nothing.
template <int N, typename T>
__device__ void softmax(const T *x, T *y, const unsigned char *valid, long rows, int n, int keys, int queries, int heads,
                        int causal, float scale) {
    long row = (long)blockIdx.x * WARPS + threadIdx.y;
    if (row >= rows) return;
    x += row * n, y += row * n;
    int end = causal ? min((int)(row % queries) + 1, keys) : keys;
    if (valid) valid += row / ((long)queries * heads) * keys;
    constexpr int HELD = 16 / N > 4 ? 4 : 16 / N; // packs of a lane: a row of up to 512 elements is read once
    float of[HELD][N], most = -INFINITY, sum = 0;
    bool fits = N > 1 && n <= 32 * N * HELD;
    auto seen = [&](int i) { return i < end && (!valid || valid[i]); };
    if (fits) {
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int i = (threadIdx.x + 32 * j) * N;
            Pack<T, N> xs;
            if (i < end) xs = pack<N>(x + i);
            for (int k = 0; k < N; k++) {
                of[j][k] = seen(i + k) ? wide(xs.of[k]) * scale : -INFINITY;
                most = fmaxf(most, of[j][k]);
            }
        }
        most = warp_max(most);
#pragma unroll
        for (int j = 0; j < HELD; j++)
            for (int k = 0; k < N; k++) {
                of[j][k] = of[j][k] == -INFINITY ? 0.f : __expf(of[j][k] - most);
                sum += of[j][k];
            }
        sum = warp_sum(sum);
        float factor = sum > 0 ? 1 / sum : 0;
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int i = (threadIdx.x + 32 * j) * N;
            if (i >= n) continue;
            Pack<T, N> ys;
            for (int k = 0; k < N; k++) put(ys.of + k, of[j][k] * factor);
            *(Pack<T, N> *)(y + i) = ys;
        }
        return;
    }
    for (int i = threadIdx.x * N; i < end; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i);
        for (int k = 0; k < N; k++)
            if (seen(i + k)) most = fmaxf(most, wide(xs.of[k]) * scale);
    }
    most = warp_max(most);
    for (int i = threadIdx.x * N; i < end; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i);
        for (int k = 0; k < N; k++)
            if (seen(i + k)) sum += __expf(wide(xs.of[k]) * scale - most);
    }
    sum = warp_sum(sum);
    float factor = sum > 0 ? 1 / sum : 0;
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i);
        for (int k = 0; k < N; k++) put(xs.of + k, seen(i + k) ? __expf(wide(xs.of[k]) * scale - most) * factor : 0.f);
        *(Pack<T, N> *)(y + i) = xs;
    }
}

// dx = scale p (dp - sum(p dp)), the way back through softmax(scale x) = p
template <int N, typename T>
__device__ void softmax_back(const T *p, const T *dp, T *dx, long rows, int n, float scale) {
    long row = (long)blockIdx.x * WARPS + threadIdx.y;
    if (row >= rows) return;
    p += row * n, dp += row * n, dx += row * n;
    float sum = 0;
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> ps = pack<N>(p + i), ds = pack<N>(dp + i);
        for (int k = 0; k < N; k++) sum += wide(ps.of[k]) * wide(ds.of[k]);
    }
    sum = warp_sum(sum);
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> ps = pack<N>(p + i), ds = pack<N>(dp + i);
        for (int k = 0; k < N; k++) put(ps.of + k, scale * wide(ps.of[k]) * (wide(ds.of[k]) - sum));
        *(Pack<T, N> *)(dx + i) = ps;
    }
}

// What relative positions add to the scores of one query of a window of side x side keys.
template <typename T> struct Relative {
    const T *bias;         // one for each key; or
    const T *down, *right; // one for each distance of places, those of this query's own row and column of keys

    __device__ float of(int key, int y, int x) const {
        return bias ? wide(bias[key]) : wide(down[-y]) + wide(right[-x]);
    }
};

// y = softmax(scale x + relative) over rows of n, of which side * side are keys. Row r is query r % n of head r / n % heads; one
// beyond the keys becomes zeros. Either `bias` [heads, side^2, side^2] is given, or `distances` [rows, m], whose row holds
// 2 side - 1 numbers for the distances down from the last row of keys on, and as many for those to the right.
template <int N, typename T>
__device__ void window_softmax(const T *x, const T *bias, const T *distances, T *y, long rows, int n, int side, int m, int heads,
                               float scale) {
    long row = (long)blockIdx.x * WARPS + threadIdx.y;
    if (row >= rows) return;
    int keys = side * side, query = row % n;
    int end = query < keys ? keys : 0;
    x += row * n, y += row * n;
    Relative<T> relative = {};
    if (bias)
        relative.bias = bias + ((row / n % heads) * keys + (end ? query : 0)) * keys;
    else {
        relative.down = distances + row * m + query / side + side - 1;
        relative.right = distances + row * m + 2 * side - 1 + query % side + side - 1;
    }
    float most = -INFINITY;
    for (int i = threadIdx.x * N; i < end; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i);
        int down = i / side, right = i % side;
        for (int k = 0; k < N && i + k < end; k++) {
            most = fmaxf(most, wide(xs.of[k]) * scale + relative.of(i + k, down, right));
            if (++right == side) right = 0, down++;
        }
    }
    most = warp_max(most);
    float sum = 0;
    for (int i = threadIdx.x * N; i < end; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i);
        int down = i / side, right = i % side;
        for (int k = 0; k < N && i + k < end; k++) {
            sum += __expf(wide(xs.of[k]) * scale + relative.of(i + k, down, right) - most);
            if (++right == side) right = 0, down++;
        }
    }
    sum = warp_sum(sum);
    float factor = sum > 0 ? 1 / sum : 0;
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i);
        int down = i / side, right = i % side;
        for (int k = 0; k < N; k++) {
            float p = i + k < end ? __expf(wide(xs.of[k]) * scale + relative.of(i + k, down, right) - most) * factor : 0.f;
            put(xs.of + k, p);
            if (++right == side) right = 0, down++;
        }
        *(Pack<T, N> *)(y + i) = xs;
    }
}

template <int N, typename T>
__device__ __forceinline__ void moments(const T *x, int n, float epsilon, float *mean, float *rstd) {
    float sum = 0;
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i);
        for (int k = 0; k < N; k++) sum += wide(xs.of[k]);
    }
    *mean = warp_sum(sum) / n;
    float squares = 0;
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i);
        for (int k = 0; k < N; k++) squares += (wide(xs.of[k]) - *mean) * (wide(xs.of[k]) - *mean);
    }
    *rstd = rsqrtf(warp_sum(squares) / n + epsilon);
}

template <int N, typename T>
__device__ void layer_norm(const T *x, const T *weight, const T *bias, T *y, long rows, int n, float epsilon) {
    long row = (long)blockIdx.x * WARPS + threadIdx.y;
    if (row >= rows) return;
    x += row * n, y += row * n;
    float mean, rstd;
    moments<N>(x, n, epsilon, &mean, &rstd);
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i), ws = pack<N>(weight + i), bs = pack<N>(bias + i), out;
        for (int k = 0; k < N; k++) put(out.of + k, (wide(xs.of[k]) - mean) * rstd * wide(ws.of[k]) + wide(bs.of[k]));
        *(Pack<T, N> *)(y + i) = out;
    }
}

// With g = dy weight and z the normalised row: dx = rstd (g - mean(g) - z mean(g z)), and where `more` is given that is
// added. Leaves mean and rstd of every row for `column_sums`.
template <int N, typename T>
__device__ void layer_norm_back(const T *x, const T *weight, const T *dy, const T *more, T *dx, float *means, float *rstds,
                                long rows, int n, float epsilon) {
    long row = (long)blockIdx.x * WARPS + threadIdx.y;
    if (row >= rows) return;
    x += row * n, dy += row * n, dx += row * n;
    if (more) more += row * n;
    float mean, rstd;
    moments<N>(x, n, epsilon, &mean, &rstd);
    float g_sum = 0, gz_sum = 0;
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i), ws = pack<N>(weight + i), ds = pack<N>(dy + i);
        for (int k = 0; k < N; k++) {
            float g = wide(ds.of[k]) * wide(ws.of[k]);
            g_sum += g, gz_sum += g * (wide(xs.of[k]) - mean) * rstd;
        }
    }
    g_sum = warp_sum(g_sum) / n, gz_sum = warp_sum(gz_sum) / n;
    for (int i = threadIdx.x * N; i < n; i += 32 * N) {
        Pack<T, N> xs = pack<N>(x + i), ws = pack<N>(weight + i), ds = pack<N>(dy + i), out, ms;
        if (more) ms = pack<N>(more + i);
        for (int k = 0; k < N; k++) {
            float g = wide(ds.of[k]) * wide(ws.of[k]), z = (wide(xs.of[k]) - mean) * rstd;
            put(out.of + k, rstd * (g - g_sum - z * gz_sum) + (more ? wide(ms.of[k]) : 0.f));
        }
        *(Pack<T, N> *)(dx + i) = out;
    }
    if (threadIdx.x == 0) means[row] = mean, rstds[row] = rstd;
}

#define ROWS 8 // that a block of column sums reads at once

// Adds up N columns of ROWS threads each, in their order, and writes 32 N sums of this block's part.
template <int N> __device__ __forceinline__ void finish_part(const float *of_thread, float *sums, int n) {
    __shared__ float shared[ROWS][32 * N];
    __syncthreads();
    for (int k = 0; k < N; k++) shared[threadIdx.y][threadIdx.x * N + k] = of_thread[k];
    __syncthreads();
    for (int i = threadIdx.y * 32 + threadIdx.x; i < 32 * N; i += 32 * ROWS) {
        int column = blockIdx.x * 32 * N + i;
        float sum = 0;
        for (int row = 0; row < ROWS; row++) sum += shared[row][i];
        if (column < n) sums[(long)blockIdx.y * n + column] = sum;
    }
}

// Sums over the rows of block y's part, for 32 N columns: dy, and where `x` is given also dy z of the normalised rows.
// Parts are added by `column_sums_finish`, in their order.
template <int N, typename T>
__device__ void column_sums(const T *dy, const T *x, const float *means, const float *rstds, float *sums, float *z_sums, long rows,
                            int n, long rows_per_part) {
    int column = (blockIdx.x * 32 + threadIdx.x) * N;
    long first = blockIdx.y * rows_per_part, end = column < n ? min(rows, first + rows_per_part) : first;
    float sum[N] = {}, z_sum[N] = {};
    if (x) {
#pragma unroll 4
        for (long row = first + threadIdx.y; row < end; row += ROWS) {
            Pack<T, N> ds = pack<N>(dy + row * n + column), xs = pack<N>(x + row * n + column);
            float mean = means[row], rstd = rstds[row];
            for (int k = 0; k < N; k++) {
                float g = wide(ds.of[k]);
                sum[k] += g, z_sum[k] += g * (wide(xs.of[k]) - mean) * rstd;
            }
        }
        finish_part<N>(z_sum, z_sums, n);
    } else {
#pragma unroll 4
        for (long row = first + threadIdx.y; row < end; row += ROWS) {
            Pack<T, N> ds = pack<N>(dy + row * n + column);
            for (int k = 0; k < N; k++) sum[k] += wide(ds.of[k]);
        }
    }
    finish_part<N>(sum, sums, n);
}

// Block y takes the y-th array of sums. Columns from `zeros` to `zeros_end` become zeros.
template <typename T>
__device__ void column_sums_finish(const float *sums, const float *z_sums, T *out, T *z_out, int parts, int n, int zeros,
                                   int zeros_end) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= n) return;
    if (blockIdx.y == 1) sums = z_sums, out = z_out;
    float sum = 0;
    if (column < zeros || column >= zeros_end)
        for (int part = 0; part < parts; part++) sum += sums[(long)part * n + column];
    put(out + column, sum);
}

// x + bias, and where `more` is given that is added
template <int N, typename T> __device__ void add_bias(const T *x, const T *bias, const T *more, T *y, long count, int n) {
    unsigned packs = count / N, columns = n / N;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x) {
        Pack<T, N> xs = pack<N>(x + (long)i * N), bs = pack<N>(bias + i % columns * N), ms, out;
        if (more) ms = pack<N>(more + (long)i * N);
        for (int k = 0; k < N; k++) put(out.of + k, wide(xs.of[k]) + wide(bs.of[k]) + (more ? wide(ms.of[k]) : 0.f));
        *(Pack<T, N> *)(y + (long)i * N) = out;
    }
}

// Element i of heads [parts, samples, heads, padded, width]. Its place is in rows [samples, length, parts, heads, width]; there is
// none for positions beyond `length`, which are zeros.
struct Head {
    unsigned w, l, h, b, part;

    __device__ Head(unsigned i, int samples, int padded, int heads, int width) {
        w = i % width, i /= width;
        l = i % padded, i /= padded;
        h = i % heads, i /= heads;
        b = i % samples, part = i / samples;
    }
    __device__ long in_rows(int parts, int length, int heads, int width) const {
        return ((((long)b * length + l) * parts + part) * heads + h) * width + w;
    }
};

// The first of `parts` is taken times a factor.
template <int N, typename T>
__device__ void to_heads(const T *rows, T *y, long count, int parts, int samples, int length, int padded, int heads, int width,
                         float factor) {
    unsigned packs = count / N;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x) {
        Head at(i, samples, padded, heads, width / N);
        Pack<T, N> xs;
        if (at.l < length) xs = pack<N>(rows + at.in_rows(parts, length, heads, width / N) * N);
        float times = at.part == 0 ? factor : 1.f;
        if (at.l >= length || times != 1)
            for (int k = 0; k < N; k++) put(xs.of + k, at.l < length ? wide(xs.of[k]) * times : 0.f);
        *(Pack<T, N> *)(y + (long)i * N) = xs;
    }
}

// The reverse, from an array for each part.
template <int N, typename T>
__device__ void from_heads(const T *first, const T *second, const T *third, T *rows, long count, int parts, int samples, int length,
                           int padded, int heads, int width, float factor) {
    unsigned packs = count / N, each = packs / parts;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x) {
        Head at(i, samples, padded, heads, width / N);
        if (at.l >= length) continue;
        const T *x = at.part == 0 ? first : at.part == 1 ? second : third;
        Pack<T, N> xs = pack<N>(x + (long)(i - at.part * each) * N);
        if (at.part == 0 && factor != 1)
            for (int k = 0; k < N; k++) put(xs.of + k, wide(xs.of[k]) * factor);
        *(Pack<T, N> *)(rows + at.in_rows(parts, length, heads, width / N) * N) = xs;
    }
}

// Images [B, height, width, stride] cut into windows of side x side, the last ones filled up with `padding` [stride]: the heads
// [B * down * across, heads, padded, depth] that begin at column `offset`. Positions beyond side * side are zeros.
template <int N, typename T>
__device__ void to_windows(const T *images, const T *padding, T *out, long count, int height, int width, int side, int padded,
                           int heads, int depth, int stride, int offset, float factor) {
    unsigned packs = count / N;
    int down = (height + side - 1) / side, across = (width + side - 1) / side;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x) {
        Head at(i, 1 << 30, padded, heads, depth / N);
        int y = at.b / across % down * side + at.l / side, x = at.b % across * side + at.l % side;
        bool seen = at.l < side * side;
        long column = offset + at.h * depth + at.w * N, image = at.b / (down * across);
        Pack<T, N> xs;
        if (seen) xs = pack<N>(y < height && x < width ? images + ((image * height + y) * width + x) * stride + column : padding + column);
        if (!seen || factor != 1)
            for (int k = 0; k < N; k++) put(xs.of + k, seen ? wide(xs.of[k]) * factor : 0.f);
        *(Pack<T, N> *)(out + (long)i * N) = xs;
    }
}

// The reverse, into images [B, height, width, heads * depth].
template <int N, typename T>
__device__ void from_windows(const T *windows, T *images, long count, int height, int width, int side, int padded, int heads,
                             int depth) {
    unsigned packs = count / N, channels = heads * depth / N;
    int down = (height + side - 1) / side, across = (width + side - 1) / side;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x) {
        unsigned w = i % channels % (depth / N), h = i % channels / (depth / N), place = i / channels;
        unsigned x = place % width, y = place / width % height, image = place / width / height;
        long window = ((long)image * down + y / side) * across + x / side;
        long from = ((window * heads + h) * padded + y % side * side + x % side) * (depth / N) + w;
        *(Pack<T, N> *)(images + (long)i * N) = pack<N>(windows + from * N);
    }
}

// kind 0: x sigmoid(1.702 x); 1: x Phi(x)
__device__ __forceinline__ float activated(float x, int kind) {
    return kind == 0 ? x / (1 + __expf(-1.702f * x)) : 0.5f * x * (1 + erff(x * 0.70710678f));
}

__device__ __forceinline__ float slope(float x, int kind) {
    if (kind == 0) {
        float s = 1 / (1 + __expf(-1.702f * x));
        return s * (1 + 1.702f * x * (1 - s));
    }
    return 0.5f * (1 + erff(x * 0.70710678f)) + x * 0.39894228f * __expf(-0.5f * x * x);
}

template <int N, typename T> __device__ void activation(const T *x, T *y, long count, int kind) {
    unsigned packs = count / N;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x) {
        Pack<T, N> xs = pack<N>(x + (long)i * N);
        for (int k = 0; k < N; k++) put(xs.of + k, activated(wide(xs.of[k]), kind));
        *(Pack<T, N> *)(y + (long)i * N) = xs;
    }
}

template <int N, typename T> __device__ void activation_back(const T *x, const T *dy, T *dx, long count, int kind) {
    unsigned packs = count / N;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x) {
        Pack<T, N> xs = pack<N>(x + (long)i * N), ds = pack<N>(dy + (long)i * N);
        for (int k = 0; k < N; k++) put(xs.of + k, wide(ds.of[k]) * slope(wide(xs.of[k]), kind));
        *(Pack<T, N> *)(dx + (long)i * N) = xs;
    }
}

// Kernels that take rows whatever their length.
#define FOR_TYPE(T, name)                                                                                                  \
    extern "C" __global__ void column_sums_finish_##name(const float *sums, const float *z_sums, T *out, T *z_out,         \
                                                         int parts, int n, int zeros, int zeros_end) {                     \
        column_sums_finish(sums, z_sums, out, z_out, parts, n, zeros, zeros_end);                                          \
    }

// Kernels that take N elements at once, which have to divide every size and be aligned.
#define FOR_PACKS(T, name, N)                                                                                              \
    extern "C" __global__ void column_sums_##name(const T *dy, const T *x, const float *means, const float *rstds,         \
                                                  float *sums, float *z_sums, long rows, int n, long rows_per_part) {      \
        column_sums<N>(dy, x, means, rstds, sums, z_sums, rows, n, rows_per_part);                                            \
    }                                                                                                                      \
    extern "C" __global__ void layer_norm_##name(const T *x, const T *weight, const T *bias, T *y, long rows, int n,       \
                                                 float epsilon) {                                                          \
        layer_norm<N>(x, weight, bias, y, rows, n, epsilon);                                                               \
    }                                                                                                                      \
    extern "C" __global__ void layer_norm_back_##name(const T *x, const T *weight, const T *dy, const T *more, T *dx,      \
                                                      float *means, float *rstds, long rows, int n, float epsilon) {       \
        layer_norm_back<N>(x, weight, dy, more, dx, means, rstds, rows, n, epsilon);                                       \
    }                                                                                                                      \
    extern "C" __global__ void add_bias_##name(const T *x, const T *bias, const T *more, T *y, long count, int n) {        \
        add_bias<N>(x, bias, more, y, count, n);                                                                           \
    }                                                                                                                      \
    extern "C" __global__ void softmax_##name(const T *x, T *y, const unsigned char *valid, long rows, int n, int keys,    \
                                              int queries, int heads, int causal, float scale) {                           \
        softmax<N>(x, y, valid, rows, n, keys, queries, heads, causal, scale);                                             \
    }                                                                                                                      \
    extern "C" __global__ void softmax_back_##name(const T *p, const T *dp, T *dx, long rows, int n, float scale) {        \
        softmax_back<N>(p, dp, dx, rows, n, scale);                                                                        \
    }                                                                                                                      \
    extern "C" __global__ void window_softmax_##name(const T *x, const T *bias, const T *distances, T *y, long rows, int n,\
                                                     int side, int m, int heads, float scale) {                            \
        window_softmax<N>(x, bias, distances, y, rows, n, side, m, heads, scale);                                          \
    }                                                                                                                      \
    extern "C" __global__ void to_heads_##name(const T *rows, T *y, long count, int parts, int samples, int length,        \
                                               int padded, int heads, int width, float factor) {                           \
        to_heads<N>(rows, y, count, parts, samples, length, padded, heads, width, factor);                                 \
    }                                                                                                                      \
    extern "C" __global__ void from_heads_##name(const T *first, const T *second, const T *third, T *rows, long count,     \
                                                 int parts, int samples, int length, int padded, int heads, int width,     \
                                                 float factor) {                                                           \
        from_heads<N>(first, second, third, rows, count, parts, samples, length, padded, heads, width, factor);            \
    }                                                                                                                      \
    extern "C" __global__ void to_windows_##name(const T *images, const T *padding, T *out, long count, int height, int width,\
                                                 int side, int padded, int heads, int depth, int stride, int offset,       \
                                                 float factor) {                                                           \
        to_windows<N>(images, padding, out, count, height, width, side, padded, heads, depth, stride, offset, factor);     \
    }                                                                                                                      \
    extern "C" __global__ void from_windows_##name(const T *windows, T *images, long count, int height, int width, int side,\
                                                   int padded, int heads, int depth) {                                     \
        from_windows<N>(windows, images, count, height, width, side, padded, heads, depth);                                \
    }                                                                                                                      \
    extern "C" __global__ void activation_##name(const T *x, T *y, long count, int kind) {                                 \
        activation<N>(x, y, count, kind);                                                                                  \
    }                                                                                                                      \
    extern "C" __global__ void activation_back_##name(const T *x, const T *dy, T *dx, long count, int kind) {              \
        activation_back<N>(x, dy, dx, count, kind);                                                                        \
    }

FOR_TYPE(float, f32)
FOR_TYPE(__nv_bfloat16, bf16)
FOR_TYPE(__half, f16)
FOR_PACKS(float, f32, 1)
FOR_PACKS(__nv_bfloat16, bf16, 1)
FOR_PACKS(__half, f16, 1)
// sixteen bytes
FOR_PACKS(float, f32_packed, 4)
FOR_PACKS(__nv_bfloat16, bf16_packed, 8)
FOR_PACKS(__half, f16_packed, 8)
