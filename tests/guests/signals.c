// Signals: faults with their codes and addresses, registers over a handler, alternate stacks, masks, timers, interrupted calls.
#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int seen, code, on_alternate;
static void *volatile address;
static sigjmp_buf back;
static char alternate[65536];

static void fault(int number, siginfo_t *info, void *context) {
    (void)context;
    char local;
    seen = number;
    code = info->si_code;
    address = info->si_addr;
    on_alternate = &local >= alternate && &local < alternate + sizeof alternate;
    siglongjmp(back, 1);
}

static void count(int number) { seen += number; }

static void handle(int number, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    sigaction(number, &action, 0);
}

#define TRY(what, statement)                                                     \
    do {                                                                         \
        seen = 0;                                                                \
        if (!sigsetjmp(back, 1)) { statement; }                                  \
        printf("%s: signal %d code %d\n", what, seen, code);                     \
    } while (0)

static int deep(int n) {
    volatile char frame[4096];
    frame[0] = (char)n;
    return deep(n + 1) + frame[0];
}

// Puts the fault's page back and wipes vector registers: the interrupted code must not notice.
static void mend(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    mprotect((void *)((long)info->si_addr & ~4095L), 4096, PROT_READ | PROT_WRITE);
    __asm__ volatile("pxor %%xmm5, %%xmm5" ::: "xmm5");
}

int main(void) {
    char *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, 0);
    for (int number = 4; number <= 11; number++) handle(number, fault, number == SIGSEGV ? SA_ONSTACK : 0);

    TRY("null", *(volatile char *)8 = 1);
    printf("  address %p\n", (void *)address);
    mprotect(page, 4096, PROT_READ);
    page[4096] = 1;
    TRY("read-only", *(volatile char *)(page + 100) = 1);
    printf("  at offset %ld\n", (long)((char *)address - page));
    mprotect(page, 4096, PROT_NONE);
    TRY("no access", (void)*(volatile char *)page);
    TRY("no execute", ((void (*)(void))(page + 4096))());
    TRY("non-canonical", *(volatile char *)0x8000000000000000 = 1);
    TRY("division", __asm__ volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; idiv %%ecx" ::: "eax", "ecx", "edx"));
    TRY("illegal", __asm__ volatile("ud2"));
    TRY("breakpoint", __asm__ volatile("int3"));
    TRY("privileged", __asm__ volatile("hlt"));
    TRY("stack overflow", deep(0));
    printf("  on the alternate stack %d\n", on_alternate);

    handle(SIGSEGV, mend, 0);
    unsigned char before[16], after[16];
    for (int i = 0; i < 16; i++) before[i] = (unsigned char)(i * 7 + 1);
    unsigned long rcx = 0x1234, r11 = 0x777;
    __asm__ volatile(
        "movdqu %3, %%xmm5; mov %0, %%rcx; mov %1, %%r11; movb $9, (%4); mov %%rcx, %0; mov %%r11, %1; movdqu %%xmm5, %2"
        : "+m"(rcx), "+m"(r11), "=m"(after)
        : "m"(before), "r"(page)
        : "rcx", "r11", "xmm5", "memory");
    printf("registers kept %d %d %d, stored %d\n", rcx == 0x1234, r11 == 0x777, !memcmp(before, after, 16), page[0]);

    signal(SIGUSR1, count);
    seen = 0;
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    raise(SIGUSR1);
    sigpending(&pending);
    printf("blocked: seen %d pending %d\n", seen, sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &set, 0);
    printf("unblocked: seen %d\n", seen);

    sigprocmask(SIG_BLOCK, &set, 0);
    union sigval value = {.sival_int = 77};
    sigqueue(getpid(), SIGUSR1, value);
    siginfo_t info;
    printf("waited %d", sigwaitinfo(&set, &info));
    printf(" value %d code %d\n", info.si_value.sival_int, info.si_code);

    struct sigaction plain = {.sa_handler = count};
    sigaction(SIGALRM, &plain, 0);
    struct itimerval timer = {.it_value = {.tv_usec = 20000}};
    int ends[2];
    char byte;
    if (pipe(ends)) return 1;
    setitimer(ITIMER_REAL, &timer, 0);
    long got = read(ends[0], &byte, 1);
    printf("interrupted read %ld %s\n", got, strerror(errno));

    sigdelset(&set, SIGUSR1);
    setitimer(ITIMER_REAL, &timer, 0);
    printf("suspended %d %s\n", sigsuspend(&set), strerror(errno));
    fflush(stdout);
    signal(SIGTERM, SIG_DFL);
    raise(SIGTERM);
    return 0;
}
