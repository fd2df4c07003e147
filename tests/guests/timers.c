// Timers: of CPU time, with intervals shorter than anyone can follow, overruns; CPU clocks of threads.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t seen[65];
static volatile sig_atomic_t overrun;
static volatile int stop;

static void count(int signal, siginfo_t *info, void *context) {
    (void)context;
    seen[signal]++;
    if (info->si_code == SI_TIMER) overrun = info->si_overrun;
}

static long long nanoseconds(clockid_t clock) {
    struct timespec now;
    if (clock_gettime(clock, &now)) return -1;
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static void *spin(void *unused) {
    (void)unused;
    while (!stop) {}
    return 0;
}

static void interval_timer(int which, int signal) {
    struct itimerval set = {{0, 20000}, {0, 30000}}, old;
    setitimer(which, &set, 0);
    while (seen[signal] < 3) {}
    memset(&set, 0, sizeof set);
    setitimer(which, &set, &old);
    printf("timer %d: interval %ld us, left at most that: %d\n", which, (long)old.it_interval.tv_usec,
           old.it_value.tv_usec <= 30000 && old.it_value.tv_sec == 0);
    getitimer(which, &old);
    printf("stopped: %ld\n", (long)(old.it_value.tv_sec + old.it_value.tv_usec + old.it_interval.tv_usec));
}

static void cpu_timer(clockid_t clock) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    timer_t timer;
    seen[SIGUSR1] = 0;
    if (timer_create(clock, &event, &timer)) {
        printf("timer_create: %s\n", strerror(errno));
        return;
    }
    struct itimerspec set = {{0, 0}, {0, 20000000}};
    long long before = nanoseconds(clock);
    timer_settime(timer, 0, &set, 0);
    while (!seen[SIGUSR1]) {}
    printf("not before its time: %d\n", nanoseconds(clock) - before >= 20000000);
    timer_delete(timer);
}

int main(void) {
    struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO | SA_RESTART};
    int all[] = {SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1, SIGRTMIN};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) sigaction(all[i], &action, 0);

    interval_timer(ITIMER_REAL, SIGALRM);
    interval_timer(ITIMER_VIRTUAL, SIGVTALRM);
    interval_timer(ITIMER_PROF, SIGPROF);
    cpu_timer(CLOCK_PROCESS_CPUTIME_ID);
    cpu_timer(CLOCK_THREAD_CPUTIME_ID);

    // A thread's CPU clock runs while it works, and that of one that sleeps does not.
    pthread_t worker;
    clockid_t clock;
    pthread_create(&worker, 0, spin, 0);
    pthread_getcpuclockid(worker, &clock);
    long long start = nanoseconds(clock), own = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    while (nanoseconds(clock) < start + 50000000) usleep(10000);
    printf("the worker's clock runs, ours less: %d\n", nanoseconds(CLOCK_THREAD_CPUTIME_ID) - own < 50000000);
    cpu_timer(clock);
    stop = 1;
    pthread_join(worker, 0);
    // Its number is free a little after `pthread_join` has returned.
    while (nanoseconds(clock) != -1) sched_yield();
    printf("a thread that ended has no clock\n");
    printf("clock of no process: %d\n", nanoseconds(((~99999) << 3) | 2) == -1);
    struct rusage usage, mine;
    struct tms ticks;
    getrusage(RUSAGE_SELF, &usage);
    getrusage(RUSAGE_THREAD, &mine);
    times(&ticks);
    long all_us = usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec;
    long mine_us = mine.ru_utime.tv_sec * 1000000 + mine.ru_utime.tv_usec + mine.ru_stime.tv_sec * 1000000 + mine.ru_stime.tv_usec;
    printf("usage: %d %d %d\n", all_us >= 100000, mine_us < all_us, ticks.tms_utime + ticks.tms_stime > 0);

    // A timer of one nanosecond: one signal waits, and stands for all that were missed.
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    timer_t timer;
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, 0);
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    struct itimerspec fast = {{0, 1}, {0, 1}}, none = {{0, 0}, {0, 0}};
    timer_settime(timer, 0, &fast, 0);
    do sigpending(&pending);
    while (!sigismember(&pending, SIGRTMIN));
    usleep(20000);
    siginfo_t info;
    int got = sigwaitinfo(&set, &info);
    printf("waited for %d, missed many %d, the same as asked %d\n", got == SIGRTMIN, info.si_overrun > 10000000,
           timer_getoverrun(timer) == info.si_overrun);
    timer_settime(timer, 0, &none, 0);
    struct timespec now = {0, 0};
    while (sigtimedwait(&set, 0, &now) > 0) {}

    // Ignored, it must cost nothing; nor when it sends no signal.
    signal(SIGRTMIN, SIG_IGN);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    timer_settime(timer, 0, &fast, 0);
    usleep(20000);
    timer_delete(timer);
    event.sigev_notify = SIGEV_NONE;
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    struct itimerspec slow = {{10, 0}, {0, 1}}, left;
    timer_settime(timer, 0, &slow, 0);
    usleep(1000);
    timer_gettime(timer, &left);
    printf("goes on without a signal: %d\n", left.it_value.tv_sec == 9);
    return 0;
}
