// Clocks: the C library's (by the vDSO) and the system calls' agree, never go backwards, and sleeping takes its time.
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long nanos(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }
static long long fast(int clock) { struct timespec t; clock_gettime(clock, &t); return nanos(t); }
static long long slow(int clock) { struct timespec t; syscall(SYS_clock_gettime, clock, &t); return nanos(t); }

int main(void) {
    int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE};
    for (int i = 0; i < 5; i++) {
        long long before = slow(clocks[i]), now = fast(clocks[i]), after = slow(clocks[i]);
        // Raw and boot time may stand apart from the monotonic clock on a machine that slept.
        long long slack = 100000000;
        printf("clock %d agrees %d\n", clocks[i], now > before - slack && now < after + slack);
    }
    long long last = 0;
    int backwards = 0;
    for (int i = 0; i < 100000; i++) {
        long long now = fast(CLOCK_MONOTONIC);
        backwards += now < last;
        last = now;
    }
    printf("backwards %d\n", backwards);
    struct timeval day;
    gettimeofday(&day, 0);
    printf("day %d\n", labs(day.tv_sec - time(0)) <= 1);
    long long start = fast(CLOCK_MONOTONIC);
    usleep(30000);
    printf("slept %d\n", fast(CLOCK_MONOTONIC) - start >= 29000000);
    long long cpu = fast(CLOCK_THREAD_CPUTIME_ID);
    for (volatile int i = 0; i < 20000000; i++) {}
    printf("worked %d\n", fast(CLOCK_THREAD_CPUTIME_ID) > cpu);
    return 0;
}
