// Memory that is gone through in order, in which large pages may lie: parts of it are protected, given back, moved and unmapped, while a thread uses the rest.
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 4096, ROUNDS = 12 }; // 16 MiB: some of it is aligned to 2 MiB
static sigjmp_buf back;
static void fault(int number) { (void)number; siglongjmp(back, 1); }
static int can_write(volatile char *p) { return sigsetjmp(back, 1) ? 0 : (*p = 1, 1); }
static int can_read(volatile char *p) { return sigsetjmp(back, 1) ? 0 : ((void)*p, 1); }
static char *map(size_t pages, int protection) {
    return mmap(0, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static volatile long *at(char *memory, long page) { return (volatile long *)(memory + page * PAGE); }

static char *memory;
static atomic_long passes;
static atomic_int stop;
// Counts in pages that stay what they are, each next to one that does not.
static void *neighbour(void *unused) {
    (void)unused;
    while (!stop) {
        for (long page = 5; page < PAGES; page += 100) at(memory, page)[1] += 1;
        passes++;
    }
    return 0;
}
static void pass(void) {
    for (long seen = passes; passes < seen + 2;) sched_yield();
}

// Whether all pages but those of the table hold their number.
static long wrong(const char *given, const long *others) {
    long count = 0;
    for (long page = 0; page < PAGES; page++) count += !others[page] && *at((char *)given, page) != page + 1;
    return count;
}

int main(void) {
    signal(SIGSEGV, fault);
    for (int round = 0; round < ROUNDS; round++) {
        static long others[PAGES];
        memset(others, 0, sizeof others);
        memory = map(PAGES, PROT_READ | PROT_WRITE);
        long zero = 0;
        for (long page = 0; page < PAGES; page++) zero += *at(memory, page) == 0, *at(memory, page) = page + 1;
        pthread_t thread;
        stop = 0;
        pthread_create(&thread, 0, neighbour, 0);
        pass();

        long denied = 0, kept = 0;
        for (long page = 6 + round; page < PAGES; page += 400) {
            mprotect(memory + page * PAGE, PAGE, PROT_READ);
            denied += !can_write(memory + page * PAGE) && can_read(memory + page * PAGE);
            kept += can_write(memory + (page + 1) * PAGE + 64);
            mprotect(memory + page * PAGE, PAGE, PROT_NONE);
            denied += !can_read(memory + page * PAGE);
            mprotect(memory + page * PAGE, PAGE, PROT_READ | PROT_WRITE);
            kept += *at(memory, page) == page + 1;
        }
        pass();
        printf("zero %ld denied %ld kept %ld wrong %ld\n", zero, denied, kept, wrong(memory, others));

        long given_back = 0;
        for (long page = 106; page < PAGES; page += 600) {
            madvise(memory + page * PAGE, PAGE, MADV_DONTNEED);
            given_back += *at(memory, page) == 0;
            *at(memory, page) = page + 1;
        }
        pass();
        // A part goes elsewhere and comes back; another goes for good.
        char *elsewhere = map(700, PROT_NONE);
        elsewhere = mremap(memory + 1206 * PAGE, 94 * PAGE, 94 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere);
        long moved = 0;
        for (long page = 1206; page < 1300; page++) moved += *at(elsewhere, page - 1206) == page + 1;
        moved += !can_read(memory + 1250 * PAGE);
        mremap(elsewhere, 94 * PAGE, 94 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory + 1206 * PAGE);
        munmap(memory + 2006 * PAGE, 99 * PAGE);
        long gone = !can_read(memory + 2006 * PAGE) + !can_write(memory + 2104 * PAGE);
        for (long page = 2006; page < 2105; page++) others[page] = 1;
        pass();
        printf("given back %ld moved %ld gone %ld\n", given_back, moved, gone);
        stop = 1;
        pthread_join(thread, 0);
        long uneven = 0;
        for (long page = 105; page < PAGES; page += 100) uneven += !others[page] && at(memory, page)[1] != at(memory, 5)[1];
        printf("wrong %ld uneven %ld\n", wrong(memory, others), uneven);
        munmap(memory, PAGES * PAGE);
        munmap(elsewhere + 94 * PAGE, 606 * PAGE);
    }
    // What a call writes and reads.
    memory = map(PAGES, PROT_READ | PROT_WRITE);
    FILE *file = tmpfile();
    for (long page = 0; page < PAGES; page++) *at(memory, page) = page;
    fwrite(memory, PAGE, PAGES, file);
    rewind(file);
    memset(memory, 0, PAGES * PAGE);
    long read = fread(memory, PAGE, PAGES, file), sum = 0;
    for (long page = 0; page < PAGES; page++) sum += *at(memory, page);
    printf("read %ld sum %ld\n", read, sum);
    return 0;
}
