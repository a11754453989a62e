// What CUDA sources need in order to compile as C++ for the CPU. A block's threads take turns; see driver.cpp.

#pragma once
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __constant__ static const
// one block runs at a time
#define __shared__ static
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

using uint = unsigned;

struct dim3 {
    unsigned x, y, z;
};

// Where the thread that runs now stands.
struct Place {
    dim3 thread, block, block_size, grid;
    void *dynamic_shared;
};

extern "C" Place emulated_place;
extern "C" void emulated_sync_threads();
extern "C" uint64_t emulated_shuffle(uint64_t value, unsigned from_lane);
extern "C" unsigned emulated_lane();
extern "C" void emulated_register(const char *name, void (*call)(void **args), const size_t *sizes, size_t arguments);

#define threadIdx emulated_place.thread
#define blockIdx emulated_place.block
#define blockDim emulated_place.block_size
#define gridDim emulated_place.grid
#define warpSize 32

inline void __syncthreads() { emulated_sync_threads(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulated_shuffle(0, emulated_lane()); }

template <typename T> T shuffled(T value, unsigned from_lane) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = emulated_shuffle(bits, from_lane);
    memcpy(&value, &bits, sizeof(T));
    return value;
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) { return shuffled(value, emulated_lane() ^ mask); }

// Blocks and threads run one after another.
template <typename T, typename U> T atomicAdd(T *to, U value) {
    T before = *to;
    *to = before + T(value);
    return before;
}
template <typename T, typename U> T atomicMax(T *to, U value) {
    T before = *to;
    if (T(value) > before) *to = T(value);
    return before;
}
template <typename T, typename U> T atomicMin(T *to, U value) {
    T before = *to;
    if (T(value) < before) *to = T(value);
    return before;
}
template <typename T, typename U, typename V> T atomicCAS(T *to, U compare, V value) {
    T before = *to;
    if (before == T(compare)) *to = T(value);
    return before;
}

template <typename To, typename From> To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}
inline int __float_as_int(float x) { return bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return bits_as<double>(x); }

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;
// glibc has another function of that name
#define __expf expf
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * float(M_SQRT1_2)); }
inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
template <typename A, typename B> std::common_type_t<A, B> min(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return y < x ? y : x;
}
template <typename A, typename B> std::common_type_t<A, B> max(A a, B b) {
    std::common_type_t<A, B> x = a, y = b;
    return x < y ? y : x;
}
template <typename T> T __ldg(const T *x) { return *x; }

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

// Half precision: numbers are rounded to the nearest, ties to even, whenever they are stored.
template <typename Format> struct Half {
    uint16_t bits;
    Half() = default;
    template <typename N, typename = std::enable_if_t<std::is_arithmetic_v<N>>> Half(N x) : bits(Format::narrow(float(x))) {}
    operator float() const { return Format::wide(bits); }
    Half &operator+=(Half o) { return *this = Half(float(*this) + float(o)); }
    Half &operator-=(Half o) { return *this = Half(float(*this) - float(o)); }
    Half &operator*=(Half o) { return *this = Half(float(*this) * float(o)); }
    Half &operator/=(Half o) { return *this = Half(float(*this) / float(o)); }
    friend Half operator+(Half a, Half b) { return Half(float(a) + float(b)); }
    friend Half operator-(Half a, Half b) { return Half(float(a) - float(b)); }
    friend Half operator*(Half a, Half b) { return Half(float(a) * float(b)); }
    friend Half operator/(Half a, Half b) { return Half(float(a) / float(b)); }
    friend Half operator-(Half a) { return Half(-float(a)); }
    friend bool operator<(Half a, Half b) { return float(a) < float(b); }
    friend bool operator>(Half a, Half b) { return float(a) > float(b); }
    friend bool operator<=(Half a, Half b) { return float(a) <= float(b); }
    friend bool operator>=(Half a, Half b) { return float(a) >= float(b); }
    friend bool operator==(Half a, Half b) { return float(a) == float(b); }
    friend bool operator!=(Half a, Half b) { return float(a) != float(b); }
};

struct Binary16 {
    static uint16_t narrow(float x) { return bits_as<uint16_t>(_Float16(x)); }
    static float wide(uint16_t x) { return float(bits_as<_Float16>(x)); }
};
struct Brain16 {
    static uint16_t narrow(float x) {
        uint32_t bits = bits_as<uint32_t>(x);
        if (x != x) return uint16_t(bits >> 16) | 64;
        return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    static float wide(uint16_t x) { return bits_as<float>(uint32_t(x) << 16); }
};
using __half = Half<Binary16>;
using __nv_bfloat16 = Half<Brain16>;
using half = __half;
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x + b.x, a.y + b.y}; }
inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x - b.x, a.y - b.y}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x * b.x, a.y * b.y}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short x) { return bits_as<__half>(x); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return bits_as<__nv_bfloat16>(x); }
template <typename F> bool __hisnan(Half<F> x) { return isnan(float(x)); }
template <typename F> Half<F> hsqrt(Half<F> x) { return sqrtf(x); }
template <typename F> Half<F> hcos(Half<F> x) { return cosf(x); }
template <typename F> Half<F> hsin(Half<F> x) { return sinf(x); }
template <typename F> Half<F> hlog(Half<F> x) { return logf(x); }
template <typename F> Half<F> hexp(Half<F> x) { return expf(x); }
template <typename F> Half<F> __habs(Half<F> x) { return fabsf(x); }
template <typename F> Half<F> __hmax_nan(Half<F> a, Half<F> b) { return isnan(float(a)) || a > b ? a : b; }
template <typename F> Half<F> __hmin_nan(Half<F> a, Half<F> b) { return isnan(float(a)) || a < b ? a : b; }
template <typename F> Half<F> __hmax(Half<F> a, Half<F> b) { return fmaxf(a, b); }
template <typename F> Half<F> __hmin(Half<F> a, Half<F> b) { return fminf(a, b); }

// Eight bits are known by name only: nothing of ours uses them.
struct __nv_fp8_e4m3 {
    uint8_t __x;
    __nv_fp8_e4m3() = default;
    template <typename N> explicit __nv_fp8_e4m3(N) : __x(0) {}
    operator float() const { return 0; }
};
#define __NV_E4M3 0
inline __half __nv_cvt_fp8_to_halfraw(uint8_t, int) { return 0.f; }

// Calls a kernel with the arguments that a launch points at.
template <auto kernel> struct Call;
template <typename... Args, void (*kernel)(Args...)> struct Call<kernel> {
    template <size_t... I> static void with(void **args, std::index_sequence<I...>) {
        kernel(*(std::remove_reference_t<Args> *)args[I]...);
    }
    static void call(void **args) { with(args, std::index_sequence_for<Args...>()); }
    static constexpr size_t sizes[] = {sizeof(std::remove_reference_t<Args>)...};
    static void add(const char *name) { emulated_register(name, call, sizes, sizeof...(Args)); }
};
