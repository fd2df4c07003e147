// Ways out of the root. The host has `secret` beside the root, and mounts a directory at /ro that must not change.
#include "hostile.h"
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static void show(const char *path) {
    char bytes[256];
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return;
    ssize_t n = read(fd, bytes, sizeof bytes);
    if (n > 0 && memmem(bytes, (size_t)n, "the secret", 10)) {
        printf("escaped by %s\n", path);
        fflush(stdout);
    }
    close(fd);
}

static void spoil(int fd) {
    if (fd < 0) return;
    if (write(fd, "spoilt", 6)) {}
    if (pwrite(fd, "spoilt", 6, 0)) {}
    if (ftruncate(fd, 1)) {}
    syscall(SYS_fallocate, fd, 3, 0, 4096);
    fchmod(fd, 0777);
    if (fchown(fd, 12, 34)) {}
    futimens(fd, NULL);
    struct timespec times[2] = {{1, 0}, {1, 0}};
    futimens(fd, times);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) {
        syscall(SYS_read, 0, map, 0);
        syscall(SYS_getrandom, map, 16, 0);
        msync(map, 4096, MS_SYNC);
    }
    close(fd);
}

static void spoil_path(const char *path) {
    char again[64];
    spoil(open(path, O_RDONLY));
    spoil(open(path, O_RDWR));
    spoil(open(path, O_WRONLY | O_TRUNC));
    spoil(open(path, O_RDWR | O_CREAT, 0600));
    spoil(open(path, O_PATH));
    int flags[] = {O_RDWR, O_WRONLY | O_TRUNC, O_RDWR | O_APPEND, O_RDWR | O_CREAT};
    for (int i = 0; i < 4; i++) {
        int held = open(path, i & 1 ? O_RDONLY : O_PATH);
        snprintf(again, sizeof again, "/proc/self/fd/%d", held);
        spoil(open(again, flags[i]));
        snprintf(again, sizeof again, "/dev/fd/%d", held);
        spoil(open(again, flags[i]));
        if (truncate(again, 0)) {}
        chmod(again, 0777);
        close(held);
    }
    if (truncate(path, 0)) {}
    chmod(path, 0777);
    if (chown(path, 12, 34)) {}
    if (lchown(path, 12, 34)) {}
    utimensat(AT_FDCWD, path, NULL, 0);
    rename(path, "/stolen");
    rename("/file", path);
    if (link(path, "/linked")) {}
    linkat(AT_FDCWD, path, AT_FDCWD, "/linked2", AT_SYMLINK_FOLLOW);
    spoil(open("/linked", O_RDWR));
    unlink(path);
    rmdir(path);
    syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, "/swapped", 0);
    int from = open("/file", O_RDONLY), to = open(path, O_RDONLY);
    if (sendfile(to, from, NULL, 10)) {}
    syscall(SYS_copy_file_range, from, NULL, to, NULL, 10, 0);
}

// The host's own devices: only changes to what they are already, so that a host that lets them through is not harmed.
static void device(const char *path) {
    char again[64];
    int fd = open(path, O_RDWR);
    struct timespec keep[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
    if (fchmod(fd, 0666) == 0) printf("escaped by fchmod of %s\n", path);
    if (fchown(fd, 0, 0) == 0) printf("escaped by fchown of %s\n", path);
    if (futimens(fd, keep) == 0) printf("escaped by futimens of %s\n", path);
    if (chmod(again, 0666) == 0) printf("escaped by chmod of %s\n", again);
    close(fd);
}

void paths(void) {
    static const char *const ways[] = {
        "../secret", "/../secret", "/proc/self/root/../secret", "/proc/self/cwd/../secret", "/proc/1/root/secret",
        "/proc/self/fd/../../../secret", "/up", "/up/secret", "/absolute", "/dir/../../secret", "/proc/thread-self/root/../secret",
        "/proc/100/task/100/root/../secret", "//../secret", "/./../secret", "/dir/up", "/dir/up/secret", "/ro/up", "/proc/self/exe/../../secret",
    };
    close(open("/file", O_RDWR | O_CREAT, 0600));
    mkdir("/dir", 0700);
    if (symlink("../..", "/up")) {}
    if (symlink("../../secret", "/dir/up")) {}
    if (symlink("/proc/self/root/../secret", "/absolute")) {}
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        show(ways[i]);
        int directory = open("/dir", O_DIRECTORY);
        int fd = openat(directory, ways[i], O_RDONLY);
        close(fd);
        spoil(open(ways[i], O_RDWR));
        if (truncate(ways[i], 0)) {}
        unlink(ways[i]);
        close(directory);
    }
    // A directory that moves up while it is open.
    mkdir("/dir/inner", 0700);
    int inner = open("/dir/inner", O_DIRECTORY);
    rename("/dir/inner", "/inner");
    int fd = openat(inner, "../../secret", O_RDONLY);
    close(fd);
    if (fchdir(inner) == 0) show("../../../secret");
    spoil_path("/ro/kept");
    spoil_path("/ro/link");
    int made = open("/ro/new", O_CREAT | O_RDWR, 0600);
    close(made);
    mkdir("/ro/newdir", 0700);
    if (symlink("x", "/ro/newlink")) {}
    mknod("/ro/newfifo", S_IFIFO | 0600, 0);
    mknod("/device", S_IFCHR | 0600, 0x101);
    int temporary = (int)syscall(SYS_openat, AT_FDCWD, "/ro", O_TMPFILE | O_RDWR, 0600);
    close(temporary);
    // Descriptors of the host by number, and its devices through the guest's names of them.
    for (int i = 3; i < 40; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", i);
        show(path);
        fcntl(i, F_GETFL);
    }
    device("/dev/null");
    device("/dev/zero");
    // Sockets of the host's: below the read-only mount, and by a name that the whole host shares.
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/ro/socket"};
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(client, (void *)&address, sizeof address) == 0) printf("escaped by a Unix socket\n");
    memcpy(address.sun_path, "\0hydra-hostile", 14);
    int other = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(other, (void *)&address, 16) == 0) printf("escaped by an abstract name\n");
    // The guest's own names are its own.
    if (bind(other, (void *)&address, 16) != 0) printf("an abstract name is taken: %m\n");
    // A listener that nobody bound listens on every address.
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listen(listener, 1) == 0) printf("escaped by an unbound listener\n");
    for (int family = 0; family < 46; family++) {
        int raw = socket(family, SOCK_RAW, (int)below(256)), seq = socket(family, SOCK_SEQPACKET, 0);
        if (raw >= 0 && family != AF_UNIX) printf("escaped by a raw socket of family %d\n", family);
        close(raw), close(seq);
    }
    fflush(stdout);
}
