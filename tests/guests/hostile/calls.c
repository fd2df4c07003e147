// Every system call number with random and boundary arguments; vectored transfers.
#include "hostile.h"
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

static uint64_t arguments[7];

static void one(uint64_t unused) {
    (void)unused;
    register uint64_t r10 __asm__("r10") = arguments[4], r8 __asm__("r8") = arguments[5], r9 __asm__("r9") = arguments[6];
    uint64_t result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(arguments[0]), "D"(arguments[1]), "S"(arguments[2]), "d"(arguments[3]),
                     "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
}

static int is_in_arena(uint64_t address, uint64_t len) {
    return address >= (uint64_t)arena && address < (uint64_t)arena + ARENA && len <= (uint64_t)arena + ARENA - address;
}

// Calls that would only end or disarm this program.
static int is_pointless(void) {
    switch (arguments[0] & ~0x40000000ull) {
    case SYS_exit: case SYS_exit_group: return 1;
    case SYS_clone: return 1; // `threads` does it: here a thread would share this stack.
    case SYS_munmap: case SYS_mprotect: case SYS_madvise: return !is_in_arena(arguments[1], arguments[2]);
    case SYS_mmap: return arguments[4] & (MAP_FIXED | MAP_FIXED_NOREPLACE) && !is_in_arena(arguments[1], arguments[2]);
    case SYS_mremap: return !is_in_arena(arguments[1], arguments[2]) || !is_in_arena(arguments[5], arguments[3]);
    case SYS_arch_prctl: return (arguments[1] & 0xffff) == 0x1002;
    case SYS_kill: case SYS_tkill: return arguments[2] == SIGKILL || arguments[2] == SIGSTOP || arguments[2] > 31;
    case SYS_tgkill: return 1;
    case SYS_dup2: case SYS_dup3: return (int)arguments[2] <= 2;
    case SYS_close: return (int)arguments[1] <= 2;
    case SYS_close_range: return arguments[1] <= 2;
    case SYS_rt_sigreturn: return 1; // `frames` does it.
    }
    return 0;
}

static void open_some(void) {
    int pair[2], set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    if (pipe2(pair, O_NONBLOCK) == 0) epoll_ctl(set, EPOLL_CTL_ADD, pair[0], &event);
    syscall(SYS_eventfd2, 0, 0);
    syscall(SYS_timerfd_create, 1, 0);
    syscall(SYS_memfd_create, "memory", 0);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    socket(AF_INET, SOCK_STREAM, 0);
    open("/proc/self", O_DIRECTORY);
    open("/proc/self/maps", O_RDONLY);
    open("/", O_DIRECTORY);
    open("/file", O_RDWR | O_CREAT, 0600);
}

static uint64_t number(uint64_t i) {
    static const uint64_t odd[] = {-1ull, -2ull, 512, 547, 1000, 0x40000000, 0x40000001, 0x7fffffff, 0x80000000,
                                   0x8000000000000000, 0x100000000, 0x100000001, 0xffffffff00000000};
    return i <= 460 ? i : odd[(i - 461) % (sizeof odd / sizeof *odd)];
}

void fuzz_calls(void) {
    static const char *const names[] = {"/", ".", "/proc/self/fd/3", "/dev/null", "/file", "../../..", "/proc/self/maps", ""};
    for (uint64_t round = 0; round < 6; round++) {
        for (uint64_t i = 0; i < 474; i++) {
            if (i % 64 == 0) {
                syscall(SYS_close_range, 3, ~0u, 0);
                open_some();
            }
            arguments[0] = number(i);
            for (int k = 1; k < 7; k++) arguments[k] = nasty();
            // Often something that is nearly right: a descriptor, a string or words of small numbers, a length.
            if (below(2)) arguments[1] = 3 + below(14);
            for (int k = 1; k < 4; k++) {
                if (below(4)) continue;
                char *at = arena + below(ARENA / 2);
                if (below(3) == 0) strcpy(at, names[below(8)]);
                else for (int w = 0; w < 16; w++) memcpy(at + 8 * w, &(uint64_t){nasty()}, 8);
                arguments[k] = (uint64_t)at;
            }
            if (is_pointless()) continue;
            attempt(one, 0);
            // Anything that it lost it gets again.
            mmap(arena, ARENA, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            if (i % 32 == 0) syscall(SYS_setrlimit, 7, (uint64_t[]){1024, 65536});
        }
    }
}

void vectors(void) {
    static struct iovec parts[1024];
    int null = open("/dev/null", O_WRONLY), zero = open("/dev/zero", O_RDONLY), pair[2];
    pipe2(pair, O_NONBLOCK);
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 1024; i++) {
            parts[i] = (struct iovec){(void *)nasty(), nasty()};
            if (below(8)) parts[i] = (struct iovec){arena + below(ARENA), below(ARENA)};
        }
        uint64_t counts[] = {0, 1, 1023, 1024, 1025, -1ull, 1ull << 32, 1ull << 60};
        for (int i = 0; i < 8; i++) {
            syscall(SYS_writev, null, parts, counts[i]);
            syscall(SYS_writev, pair[1], parts, counts[i]);
            syscall(SYS_readv, pair[0], parts, counts[i]);
            syscall(SYS_preadv, zero, parts, counts[i], nasty());
            syscall(SYS_pwritev2, null, parts, counts[i], -1, 0, 0);
        }
    }
    syscall(SYS_read, zero, arena, -1ull);
    syscall(SYS_write, null, arena, 0x7fffffffffffffff);
    syscall(SYS_getrandom, arena, -1ull, 0);
    syscall(SYS_sendfile, null, zero, NULL, -1ull);
    syscall(SYS_poll, arena, -1ull, 0);
    syscall(SYS_select, 0x7fffffff, arena, arena, arena, arena);
}
