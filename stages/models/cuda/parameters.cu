// What an optimiser does to all parameters of a network, in few launches: most of the hundreds are small, and a launch for
// each would take longer than its work.

#include "elements.cuh"

// As `ops/cuda/parameters.rs` says.
#define TENSORS 64   // of one launch: arguments of a kernel have room for 4 KiB
#define ARRAYS 5     // of each tensor
#define CHUNK 16384  // elements of one block
#define THREADS 256  // of a block
#define PACK 4       // elements that a thread reads at once

// Tensors of one launch. Each is cut into chunks, and every block has one; unused places begin behind the last chunk.
struct Tensors {
    void *arrays[ARRAYS][TENSORS];
    long counts[TENSORS];
    float factors[2][TENSORS];
    int first_chunk[TENSORS];
};

struct Chunk {
    int tensor;
    long start, end;

    __device__ explicit Chunk(const Tensors &all) {
        tensor = 0;
        for (int step = TENSORS / 2; step > 0; step /= 2)
            if (all.first_chunk[tensor + step] <= blockIdx.x) tensor += step;
        start = (long)(blockIdx.x - all.first_chunk[tensor]) * CHUNK;
        end = min(start + CHUNK, all.counts[tensor]);
    }

    // The end of what can be read in packs of arrays that all begin at a multiple of a pack, or of none.
    __device__ long packed_end(bool aligned) const { return aligned ? start + (end - start) / PACK * PACK : start; }
};

template <typename T> __device__ __forceinline__ bool aligned(const T *array) {
    return (unsigned long long)array % (PACK * sizeof(T)) == 0;
}

// The sum of squares of each chunk.
template <typename G> __device__ __forceinline__ void squares(const Tensors &all, float *sums) {
    __shared__ float of_warps[THREADS / 32];
    Chunk chunk(all);
    const G *x = (const G *)all.arrays[0][chunk.tensor];
    long packed_end = chunk.packed_end(aligned(x));
    float sum = 0;
    for (long i = chunk.start + threadIdx.x * PACK; i < packed_end; i += THREADS * PACK) {
        Pack<G, PACK> xs = pack<PACK>(x + i);
        for (int k = 0; k < PACK; k++) sum += wide(xs.of[k]) * wide(xs.of[k]);
    }
    for (long i = packed_end + threadIdx.x; i < chunk.end; i += THREADS) sum += wide(x[i]) * wide(x[i]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < THREADS / 32; warp++) sum += of_warps[warp];
    sums[blockIdx.x] = sum;
}

// The root of all sums together, by one block.
extern "C" __global__ void root_of_sum(const float *sums, double *root, long count) {
    __shared__ double of_threads[THREADS];
    double sum = 0;
    for (long i = threadIdx.x; i < count; i += THREADS) sum += sums[i];
    of_threads[threadIdx.x] = sum;
    for (int step = THREADS / 2; step > 0; step /= 2) {
        __syncthreads();
        if (threadIdx.x < step) of_threads[threadIdx.x] += of_threads[threadIdx.x + step];
    }
    if (threadIdx.x == 0) *root = sqrt(of_threads[0]);
}

// What all parameters of a step have in common.
struct Step {
    const float *clip_there; // times that number too, unless it is null
    float beta1, beta2, clip, spread, epsilon;
};

// One step of AdamW. Arrays: f32 weights, both moments, the gradient, and a copy of the weights in the network's type unless
// that is null; factors: the rate, and how much of a weight decay leaves.
template <typename G, typename T> __device__ __forceinline__ void adamw(const Tensors &all, const Step &step) {
    Chunk chunk(all);
    int at = chunk.tensor;
    float *weights = (float *)all.arrays[0][at], *first = (float *)all.arrays[1][at], *second = (float *)all.arrays[2][at];
    const G *gradients = (const G *)all.arrays[3][at];
    T *copies = (T *)all.arrays[4][at];
    float rate = all.factors[0][at], kept = all.factors[1][at];
    float clip = step.clip_there ? step.clip * *step.clip_there : step.clip;
    auto moved = [&](float &w, float &m, float &v, float g) {
        g *= clip;
        m = m * step.beta1 + g * (1 - step.beta1);
        v = v * step.beta2 + g * g * (1 - step.beta2);
        w = w * kept - m / (sqrtf(v) * step.spread + step.epsilon) * rate;
    };
    long packed_end =
        chunk.packed_end(aligned(weights) && aligned(first) && aligned(second) && aligned(gradients) && aligned(copies));
    for (long i = chunk.start + threadIdx.x * PACK; i < packed_end; i += THREADS * PACK) {
        Pack<float, PACK> ws = pack<PACK>(weights + i), ms = pack<PACK>(first + i), vs = pack<PACK>(second + i);
        Pack<G, PACK> gs = pack<PACK>(gradients + i);
        Pack<T, PACK> out;
        for (int k = 0; k < PACK; k++) {
            moved(ws.of[k], ms.of[k], vs.of[k], wide(gs.of[k]));
            put(out.of + k, ws.of[k]);
        }
        *(Pack<float, PACK> *)(weights + i) = ws;
        *(Pack<float, PACK> *)(first + i) = ms;
        *(Pack<float, PACK> *)(second + i) = vs;
        if (copies) *(Pack<T, PACK> *)(copies + i) = out;
    }
    for (long i = packed_end + threadIdx.x; i < chunk.end; i += THREADS) {
        moved(weights[i], first[i], second[i], wide(gradients[i]));
        if (copies) put(copies + i, weights[i]);
    }
}

// average = decay average + (1 - decay) weight. Arrays: f32 averages, weights of any type.
template <typename T> __device__ __forceinline__ void averages(const Tensors &all, float decay) {
    Chunk chunk(all);
    float *average = (float *)all.arrays[0][chunk.tensor];
    const T *weights = (const T *)all.arrays[1][chunk.tensor];
    long packed_end = chunk.packed_end(aligned(average) && aligned(weights));
    for (long i = chunk.start + threadIdx.x * PACK; i < packed_end; i += THREADS * PACK) {
        Pack<float, PACK> as = pack<PACK>(average + i);
        Pack<T, PACK> ws = pack<PACK>(weights + i);
        for (int k = 0; k < PACK; k++) as.of[k] = decay * as.of[k] + (1 - decay) * wide(ws.of[k]);
        *(Pack<float, PACK> *)(average + i) = as;
    }
    for (long i = packed_end + threadIdx.x; i < chunk.end; i += THREADS)
        average[i] = decay * average[i] + (1 - decay) * wide(weights[i]);
}

#define FOR_GRADIENT(G, name)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) squares_##name(const __grid_constant__ Tensors all, float *sums) { \
        squares<G>(all, sums);                                                                                             \
    }
#define FOR_STEP(G, T, name)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) adamw_##name(const __grid_constant__ Tensors all,                \
                                                                       const __grid_constant__ Step step) {                \
        adamw<G, T>(all, step);                                                                                            \
    }
#define FOR_AVERAGE(T, name)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) averages_##name(const __grid_constant__ Tensors all, float decay) { \
        averages<T>(all, decay);                                                                                           \
    }

FOR_GRADIENT(float, f32)
FOR_GRADIENT(__nv_bfloat16, bf16)
// by the types of the gradient and of the copy
FOR_STEP(float, float, f32_f32)
FOR_STEP(float, __nv_bfloat16, f32_bf16)
FOR_STEP(float, __half, f32_f16)
FOR_STEP(__nv_bfloat16, __nv_bfloat16, bf16_bf16)
FOR_AVERAGE(float, f32)
FOR_AVERAGE(__nv_bfloat16, bf16)
FOR_AVERAGE(__half, f16)
