// Pipes: packets, sizes, numbers, readiness.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static char block[1 << 20];

static void show(const char *what, long result) {
    if (result < 0)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld\n", what, result);
}

static short events(int fd) {
    struct pollfd polled = {.fd = fd, .events = POLLIN | POLLOUT};
    poll(&polled, 1, 0);
    return polled.revents;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    int ends[2], other[2], waiting;
    char text[8192];
    pipe2(ends, O_NONBLOCK);
    pipe(other);
    struct stat first, second, third;
    fstat(ends[0], &first), fstat(ends[1], &second), fstat(other[0], &third);
    printf("same pipe %d, other pipe %d\n", first.st_ino == second.st_ino, first.st_ino == third.st_ino);

    show("size", fcntl(ends[0], F_GETPIPE_SZ));
    show("fits", write(ends[1], block, sizeof block));
    printf("full %#x %#x\n", events(ends[0]), events(ends[1]));
    show("smaller", fcntl(ends[0], F_SETPIPE_SZ, 4096));
    show("larger", fcntl(ends[0], F_SETPIPE_SZ, 100000));
    printf("room %#x\n", events(ends[1]));
    show("fits", write(ends[1], block, sizeof block));
    ioctl(ends[0], FIONREAD, &waiting);
    printf("waiting %d\n", waiting);
    while (read(ends[0], block, sizeof block) > 0) continue;
    show("smallest", fcntl(ends[1], F_SETPIPE_SZ, 1));
    show("fits", write(ends[1], block, sizeof block));
    while (read(ends[0], block, sizeof block) > 0) continue;
    show("no pipe", fcntl(open("/dev/null", O_RDONLY), F_GETPIPE_SZ));

    int packets[2];
    pipe2(packets, O_DIRECT | O_NONBLOCK);
    printf("packets %d\n", (fcntl(packets[1], F_GETFL) & O_DIRECT) != 0);
    write(packets[1], "one", 3), write(packets[1], "three", 5), write(packets[1], block, 5000);
    show("first", read(packets[0], text, sizeof text));
    show("cut", read(packets[0], text, 2));
    show("page", read(packets[0], text, sizeof text));
    show("rest", read(packets[0], text, sizeof text));
    show("none", read(packets[0], text, sizeof text));
    int count = 0;
    while (write(packets[1], "x", 1) == 1) count++;
    printf("packets fit %d, %#x\n", count, events(packets[1]));
    fcntl(packets[1], F_SETFL, O_NONBLOCK);
    show("no room for others either", write(packets[1], "x", 1));
    close(packets[0]);
    printf("no reader %d\n", (events(packets[1]) & POLLERR) != 0);
    show("broken", write(packets[1], "x", 1));
    close(ends[1]);
    printf("no writer %#x\n", events(ends[0]));
    return 0;
}
