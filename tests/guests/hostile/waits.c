// Threads that wait for very many files.
#include "hostile.h"
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

#define MOST 131072
#define THREADS 64

static struct pollfd polled[MOST];
static int many, out_of_memory;

static void *poll_all(void *unused) {
    // All wait for the same array: it takes the guest nothing to have one thread more.
    if (syscall(SYS_poll, polled, many, -1) < 0 && errno == ENOMEM) __atomic_add_fetch(&out_of_memory, 1, __ATOMIC_RELAXED);
    return unused;
}

static int start(pthread_t *threads, int count) {
    int started = 0;
    while (started < count && pthread_create(&threads[started], NULL, poll_all, NULL) == 0) started++;
    // They are to wait before they are woken; those that are late find what there is.
    struct timespec while_they_begin = {1, 0};
    syscall(SYS_nanosleep, &while_they_begin, NULL);
    return started;
}

static void end(pthread_t *threads, int count, int fd) {
    if (write(fd, "\1\0\0\0\0\0\0", 8) != 8) abort();
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

void mass_waits(void) {
    static pthread_t threads[512];
    struct rlimit limit = {MOST, MOST};
    setrlimit(RLIMIT_NOFILE, &limit);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 16);
    pthread_setattr_default_np(&small);
    // One file as often as there can be entries.
    int event = (int)syscall(SYS_eventfd2, 0, 0);
    for (many = 0; many < MOST; many++) polled[many] = (struct pollfd){event, POLLIN, 0};
    end(threads, start(threads, THREADS), event);
    if (out_of_memory) abort();
    // Many different ones, by many threads.
    for (many = 0; many < 20000; many++) {
        int fd = (int)syscall(SYS_eventfd2, 0, 0);
        if (fd < 0) break;
        polled[many] = (struct pollfd){fd, POLLIN, 0};
    }
    end(threads, start(threads, 400), polled[0].fd);
    if (!out_of_memory) abort();
}
