// A GPU that is the CPU: what the program asks of NVIDIA's libraries, with kernels that kernels.py has compiled.
//
// Work waits on its stream until somebody waits for it, and nothing of another stream is done before an event asks for it: whoever
// reads too early, or writes what is still to be read, finds so every time. Shown are also wrong numbers, a launch with other
// arguments than its kernel has, memory that is read before it is written (it begins as NaN), reads and writes beyond an array
// or after it was freed, and threads that wait for others in vain.
//
// The threads of a block are fibers that take turns: each runs until it waits for the others. Every second block begins with its
// last thread, so that a result which depends on the order, for want of a barrier, is wrong in one of them.

#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "include/emulated.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace {

constexpr int OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, LAUNCH_FAILED = 719;

[[noreturn]] void fail(const std::string &problem) {
    fprintf(stderr, "GPU on the CPU: %s\n", problem.c_str());
    abort();
}

// ---- memory

constexpr size_t PAGE = 4096, ALIGNMENT = 256, TOTAL = 16ull << 30;
constexpr unsigned char UNWRITTEN = 0xff;  // NaN in every type

struct Block {
    char *mapped;
    size_t pages, bytes;
};
std::recursive_mutex memory_lock;
std::map<uint64_t, Block> blocks;
uint64_t used, most_used;

size_t up(size_t x, size_t to) { return (x + to - 1) / to * to; }

// An array ends where a page begins that nobody may touch.
int allocate(uint64_t *address, size_t bytes) {
    size_t padded = up(std::max<size_t>(bytes, 1), ALIGNMENT), pages = up(padded, PAGE) + PAGE;
    std::lock_guard lock(memory_lock);
    if (used + padded > TOTAL) return OUT_OF_MEMORY;
    char *mapped = (char *)mmap(nullptr, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return OUT_OF_MEMORY;
    mprotect(mapped + pages - PAGE, PAGE, PROT_NONE);
    char *start = mapped + pages - PAGE - padded;
    memset(start, UNWRITTEN, padded);
    *address = (uint64_t)start;
    blocks[*address] = {mapped, pages, bytes};
    used += padded;
    most_used = std::max(most_used, used);
    return OK;
}

int release(uint64_t address) {
    if (!address) return OK;
    std::lock_guard lock(memory_lock);
    auto found = blocks.find(address);
    if (found == blocks.end()) fail("memory is freed that was not allocated");
    auto [mapped, pages, bytes] = found->second;
    size_t padded = up(std::max<size_t>(bytes, 1), ALIGNMENT);
    for (size_t i = bytes; i < padded; i++)
        if (((unsigned char *)address)[i] != UNWRITTEN) fail("something was written behind the end of an array");
    munmap(mapped, pages);
    used -= padded;
    blocks.erase(found);
    return OK;
}

// ---- streams

// Work in the order in which it was handed over; `done` of it is done.
struct Stream {
    std::deque<std::function<void()>> waiting;
    uint64_t handed_over = 0, done = 0;
};
struct Event {
    Stream *stream = nullptr;
    uint64_t place = 0;
};
std::recursive_mutex work_lock;
Stream default_stream;
std::set<Stream *> streams = {&default_stream};
constexpr size_t MOST_WAITING = 5000;

// GPU_ON_CPU_LAUNCHES=N: the GPU fails after so many launches and takes nothing more, as after a fault in a kernel.
long launches_left = [] {
    const char *most = getenv("GPU_ON_CPU_LAUNCHES");
    return most ? atol(most) : -1;
}();
bool has_failed = false;
int condition() {
    std::lock_guard lock(work_lock);
    return has_failed ? LAUNCH_FAILED : OK;
}

Stream *stream_of(void *handle) { return (uintptr_t)handle <= 2 ? &default_stream : (Stream *)handle; }

void finish(Stream *stream, uint64_t place) {
    std::lock_guard lock(work_lock);
    while (stream->done < place && !stream->waiting.empty()) {
        auto work = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        work();
        stream->done++;
    }
}
void finish(Stream *stream) { finish(stream, stream->handed_over); }
void finish_all() {
    std::lock_guard lock(work_lock);
    for (Stream *stream : streams) finish(stream);
}
int hand_over(void *handle, std::function<void()> work) {
    std::lock_guard lock(work_lock);
    if (has_failed) return LAUNCH_FAILED;
    Stream *stream = stream_of(handle);
    stream->waiting.push_back(std::move(work));
    stream->handed_over++;
    if (stream->waiting.size() > MOST_WAITING) finish(stream);
    return OK;
}

// Memory of the host that copies do not wait for.
std::map<uintptr_t, size_t> locked_pages;
bool is_locked(const void *address) {
    std::lock_guard lock(work_lock);
    auto after = locked_pages.upper_bound((uintptr_t)address);
    return after != locked_pages.begin() && (uintptr_t)address < std::prev(after)->first + std::prev(after)->second;
}

// ---- kernels

struct Kernel {
    std::string name;
    void (*call)(void **);
    const size_t *sizes;  // of its arguments
    size_t arguments;
};
using Module = std::map<std::string, Kernel>;
std::vector<Module> modules;  // as they were compiled
Module *registering;

// ---- fibers

extern "C" void emulated_switch(void **from, void *to);
asm(R"(
.globl emulated_switch
.type emulated_switch, @function
emulated_switch:
    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
    ret
)");

enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };
struct Fiber {
    void *stack_pointer;
    State state;
    unsigned from_lane, turn;
    uint64_t sent[2];  // a thread may be one shuffle ahead of another
};
constexpr size_t STACK = 128 << 10, MOST_THREADS = 1024;
char *stacks;
Fiber fibers[MOST_THREADS];
void *scheduler;
unsigned now;  // the fiber that runs
const Kernel *kernel;
void **arguments;

void wait_as(State state) {
    fibers[now].state = state;
    emulated_switch(&fibers[now].stack_pointer, scheduler);
}

void fiber_main() {
    kernel->call(arguments);
    wait_as(DONE);
}

void start(unsigned thread) {
    uint64_t *top = (uint64_t *)(stacks + (thread + 1) * STACK) - 8;
    top[6] = (uint64_t)fiber_main;
    for (int i = 0; i < 6; i++) top[i] = 0;
    fibers[thread] = {top, READY, 0, 0, {0, 0}};
}

// Lets threads go on that wait for others which have come; false if there are none.
bool let_go(unsigned threads) {
    bool any = false;
    for (unsigned first = 0; first < threads; first += 32) {
        unsigned end = std::min(first + 32, threads), waiting = 0;
        for (unsigned i = first; i < end; i++) waiting += fibers[i].state == AT_SHUFFLE;
        if (waiting == 0) continue;
        for (unsigned i = first; i < end; i++)
            if (fibers[i].state != AT_SHUFFLE) {
                if (fibers[i].state == DONE) fail(kernel->name + ": threads of a warp wait for one that has ended");
                waiting = 0;
            }
        if (waiting == 0) continue;
        for (unsigned i = first; i < end; i++) fibers[i].state = READY;
        any = true;
    }
    if (any) return true;
    for (unsigned i = 0; i < threads; i++)
        if (fibers[i].state == AT_SHUFFLE) fail(kernel->name + ": threads of a warp wait for others that wait elsewhere");
    for (unsigned i = 0; i < threads; i++)
        if (fibers[i].state == AT_BARRIER) fibers[i].state = READY, any = true;
    return any;
}

void run_block(unsigned threads, bool backwards) {
    dim3 size = emulated_place.block_size;
    for (unsigned i = 0; i < threads; i++) start(i);
    do {
        for (unsigned i = 0; i < threads; i++) {
            now = backwards ? threads - 1 - i : i;
            if (fibers[now].state != READY) continue;
            emulated_place.thread = {now % size.x, now / size.x % size.y, now / size.x / size.y};
            emulated_switch(&scheduler, fibers[now].stack_pointer);
        }
    } while (let_go(threads));
}

void on_segmentation_fault(int) {
    fail("memory was touched that belongs to no array, by the kernel " + std::string(kernel ? kernel->name : "(none)") + " or behind it");
}

void load_kernels() {
    static std::once_flag once;
    std::call_once(once, [] {
        signal(SIGSEGV, on_segmentation_fault);
        stacks = (char *)mmap(nullptr, STACK * MOST_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        Dl_info self;
        dladdr((void *)load_kernels, &self);
        std::set<std::filesystem::path> libraries;
        for (auto &file : std::filesystem::directory_iterator(std::filesystem::path(self.dli_fname).parent_path()))
            if (file.path().filename().string().starts_with("kernels-")) libraries.insert(file.path());
        for (auto &path : libraries) {
            void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
            if (!library) fail(dlerror());
            registering = &modules.emplace_back();
            ((void (*)())dlsym(library, "emulated_kernels"))();
        }
    });
}

}  // namespace

extern "C" {

Place emulated_place;

void emulated_register(const char *name, void (*call)(void **), const size_t *sizes, size_t arguments) {
    (*registering)[name] = {name, call, sizes, arguments};
}

unsigned emulated_lane() { return now % 32; }

void emulated_sync_threads() { wait_as(AT_BARRIER); }

uint64_t emulated_shuffle(uint64_t value, unsigned from_lane) {
    Fiber &self = fibers[now];
    unsigned turn = self.turn++ % 2;
    self.sent[turn] = value;
    wait_as(AT_SHUFFLE);
    return fibers[now / 32 * 32 + from_lane].sent[turn];
}

// ---- the driver

int cuInit(unsigned) {
    load_kernels();
    return OK;
}
int cuGetErrorString(int, const char **text) { return *text = "see standard error", OK; }
int cuDeviceGetCount(int *count) { return *count = 1, OK; }
int cuDeviceGet(int *device, int) { return *device = 0, OK; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
    const std::map<int, int> known = {{1, 1024}, {8, 48 << 10}, {10, 32}, {16, 4}, {75, 8}, {76, 0}, {115, 1}};
    auto found = known.find(attribute);
    return *value = found == known.end() ? 0 : found->second, OK;
}
int cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = (void *)1, OK; }
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)1, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
thread_local void *current_context;
int cuCtxSetCurrent(void *context) { return current_context = context, OK; }
int cuCtxGetCurrent(void **context) { return *context = current_context, OK; }
int cuCtxDestroy_v2(void *) { return OK; }
int cuCtxSynchronize() { return finish_all(), condition(); }
int cuEventCreate(void **event, unsigned) { return *event = new Event(), OK; }
int cuEventDestroy_v2(void *event) { return delete (Event *)event, OK; }
int cuEventRecord(void *event, void *stream) {
    std::lock_guard lock(work_lock);
    return *(Event *)event = {stream_of(stream), stream_of(stream)->handed_over}, OK;
}
int cuEventSynchronize(void *event) {
    Event at = *(Event *)event;
    if (at.stream) finish(at.stream, at.place);
    return condition();
}
// whoever asks again and again waits
int cuEventQuery(void *event) { return cuEventSynchronize(event); }
int cuStreamCreate(void **stream, unsigned) {
    std::lock_guard lock(work_lock);
    auto fresh = new Stream();
    streams.insert(fresh);
    return *stream = fresh, OK;
}
int cuStreamDestroy_v2(void *stream) { return finish(stream_of(stream)), OK; }
int cuStreamIsCapturing(void *, int *status) { return *status = 0, OK; }
int cuStreamSynchronize(void *stream) { return finish(stream_of(stream)), condition(); }
int cuStreamWaitEvent(void *stream, void *event, unsigned) {
    Event at = *(Event *)event;
    return at.stream ? hand_over(stream, [at] { finish(at.stream, at.place); }) : OK;
}
int cuProfilerStart() { return OK; }
int cuProfilerStop() { return OK; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) { return allocate(address, bytes); }
int cuMemAllocAsync(uint64_t *address, size_t bytes, void *) { return allocate(address, bytes); }
int cuMemFree_v2(uint64_t address) { return finish_all(), release(address); }
int cuMemFreeAsync(uint64_t address, void *stream) { return hand_over(stream, [=] { release(address); }); }
int cuMemHostAlloc(void **address, size_t bytes, unsigned) {
    std::lock_guard lock(work_lock);
    bytes = up(std::max<size_t>(bytes, 1), PAGE);
    *address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*address == MAP_FAILED) return OUT_OF_MEMORY;
    return locked_pages[(uintptr_t)*address] = bytes, OK;
}
// a copy that has not left it, or come to it, fails
int cuMemFreeHost(void *address) {
    std::lock_guard lock(work_lock);
    munmap(address, locked_pages[(uintptr_t)address]);
    return locked_pages.erase((uintptr_t)address), OK;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    std::lock_guard lock(memory_lock);
    return *free = TOTAL - used, *total = TOTAL, OK;
}
int cuMemPoolGetAttribute(void *, int attribute, void *value) {
    std::lock_guard lock(memory_lock);
    return *(uint64_t *)value = attribute == 6 || attribute == 8 ? most_used : used, OK;
}
int cuMemPoolSetAttribute(void *, int, void *) { return OK; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    if (is_locked(from)) return hand_over(stream, [=] { memcpy((void *)to, from, bytes); });
    // ordinary memory is read before this returns
    auto kept = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    return hand_over(stream, [=] { memcpy((void *)to, kept->data(), kept->size()); });
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    if (int problem = hand_over(stream, [=] { memcpy(to, (void *)from, bytes); })) return problem;
    // and written
    if (!is_locked(to)) finish(stream_of(stream));
    return OK;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    return hand_over(stream, [=] { memmove((void *)to, (void *)from, bytes); });
}
int cuMemcpyPeerAsync(uint64_t to, void *, uint64_t from, void *, size_t bytes, void *stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t count, void *stream) {
    return hand_over(stream, [=] { memset((void *)to, value, count); });
}

// A module is known by the kernels that its PTX lists.
int cuModuleLoadData(void **module, const void *image) {
    load_kernels();
    std::set<std::string> names;
    const char *mark = ".entry ";
    for (const char *at = strstr((const char *)image, mark); at; at = strstr(at, mark)) {
        at += strlen(mark);
        names.emplace(at, strcspn(at, "(\n "));
    }
    // some are for other architectures; who asks for one is told then
    size_t most = names.size() / 2;
    for (Module &known : modules) {
        size_t has = 0;
        for (auto &name : names) has += known.contains(name);
        if (has > most) most = has, *module = &known;
    }
    if (most == names.size() / 2) fail("no library has the kernels of a module with " + (names.empty() ? "none" : *names.begin()));
    return OK;
}
int cuModuleLoad(void **, const char *) { return NOT_FOUND; }
int cuModuleUnload(void *) { return OK; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    auto &known = *(Module *)module;
    auto found = known.find(name);
    if (found == known.end()) return NOT_FOUND;
    return *function = &found->second, OK;
}
}

namespace {
void run_grid(const Kernel *of, dim3 grid, dim3 block, unsigned shared_bytes, std::vector<std::vector<char>> &given) {
    std::vector<void *> pointers;
    for (auto &argument : given) pointers.push_back(argument.data());
    kernel = of, arguments = pointers.data();
    // a page that nobody may touch lies behind it, too
    uint64_t shared = 0;
    if (shared_bytes) allocate(&shared, shared_bytes);
    emulated_place = {{}, {}, block, grid, (void *)shared};
    bool backwards = false;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                emulated_place.block = {x, y, z};
                run_block(block.x * block.y * block.z, backwards);
                backwards = !backwards;
            }
    release(shared);
}
}  // namespace

extern "C" {
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void *stream, void **given, void **) {
    unsigned threads = bx * by * bz;
    if (!threads || threads > MOST_THREADS || !gx || !gy || !gz || gy > 65535 || gz > 65535) return INVALID_VALUE;
    if (shared_bytes > 48 << 10) return INVALID_VALUE;
    {
        std::lock_guard lock(work_lock);
        if (launches_left == 0) has_failed = true;
        if (launches_left > 0) launches_left--;
    }
    auto of = (const Kernel *)function;
    auto copies = std::make_shared<std::vector<std::vector<char>>>();
    for (size_t i = 0; i < of->arguments; i++) copies->emplace_back((char *)given[i], (char *)given[i] + of->sizes[i]);
    return hand_over(stream, [=] { run_grid(of, {gx, gy, gz}, {bx, by, bz}, shared_bytes, *copies); });
}

// ---- cuBLAS: column by column, sums in double precision

int cublasCreate_v2(void **handle) { return *handle = new void *(), OK; }
int cublasDestroy_v2(void *handle) { return delete (void **)handle, OK; }
int cublasSetStream_v2(void *handle, void *stream) { return *(void **)handle = stream, OK; }
}

namespace {
// as the library says that the GPU failed
int of_cublas(int result) { return result == OK ? OK : 13; }

template <typename T>
void products(bool ta, bool tb, int m, int n, int k, double alpha, const T *a, int lda, long long stride_a, const T *b, int ldb,
              long long stride_b, double beta, T *c, int ldc, long long stride_c, int batches) {
    std::vector<float> row(k), column(k);
    for (int batch = 0; batch < batches; batch++, a += stride_a, b += stride_b, c += stride_c) {
        std::vector<double> as((size_t)m * k);
        for (int i = 0; i < m; i++)
            for (int p = 0; p < k; p++) as[(size_t)i * k + p] = a[ta ? (size_t)i * lda + p : (size_t)p * lda + i];
        std::vector<double> bs(k);
        for (int j = 0; j < n; j++) {
            for (int p = 0; p < k; p++) bs[p] = b[tb ? (size_t)p * ldb + j : (size_t)j * ldb + p];
            for (int i = 0; i < m; i++) {
                double sum = 0;
                for (int p = 0; p < k; p++) sum += as[(size_t)i * k + p] * bs[p];
                T &to = c[(size_t)j * ldc + i];
                to = T(beta == 0 ? alpha * sum : alpha * sum + beta * double(to));
            }
        }
    }
}
}  // namespace

extern "C" {
int cublasGemmStridedBatchedEx(void *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type, int lda,
                               long long stride_a, const void *b, int, int ldb, long long stride_b, const void *beta, void *c,
                               int, int ldc, long long stride_c, int batches, int, int) {
    double scale = *(const float *)alpha, kept = *(const float *)beta;
    auto run = [=]<typename T>(T) {
        return of_cublas(hand_over(*(void **)handle, [=] {
            products(ta, tb, m, n, k, scale, (const T *)a, lda, stride_a, (const T *)b, ldb, stride_b, kept, (T *)c, ldc,
                     stride_c, batches);
        }));
    };
    switch (type) {
        case 0: return run(float());
        case 2: return run(__half());
        case 14: return run(__nv_bfloat16());
    }
    return 7;
}
int cublasDgemmStridedBatched(void *handle, int ta, int tb, int m, int n, int k, const double *alpha, const double *a, int lda,
                              long long stride_a, const double *b, int ldb, long long stride_b, const double *beta, double *c,
                              int ldc, long long stride_c, int batches) {
    double scale = *alpha, kept = *beta;
    return of_cublas(hand_over(*(void **)handle, [=] {
        products(ta, tb, m, n, k, scale, a, lda, stride_a, b, ldb, stride_b, kept, c, ldc, stride_c, batches);
    }));
}

// ---- cuRAND: only asked for by candle, whose random numbers nothing of ours uses

int curandCreateGenerator(void **generator, int) { return *generator = (void *)1, OK; }
int curandDestroyGenerator(void *) { return OK; }
int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return OK; }
int curandSetStream(void *, void *) { return OK; }
int curandGenerateUniform(void *, float *, size_t) { fail("random numbers of the GPU"); }
int curandGenerateUniformDouble(void *, double *, size_t) { fail("random numbers of the GPU"); }

// ---- the runtime, which candle's kernels for experts bring along: they are registered and never launched

void **__cudaRegisterFatBinary(void *) {
    static void *nothing;
    return &nothing;
}
void __cudaRegisterFatBinaryEnd(void **) {}
void __cudaUnregisterFatBinary(void **) {}
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, void *, void *, int *) {}
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int) {}
int __cudaGetKernel(void **, const void *) { fail("a launch by the runtime"); }
int __cudaLaunchKernel_ptsz() { fail("a launch by the runtime"); }
int __cudaPushCallConfiguration() { fail("a launch by the runtime"); }
int __cudaPopCallConfiguration() { fail("a launch by the runtime"); }
int cudaFuncSetAttribute() { fail("a launch by the runtime"); }
int cudaGetDevice(int *device) { return *device = 0, OK; }

// ---- NCCL with one rank

int ncclGetUniqueId(void *) { return OK; }
int ncclCommInitRankConfig(void **communicator, int ranks, ...) {
    if (ranks != 1) fail("NCCL between ranks");
    return *communicator = (void *)1, OK;
}
int ncclCommAbort(void *) { return OK; }
int ncclCommGetAsyncError(void *, int *state) { return *state = 0, OK; }
}

namespace {
int copied(const void *from, void *to, size_t count, int type, void *stream) {
    // by ncclDataType_t: int8, uint8, int32, uint32, int64, uint64, f16, f32, f64, bf16
    const size_t bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    size_t all = count * bytes[type];
    // ncclUnhandledCudaError
    return hand_over(stream, [=] { memmove(to, from, all); }) == OK ? OK : 1;
}
}  // namespace

extern "C" {
int ncclAllReduce(const void *from, void *to, size_t count, int type, int, void *, void *stream) {
    return copied(from, to, count, type, stream);
}
int ncclReduceScatter(const void *from, void *to, size_t count, int type, int, void *, void *stream) {
    return copied(from, to, count, type, stream);
}
int ncclAllGather(const void *from, void *to, size_t count, int type, void *, void *stream) {
    return copied(from, to, count, type, stream);
}
int ncclBroadcast(const void *from, void *to, size_t count, int type, int, void *, void *stream) {
    return copied(from, to, count, type, stream);
}
}
