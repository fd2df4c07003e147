// A program that tries everything. `hostile CATEGORY SEED`; prints `survived` at its end, if the category leaves it alive.
#include "hostile.h"
#include <pthread.h>
#include <sys/time.h>

static uint64_t state = 1;
static sigjmp_buf escape;
static volatile sig_atomic_t armed;
char *arena;

uint64_t random_word(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1dull;
}

static void caught(int signal) {
    if (armed) siglongjmp(escape, signal);
    if (signal != SIGALRM) _exit(64 + signal);
}

static void handle_all(void) {
    static char stack[1 << 16];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    struct sigaction action = {.sa_handler = caught, .sa_flags = SA_ONSTACK | SA_NODEFER};
    int all[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGALRM, SIGSYS, SIGPIPE, SIGABRT};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) sigaction(all[i], &action, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

int attempt(void (*f)(uint64_t), uint64_t argument) {
    handle_all();
    // Whatever waits is interrupted, again and again.
    struct itimerval often = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    int signal = sigsetjmp(escape, 1);
    if (signal == 0) {
        armed = 1;
        f(argument);
    }
    armed = 0;
    // The alignment-check and direction flags, that the code may have left.
    __asm__ volatile("push $0x202; popf" ::: "cc", "memory");
    setitimer(ITIMER_REAL, &never, NULL);
    return signal;
}

uint64_t nasty(void) {
    static const uint64_t edges[] = {
        0, 1, 2, 3, 7, 8, 15, 16, 63, 64, 255, 256, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 1 << 20,
        0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7ffff000, 0x7fffffffffff, 0x7fffffffe000, 0x7ffffffff000,
        0x800000000000, 0xffff800000000000, 0xffff888000000000, 0xffff888000003000, 0xffffffff80000000, 0xfffffffffffff000,
        0x7fffffffffffffff, 0x8000000000000000, 0x7ffffffffffff000, -1ull, -2ull, -8ull, -100ull, -4096ull,
    };
    switch (below(6)) {
    case 0: return edges[below(sizeof edges / sizeof *edges)];
    case 1: return random_word();
    case 2: return below(64);
    case 3: return 1ull << below(64);
    case 4: return (uint64_t)arena + below(ARENA + 4096); // The page after it is not mapped.
    default: return ((uint64_t)arena + below(ARENA)) & ~4095ull;
    }
}

static const struct {
    const char *name;
    void (*run)(void);
} categories[] = {
    {"calls", fuzz_calls}, {"instructions", instructions}, {"32-bit", code_of_32_bits}, {"forged-calls", forged_calls}, {"forged-faults", forged_faults}, {"window", window}, {"self-modifying", self_modifying},
    {"stack", stack_overflow}, {"frames", frames}, {"memory", memory}, {"regions", regions},
    {"unmapped-buffers", unmapped_buffers}, {"descriptors", descriptors}, {"nested-epoll", nested_epoll},
    {"long-paths", long_paths}, {"leaks", leaks}, {"threads", threads}, {"futexes", futexes}, {"paths", paths}, {"vectors", vectors},
    {"waits", mass_waits},
};

static void survived(void) {
    syscall(SYS_write, 1, "survived\n", 9);
    syscall(SYS_exit_group, 0);
}

// A random call may wait for ever with every signal blocked, as on Linux. That another thread can still end the program is then
// what the host has to show.
static void *watch(void *unused) {
    struct timespec second = {1, 0};
    for (int i = 0; i < 40; i++) syscall(SYS_nanosleep, &second, NULL);
    survived();
    return unused;
}

static void start_watch(void) {
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_create(&thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    state = strtoull(argv[2], NULL, 0) * 2 + 1;
    arena = mmap(NULL, ARENA + 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(arena + ARENA, 4096);
    for (size_t i = 0; i < sizeof categories / sizeof *categories; i++) {
        if (strcmp(argv[1], categories[i].name) == 0) {
            start_watch();
            categories[i].run();
            survived();
        }
    }
    return 2;
}
