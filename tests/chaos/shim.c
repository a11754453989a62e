// Stands between a program and the kernel, preloaded: sees each change that the program makes below one folder, writes
// it down, and at a chosen one kills or stops the program or lets the call fail.
//
// Calls are caught by a seccomp filter and not by their names in libc: some crates make theirs without libc.
//
// URBANCROSS_CHAOS_ROOT     the folder; without it nothing is done
// URBANCROSS_CHAOS_JOURNAL  where the changes are written, a line each: number, call, inode, path, second path
// URBANCROSS_CHAOS_KEEP     a folder on the same file system: every new file is linked there under its inode, so that
//                           its bytes outlive its names
// URBANCROSS_CHAOS_ACTION   kill, stop, or the number of an error; -ERROR lets the chosen and all later calls fail
// URBANCROSS_CHAOS_AT       which of the matching calls is chosen, from 1
// URBANCROSS_CHAOS_CALL     only calls of this name match
// URBANCROSS_CHAOS_PATH     only paths with this text in them match
// URBANCROSS_CHAOS_AFTER    set: a kill or stop comes after the call instead of before it
// URBANCROSS_CHAOS_CLOCK    seconds by which the clock of this program is wrong; needs no root
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the registers of a call are only known for x86-64"
#endif

// The one place whose calls the filter lets pass: this code, copied to an address that is the same in all processes,
// because a child keeps its parent's filter.
extern const char code[], code_end[];
__asm__(".text\ncode:\n"
        "movq %rdi,%rax\n movq %rsi,%rdi\n movq %rdx,%rsi\n movq %rcx,%rdx\n"
        "movq %r8,%r10\n movq %r9,%r8\n movq 8(%rsp),%r9\n syscall\n ret\ncode_end:\n");
#define CODE_AT ((char *)0x5ec0de000000)
enum { RET_BYTES = 1 };
static long (*const kernel)(long number, long a, long b, long c, long d, long e, long f) = (void *)CODE_AT;

static char root[PATH_MAX], keep[PATH_MAX], only_path[PATH_MAX], only_call[32];
static size_t root_length;
static int journal = -1, after, action_is_kill, action_is_stop, fails, goes_on;
static long at, matched, seen;
static volatile int busy;

struct change {
    const char *call;
    int fd; // -1: named by path
    char path[PATH_MAX], to[PATH_MAX];
};

static void lock(void) {
    while (__sync_lock_test_and_set(&busy, 1)) kernel(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}

static void unlock(void) { __sync_lock_release(&busy); }

// The link of the process's own table of files.
static int read_descriptor(const char *name, int fd, char *out) {
    char link[64];
    if (name) snprintf(link, sizeof link, "/proc/self/%s", name);
    else snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = kernel(SYS_readlink, (long)link, (long)out, PATH_MAX - 1, 0, 0, 0);
    out[n < 0 ? 0 : n] = 0;
    return n > 0;
}

static void resolve(long folder, const char *path, char *out) {
    size_t n = 0;
    if (path[0] != '/') {
        read_descriptor((int)folder == AT_FDCWD ? "cwd" : NULL, (int)folder, out);
        n = strlen(out);
        if (n < PATH_MAX - 1) out[n++] = '/';
    }
    size_t length = strnlen(path, PATH_MAX - 1 - n);
    memcpy(out + n, path, length);
    out[n + length] = 0;
}

static int below_root(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static void at_path(struct change *c, const char *call, long folder, long path) {
    c->call = call;
    resolve(folder, (const char *)path, c->path);
}

static void two_paths(struct change *c, const char *call, long folder, long path, long to_folder, long to) {
    at_path(c, call, folder, path);
    resolve(to_folder, (const char *)to, c->to);
}

static void at_descriptor(struct change *c, const char *call, long fd) {
    c->call = call;
    c->fd = (int)fd;
    read_descriptor(NULL, (int)fd, c->path);
}

static void describe(struct change *c, long number, const long *a) {
    switch (number) {
    case SYS_open: at_path(c, "create", AT_FDCWD, a[0]); break;
    case SYS_creat: at_path(c, "create", AT_FDCWD, a[0]); break;
    case SYS_openat: at_path(c, "create", a[0], a[1]); break;
    case SYS_mkdir: at_path(c, "mkdir", AT_FDCWD, a[0]); break;
    case SYS_mkdirat: at_path(c, "mkdir", a[0], a[1]); break;
    case SYS_unlink: case SYS_rmdir: at_path(c, "unlink", AT_FDCWD, a[0]); break;
    case SYS_unlinkat: at_path(c, "unlink", a[0], a[1]); break;
    case SYS_rename: two_paths(c, "rename", AT_FDCWD, a[0], AT_FDCWD, a[1]); break;
    case SYS_renameat: case SYS_renameat2: two_paths(c, "rename", a[0], a[1], a[2], a[3]); break;
    case SYS_link: two_paths(c, "link", AT_FDCWD, a[0], AT_FDCWD, a[1]); break;
    case SYS_linkat: two_paths(c, "link", a[0], a[1], a[2], a[3]); break;
    case SYS_copy_file_range: at_descriptor(c, "write", a[2]); break;
    case SYS_ftruncate: case SYS_fallocate: at_descriptor(c, "truncate", a[0]); break;
    case SYS_fsync: case SYS_fdatasync: at_descriptor(c, "fsync", a[0]); break;
    case SYS_syncfs: at_descriptor(c, "sync", a[0]); break;
    default: at_descriptor(c, "write", a[0]); break;
    }
}

static unsigned long inode_of(const struct change *c) {
    struct stat s;
    const char *path = c->to[0] ? c->to : c->path;
    long r = c->fd >= 0 ? kernel(SYS_fstat, c->fd, (long)&s, 0, 0, 0, 0) : kernel(SYS_lstat, (long)path, (long)&s, 0, 0, 0, 0);
    return r < 0 ? 0 : s.st_ino;
}

static void note(const char *call, unsigned long inode, const struct change *c) {
    char line[2 * PATH_MAX + 64];
    int n = snprintf(line, sizeof line, "%ld\t%s\t%lu\t%s\t%s\n", seen, call, inode, c->path, c->to);
    if (journal >= 0) kernel(SYS_write, journal, (long)line, n, 0, 0, 0);
}

static void strike(const struct change *c) {
    note(action_is_kill ? "killed" : "stopped", 0, c);
    kernel(SYS_kill, kernel(SYS_getpid, 0, 0, 0, 0, 0, 0), action_is_kill ? SIGKILL : SIGSTOP, 0, 0, 0, 0);
}

// 1: this call is the chosen one, or a later one where all later ones are.
static int chosen(const struct change *c) {
    if (!at) return 0;
    if (only_call[0] && strcmp(only_call, c->call)) return 0;
    if (only_path[0] && !strstr(c->path, only_path) && !strstr(c->to, only_path)) return 0;
    matched++;
    return matched == at || (goes_on && matched > at);
}

static long watched(struct change *c, long number, const long *a) {
    lock();
    seen++;
    int hit = chosen(c);
    if (hit && fails && !(fails == ENOSPC && !strcmp(c->call, "unlink"))) {
        note("failed", 0, c);
        unlock();
        return -fails;
    }
    int strikes = hit && (action_is_kill || action_is_stop);
    if (strikes && !after) strike(c);
    long result = kernel(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result >= 0) {
        unsigned long inode = inode_of(c);
        if (keep[0] && !strcmp(c->call, "create")) {
            char kept[PATH_MAX + 32];
            snprintf(kept, sizeof kept, "%s/%lu", keep, inode);
            kernel(SYS_linkat, AT_FDCWD, (long)c->path, AT_FDCWD, (long)kept, 0, 0);
        }
        note(c->call, inode, c);
    }
    if (strikes && after) strike(c);
    unlock();
    return result;
}

static void caught(int signal, siginfo_t *info, void *context) {
    (void)signal;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    long a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    long number = info->si_syscall;
    struct change c;
    c.fd = -1;
    c.path[0] = c.to[0] = 0;
    if (number == SYS_sync) c.call = "sync";
    else describe(&c, number, a);
    int ours = number == SYS_sync || below_root(c.path) || (c.to[0] && below_root(c.to));
    r[REG_RAX] = ours ? watched(&c, number, a) : kernel(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static int install(void) {
    static const int calls[] = {
        SYS_creat, SYS_mkdir, SYS_mkdirat, SYS_unlink, SYS_rmdir, SYS_unlinkat, SYS_rename, SYS_renameat,
        SYS_renameat2, SYS_link, SYS_linkat, SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_pwritev2,
        SYS_sendfile, SYS_copy_file_range, SYS_ftruncate, SYS_fallocate, SYS_fsync, SYS_fdatasync, SYS_syncfs, SYS_sync,
    };
    enum { COUNT = sizeof calls / sizeof *calls };
    // a call is seen where it returns to
    const uint64_t own = (uint64_t)(uintptr_t)CODE_AT + (code_end - code) - RET_BYTES;
    struct sock_filter f[COUNT + 16];
    int n = 0;
#define LOAD(offset) f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define EQUAL(value, yes, no) f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define ANY(bits, yes, no) f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, yes, no)
#define ANSWER(what) f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, what)
    LOAD(offsetof(struct seccomp_data, instruction_pointer));
    EQUAL((uint32_t)own, 0, 3);
    LOAD(offsetof(struct seccomp_data, instruction_pointer) + 4);
    EQUAL((uint32_t)(own >> 32), 0, 1);
    ANSWER(SECCOMP_RET_ALLOW);
    LOAD(offsetof(struct seccomp_data, nr));
    EQUAL(SYS_open, 0, 2);
    LOAD(offsetof(struct seccomp_data, args[1]));
    ANY(O_CREAT | O_TRUNC, COUNT + 4, COUNT + 3);
    EQUAL(SYS_openat, 0, 2);
    LOAD(offsetof(struct seccomp_data, args[2]));
    ANY(O_CREAT | O_TRUNC, COUNT + 1, COUNT);
    for (int i = 0; i < COUNT; i++) EQUAL(calls[i], COUNT - i, 0);
    ANSWER(SECCOMP_RET_ALLOW);
    ANSWER(SECCOMP_RET_TRAP);
    struct sock_fprog program = {(unsigned short)n, f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int place_code(void) {
    int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    if (mmap(CODE_AT, 4096, PROT_READ | PROT_WRITE, how, -1, 0) != CODE_AT) return -1;
    memcpy(CODE_AT, code, code_end - code);
    return mprotect(CODE_AT, 4096, PROT_READ | PROT_EXEC);
}

static void copy(const char *variable, char *to, size_t size) {
    const char *value = getenv(variable);
    snprintf(to, size, "%s", value ? value : "");
}

static long wrong_by;

int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += wrong_by;
    return (int)result;
}

__attribute__((constructor)) static void begin(void) {
    copy("URBANCROSS_CHAOS_ROOT", root, sizeof root);
    root_length = strlen(root);
    const char *clock = getenv("URBANCROSS_CHAOS_CLOCK");
    wrong_by = clock ? atol(clock) : 0;
    if (!root_length) return;
    copy("URBANCROSS_CHAOS_KEEP", keep, sizeof keep);
    copy("URBANCROSS_CHAOS_CALL", only_call, sizeof only_call);
    copy("URBANCROSS_CHAOS_PATH", only_path, sizeof only_path);
    char text[PATH_MAX];
    copy("URBANCROSS_CHAOS_AT", text, sizeof text);
    at = atol(text);
    copy("URBANCROSS_CHAOS_ACTION", text, sizeof text);
    action_is_kill = !strcmp(text, "kill");
    action_is_stop = !strcmp(text, "stop");
    int number = atoi(text);
    goes_on = number < 0;
    fails = number < 0 ? -number : number;
    after = getenv("URBANCROSS_CHAOS_AFTER") != NULL;
    copy("URBANCROSS_CHAOS_JOURNAL", text, sizeof text);
    struct sigaction action = {0};
    action.sa_sigaction = caught;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    int placed = !place_code();
    if (placed && text[0]) journal = kernel(SYS_open, (long)text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644, 0, 0, 0);
    if (!placed || sigaction(SIGSYS, &action, NULL) || install()) {
        static const char why[] = "chaos shim: calls cannot be filtered here\n";
        if (write(2, why, sizeof why - 1)) {}
        _exit(99);
    }
}
