// Files, directories and descriptors.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int compare(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

int main(void) {
    char dir[] = "/tmp/files.XXXXXX";
    if (!mkdtemp(dir) || chdir(dir)) return 1;
    char here[4096];
    printf("cwd %d\n", !strcmp(getcwd(here, sizeof here), dir));
    int fd = open("one", O_RDWR | O_CREAT | O_EXCL, 0640);
    printf("exclusive %d\n", open("one", O_RDWR | O_CREAT | O_EXCL, 0640) < 0 && errno == EEXIST);
    struct iovec parts[2] = {{"hello ", 6}, {"world", 5}};
    printf("writev %ld\n", writev(fd, parts, 2));
    char text[32] = "";
    printf("pread %ld %s\n", pread(fd, text, 5, 6), text);
    struct stat info;
    fstat(fd, &info);
    printf("size %ld mode %o links %ld\n", info.st_size, info.st_mode, (long)info.st_nlink);
    link("one", "two");
    symlink("two", "three");
    char target[16] = "";
    long n = readlink("three", target, sizeof target);
    stat("three", &info);
    printf("link %.*s, links %ld\n", (int)n, target, (long)info.st_nlink);
    lstat("three", &info);
    printf("symlink %d\n", S_ISLNK(info.st_mode));
    mkdir("sub", 0755);
    printf("not empty %d\n", rename("sub", "one") < 0);
    int at = open("sub", O_RDONLY | O_DIRECTORY);
    close(openat(at, "inner", O_CREAT | O_WRONLY, 0600));
    printf("access %d %d\n", faccessat(at, "inner", R_OK, 0), access("sub/none", F_OK));
    printf("rmdir %d %s\n", rmdir("sub"), strerror(errno));
    renameat(at, "inner", AT_FDCWD, "moved");
    DIR *list = opendir(".");
    char *names[16];
    int count = 0;
    for (struct dirent *entry; (entry = readdir(list));) names[count++] = strdup(entry->d_name);
    closedir(list);
    qsort(names, count, sizeof *names, compare);
    for (int i = 0; i < count; i++) printf("%s%c", names[i], i == count - 1 ? '\n' : ' ');
    ftruncate(fd, 3);
    printf("seek %ld, end %ld\n", lseek(fd, 1, SEEK_SET), lseek(fd, 0, SEEK_END));
    int copy = dup(fd);
    lseek(fd, 0, SEEK_SET);
    printf("shared position %ld\n", lseek(copy, 0, SEEK_CUR));
    printf("dup2 %d, fcntl %d\n", dup2(fd, 200), fcntl(fd, F_DUPFD, 100));
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    printf("flags %d %d\n", fcntl(fd, F_GETFD), fcntl(copy, F_GETFD));
    printf("bad %d %s\n", close(77), strerror(errno));
    printf("lock %d\n", flock(fd, LOCK_EX | LOCK_NB));
    int append = open("one", O_WRONLY | O_APPEND);
    write(append, "tail", 4);
    printf("appended %ld\n", lseek(append, 0, SEEK_CUR));
    printf("is a directory %d\n", open("sub", O_WRONLY) < 0 && errno == EISDIR);
    printf("no follow %d\n", open("three", O_RDONLY | O_NOFOLLOW) < 0 && errno == ELOOP);
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY);
    printf("null %ld %ld, zero %ld\n", write(null, "x", 1), read(null, text, 1), read(zero, text, 8));
    int listed[2] = {0};
    DIR *descriptors = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(descriptors));) {
        listed[0] |= atoi(entry->d_name) == fd;
        listed[1] |= atoi(entry->d_name) == dirfd(descriptors);
    }
    closedir(descriptors);
    printf("descriptors listed %d %d\n", listed[0], listed[1]);
    printf("leading zeros %d %d\n", open("/proc/self/fd/00", O_RDONLY), access("/proc/self/fd/0", F_OK));
    const char *all[] = {"one", "two", "three", "moved"};
    for (int i = 0; i < 4; i++) unlink(all[i]);
    printf("gone %d\n", rmdir("sub") == 0 && chdir("/") == 0 && rmdir(dir) == 0);
    return 42;
}
