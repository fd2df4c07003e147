// What lives in the kernel: descriptors, epoll sets, timers, threads, futexes.
#include "hostile.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

static void want_descriptors(void) {
    struct rlimit limit = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &limit);
}

void descriptors(void) {
    want_descriptors();
    for (int kind = 0; kind < 8; kind++) {
        int n = 0, last = 0, fds[2];
        for (; n < 70000; n++) {
            switch (kind) {
            case 0: last = (int)syscall(SYS_eventfd2, 0, 0); break;
            case 1: last = epoll_create1(0); break;
            case 2: last = open("/file", O_RDWR | O_CREAT, 0600); break;
            case 3: last = pipe(fds); break;
            case 4: last = socket(AF_UNIX, SOCK_STREAM, 0); break;
            case 5: last = dup(1); break;
            case 6: last = open("/proc/self/fd", O_RDONLY | O_DIRECTORY); break;
            default: last = open("/proc/self/status", O_RDONLY); break;
            }
            if (last < 0) break;
            // Not all of the 65,536 everywhere: a call takes its time under some KVMs.
            if (n == 12000) break;
            if (kind == 3 && n < 2000) {
                fcntl(fds[1], F_SETFL, O_NONBLOCK);
                syscall(SYS_write, fds[1], arena, 65536);
            }
        }
        // Threads still start where descriptors have run out.
        syscall(SYS_close_range, 3, ~0u, 0);
    }
}

static int add(int set, int fd, uint32_t events) {
    struct epoll_event event = {.events = events};
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

void nested_epoll(void) {
    want_descriptors();
    struct epoll_event events[8];
    // A chain, from its upper end: each addition looks harmless.
    int first = epoll_create1(0), set = first;
    for (int i = 0; i < 6000; i++) {
        int next = epoll_create1(0);
        if (next < 0 || add(set, next, EPOLLIN)) break;
        set = next;
    }
    int event = (int)syscall(SYS_eventfd2, 1, 0);
    add(set, event, EPOLLIN);
    epoll_wait(first, events, 8, 0);
    epoll_wait(first, events, 8, 10);
    // A lattice: few sets, very many ways through it.
    int level[2][40];
    for (int i = 0; i < 40; i++) level[0][i] = epoll_create1(0);
    int top = level[0][0];
    for (int depth = 0; depth < 4; depth++) {
        for (int i = 0; i < 40; i++) level[1][i] = epoll_create1(0);
        for (int i = 0; i < 40; i++)
            for (int k = 0; k < 40; k++) add(level[0][i], level[1][k], EPOLLIN);
        memcpy(level[0], level[1], sizeof level[0]);
    }
    epoll_wait(top, events, 8, 0);
    epoll_wait(top, events, 8, 10);
    // A set in itself, and around a corner.
    int a = epoll_create1(0), b = epoll_create1(0);
    add(a, a, EPOLLIN);
    add(a, b, EPOLLIN);
    if (add(b, a, EPOLLIN) == 0) abort();
    epoll_wait(a, events, 8, 0);
}

// A path as long as there can be, kept by as many files as there can be.
void long_paths(void) {
    char name[256];
    memset(name, 'n', 255);
    name[255] = 0;
    want_descriptors();
    if (chdir("/dev/shm")) abort();
    int depth = 0;
    while (depth < 400 && mkdir(name, 0700) == 0 && chdir(name) == 0) depth++;
    if (depth < 10 || depth == 400) abort();
    for (int n = 0; n < 12000; n++)
        if (open("f", O_RDWR | O_CREAT, 0600) < 0) break;
    char here[8192];
    if (syscall(SYS_getcwd, here, sizeof here) < 0) abort();
    // Deeper by a way that no path leads.
    int directory = open(".", O_DIRECTORY);
    mkdir("/dev/shm/other", 0700);
    if (chdir("/dev/shm/other")) abort();
    for (int i = 0; i < 14; i++)
        if (mkdir(name, 0700) || chdir(name)) abort();
    char to[4200];
    snprintf(to, sizeof to, "/dev/shm/%s", name);
    rename(to, "deep");
    if (mkdirat(directory, "x", 0700) == 0) abort();
    if (fchdir(directory) == 0 && syscall(SYS_getcwd, here, sizeof here) > 4096) abort();
}

// What is closed must be gone: host memory may not grow with the number of things that were.
void leaks(void) {
    int set = epoll_create1(0);
    for (int i = 0; i < 40000; i++) {
        int fd = (int)syscall(SYS_eventfd2, 0, 0);
        add(set, fd, EPOLLIN);
        close(fd);
        int timer = timerfd_create(CLOCK_MONOTONIC, 0);
        struct itimerspec late = {{0, 0}, {1000000000, 0}};
        timerfd_settime(timer, 0, &late, NULL);
        close(timer);
    }
    for (int i = 0; i < 3000; i++) {
        int file = open("/file", O_RDWR | O_CREAT, 0600);
        if (file >= 0 && ftruncate(file, 4096) == 0) mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
        close(file);
    }
}

static char stacks[64][4096] __attribute__((aligned(16)));
static uint32_t word;
static int waits(void *argument) {
    (void)argument;
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    syscall(SYS_exit, 0);
    return 0;
}

void threads(void) {
    uint64_t shared = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
    for (int i = 0; i < 500; i++) {
        uint64_t flags = below(4) ? random_word() & ~shared : shared ^ 1ull << below(33);
        // No stack: refused, or it would run on this one.
        syscall(SYS_clone, flags | 1ull << 40, 0, nasty(), nasty(), nasty());
        syscall(SYS_set_robust_list, nasty(), below(2) ? 24 : nasty());
        syscall(SYS_get_robust_list, below(2) ? 0 : nasty(), nasty(), nasty());
        syscall(SYS_set_tid_address, nasty());
        syscall(SYS_clone3, nasty(), nasty());
    }
    int started = 0;
    // A stack need not be a thread's own to wait in the kernel with.
    for (; started < 4200; started++)
        if (clone(waits, stacks[started % 64] + 4096 - 512, (int)shared, NULL) < 0) break;
    for (int i = 0; i < 400; i++) {
        syscall(SYS_tgkill, getpid(), below(200) + 100, below(66));
        syscall(SYS_tkill, nasty(), below(66));
        syscall(SYS_sched_yield);
    }
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
    syscall(SYS_set_robust_list, arena, 24);
    memcpy(arena, (uint64_t[]){(uint64_t)arena, 0, (uint64_t)arena + 4096}, 24);
}

static void one_futex(uint64_t unused) {
    (void)unused;
    uint64_t at = below(3) ? (uint64_t)arena + 4 * below(64) : nasty();
    uint64_t to = below(3) ? (uint64_t)arena + 4 * below(64) : nasty();
    struct timespec soon = {0, (long)below(1000)};
    syscall(SYS_futex, at, below(14) | (below(2) ? 128 : 0) | (below(4) ? 0 : 256), below(2) ? 0 : nasty(),
            below(4) ? (uint64_t)&soon : nasty(), to, nasty());
}

void futexes(void) {
    memset(arena, 0, 4096);
    for (int i = 0; i < 20000; i++) attempt(one_futex, 0);
}
