// What queued signals, and threads that share them, get: limits, redirection, waits that another thread's signal interrupts.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t handled;
static pthread_t handler_thread;
static int word, arrived;

static void handler(int signal) {
    (void)signal;
    handler_thread = pthread_self();
    __atomic_add_fetch((int *)&handled, 1, __ATOMIC_SEQ_CST);
}

static void *take(void *unused) {
    (void)unused;
    sigset_t none;
    sigemptyset(&none);
    while (!handled) sigsuspend(&none);
    return 0;
}

static void *send(void *unused) {
    kill(getpid(), SIGUSR1);
    return unused;
}

// Opens itself to the signal and reads: until the signal interrupts that, or a byte says that another thread took it.
static void *read_open(void *end) {
    sigset_t none;
    char byte;
    struct timespec forever = {1000, 0};
    struct pollfd polled = {*(int *)end, POLLIN, 0};
    sigemptyset(&none);
    while (!(handled && pthread_equal(handler_thread, pthread_self())))
        if (ppoll(&polled, 1, &forever, &none) == 1) return read(*(int *)end, &byte, 1) == 1 ? 0 : end;
    return 0;
}

static int futex(int operation, int value, const struct timespec *timeout) {
    return syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, value, timeout, 0, 0);
}

// Waits, woken by nothing but the wake: signals that others take do not end it.
static void *wait_for_word(void *unused) {
    (void)unused;
    long outcome = 0;
    __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 0)
        if (futex(FUTEX_WAIT, 0, 0) && errno == EINTR) outcome++;
    return (void *)outcome;
}

static void *take_by_wait(void *times) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    for (long i = 0; i < (long)times; i++) {
        int signal;
        sigwait(&set, &signal);
        __atomic_add_fetch((int *)&handled, 1, __ATOMIC_SEQ_CST);
    }
    return 0;
}

int main(void) {
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, 0);
    sigset_t usr1, usr2, real_time;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);

    // A signal of the process that nobody takes waits; the thread that opens itself to it gets it.
    pthread_t thread;
    sigprocmask(SIG_BLOCK, &usr1, 0);
    kill(getpid(), SIGUSR1);
    pthread_create(&thread, 0, take, 0);
    pthread_join(thread, 0);
    printf("taken by the other thread: %d\n", pthread_equal(handler_thread, thread));

    // One that all threads could take is for those that still can when its taker blocks it or ends.
    for (int i = 0; i < 200; i++) {
        int ends[2];
        pthread_t sender;
        if (pipe(ends)) return 1;
        handled = 0;
        // Both begin with the signal blocked.
        pthread_create(&sender, 0, send, 0);
        pthread_create(&thread, 0, read_open, &ends[0]);
        sigprocmask(SIG_UNBLOCK, &usr1, 0);
        sigprocmask(SIG_BLOCK, &usr1, 0);
        pthread_join(sender, 0);
        if (handled && pthread_equal(handler_thread, pthread_self())) {
            if (write(ends[1], "x", 1) != 1) return 1;
        }
        pthread_join(thread, 0);
        if (handled != 1) printf("handled %d times\n", handled);
        close(ends[0]);
        close(ends[1]);
    }
    printf("never lost\n");

    // Waits of threads that a signal was not for go on, and are still woken.
    enum { WAITERS = 4, SIGNALS = 200 };
    pthread_t waiters[WAITERS], taker;
    handled = 0;
    sigprocmask(SIG_BLOCK, &usr2, 0);
    pthread_create(&taker, 0, take_by_wait, (void *)SIGNALS);
    for (int i = 0; i < WAITERS; i++) pthread_create(&waiters[i], 0, wait_for_word, 0);
    while (__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) < WAITERS) usleep(1000);
    for (int i = 0; i < SIGNALS; i++) {
        kill(getpid(), SIGUSR2);
        while (handled <= i) sched_yield();
    }
    pthread_join(taker, 0);
    __atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
    while (futex(FUTEX_WAKE, WAITERS, 0) > 0) {}
    long interrupted = 0;
    for (int i = 0; i < WAITERS; i++) {
        void *result;
        pthread_join(waiters[i], &result);
        interrupted += (long)result;
    }
    printf("interrupted %ld, word %d\n", interrupted, word);

    // Queued signals are bounded for the whole process.
    struct rlimit limit = {100, 100};
    setrlimit(RLIMIT_SIGPENDING, &limit);
    sigemptyset(&real_time);
    for (int i = SIGRTMIN; i <= SIGRTMAX; i++) sigaddset(&real_time, i);
    sigprocmask(SIG_BLOCK, &real_time, 0);
    union sigval value = {.sival_int = 7};
    int queued = 0, error = 0;
    for (int i = 0; i < 300 && !error; i++) {
        if (sigqueue(getpid(), SIGRTMIN + i % 20, value) == 0) queued++;
        else error = errno;
    }
    // The limit is of all processes of the user.
    printf("queued %d, then %s; kill %d\n", queued <= 100, strerror(error), kill(getpid(), SIGRTMIN + 25));
    struct timespec now = {0, 0};
    siginfo_t info;
    int taken = 0, last = 0, ordered = 1;
    while (sigtimedwait(&real_time, &info, &now) > 0) {
        ordered &= info.si_signo >= last;
        last = info.si_signo;
        taken++;
    }
    printf("all taken %d in order %d, empty: %s\n", taken == queued + 1, ordered, strerror(errno));

    // Stops and their opposite take each other back.
    sigset_t stops, pending;
    sigemptyset(&stops);
    sigaddset(&stops, SIGTSTP);
    sigaddset(&stops, SIGCONT);
    sigprocmask(SIG_BLOCK, &stops, 0);
    kill(getpid(), SIGTSTP);
    kill(getpid(), SIGCONT);
    sigpending(&pending);
    printf("stop %d, continue %d\n", sigismember(&pending, SIGTSTP), sigismember(&pending, SIGCONT));

    printf("requeue %ld\n", syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, 1, &error, 1));
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0) & MEMBARRIER_CMD_PRIVATE_EXPEDITED)
        syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0);
    printf("barrier %ld\n", syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0));
    return 0;
}
