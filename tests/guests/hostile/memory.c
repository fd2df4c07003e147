// The address space: overlapping, huge and empty mappings, mremap, many regions, buffers that vanish during a call.
#include "hostile.h"
#include <pthread.h>

void memory(void) {
    int file = open("/file", O_RDWR | O_CREAT, 0600);
    if (ftruncate(file, 3 * 4096 + 100)) return;
    for (int i = 0; i < 20000; i++) {
        uint64_t at = (uint64_t)arena + 4096 * below(256), len = below(3) ? 4096 * below(64) : nasty();
        switch (below(9)) {
        case 0: syscall(SYS_mmap, below(2) ? nasty() : 0, nasty(), below(8), 2 | 0x20 | (below(2) ? 0x4000 : 0), -1, 0); break;
        case 1:
            if (len <= ARENA && at + len <= (uint64_t)arena + ARENA)
                syscall(SYS_mmap, at, len, below(8), 0x10 | 0x20 | (1 + below(2)), -1, 0);
            break;
        case 2: {
            // The last page that a file can have, grown past it.
            uint64_t end = syscall(SYS_mmap, 0, 4096, 1, 2, file, 0xfffffffffffff000ull - 4096 * below(3));
            if ((int64_t)end > 0) {
                uint64_t moved = syscall(SYS_mremap, end, 4096, 4096 * (1 + below(64)), 1);
                if ((int64_t)moved > 0) {
                    syscall(SYS_write, 1, moved + 4096, 0);
                    syscall(SYS_madvise, moved, 4096 * 64, 22);
                    syscall(SYS_munmap, moved + 4096, 4096);
                    syscall(SYS_munmap, moved, 64 * 4096);
                }
            }
            break;
        }
        case 3: syscall(SYS_mremap, at, len, below(2) ? len : nasty(), below(4), nasty()); break;
        case 4: syscall(SYS_madvise, at, len, below(26)); break;
        case 5: syscall(SYS_mincore, at, len, arena); break;
        case 6: syscall(SYS_mlock, nasty(), nasty()), syscall(SYS_msync, at, len, below(8)); break;
        case 7: syscall(SYS_brk, nasty()); break;
        default: {
            char *shared = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 4096 * below(3));
            if (shared != MAP_FAILED) {
                syscall(SYS_read, file, shared + 4096 * below(4), 5000);
                syscall(SYS_munmap, shared, 4 * 4096);
            }
        }
        }
        if (i % 64 == 0) mmap(arena, ARENA, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    }
}

// As many regions as there can be, by splitting one.
void regions(void) {
    uint64_t pages = 400000;
    char *all = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return;
    uint64_t split = 0;
    for (uint64_t i = 1; i < pages; i += 2) {
        if (mprotect(all + i * 4096, 4096, PROT_READ)) break;
        split++;
    }
    if (split * 2 > 70000) abort(); // Linux stops at 65,530 regions.
    for (int i = 0; i < 20; i++) open("/proc/self/maps", O_RDONLY);
}

static int pair[2];
static volatile int stop;
static void *transfers(void *unused) {
    (void)unused;
    while (!stop) {
        if (write(pair[1], arena, 60000) < 0 && errno != EAGAIN && errno != EFAULT) break;
        if (read(pair[0], arena + 65536, 60000) < 0 && errno != EAGAIN && errno != EFAULT) break;
    }
    return NULL;
}

// One thread lets the kernel fill memory that another takes away, and that becomes page tables.
void unmapped_buffers(void) {
    pthread_t threads[2];
    pipe2(pair, O_NONBLOCK);
    memset(arena, 0xff, ARENA);
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, transfers, NULL);
    for (uint64_t i = 1; i < 6000; i++) {
        syscall(SYS_munmap, arena, 40 * 4096);
        // Page tables of their own for each.
        uint64_t far = 0x100000000000 + ((i % 1500) << 30);
        if (syscall(SYS_mmap, far, 4096, 3, 0x32, -1, 0) == (long)far) *(volatile char *)far = 1;
        syscall(SYS_mmap, arena, 40 * 4096, 7, 0x32, -1, 0);
        memset(arena, 0xff, 40 * 4096);
        if (i % 64 == 0)
            for (uint64_t k = i - 63; k <= i; k++) syscall(SYS_munmap, 0x100000000000 + ((k % 1500) << 30), 4096);
    }
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
}
