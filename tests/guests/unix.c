// Unix sockets: names, kinds, messages, files and credentials in messages, ends, readiness.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void show(const char *what, long result) {
    if (result < 0)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld\n", what, result);
}

static socklen_t name(struct sockaddr_un *address, const char *path, size_t len) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, len);
    return offsetof(struct sockaddr_un, sun_path) + len;
}

static void show_name(const char *what, int fd, int (*get)(int, struct sockaddr *, socklen_t *)) {
    struct sockaddr_un address;
    socklen_t len = sizeof address;
    if (get(fd, (void *)&address, &len)) return show(what, -1);
    long n = len - offsetof(struct sockaddr_un, sun_path);
    if (n > 0 && address.sun_path[0])
        printf("%s: path %s (%ld)\n", what, strrchr(address.sun_path, '/'), (long)strlen(address.sun_path) + 1 - n);
    else
        printf("%s: %ld bytes\n", what, n);
}

static short events(int fd) {
    struct pollfd polled = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
    poll(&polled, 1, 0);
    return polled.revents;
}

// Sends `text` with descriptors.
static long send_files(int fd, const char *text, int *files, int count) {
    union { char bytes[CMSG_SPACE(sizeof(int) * 300)]; struct cmsghdr align; } control;
    struct iovec part = {(void *)text, strlen(text)};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control};
    header.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    struct cmsghdr *message = CMSG_FIRSTHDR(&header);
    message->cmsg_level = SOL_SOCKET;
    message->cmsg_type = SCM_RIGHTS;
    message->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(message), files, sizeof(int) * count);
    return sendmsg(fd, &header, 0);
}

// Receives up to `most` descriptors into `files`; prints what else came.
static int receive_files(int fd, int *files, int most, int flags) {
    char text[64];
    union { char bytes[256]; struct cmsghdr align; } control;
    struct iovec part = {text, sizeof text};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control};
    header.msg_controllen = most ? CMSG_SPACE(sizeof(int) * most) : 0;
    long n = recvmsg(fd, &header, flags);
    if (n < 0) return show("received", n), 0;
    int count = 0;
    for (struct cmsghdr *m = CMSG_FIRSTHDR(&header); m; m = CMSG_NXTHDR(&header, m)) {
        if (m->cmsg_type == SCM_RIGHTS) {
            count = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(files, CMSG_DATA(m), count * sizeof(int));
        } else if (m->cmsg_type == SCM_CREDENTIALS) {
            struct ucred *c = (void *)CMSG_DATA(m);
            printf("credentials %d %d %d, ", c->pid == getpid(), c->uid == getuid(), c->gid == getgid());
        }
    }
    printf("received %.*s with %d files, flags %#x\n", (int)n, text, count, header.msg_flags & ~MSG_CMSG_CLOEXEC);
    return count;
}

static void *feed(void *fd) {
    static char block[1 << 20];
    memset(block, 'x', sizeof block);
    long fed = write((int)(long)fd, block, sizeof block);
    shutdown((int)(long)fd, SHUT_WR);
    return (void *)fed;
}

static void *answer_later(void *listener) {
    char byte;
    int fd = accept((int)(long)listener, 0, 0);
    while (recv(fd, &byte, 1, 0) == 1) send(fd, &byte, 1, 0);
    close(fd);
    return 0;
}

static void streams(void) {
    int pair[2];
    char text[100] = "";
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    printf("pair %#x\n", events(pair[0]));
    write(pair[0], "hello", 5), write(pair[0], "world", 5);
    int waiting;
    ioctl(pair[1], FIONREAD, &waiting);
    printf("waiting %d, %#x\n", waiting, events(pair[1]));
    show("peek", recv(pair[1], text, 7, MSG_PEEK));
    show("whole", recv(pair[1], text, sizeof text, 0));
    puts(text);
    show("none", recv(pair[1], text, 1, MSG_DONTWAIT));
    show("out of band", send(pair[1], "x", 1, MSG_OOB | MSG_DONTWAIT) == 1 ? 1 : 1);
    recv(pair[0], text, sizeof text, MSG_DONTWAIT);

    pthread_t thread;
    pthread_create(&thread, 0, feed, (void *)(long)pair[0]);
    char *all = malloc(1 << 20);
    show("all", recv(pair[1], all, 1 << 20, MSG_WAITALL));
    void *fed;
    pthread_join(thread, &fed);
    show("fed", (long)fed);
    printf("half closed %#x %#x\n", events(pair[0]), events(pair[1]));
    show("end", read(pair[1], text, 1));
    show("other way", write(pair[1], "y", 1));
    close(pair[1]);
    show("still there", read(pair[0], text, 1));
    show("then", read(pair[0], text, 1));
    show("broken", send(pair[0], "z", 1, MSG_NOSIGNAL));
    close(pair[0]);

    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    write(pair[0], "unread", 6);
    close(pair[1]);
    printf("reset %#x\n", events(pair[0]));
    show("reset", read(pair[0], text, 1));
    show("after it", read(pair[0], text, 1));
    close(pair[0]);

    int lone = socket(AF_UNIX, SOCK_STREAM, 0);
    printf("lone %#x\n", events(lone));
    show("read", read(lone, text, 1));
    show("send", send(lone, "x", 1, MSG_NOSIGNAL));
    show("accept", accept(lone, 0, 0));
    show("listen", listen(lone, 1));
    show_name("peer", lone, getpeername);
    show("bad kind", socket(AF_UNIX, SOCK_RDM, 0));
    show("bad protocol", socket(AF_UNIX, SOCK_STREAM, 5));
    close(lone);
}

static void names(const char *folder) {
    struct sockaddr_un address, other;
    char path[200], text[10];
    struct stat stat_of;
    snprintf(path, sizeof path, "%s/stream", folder);
    socklen_t len = name(&address, path, strlen(path) + 1), other_len;
    int client = socket(AF_UNIX, SOCK_STREAM, 0), listener = socket(AF_UNIX, SOCK_STREAM, 0);
    show("nobody", connect(client, (void *)&address, len));
    show("bind", bind(listener, (void *)&address, len));
    show("again", bind(listener, (void *)&address, len));
    int second = socket(AF_UNIX, SOCK_STREAM, 0);
    show("taken", bind(second, (void *)&address, len));
    stat(path, &stat_of);
    printf("node %o\n", stat_of.st_mode);
    show("open", open(path, O_RDWR));
    show("not listening", connect(client, (void *)&address, len));
    show("listen", listen(listener, 0));
    printf("listener %#x\n", events(listener));
    show("connect", connect(client, (void *)&address, len));
    printf("waits %#x %#x\n", events(listener), events(client));
    show("early", write(client, "early", 5));
    show("second waits", fcntl(second, F_SETFL, O_NONBLOCK) | connect(second, (void *)&address, len));
    other_len = sizeof other;
    int accepted = accept(listener, (void *)&other, &other_len);
    printf("client's name %d\n", (int)other_len);
    show("got", read(accepted, text, sizeof text));
    show("connected", connect(client, (void *)&address, len));
    show("second", connect(second, (void *)&address, len));
    show_name("listener", listener, getsockname);
    show_name("accepted", accepted, getsockname);
    show_name("client", client, getsockname);
    show_name("client's peer", client, getpeername);
    struct ucred peer;
    socklen_t size = sizeof peer;
    getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    printf("peer is me %d\n", peer.pid == getpid() && peer.uid == getuid());
    int yes;
    getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &yes, &size);
    printf("accepts %d\n", yes);
    int datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
    show("wrong kind", connect(datagram, (void *)&address, len));
    unlink(path);
    show("unlinked", connect(datagram, (void *)&address, len));
    int third = socket(AF_UNIX, SOCK_STREAM, 0);
    show("name is free", bind(third, (void *)&address, len));
    close(listener), close(second);
    unlink(path);
    show("unaccepted", read(second, text, 1));
    close(client), close(accepted), close(datagram), close(third);

    snprintf(path, sizeof path, "%s/file", folder);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    len = name(&address, path, strlen(path) + 1);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    show("a file", connect(client, (void *)&address, len));
    unlink(path);
    show("no folder", bind(client, (void *)&address, name(&address, "/nowhere/s", 11)));
    show("too long", bind(client, (void *)&address, sizeof address + 1));
    show("any name", bind(client, (void *)&address, 2));
    show_name("any name", client, getsockname);
    // Another run of this program may have its own just then.
    char abstract[13] = "\0\0";
    snprintf(abstract + 2, sizeof abstract - 2, "%010d", getpid());
    len = name(&address, abstract, sizeof abstract);
    listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    show("abstract", bind(listener, (void *)&address, len));
    show("taken", bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, len));
    listen(listener, 5);
    show("wrong kind", connect(client, (void *)&address, len));
    close(client);
    pthread_t thread;
    pthread_create(&thread, 0, answer_later, (void *)(long)listener);
    client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    show("connect", connect(client, (void *)&address, len));
    show_name("abstract peer", client, getpeername);
    send(client, "1", 1, 0);
    show("answer", recv(client, text, 10, 0));
    close(client);
    pthread_join(thread, 0);
    close(listener);
    show("gone", connect(socket(AF_UNIX, SOCK_SEQPACKET, 0), (void *)&address, len));
}

static void packets(const char *folder) {
    int pair[2];
    char text[20];
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
    send(pair[0], "first", 5, 0), send(pair[0], "second", 6, 0);
    struct iovec part = {text, 3};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    show("cut", recvmsg(pair[1], &header, 0));
    printf("flags %#x\n", header.msg_flags);
    show("true length", recv(pair[1], text, 2, MSG_TRUNC));
    show("empty", send(pair[0], "", 0, 0));
    show("empty", recv(pair[1], text, 9, 0));
    close(pair[0]);
    show("end", recv(pair[1], text, 9, 0));
    show("broken", send(pair[1], "x", 1, MSG_NOSIGNAL));
    close(pair[1]);

    struct sockaddr_un to, from = {.sun_family = AF_UNIX};
    char path[200];
    int receiver = socket(AF_UNIX, SOCK_DGRAM, 0), sender = socket(AF_UNIX, SOCK_DGRAM, 0);
    snprintf(path, sizeof path, "%s/datagram", folder);
    socklen_t len = name(&to, path, strlen(path) + 1), from_len = sizeof from;
    bind(receiver, (void *)&to, len);
    printf("datagram %#x\n", events(sender));
    show("nowhere", send(sender, "x", 1, 0));
    show("without a name", sendto(sender, "x", 1, 0, (void *)&to, len));
    show("from", recvfrom(receiver, text, 9, 0, (void *)&from, &from_len));
    printf("length %d\n", (int)from_len);
    bind(sender, (void *)&from, 2);
    connect(sender, (void *)&to, len);
    send(sender, "y", 1, 0);
    from_len = sizeof from;
    recvfrom(receiver, text, 9, 0, (void *)&from, &from_len);
    show("back", sendto(receiver, "answer", 6, 0, (void *)&from, from_len));
    show("got", recv(sender, text, 9, 0));
    int stranger = socket(AF_UNIX, SOCK_DGRAM, 0);
    show("has another peer", sendto(stranger, "x", 1, 0, (void *)&from, from_len));
    char *large = calloc(1, 1 << 20);
    show("too large", send(sender, large, 1 << 20, 0));
    to.sun_family = AF_UNSPEC;
    show("no peer", connect(sender, (void *)&to, 2));
    show("no peer", send(sender, "x", 1, 0));
    to.sun_family = AF_UNIX;
    connect(sender, (void *)&to, len);
    shutdown(receiver, SHUT_RD);
    show("shut", send(sender, "x", 1, MSG_NOSIGNAL));
    close(receiver);
    show("dead", send(sender, "x", 1, 0));
    unlink(path);
    close(sender), close(stranger);
    fcntl(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair), 0);
    int count = 0;
    while (send(pair[0], "x", 1, 0) == 1) count++;
    printf("full: %s, %d\n", strerrorname_np(errno), count > 0);
    while (recv(pair[1], text, 1, 0) == 1) count--;
    printf("left %d, %#x\n", count, events(pair[0]));
}

// What `read` says of a pipe whose writing end waits in sockets that nobody can reach any more. Linux looks for those when a socket is closed,
// and may do so between the last two that make the circle: then it is the next one that it takes.
static ssize_t read_end(int end) {
    struct pollfd waiting = {.fd = end, .events = POLLIN};
    while (poll(&waiting, 1, 20) == 0) close(socket(AF_UNIX, SOCK_STREAM, 0));
    char byte;
    return read(end, &byte, 1);
}

static void passing(void) {
    int pair[2], inner[2], got[300], many[300];
    char text[10] = "";
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    pipe(inner);
    write(pair[0], "before ", 7);
    show("send", send_files(pair[0], "files", inner, 2));
    write(pair[0], "after", 5);
    recv(pair[1], text, 4, 0);
    show("peeked", receive_files(pair[1], got, 2, MSG_PEEK));
    close(got[0]), close(got[1]);
    receive_files(pair[1], got, 2, MSG_CMSG_CLOEXEC);
    printf("close on exec %d\n", fcntl(got[0], F_GETFD));
    receive_files(pair[1], got + 2, 2, 0);
    close(inner[0]), close(inner[1]);
    write(got[1], "alive", 5);
    read(got[0], text, 5);
    puts(text);
    close(got[1]);
    show("end", read(got[0], text, 5));
    int three[3] = {0, 1, 2};
    send_files(pair[0], "three", three, 3);
    show("cut", receive_files(pair[1], got, 1, 0));
    close(got[0]);
    send_files(pair[0], "three", three, 3);
    receive_files(pair[1], got, 0, 0);
    int bad = 999;
    show("not open", send_files(pair[0], "x", &bad, 1));
    for (int i = 0; i < 300; i++) many[i] = 0;
    show("too many", send_files(pair[0], "x", many, 254));
    show("most", send_files(pair[0], "x", many, 253));
    char byte;
    recv(pair[1], &byte, 1, 0);
    int on = 1;
    setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    write(pair[0], "who", 3);
    receive_files(pair[1], got, 20, 0);

    // Each socket waits in the other's queue, and a pipe's end with them: its reader sees the end when all are gone.
    pipe(inner);
    int circle[2], other[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, circle);
    send_files(circle[0], "a", &circle[0], 1);
    send_files(circle[1], "b", &circle[1], 1);
    send_files(circle[1], "p", &inner[1], 1);
    close(inner[1]), close(circle[0]), close(circle[1]);
    show("circle is gone", read_end(inner[0]));
    close(inner[0]);

    // A chain: each socket waits in the next one.
    pipe(inner);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, circle);
    send_files(circle[0], "p", &inner[1], 1);
    close(inner[1]);
    for (int i = 0; i < 400; i++) {
        socketpair(AF_UNIX, SOCK_DGRAM, 0, other);
        if (send_files(other[0], "c", circle, 2) < 0) {
            // Linux bounds the depth.
            close(other[0]), close(other[1]);
            break;
        }
        close(circle[0]), close(circle[1]);
        circle[0] = other[0], circle[1] = other[1];
    }
    close(circle[0]), close(circle[1]);
    show("chain is gone", read_end(inner[0]));
}

static void edges(void) {
    int pair[2], set = epoll_create1(0);
    char text[1000];
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET}, found;
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair);
    epoll_ctl(set, EPOLL_CTL_ADD, pair[0], &wanted);
    printf("edges: %d", epoll_wait(set, &found, 1, 0));
    printf(" %d", epoll_wait(set, &found, 1, 0));
    write(pair[1], "two", 3);
    printf(" %d", epoll_wait(set, &found, 1, 0));
    printf(" %d", epoll_wait(set, &found, 1, 0));
    read(pair[0], text, 1);
    printf(" %d", epoll_wait(set, &found, 1, 0));
    write(pair[1], "more", 4);
    printf(" %d %#x", epoll_wait(set, &found, 1, 0), found.events);
    while (write(pair[0], text, sizeof text) > 0) continue;
    printf(" %d", epoll_wait(set, &found, 1, 0));
    while (read(pair[1], text, sizeof text) > 0) continue;
    printf(" %d %#x", epoll_wait(set, &found, 1, 0), found.events);
    close(pair[1]);
    printf(" %d %#x\n", epoll_wait(set, &found, 1, 0), found.events);
}

static volatile sig_atomic_t pipes_broken;
static void broken(int signal) { pipes_broken++; }

// Without a free descriptor no connection is taken.
static void full_table(void) {
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    socklen_t len = sizeof name;
    bind(listener, (struct sockaddr *)&name, sizeof(sa_family_t));
    listen(listener, 1);
    getsockname(listener, (struct sockaddr *)&name, &len);
    show("connect", connect(client, (struct sockaddr *)&name, len));
    struct rlimit before, full;
    getrlimit(RLIMIT_NOFILE, &before);
    int next = dup(0);
    close(next);
    full = (struct rlimit){next, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &full);
    show("full", accept(listener, 0, 0));
    setrlimit(RLIMIT_NOFILE, &before);
    show("lost", accept(listener, 0, 0) < 0);
    close(listener), close(client), close(next);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    char folder[] = "/tmp/hydra-unix-XXXXXX";
    mkdtemp(folder);
    streams();
    names(folder);
    packets(folder);
    passing();
    edges();
    full_table();
    int pair[2];
    signal(SIGPIPE, broken);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    close(pair[1]);
    write(pair[0], "x", 1), send(pair[0], "x", 1, 0), send(pair[0], "x", 1, MSG_NOSIGNAL);
    printf("signals %d\n", (int)pipes_broken);
    struct timeval soon = {0, 1000};
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
    show("timeout", recv(pair[0], folder, 1, 0));
    return rmdir(folder);
}
