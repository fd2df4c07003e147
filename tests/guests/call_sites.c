// System calls from code of every shape, made so often that Hydra may have rewritten it by then: registers, flags, stack and what signals see
// must be as if nothing were.
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#define TIMES 40

// long NAME(void): the number is moved right before the call, or a comparison follows, or both.
asm(".text\n"
    "moved: mov $39, %eax; syscall; ret\n"
    "entered: mov $39, %eax\n" // to whose call another number is brought, too
    "entered_call: syscall; ret\n"
    "argument: mov $95, %eax; mov $18, %edi; syscall; ret\n"
    "compared: mov $39, %eax; nop; syscall; cmp $-4096, %rax; ja 1f; ret; 1: mov $-1, %rax; ret\n"
    "both: mov $39, %eax; syscall; cmp $-4096, %rax; ja 1f; ret; 1: mov $-1, %rax; ret\n"
    "failing: mov $3, %eax; mov $-1, %rdi; syscall; cmp $-4095, %rax; jae 1f; ret; 1: neg %rax; ret\n"
    // rdi: what the comparison is to see.
    "led_to: mov $39, %eax; nop; syscall\n"
    "led_to_compare: cmp $-4096, %rax; ja 1f; xor %eax, %eax; ret; 1: mov $1, %eax; ret\n"
    "straight_there: mov %rdi, %rax; jmp led_to_compare\n"
    "alike: mov $186, %eax; xor %ecx, %ecx; mov $39, %r8d; syscall; mov %r8, %rdx; ret\n"
    // What ends like a move of 39 to eax, as base and index of an address: lea 39(%rax,%rdi,4), %edx; lea 39(%rax), %edi.
    "indexed: mov $186, %eax; xor %edi, %edi; .byte 0x8d, 0x94, 0xb8, 39, 0, 0, 0; syscall; ret\n"
    "offset: mov $186, %eax; .byte 0x8d, 0xb8, 39, 0, 0, 0; syscall; mov %rdi, %rdx; ret\n"
    "reading: xor %eax, %eax; syscall; cmp $-4096, %rax; ret\n");
long moved(void), entered(void), both(void), argument(void), compared(void), failing(void), led_to(void);
long straight_there(long), reading(int, void *, long);
extern char entered_call[];

// void NAME(uint64_t registers[16]): all registers but rsp from there, a call, all back, with the flags in the last.
#define KEPT(name, code)                                                                                     \
  asm(".text\n" name ": push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdi\n"        \
      "mov %rdi, %r15; pushq 120(%r15); popfq\n"                                                              \
      "mov 0(%r15), %rbx; mov 8(%r15), %rdx; mov 16(%r15), %rsi; mov 32(%r15), %rbp; mov 40(%r15), %r8\n"     \
      "mov 48(%r15), %r9; mov 56(%r15), %r10; mov 64(%r15), %r12; mov 72(%r15), %r13; mov 80(%r15), %r14\n"   \
      "mov 24(%r15), %rdi; mov 88(%r15), %r15\n"                                                              \
      "movq $0x1234, -8(%rsp); movq $0x5678, -128(%rsp)\n" code                                               \
      "\nlea -128(%rsp), %rsp; pushfq; pop %r11; lea 128(%rsp), %rsp; mov %r15, %rcx; mov (%rsp), %r15\n"     \
      "mov %rcx, 88(%r15); mov %r11, 120(%r15); mov %rax, 96(%r15)\n"                                         \
      "mov %rbx, 0(%r15); mov %rdx, 8(%r15); mov %rsi, 16(%r15); mov %rdi, 24(%r15); mov %rbp, 32(%r15)\n"    \
      "mov %r8, 40(%r15); mov %r9, 48(%r15); mov %r10, 56(%r15); mov %r12, 64(%r15); mov %r13, 72(%r15)\n"    \
      "mov %r14, 80(%r15); mov -8(%rsp), %rax; mov %rax, 104(%r15); mov -128(%rsp), %rax; mov %rax, 112(%r15)\n" \
      "cld; pop %rdi; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n")
KEPT("kept_moved", "mov $39, %eax; syscall");
KEPT("kept_compared", "mov $39, %eax; nop; syscall; cmp $-4096, %rax");
void kept_moved(uint64_t *), kept_compared(uint64_t *);

// 64 sites in a row: the sum of what they answer.
asm(".text\n"
    "many: push %rbx; xor %ebx, %ebx\n"
    ".rept 32\n mov $39, %eax; syscall; add %rax, %rbx; mov $39, %eax; nop; syscall; cmp $-4096, %rax; cmova %rbx, %rax; add %rax, %rbx\n .endr\n"
    "mov %rbx, %rax; pop %rbx; ret\n"
    ".balign 16\n"
    // rdi: how often.
    "looping: mov $39, %eax; syscall; mov $39, %eax; nop; syscall; cmp $-4096, %rax; ja 1f; dec %rdi; jnz looping; 1: ret\n"
    "looping_end: nop\n");
long many(void), looping(long);
extern char looping_end[];

static void registers(const char *name, void (*kept)(uint64_t *), uint64_t flags) {
  int bad = 0;
  uint64_t seen = 0;
  for (int i = 0; i < TIMES; i++) {
    uint64_t all[16], before[16];
    for (int r = 0; r < 16; r++) all[r] = before[r] = 0x0101010101010101u * (r + 1) + i;
    all[15] = flags;
    kept(all);
    for (int r = 0; r < 12; r++) bad += all[r] != before[r];
    bad += all[12] != (uint64_t)getpid() || all[13] != 0x1234 || all[14] != 0x5678;
    seen |= all[15];
  }
  printf("%s: %d differ, flags %#lx\n", name, bad, seen & 0xcc1);
}

static uintptr_t code[64][2];
static int codes;
static volatile long inside, strays;

// Where there is code from files, or Linux's own.
static void find_code(void) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[512], rights[8];
  while (fgets(line, sizeof line, maps) && codes < 64) {
    unsigned long start, end;
    sscanf(line, "%lx-%lx %7s", &start, &end, rights);
    if (rights[2] != 'x' || !strchr(line, '/') && !strstr(line, "[vdso]")) continue;
    code[codes][0] = start;
    code[codes++][1] = end;
  }
  fclose(maps);
}

static void look(int signal, siginfo_t *info, void *context) {
  uintptr_t rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
  int known = 0;
  for (int i = 0; i < codes; i++) known |= rip >= code[i][0] && rip < code[i][1];
  strays += !known;
  inside += rip >= (uintptr_t)looping && rip < (uintptr_t)looping_end;
}

// Signals interrupt calls at every instruction, and see them where they are written.
static void interrupted(void) {
  struct sigaction action = {.sa_sigaction = look, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigaction(SIGALRM, &action, 0);
  struct itimerval often = {{0, 200}, {0, 200}}, never = {};
  setitimer(ITIMER_REAL, &often, 0);
  while (inside < 200) looping(5000);
  setitimer(ITIMER_REAL, &never, 0);
  printf("interrupted: %ld strays\n", strays);
}

static int pair[2];
static void handle(int signal) {
  char byte;
  // From the same place as what was interrupted.
  if (reading(pair[0], &byte, 1) != 1) printf("the handler read nothing\n");
}
static void *poke(void *main) {
  // Once for the handler, once for what goes on after it.
  pthread_kill((pthread_t)main, SIGUSR1);
  write(pair[1], "h", 1);
  usleep(2000);
  write(pair[1], "m", 1);
  return 0;
}
static void restarted(void) {
  struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, 0);
  int fine = 0;
  for (int i = 0; i < TIMES; i++) {
    pthread_t thread;
    char byte = 0;
    pipe(pair);
    pthread_create(&thread, 0, poke, (void *)pthread_self());
    long got = reading(pair[0], &byte, 1);
    pthread_join(thread, 0);
    fine += got == 1 && (byte == 'm' || byte == 'h');
    close(pair[0]);
    close(pair[1]);
  }
  printf("restarted: %d\n", fine);
}

static void *hammer(void *pid) {
  long bad = 0;
  for (int i = 0; i < TIMES; i++) bad += many() != 64 * (long)pid;
  return (void *)bad;
}

static void own_base(void) {
  static uint64_t word[512] = {42};
  uint64_t base = 1, read;
  syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
  printf("base %lu\n", base);
  syscall(SYS_arch_prctl, ARCH_SET_GS, word);
  long fine = 0;
  for (int i = 0; i < TIMES; i++) fine += moved() == getpid() && compared() == getpid();
  asm volatile("mov %%gs:0, %0" : "=r"(read));
  syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
  printf("own base: %ld calls, %lu, %d\n", fine, read, base == (uintptr_t)word);
  syscall(SYS_arch_prctl, ARCH_SET_GS, 0);
  for (int i = 0; i < TIMES; i++) fine += moved() == getpid();
  syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
  printf("none again: %ld calls, %lu\n", fine, base);
}

// Code that the program makes, and changes.
static void made(void) {
  unsigned char call[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3};
  unsigned char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(page + 100, call, sizeof call);
  long fine = 0;
  for (int i = 0; i < TIMES; i++) {
    int number = i % 2 ? 186 : 39;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    page[101] = number;
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    for (int j = 0; j < 5; j++) fine += ((long (*)(void))(page + 100))() == syscall(number);
  }
  printf("made: %ld\n", fine);
}

int main(void) {
  find_code();
  long pid = getpid(), tid = syscall(SYS_gettid), fine[8] = {};
  for (int i = 0; i < TIMES; i++) {
    fine[0] += moved() == pid && entered() == pid;
    // `getppid` by way of the other's call.
    long parent;
    void *target = entered_call;
    asm volatile("mov $110, %%eax; call *%1" : "=&a"(parent) : "r"(target) : "rcx", "r11", "memory");
    fine[1] += parent == getppid();
    umask(022);
    fine[2] += argument() == 022 && umask(022) == 18;
    fine[3] += compared() == pid;
    fine[4] += failing() == 9;
    fine[5] += led_to() == 0 && straight_there(-5) == 1 && straight_there(5) == 0;
    long thread, kept;
    asm volatile("call alike" : "=a"(thread), "=d"(kept) : : "rcx", "r8", "r11", "memory");
    int alike = thread == tid && kept == 39;
    asm volatile("call indexed" : "=a"(thread), "=d"(kept) : : "rcx", "rdi", "r11", "memory");
    alike &= thread == tid && kept == 186 + 39;
    asm volatile("call offset" : "=a"(thread), "=d"(kept) : : "rcx", "rdi", "r11", "memory");
    fine[6] += alike && thread == tid && kept == 186 + 39;
    fine[7] += both() == pid;
  }
  for (int i = 0; i < 8; i++) printf("%ld ", fine[i]);
  printf("\n");
  registers("moved", kept_moved, 0x202);
  registers("moved, flags set", kept_moved, 0x202 | 0x8d5);
  registers("moved, backwards", kept_moved, 0x202 | 0x400);
  registers("compared", kept_compared, 0x202);
  pthread_t threads[4];
  long bad = 0;
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, hammer, (void *)pid);
  for (int i = 0; i < 4; i++) {
    void *result;
    pthread_join(threads[i], &result);
    bad += (long)result;
  }
  printf("threads: %ld differ\n", bad);
  restarted();
  interrupted();
  own_base();
  made();
  return 0;
}
