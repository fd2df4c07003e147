// Instructions, the ring-0 window, self-modifying code, stacks, and signal frames.
#include "hostile.h"

static void run_code(uint64_t address) { ((void (*)(void))address)(); }

static void run_bytes(const char *bytes, size_t len) {
    memset(arena, 0x90, 64);
    memcpy(arena, bytes, len);
    arena[len] = (char)0xc3;
    attempt(run_code, (uint64_t)arena);
}
#define RUN(bytes) run_bytes(bytes, sizeof bytes - 1)

void instructions(void) {
    RUN("\xf4");                         // hlt
    RUN("\xfa");                         // cli
    RUN("\xfb");                         // sti
    RUN("\x0f\x30");                     // wrmsr
    RUN("\x0f\x32");                     // rdmsr
    RUN("\x0f\x34");                     // sysenter
    RUN("\x0f\x35");                     // sysexit
    RUN("\x0f\x07");                     // sysret
    RUN("\x48\xcf");                     // iretq, with whatever is on the stack
    RUN("\x0f\x01\xc1");                 // vmcall
    RUN("\x0f\x01\xd9");                 // vmmcall
    RUN("\x0f\x01\xf8");                 // swapgs
    RUN("\x0f\x01\xd1");                 // xsetbv
    RUN("\x0f\x22\xd8");                 // mov cr3, rax
    RUN("\x0f\x20\xc0");                 // mov rax, cr0
    RUN("\x0f\x23\xc0");                 // mov dr0, rax
    RUN("\x0f\x01\x10");                 // lgdt [rax]
    RUN("\x0f\x01\x18");                 // lidt [rax]
    RUN("\x0f\x00\xd8");                 // ltr ax
    RUN("\x0f\x09");                     // wbinvd
    RUN("\x0f\x0b");                     // ud2
    RUN("\xcc");                         // int3
    RUN("\xf1");                         // int1
    RUN("\x9c\x48\x81\x0c\x24\x00\x01\x00\x00\x9d\x90\x90"); // set the trap flag
    RUN("\x9c\x48\x81\x0c\x24\x00\x30\x00\x00\x9d");         // set IOPL 3
    RUN("\x9c\x48\x81\x0c\x24\x00\x40\x04\x00\x9d");         // nested task, alignment check
    RUN("\x9c\x48\x81\x0c\x24\x00\x01\x00\x00\x9d\xb8\x27\x00\x00\x00\x0f\x05"); // trap flag over a system call
    RUN("\x31\xc9\xf7\xf1");             // divide by zero
    RUN("\xdb\xe3\x9b\xd9\xe8\xd9\xee\xde\xf9\x9b"); // x87 divide by zero
    RUN("\xb8\x10\x00\x00\x00\x8e\xd8"); // kernel data into ds
    RUN("\xb8\x38\x00\x00\x00\x8e\xe8"); // the task's selector into gs
    for (int n = 0; n < 256; n++) {
        char interrupt[] = {(char)0xcd, (char)n};
        run_bytes(interrupt, 2);
        // Port n by immediate and by dx, in and out, all widths. Port 0x10 is the system call's on some machines.
        char ports[][8] = {{(char)0xe6, (char)n}, {(char)0xe4, (char)n}, {(char)0xe7, (char)n}, {0x66, (char)0xe7, (char)n}};
        for (int i = 0; i < 3; i++) run_bytes(ports[i], 2);
        run_bytes(ports[3], 3);
        char by_dx[] = {0x66, (char)0xba, (char)n, (char)below(256), (char)0xef};
        run_bytes(by_dx, 5);
    }
    // A system call by its port, with a return address of its own choice.
    static const uint64_t targets[] = {0, 0x7ffffffff000, 0x800000000000, 0xffff888000003000, 0xffff888000003210, -1ull};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        char code[] = "\x48\xb9________\x49\xc7\xc3\xff\xff\xff\xff\xb8\x27\x00\x00\x00\xe6\x10";
        memcpy(code + 2, &targets[i], 8);
        run_bytes(code, sizeof code - 1);
    }
    // Random bytes.
    for (int i = 0; i < 3000; i++) {
        char bytes[24];
        for (size_t k = 0; k < sizeof bytes; k += 8) memcpy(bytes + k, &(uint64_t){random_word()}, 8);
        if (bytes[0] == 0x0f && bytes[1] == 0x05) continue;
        run_bytes(bytes, sizeof bytes);
    }
}

void code_of_32_bits(void) {
    // Into 32-bit code: far return to selector 0x23, then each way to call a kernel.
    static const char *const calls32[] = {"\xcd\x80", "\x0f\x34", "\x0f\x05", "\xf4"};
    for (int i = 0; i < 4; i++) {
        char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        memcpy(low, calls32[i], 2);
        low[2] = (char)0xf4;
        char far[] = "\x48\x89\xe5\x6a\x23\x48\xb8________\x50\x48\xcb";
        memcpy(far + 7, &(uint64_t){(uint64_t)low}, 8);
        run_bytes(far, sizeof far - 1);
        munmap(low, 8192);
    }
}

// Where system calls and page faults are answered without an exit (src/vmm/exitless): an area for each vCPU, after the code that
// writes to it.
#define AREAS 0x7fffffffb000ull
#define AREA_SIZE 320
#define AREA_COUNT 51
// Bytes of code of the calls, the least; that of the faults follows.
#define CALL_CODE 0xb0
#define CODE (AREAS - 0x4000)

static volatile uint32_t *area_state(int n) { return (volatile uint32_t *)(AREAS + (uint64_t)n * AREA_SIZE); }

static void forge(int n, uint64_t number) {
    volatile uint64_t *registers = (volatile uint64_t *)(AREAS + (uint64_t)n * AREA_SIZE + 64);
    registers[2] = number;
    for (int i = 3; i < 9; i++) registers[i] = number == SYS_futex ? (i == 3 ? (uint64_t)arena + 4 * below(ARENA / 4) : 0) : nasty();
    *area_state(n) = 1;
    for (int i = 0; i < 200 && *area_state(n) == 1; i++) __builtin_ia32_pause();
}

static void forge_fault(int n) {
    volatile uint64_t *words = (volatile uint64_t *)(AREAS + (uint64_t)n * AREA_SIZE);
    // A page of the program's now and then, which is as if it had touched it.
    words[17] = below(2) ? nasty() : (uint64_t)arena + below(ARENA);
    for (int i = 33; i < 40; i++) words[i] = below(2) ? nasty() : below(64);
    *area_state(n) = 4;
    for (int i = 0; i < 200 && *area_state(n) == 4; i++) __builtin_ia32_pause();
    // To leave with what is there then.
    if (below(8) == 0) run_bytes("\xe6\x13\xf4", 3);
}

static void touch(uint64_t address) { *(volatile char *)address = 0; }

void forged_calls(void) {
    // Calls that harm nobody if they are made, with whatever arguments.
    static const uint64_t numbers[] = {SYS_futex, SYS_futex, SYS_nanosleep, SYS_epoll_wait, SYS_poll, SYS_select, SYS_ppoll, SYS_pause,
                                       SYS_getrandom, SYS_uname, SYS_gettid, SYS_sched_yield, SYS_clock_gettime, SYS_readv, 9999, -1ull};
    // What a getrandom of anything to anywhere would spoil is not this program's stack.
    memset(arena, 0, ARENA);
    if (attempt(touch, AREAS) != 0) return;
    for (int round = 0; round < 400; round++) {
        // Enough calls for the program to be taken on.
        for (int i = 0; i < 50; i++) syscall(SYS_getppid);
        for (int i = 0; i < 100; i++) forge((int)below(4), numbers[below(sizeof numbers / sizeof *numbers)]);
        for (int n = 0; n < 4; n++) *area_state(n) = (uint32_t)below(5);
        area_state((int)below(4))[1] = (uint32_t)below(5000);
    }
    // Anywhere in the code of the calls, with whatever is in the areas.
    for (int i = 0; i < 2000; i++) attempt(run_code, CODE + below(AREA_COUNT) * AREA_SIZE + below(CALL_CODE));
    for (int n = 0; n < AREA_COUNT; n++) area_state(n)[0] = area_state(n)[1] = 0;
    // The answer to a forged call may still be waiting for the next.
    for (int i = 0; i < 10; i++) syscall(SYS_getppid);
}

// A program that leaves by a frame of garbage goes on anywhere, with any stack: it may well end by that.
void forged_faults(void) {
    memset(arena, 0, ARENA);
    if (attempt(touch, AREAS) != 0) return;
    for (int round = 0; round < 400; round++) {
        for (int i = 0; i < 50; i++) syscall(SYS_getppid);
        for (int i = 0; i < 30; i++) forge_fault((int)below(4));
        for (int n = 0; n < 4; n++) *area_state(n) = (uint32_t)below(6);
        area_state((int)below(4))[1] = (uint32_t)below(5000);
        for (int i = 0; i < 5; i++) attempt(run_code, CODE + below(AREA_COUNT * AREA_SIZE));
    }
}

static void load(uint64_t address) { (void)*(volatile char *)address; }
static void store(uint64_t address) { *(volatile char *)address = 1; }
static void pivot(uint64_t address) {
    __asm__ volatile("mov %0, %%rsp; push %%rax; syscall" ::"r"(address), "a"(39) : "memory", "rcx", "r11");
}

void window(void) {
    static const uint64_t bases[] = {0xffff888000000000, 0x7ffffffff000, 0x7fffffffe000, 0xffffffff80000000, 0xffff800000000000,
                                     0x800000000000, 0x7fffffffffff, 0};
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        for (uint64_t page = 0; page < 40; page++) {
            uint64_t address = bases[i] + page * 4096 + below(4096);
            attempt(load, address);
            attempt(store, address);
            attempt(run_code, address);
            attempt(pivot, address);
            syscall(SYS_write, 1, address, 16);
            syscall(SYS_uname, address);
            syscall(SYS_mprotect, address & ~4095ull, 4096, 7);
            syscall(SYS_munmap, address & ~4095ull, 4096);
            syscall(SYS_mmap, address & ~4095ull, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        }
    }
}

void self_modifying(void) {
    int (*code)(void) = (int (*)(void))arena;
    for (int i = 0; i < 2000; i++) {
        arena[0] = (char)0xb8;
        memcpy(arena + 1, &i, 4);
        arena[5] = (char)0xc3;
        if (code() != i) abort();
        if (i % 100 == 0) mprotect(arena, 4096, PROT_READ | PROT_WRITE | (i % 200 ? PROT_EXEC : 0));
        if (i % 100 == 0) mprotect(arena, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    }
}

static volatile int depth;
// It is meant to end only with its stack.
#pragma GCC diagnostic ignored "-Winfinite-recursion"
static void recurse(uint64_t n) {
    volatile char room[4096];
    room[0] = (char)n;
    depth++;
    recurse(n + 1);
    room[1] = room[0];
}

static void on_its_own_stack(int signal) {
    (void)signal;
    // On the stack that has overflowed already, or nested as deep as it goes.
    raise(SIGUSR1);
}

void stack_overflow(void) {
    attempt(recurse, 0);
    // Nested handlers until the alternate stack is full; it ends the program.
    struct sigaction action = {.sa_handler = on_its_own_stack, .sa_flags = SA_NODEFER | (below(2) ? SA_ONSTACK : 0)};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
}

static void return_from(uint64_t frame) {
    __asm__ volatile("mov %0, %%rsp; mov $15, %%eax; syscall" ::"r"(frame) : "memory");
}

static void spoil(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    ucontext_t *c = context;
    switch (below(6)) {
    case 0: c->uc_mcontext.gregs[REG_RIP] = (greg_t)nasty(); break;
    case 1: c->uc_mcontext.gregs[REG_RSP] = (greg_t)nasty(); break;
    case 2: c->uc_mcontext.gregs[REG_EFL] = (greg_t)nasty(); break;
    case 3: c->uc_mcontext.gregs[REG_CSGSFS] = (greg_t)random_word(); break;
    case 4: c->uc_mcontext.fpregs = (void *)nasty(); break;
    default: {
        char *area = (char *)c->uc_mcontext.fpregs;
        for (int i = 0; i < 40; i++) area[below(2400)] = (char)random_word();
        memcpy(area + 512 + 8 * below(8), &(uint64_t){random_word()}, 8);
    }
    }
}

static void raise_spoilt(uint64_t unused) {
    (void)unused;
    struct sigaction action = {.sa_sigaction = spoil, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);
}

void frames(void) {
    for (int i = 0; i < 400; i++) {
        attempt(raise_spoilt, 0);
        for (size_t k = 0; k < 8192; k += 8) memcpy(arena + k, &(uint64_t){below(2) ? nasty() : random_word()}, 8);
        attempt(return_from, below(4) ? (uint64_t)arena + below(4096) : nasty());
        // Stacks that are none.
        stack_t stack = {.ss_sp = (void *)nasty(), .ss_size = nasty(), .ss_flags = (int)nasty()};
        sigaltstack(&stack, NULL);
        struct sigaction action = {.sa_handler = (void (*)(int))nasty(), .sa_flags = SA_ONSTACK | SA_RESETHAND | SA_NODEFER};
        if ((uint64_t)action.sa_handler > 1) {
            sigaction(SIGWINCH, &action, NULL);
            attempt((void (*)(uint64_t))raise, SIGWINCH);
        }
    }
}
