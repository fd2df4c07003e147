// Memory: what mmap, munmap, mprotect, mremap, madvise, brk and mincore promise, also to other threads.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };
static sigjmp_buf back;
static void fault(int number) { (void)number; siglongjmp(back, 1); }
static int can_write(volatile char *p) { return sigsetjmp(back, 1) ? 0 : (*p = 1, 1); }
static int can_read(volatile char *p) { return sigsetjmp(back, 1) ? 0 : ((void)*p, 1); }
static char *map(void *hint, size_t len, int flags) {
    return mmap(hint, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static char *volatile target;
static volatile unsigned long writes;
static volatile int stop;
static pthread_barrier_t step;
static void *writer(void *unused) {
    (void)unused;
    while (!stop) {
        if (!sigsetjmp(back, 1)) for (;;) { *(volatile long *)target += 1; writes++; if (stop) return 0; }
        pthread_barrier_wait(&step); // the store failed
        pthread_barrier_wait(&step); // it may go on
    }
    return 0;
}

int main(void) {
    signal(SIGSEGV, fault);
    signal(SIGBUS, fault);
    char *p = map(0, 8 * PAGE, 0);
    memset(p, 7, 8 * PAGE);
    mprotect(p + PAGE, PAGE, PROT_READ);
    mprotect(p + 2 * PAGE, PAGE, PROT_NONE);
    printf("protect %d %d %d %d\n", can_write(p), can_write(p + PAGE), can_read(p + PAGE), can_read(p + 2 * PAGE));
    mprotect(p, 8 * PAGE, PROT_READ | PROT_WRITE);
    printf("content kept %d %d\n", p[PAGE], p[2 * PAGE]);

    int bad = 0;
    for (int i = 0; i < 200; i++) {
        char *q = map(0, 4 * PAGE, 0);
        q[0] = 1, q[PAGE] = 2;
        munmap(q, 4 * PAGE);
        char *again = map(q, 4 * PAGE, MAP_FIXED);
        bad += again[0] || again[PAGE];
        again[2 * PAGE] = 5;
        madvise(again + 2 * PAGE, PAGE, MADV_DONTNEED);
        bad += again[2 * PAGE];
        munmap(again, 4 * PAGE);
        bad += can_read(q);
    }
    printf("stale pages %d\n", bad);

    char *grown = map(0, 2 * PAGE, 0);
    strcpy(grown + PAGE - 3, "across");
    char *moved = mremap(grown, 2 * PAGE, 400 * PAGE, MREMAP_MAYMOVE);
    printf("moved %s, tail %d\n", moved + PAGE - 3, moved[399 * PAGE]);
    moved = mremap(moved, 400 * PAGE, 2 * PAGE, 0);
    printf("shrunk %s, rest %d\n", moved + PAGE - 3, can_read(moved + 3 * PAGE));

    char *heap = sbrk(0);
    sbrk(100000);
    heap[99999] = 3;
    sbrk(-100000);
    printf("heap %d, %d\n", (char *)sbrk(0) == heap, can_read(heap + 90000));

    char *reserved = mmap(0, 64UL << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    mprotect(reserved + (40UL << 30), PAGE, PROT_READ | PROT_WRITE);
    printf("reserved %d %d\n", can_write(reserved), can_write(reserved + (40UL << 30)));
    char *hint = (char *)0x123450000000;
    printf("hint %d, no replace %d\n", map(hint, PAGE, 0) == hint,
           mmap(hint, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);

    char name[] = "/tmp/memory.XXXXXX";
    int file = mkstemp(name);
    unlink(name);
    char text[6000];
    memset(text, 'a', sizeof text);
    if (write(file, text, sizeof text) != sizeof text) return 1;
    char *private = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    private[1] = 'b';
    char byte;
    pread(file, &byte, 1, 1);
    printf("private %c, file %c, rest of page %d, past end %d\n", private[1], byte, private[6001], can_read(private + 2 * PAGE));
    char *shared = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    shared[2] = 'c';
    msync(shared, PAGE, MS_SYNC);
    pread(file, &byte, 1, 2);
    printf("shared %c\n", byte);

    unsigned char in_core[8];
    char *fresh = map(0, 512 * PAGE, 0);
    fresh[0] = 1;
    mincore(fresh, PAGE, in_core);
    printf("in core %d\n", in_core[0] & 1);

    pthread_barrier_init(&step, 0, 2);
    target = p + 4 * PAGE;
    pthread_t thread;
    pthread_create(&thread, 0, writer, 0);
    int late = 0;
    for (int i = 0; i < 50; i++) {
        unsigned long from = writes;
        while (writes < from + 100) {}
        mprotect(target, PAGE, i & 1 ? PROT_NONE : PROT_READ);
        pthread_barrier_wait(&step);
        unsigned long now = writes;
        usleep(200);
        late += writes != now;
        mprotect(target, PAGE, PROT_READ | PROT_WRITE);
        if (i == 49) stop = 1;
        pthread_barrier_wait(&step);
    }
    pthread_join(thread, 0);
    printf("late stores %d\n", late);
    return 0;
}
