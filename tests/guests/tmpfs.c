// A file system in memory: /dev/shm is one natively and in the guest.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

static const char *name_of(int failed) { return failed ? strerrorname_np(errno) : "done"; }
#define SHOW(call) printf("%-42s %s\n", #call, name_of((call) < 0))

static void make(const char *name, const char *text) {
    int fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (write(fd, text, strlen(text)) < 0) perror("write");
    close(fd);
}

static void show(const char *name) {
    char text[64] = "";
    int fd = open(name, O_RDONLY);
    long n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    printf("%s: %ld %s\n", name, n, n < 0 ? strerrorname_np(errno) : text);
    close(fd);
}

static void names(void) {
    make("one", "first");
    make("two", "second");
    SHOW(mkdir("dir", 0755));
    SHOW(mkdir("dir", 0755));
    SHOW(mkdir("dir/sub/", 0755));
    SHOW(mkdir("none/sub", 0755));
    SHOW(mkdir("one/sub", 0755));
    SHOW(rename("dir", "dir/sub/x"));
    SHOW(rename("one", "dir"));
    SHOW(rename("dir", "one"));
    SHOW(rename("one/", "three"));
    SHOW(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_NOREPLACE));
    SHOW(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE));
    show("one");
    SHOW(renameat2(AT_FDCWD, "one", AT_FDCWD, "dir", RENAME_EXCHANGE));
    SHOW(renameat2(AT_FDCWD, "one", AT_FDCWD, "dir", RENAME_EXCHANGE));
    SHOW(link("one", "dir/linked"));
    SHOW(link("dir", "dir2"));
    SHOW(link("one", "two"));
    struct stat info;
    stat("dir/linked", &info);
    printf("links %ld\n", (long)info.st_nlink);
    stat("dir", &info);
    printf("directory's links %ld\n", (long)info.st_nlink);
    SHOW(unlink("dir"));
    SHOW(rmdir("one"));
    SHOW(rmdir("dir"));
    SHOW(rmdir("dir/."));
    SHOW(rmdir("dir/sub/.."));
    SHOW(unlink("one/"));
    SHOW(open("one", O_CREAT | O_EXCL | O_RDWR, 0600));
    SHOW(open("dir", O_WRONLY));
    SHOW(open("dir", O_CREAT | O_RDONLY, 0600));
    SHOW(open("new/", O_CREAT | O_RDWR, 0600));
    SHOW(open("one", O_DIRECTORY));
    SHOW(open("one/.", O_RDONLY));
    char longer[300];
    memset(longer, 'n', 299), longer[299] = 0;
    SHOW(mkdir(longer, 0700));
}

static void links(void) {
    SHOW(symlink("one", "link"));
    SHOW(symlink("", "empty"));
    SHOW(symlink("nowhere", "dangling"));
    SHOW(symlink("loop", "loop"));
    SHOW(symlink("dir", "to-dir"));
    SHOW(open("loop", O_RDONLY));
    SHOW(open("link", O_RDONLY | O_NOFOLLOW));
    SHOW(open("dangling", O_RDONLY));
    SHOW(open("dangling", O_CREAT | O_EXCL | O_WRONLY, 0600));
    SHOW(close(open("dangling", O_CREAT | O_WRONLY, 0600)));
    SHOW(access("nowhere", R_OK | W_OK));
    SHOW(unlink("to-dir/"));
    SHOW(rmdir("to-dir"));
    SHOW(open("to-dir/linked", O_RDONLY));
    SHOW(open("to-dir/../link", O_RDONLY));
    SHOW(open("none/../link", O_RDONLY));
    SHOW(open("one/../link", O_RDONLY));
    struct stat info;
    SHOW(lstat("to-dir/", &info));
    printf("a directory %d\n", S_ISDIR(info.st_mode));
    char target[32] = "";
    printf("target %ld %s\n", (long)readlink("link", target, sizeof target), target);
    SHOW(readlink("one", target, sizeof target));
    int at = open("dir", O_RDONLY | O_DIRECTORY);
    SHOW(rename("dir", "moved"));
    SHOW(openat(at, "linked", O_RDONLY));
    SHOW(openat(at, "../one", O_RDONLY));
    SHOW(fchdir(at));
    char here[256];
    printf("in %s\n", strrchr(getcwd(here, sizeof here), '/'));
    SHOW(chdir(".."));
    SHOW(rename("moved", "dir"));
    // A link that leaves this file system, and comes back.
    SHOW(symlink("/proc/self/cwd/one", "around"));
    show("around");
    SHOW(open("/proc/self/cwd/dir/linked", O_RDONLY));
    SHOW(chdir("/proc/self/fd/none"));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d/linked", at);
    SHOW(open(path, O_RDONLY));
    close(at);
}

static void content(void) {
    int fd = open("data", O_CREAT | O_RDWR | O_TRUNC, 0600);
    SHOW(pwrite(fd, "end", 3, 40000));
    SHOW(pwrite(fd, "start", 5, 0));
    struct stat info;
    fstat(fd, &info);
    printf("size %ld, blocks %ld\n", (long)info.st_size, (long)info.st_blocks);
    printf("data %ld %ld, hole %ld %ld\n", lseek(fd, 0, SEEK_DATA), lseek(fd, 5000, SEEK_DATA), lseek(fd, 0, SEEK_HOLE),
           lseek(fd, 39000, SEEK_HOLE));
    SHOW(lseek(fd, 40003, SEEK_DATA));
    SHOW(fallocate(fd, FALLOC_FL_KEEP_SIZE, 40000, 100000));
    SHOW(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 39999));
    SHOW(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096));
    SHOW(fallocate(fd, 0, 0, 0));
    char text[8] = "";
    printf("read %ld", (long)pread(fd, text, 8, 39998));
    for (int i = 0; i < 8; i++) printf(" %d", text[i]);
    puts("");
    SHOW(fallocate(fd, 0, 0, 50000));
    fstat(fd, &info);
    printf("size %ld\n", (long)info.st_size);
    SHOW(ftruncate(fd, 3));
    SHOW(ftruncate(fd, 5000));
    printf("read %ld %.5s|\n", (long)pread(fd, text, 5, 0), text);
    printf("at the end %ld, beyond %ld\n", (long)pread(fd, text, 5, 5000), (long)pread(fd, text, 5, 9000));
    SHOW(ftruncate(fd, -1));
    SHOW(truncate("dir", 0));
    int append = open("data", O_WRONLY | O_APPEND);
    SHOW(write(append, "tail", 4));
    printf("at %ld\n", lseek(append, 0, SEEK_CUR));
    SHOW(read(append, text, 1));
    SHOW(pwrite(append, "more", 4, 0));
    fstat(fd, &info);
    printf("size %ld, at %ld\n", (long)info.st_size, lseek(append, 0, SEEK_CUR));
    // What is unlinked lives on.
    SHOW(unlink("data"));
    printf("read %ld %.4s\n", (long)pread(fd, text, 8, 5000), text);
    fstat(fd, &info);
    printf("links %ld\n", (long)info.st_nlink);
    SHOW(linkat(fd, "", AT_FDCWD, "again", AT_EMPTY_PATH));
    int unnamed = open(".", O_TMPFILE | O_RDWR, 0600);
    SHOW(write(unnamed, "named later", 11));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", unnamed);
    SHOW(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    show("named");
    SHOW(open("named", O_TMPFILE | O_RDWR, 0600));
    SHOW(open(".", O_TMPFILE | O_RDONLY, 0600));
}

static void mappings(void) {
    int fd = open("mapped", O_CREAT | O_RDWR, 0600);
    SHOW(ftruncate(fd, 8192));
    char *one = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *two = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
    char *private = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    strcpy(one + 4096, "by one");
    printf("two sees %s\n", two);
    pwrite(fd, "by write", 9, 4096);
    printf("both see %s, %s\n", one + 4096, two);
    strcpy(private, "private");
    char text[16] = "";
    pread(fd, text, 9, 4096);
    printf("read sees %s; %d\n", text, one[0]);
    int reader = open("mapped", O_RDONLY);
    SHOW(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0) == MAP_FAILED ? -1 : 0);
    void *readable = mmap(0, 4096, PROT_READ, MAP_SHARED, reader, 0);
    SHOW(mprotect(readable, 4096, PROT_READ | PROT_WRITE));
    SHOW(mprotect(private, 4096, PROT_READ | PROT_WRITE));
    close(fd), close(reader), unlink("mapped");
    printf("two still sees %s\n", two);
    munmap(one, 8192);
    strcpy(two, "the last");
    printf("two still sees %s\n", two);
    int memory = memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    SHOW(ftruncate(memory, 4096));
    char *map = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    strcpy(map, "seen");
    SHOW(fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE));
    SHOW(munmap(map, 4096));
    SHOW(fcntl(memory, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW));
    SHOW(write(memory, "x", 1));
    SHOW(ftruncate(memory, 5000));
    SHOW(ftruncate(memory, 4000));
    SHOW(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0) == MAP_FAILED ? -1 : 0);
    printf("seals %d\n", fcntl(memory, F_GET_SEALS));
    memset(text, 0, sizeof text);
    printf("read %ld %s\n", (long)pread(memory, text, 4, 0), text);
    int ordinary = open("ordinary", O_CREAT | O_RDWR, 0600);
    SHOW(fcntl(ordinary, F_ADD_SEALS, F_SEAL_GROW));
    printf("seals %d\n", fcntl(ordinary, F_GET_SEALS));
    SHOW(write(ordinary, "x", 1));
    SHOW(unlink("ordinary"));
    int plain = memfd_create("plain", 0);
    SHOW(fcntl(plain, F_ADD_SEALS, F_SEAL_WRITE));
}

static void attributes(void) {
    struct stat info;
    struct timespec times[2] = {{100, 5}, {200, 7}};
    SHOW(utimensat(AT_FDCWD, "one", times, 0));
    stat("one", &info);
    printf("times %ld.%ld %ld.%ld\n", (long)info.st_atim.tv_sec, info.st_atim.tv_nsec, (long)info.st_mtim.tv_sec,
           info.st_mtim.tv_nsec);
    times[0].tv_nsec = UTIME_OMIT, times[1].tv_nsec = UTIME_NOW;
    SHOW(utimensat(AT_FDCWD, "one", times, 0));
    stat("one", &info);
    printf("times %ld, now %d\n", (long)info.st_atim.tv_sec, info.st_mtim.tv_sec > 1000000000);
    SHOW(utimensat(AT_FDCWD, "link", times, AT_SYMLINK_NOFOLLOW));
    SHOW(chmod("one", 0640));
    stat("one", &info);
    printf("mode %o, own %d\n", info.st_mode, info.st_uid == getuid());
    SHOW(chown("one", -1, -1));
    SHOW(mkfifo("fifo", 0600));
    stat("fifo", &info);
    printf("fifo %d\n", S_ISFIFO(info.st_mode));
    struct statfs fs;
    SHOW(statfs("one", &fs));
    printf("tmpfs %d\n", fs.f_type == TMPFS_MAGIC);
    int fd = open("one", O_RDWR);
    SHOW(flock(fd, LOCK_EX | LOCK_NB));
    SHOW(fsync(fd));
    int path = open("one", O_PATH);
    SHOW(read(path, &info, 1));
    SHOW(fchmod(path, 0600));
    SHOW(fstat(path, &info));
    SHOW(ftruncate(path, 0));
}

static int compare(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

static void listing(void) {
    DIR *list = opendir(".");
    char *found[64];
    int count = 0;
    for (struct dirent *entry; (entry = readdir(list)) && count < 64;) {
        char line[300];
        snprintf(line, sizeof line, "%s:%d", entry->d_name, entry->d_type);
        found[count++] = strdup(line);
    }
    closedir(list);
    qsort(found, count, sizeof *found, compare);
    for (int i = 0; i < count; i++) printf("%s%c", found[i], i == count - 1 ? '\n' : ' ');
    // What is removed while it is read does not disturb.
    mkdir("many", 0700);
    chdir("many");
    for (int i = 0; i < 1000; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        make(name, "");
    }
    list = opendir(".");
    int removed = 0;
    for (struct dirent *entry; (entry = readdir(list));)
        if (entry->d_name[0] != '.') removed += unlink(entry->d_name) == 0;
    closedir(list);
    chdir("..");
    printf("removed %d, empty %d\n", removed, rmdir("many") == 0);
}

int main(void) {
    char dir[] = "/dev/shm/hydra.XXXXXX";
    if (!mkdtemp(dir) || chdir(dir)) return 1;
    umask(022);
    names();
    links();
    content();
    mappings();
    attributes();
    listing();
    chdir("/");
    char clean[64];
    DIR *list = opendir(dir);
    for (struct dirent *entry; (entry = readdir(list));) {
        unlinkat(dirfd(list), entry->d_name, 0);
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
            snprintf(clean, sizeof clean, "%s/%s/linked", dir, entry->d_name), unlink(clean);
            snprintf(clean, sizeof clean, "%s/%s/sub", dir, entry->d_name), rmdir(clean);
            unlinkat(dirfd(list), entry->d_name, AT_REMOVEDIR);
        }
    }
    closedir(list);
    SHOW(rmdir(dir));
    return 0;
}
