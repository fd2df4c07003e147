// Locks of files: by fcntl, of the process and of open files, and by flock. On a file system in memory and, without an argument, on disk.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *name_of(int failed) { return failed ? strerrorname_np(errno) : "done"; }
#define SHOW(call) printf("%-44s %s\n", #call, name_of((call) < 0))

static int one, two, reader, writer;

static int set(int fd, int command, int type, int whence, long start, long len) {
    struct flock lock = {.l_type = type, .l_whence = whence, .l_start = start, .l_len = len};
    return fcntl(fd, command, &lock);
}

static void ask(int fd, int command, int type, long start, long len, int with_pid) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    int failed = fcntl(fd, command, &lock);
    printf("asked for %d at %ld+%ld: ", type, start, len);
    if (failed) puts(strerrorname_np(errno));
    else if (lock.l_type == F_UNLCK) puts("free");
    else if (with_pid) printf("%d at %ld+%ld of %s\n", lock.l_type, lock.l_start, lock.l_len,
                             lock.l_pid == getpid() ? "mine" : lock.l_pid == -1 ? "a file" : "another");
    else printf("%d at %ld+%ld\n", lock.l_type, lock.l_start, lock.l_len);
}

static void process(const char *path, int in_memory) {
    // Of one process: never in each other's way.
    SHOW(set(one, F_SETLK, F_WRLCK, SEEK_SET, 0, 10));
    SHOW(set(two, F_SETLK, F_WRLCK, SEEK_SET, 5, 10));
    SHOW(set(two, F_SETLKW, F_RDLCK, SEEK_SET, 5, 2));
    ask(two, F_GETLK, F_WRLCK, 0, 0, 1);
    // But seen by an open file.
    ask(one, F_OFD_GETLK, F_WRLCK, 0, 3, in_memory);
    ask(one, F_OFD_GETLK, F_RDLCK, 5, 2, in_memory);
    ask(one, F_OFD_GETLK, F_WRLCK, 15, 0, in_memory);
    SHOW(set(one, F_OFD_SETLK, F_WRLCK, SEEK_SET, 12, 1));
    SHOW(set(two, F_SETLK, F_UNLCK, SEEK_SET, 0, 12));
    ask(one, F_OFD_GETLK, F_WRLCK, 0, 0, in_memory);
    // Any descriptor of the file that is closed gives them all back, unless it is but a place.
    close(open(path, O_PATH));
    ask(one, F_OFD_GETLK, F_WRLCK, 0, 0, in_memory);
    close(open(path, O_RDONLY));
    ask(one, F_OFD_GETLK, F_WRLCK, 0, 0, in_memory);
    SHOW(set(reader, F_SETLK, F_RDLCK, SEEK_SET, 0, 1));
    SHOW(set(reader, F_SETLK, F_WRLCK, SEEK_SET, 0, 1));
    SHOW(set(writer, F_SETLK, F_WRLCK, SEEK_SET, 0, 1));
    SHOW(set(writer, F_SETLK, F_RDLCK, SEEK_SET, 0, 1));
    ask(reader, F_GETLK, F_WRLCK, 0, 1, 1);
    SHOW(set(open(path, O_PATH), F_SETLK, F_RDLCK, SEEK_SET, 0, 1));
    SHOW(set(one, F_SETLK, F_UNLCK, SEEK_SET, 0, 0));
    SHOW(lockf(one, F_TLOCK, 0));
    SHOW(lockf(one, F_ULOCK, 0));
}

static void places(int in_memory) {
    ftruncate(one, 100);
    lseek(one, 50, SEEK_SET);
    SHOW(set(one, F_OFD_SETLK, F_WRLCK, SEEK_END, -10, 5));
    ask(two, F_OFD_GETLK, F_RDLCK, 0, 0, 1);
    SHOW(set(one, F_OFD_SETLK, F_UNLCK, SEEK_SET, 0, 0));
    SHOW(set(one, F_SETLK, F_WRLCK, SEEK_CUR, 0, -5));
    ask(two, F_OFD_GETLK, F_RDLCK, 0, 0, in_memory);
    SHOW(set(one, F_SETLK, F_UNLCK, SEEK_CUR, -5, 5));
    SHOW(set(one, F_SETLK, F_WRLCK, SEEK_SET, -1, 5));
    SHOW(set(one, F_SETLK, F_WRLCK, SEEK_SET, 3, -5));
    SHOW(set(one, F_SETLK, F_WRLCK, SEEK_SET, 2, 0x7fffffffffffffff));
    SHOW(set(one, F_SETLK, F_WRLCK, SEEK_CUR, 0x7fffffffffffffff, 1));
    SHOW(set(one, F_SETLK, F_WRLCK, 7, 0, 1));
    SHOW(set(one, F_SETLK, 7, SEEK_SET, 0, 1));
    struct flock pid = {.l_type = F_WRLCK, .l_pid = 1};
    SHOW(fcntl(one, F_OFD_SETLK, &pid));
    ask(one, F_GETLK, F_UNLCK, 0, 1, 0);
}

static void open_files(const char *path) {
    SHOW(set(one, F_OFD_SETLK, F_RDLCK, SEEK_SET, 0, 10));
    SHOW(set(two, F_OFD_SETLK, F_RDLCK, SEEK_SET, 5, 10));
    SHOW(set(two, F_OFD_SETLK, F_WRLCK, SEEK_SET, 5, 10));
    SHOW(set(two, F_OFD_SETLK, F_WRLCK, SEEK_SET, 10, 5));
    ask(one, F_OFD_GETLK, F_RDLCK, 0, 0, 1);
    ask(one, F_GETLK, F_RDLCK, 0, 0, 0);
    int copy = dup(one);
    SHOW(set(copy, F_OFD_SETLK, F_WRLCK, SEEK_SET, 0, 5));
    // An open file keeps its locks while any descriptor of it is left.
    close(copy);
    ask(two, F_OFD_GETLK, F_RDLCK, 0, 0, 1);
    close(one);
    one = open(path, O_RDWR);
    ask(two, F_OFD_GETLK, F_WRLCK, 0, 5, 1);
    SHOW(set(two, F_OFD_SETLK, F_UNLCK, SEEK_SET, 0, 0));
    SHOW(set(reader, F_OFD_SETLK, F_WRLCK, SEEK_SET, 0, 0));
}

static void whole(const char *path) {
    SHOW(flock(one, LOCK_SH));
    SHOW(flock(reader, LOCK_SH | LOCK_NB));
    SHOW(flock(one, LOCK_EX | LOCK_NB));
    // What was to be exchanged is gone.
    SHOW(flock(reader, LOCK_EX | LOCK_NB));
    SHOW(flock(one, LOCK_SH | LOCK_NB));
    SHOW(set(one, F_OFD_SETLK, F_WRLCK, SEEK_SET, 0, 0));
    SHOW(set(one, F_OFD_SETLK, F_UNLCK, SEEK_SET, 0, 0));
    close(reader);
    SHOW(flock(one, LOCK_EX | LOCK_NB));
    reader = open(path, O_RDONLY);
    SHOW(flock(reader, LOCK_SH | LOCK_NB));
    SHOW(flock(one, LOCK_UN));
    SHOW(flock(reader, LOCK_SH | LOCK_NB));
    SHOW(flock(reader, LOCK_UN));
    SHOW(flock(one, 16));
    SHOW(flock(open(path, O_PATH), LOCK_SH));
}

static void *wait_for_bytes(void *unused) {
    printf("waited %d\n", set(two, F_OFD_SETLKW, F_WRLCK, SEEK_SET, 3, 1));
    return 0;
}

static void *wait_for_file(void *unused) {
    printf("waited %d\n", flock(two, LOCK_EX));
    return 0;
}

// On disk the guest waits for nobody.
static void waits(const char *path) {
    pthread_t thread;
    set(one, F_OFD_SETLK, F_WRLCK, SEEK_SET, 0, 10);
    pthread_create(&thread, 0, wait_for_bytes, 0);
    usleep(10000);
    set(one, F_OFD_SETLK, F_WRLCK, SEEK_SET, 5, 10);
    puts("not yet");
    set(one, F_OFD_SETLK, F_RDLCK, SEEK_SET, 0, 10);
    puts("nor now");
    set(one, F_OFD_SETLK, F_UNLCK, SEEK_SET, 0, 5);
    pthread_join(thread, 0);
    set(two, F_OFD_SETLK, F_UNLCK, SEEK_SET, 0, 0);
    // The process's own, which go with a descriptor.
    set(one, F_OFD_SETLK, F_UNLCK, SEEK_SET, 0, 0);
    set(one, F_SETLK, F_WRLCK, SEEK_SET, 0, 10);
    pthread_create(&thread, 0, wait_for_bytes, 0);
    usleep(10000);
    puts("closed");
    close(open(path, O_RDONLY));
    pthread_join(thread, 0);
    flock(reader, LOCK_SH);
    pthread_create(&thread, 0, wait_for_file, 0);
    usleep(10000);
    puts("closed");
    close(reader);
    pthread_join(thread, 0);
}

static void all(const char *path, int in_memory) {
    puts(in_memory ? "in memory" : "on disk");
    one = open(path, O_RDWR | O_CREAT, 0600), two = open(path, O_RDWR);
    reader = open(path, O_RDONLY), writer = open(path, O_WRONLY);
    process(path, in_memory);
    places(in_memory);
    open_files(path);
    whole(path);
    if (in_memory) waits(path);
    unlink(path);
}

int main(int argc, char **argv) {
    char memory[] = "/dev/shm/locks.XXXXXX", disk[] = "/tmp/locks.XXXXXX";
    mkstemp(memory);
    all(memory, 1);
    if (argc == 1) {
        mkstemp(disk);
        all(disk, 0);
    }
    int ends[2];
    pipe(ends);
    SHOW(flock(ends[0], LOCK_EX | LOCK_NB));
    SHOW(set(ends[0], F_SETLK, F_RDLCK, SEEK_SET, 0, 0));
    one = memfd_create("memory", 0);
    SHOW(set(one, F_SETLK, F_WRLCK, SEEK_SET, 0, 0));
    SHOW(flock(one, LOCK_EX | LOCK_NB));
    return 0;
}
