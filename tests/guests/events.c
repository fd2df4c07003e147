// Pipes, eventfd, timerfd, epoll, poll, select, sockets of the loopback.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

// What a call returned, and why.
#define TOLD(call) ({ long told = (call); printf(" %ld %s", told, told < 0 ? strerrorname_np(errno) : "done"); })

static void *feed(void *fd) {
    static char block[300000];
    memset(block, 'x', sizeof block);
    printf("fed %ld\n", write((int)(long)fd, block, sizeof block));
    close((int)(long)fd);
    return 0;
}

static void *serve(void *listener) {
    int fd = accept((int)(long)listener, 0, 0);
    char text[64];
    long n;
    while ((n = read(fd, text, sizeof text)) > 0) write(fd, text, n);
    close(fd);
    return 0;
}

static void ring(int signal) {}

// Read and write, as well as receive and send, give up when the socket's time is over.
static void timeouts(void) {
    int pair[2];
    char text[8];
    struct iovec part = {text, 8};
    struct timeval brief = {0, 10000}, ample = {1000, 0};
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief);
    setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &brief, sizeof brief);
    printf("timeouts"), TOLD(read(pair[0], text, 8)), TOLD(readv(pair[0], &part, 1));
    static char block[1 << 16];
    while (send(pair[0], block, sizeof block, MSG_DONTWAIT) > 0);
    TOLD(write(pair[0], text, 8)), TOLD(writev(pair[0], &part, 1)), puts("");
    // Nor does the call begin again after a signal.
    struct sigaction action = {.sa_handler = ring, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &ample, sizeof ample);
    while (recv(pair[1], block, sizeof block, MSG_DONTWAIT) > 0);
    struct itimerval soon = {{0, 20000}, {0, 20000}}, never = {0};
    setitimer(ITIMER_REAL, &soon, 0);
    printf("interrupted"), TOLD(read(pair[1], text, 8)), puts("");
    setitimer(ITIMER_REAL, &never, 0);
    close(pair[0]), close(pair[1]);
}

static int due(int set, int timeout) {
    struct epoll_event found[4];
    return epoll_wait(set, found, 4, timeout);
}

// Edges that nobody makes with a call on the file, and sets in sets.
static void edges(void) {
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLET};
    int set = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec spec = {.it_value = {.tv_nsec = 5000000}};
    epoll_ctl(set, EPOLL_CTL_ADD, timer, &wanted);
    uint64_t expired;
    for (int i = 0; i < 4; i++) {
        timerfd_settime(timer, 0, &spec, 0);
        printf("timer %d", due(set, 60000));
        printf(" then %d;", due(set, 0));
        // Read or not, the next is another.
        if (i % 2) printf(" read %ld", read(timer, &expired, 8));
    }
    int inner = epoll_create1(0), counter = eventfd(0, EFD_NONBLOCK);
    epoll_ctl(set, EPOLL_CTL_ADD, inner, &wanted);
    wanted.events = EPOLLIN;
    epoll_ctl(inner, EPOLL_CTL_ADD, counter, &wanted);
    printf("\nnested %d", due(set, 0));
    eventfd_t value;
    for (int i = 0; i < 3; i++) {
        eventfd_write(counter, 1);
        printf(" %d", due(set, 60000));
        printf(" then %d", due(set, 0));
    }
    eventfd_read(counter, &value);
    printf(" then %d\n", due(set, 0));
    close(set), close(inner), close(counter), close(timer);
}

// Of more than fit into one report, all are reported in time.
static void turns(void) {
    struct epoll_event found[2];
    int set = epoll_create1(0), seen = 0;
    for (int i = 0; i < 6; i++) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.u32 = 1 << i};
        epoll_ctl(set, EPOLL_CTL_ADD, eventfd(1, 0), &wanted);
    }
    for (int i = 0; i < 3; i++)
        for (int n = epoll_wait(set, found, 2, 0); n-- > 0;) seen |= found[n].data.u32;
    printf("seen %x\n", seen);
    struct epoll_event wanted = {.events = EPOLLIN};
    int file = memfd_create("file", 0);
    printf("file"), TOLD(epoll_ctl(set, EPOLL_CTL_ADD, file, &wanted)), puts("");
    close(file);
}

// A socket that listens at a free port, which `address` tells.
static int listening(struct sockaddr_in *address, int backlog) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = sizeof *address;
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bind(listener, (struct sockaddr *)address, len);
    listen(listener, backlog);
    getsockname(listener, (struct sockaddr *)address, &len);
    return listener;
}

static void *take_all(void *listener) {
    struct pollfd polled = {(int)(long)listener, POLLIN};
    usleep(100000);
    while (poll(&polled, 1, 5000) > 0 && accept((int)(long)listener, 0, 0) >= 0);
    return 0;
}

// A call that waits for a connection, and begins again after a signal.
static void connection(void) {
    struct sockaddr_in address;
    int listener = listening(&address, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    // More than are let wait.
    for (int i = 0; i < 3; i++)
        connect(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), (struct sockaddr *)&address, sizeof address);
    struct itimerval soon = {{0}, {0, 20000}};
    setitimer(ITIMER_REAL, &soon, 0);
    pthread_t thread;
    sigset_t alarms;
    sigemptyset(&alarms), sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarms, 0);
    pthread_create(&thread, 0, take_all, (void *)(long)listener);
    pthread_sigmask(SIG_UNBLOCK, &alarms, 0);
    printf("late connect"), TOLD(connect(client, (struct sockaddr *)&address, sizeof address)), puts("");
    shutdown(listener, SHUT_RDWR);
    pthread_join(thread, 0);
}

static void internet(void) {
    char text[8];
    pthread_t thread;
    struct sockaddr_in address;
    int listener = listening(&address, 5), client = socket(AF_INET, SOCK_STREAM, 0);
    pthread_create(&thread, 0, serve, (void *)(long)listener);
    printf("connect %d\n", connect(client, (struct sockaddr *)&address, sizeof address));
    send(client, "echo", 4, 0);
    memset(text, 0, 8);
    printf("echo %ld %s\n", recv(client, text, 4, MSG_WAITALL), text);
    shutdown(client, SHUT_WR);
    printf("end %ld\n", read(client, text, 1));
    pthread_join(thread, 0);
    struct timeval brief = {0, 10000};
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief);
    int lonely = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(lonely, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief);
    address.sin_port = 0;
    bind(lonely, (struct sockaddr *)&address, sizeof address);
    printf("timeout %ld %s\n", recv(lonely, text, 1, 0), strerror(errno));
    printf("timeout"), TOLD(read(lonely, text, 1)), puts("");
    connection();
}

// With an argument: nothing with the internet's protocols.
int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    int ends[2];
    pipe(ends);
    pthread_t thread;
    pthread_create(&thread, 0, feed, (void *)(long)ends[1]);
    long total = 0, n;
    char text[5000];
    while ((n = read(ends[0], text, sizeof text)) > 0) total += n;
    pthread_join(thread, 0);
    printf("drained %ld\n", total);

    pipe2(ends, O_NONBLOCK);
    printf("empty %ld %s\n", read(ends[0], text, 1), strerror(errno));
    close(ends[0]);
    printf("broken %ld %s\n", write(ends[1], "x", 1), strerror(errno));

    int counter = eventfd(3, EFD_NONBLOCK), set = epoll_create1(0);
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLET, .data.u64 = 11}, found[4];
    epoll_ctl(set, EPOLL_CTL_ADD, counter, &wanted);
    printf("edge %d", epoll_wait(set, found, 4, 0));
    printf(" then %d", epoll_wait(set, found, 4, 0));
    eventfd_write(counter, 1);
    printf(" then %d with %lu\n", epoll_wait(set, found, 4, 0), (unsigned long)found[0].data.u64);
    eventfd_t value;
    eventfd_read(counter, &value);
    printf("counter %lu\n", (unsigned long)value);

    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec spec = {.it_value = {.tv_nsec = 10000000}, .it_interval = {.tv_nsec = 5000000}};
    timerfd_settime(timer, 0, &spec, 0);
    wanted.events = EPOLLIN | EPOLLONESHOT;
    wanted.data.u64 = 22;
    epoll_ctl(set, EPOLL_CTL_ADD, timer, &wanted);
    printf("timer %d %lu", epoll_wait(set, found, 4, 2000), (unsigned long)found[0].data.u64);
    uint64_t expired;
    n = read(timer, &expired, 8);
    printf(" read %ld, again %d\n", n, expired > 0 && epoll_wait(set, found, 4, 30) == 0);

    pipe(ends);
    struct pollfd polled[3] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}, {999, POLLIN, 0}};
    printf("poll %d: %x %x %x\n", poll(polled, 3, 0), polled[0].revents, polled[1].revents, polled[2].revents);
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(ends[0], &readable);
    struct timeval soon = {0, 20000};
    printf("select %d\n", select(ends[0] + 1, &readable, 0, 0, &soon));

    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair);
    printf("pair %ld %s\n", recv(pair[0], text, 1, 0), strerror(errno));
    wanted.events = EPOLLIN;
    epoll_ctl(set, EPOLL_CTL_ADD, pair[0], &wanted);
    write(pair[1], "abc", 3);
    printf("pair %d %ld\n", epoll_wait(set, found, 4, 1000), read(pair[0], text, 8));
    timeouts();
    edges();
    turns();
    // Connections to the outside of a checkpointed program are cut.
    if (argc == 1) internet();
    return 0;
}
