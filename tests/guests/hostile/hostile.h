// What the parts of the hostile program share. It runs as a guest; whatever it does, the host must stand.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

// xorshift: the seed is the second argument of the program.
uint64_t random_word(void);
static inline uint64_t below(uint64_t n) { return random_word() % n; }

// Runs `f(argument)`; returns the signal that ended it, or 0.
int attempt(void (*f)(uint64_t), uint64_t argument);
// A number or address that is likely to be handled wrongly.
uint64_t nasty(void);
// Memory that may be unmapped, protected and overwritten by anybody.
extern char *arena;
#define ARENA (1 << 20)

void fuzz_calls(void);
void instructions(void);
void code_of_32_bits(void);
void forged_calls(void);
void forged_faults(void);
void window(void);
void self_modifying(void);
void stack_overflow(void);
void frames(void);
void memory(void);
void regions(void);
void unmapped_buffers(void);
void descriptors(void);
void nested_epoll(void);
void long_paths(void);
void leaks(void);
void threads(void);
void futexes(void);
void paths(void);
void vectors(void);
void mass_waits(void);
