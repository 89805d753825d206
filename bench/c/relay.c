// The limit: a relay that only receives and sends. It knows nothing of HTTP, checks nothing, adds nothing.
// What it costs is what the kernel asks of any proxy that copies bytes from one socket to another.
//
//   relay PORT UPSTREAM_PORT
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct side {
    int fd, gone;
    struct side *other;
    char *waiting;  // what this side's socket did not take yet
    size_t size, from;
    struct side *next_gone;
};

static int epoll_fd;
static char buffer[1 << 16];
static struct side *gone;  // freed after the turn: events of it may still follow in the same one

static void watch(int how, struct side *side, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = side};
    epoll_ctl(epoll_fd, how, side->fd, &event);
}

// A side is read while nothing waits on the other, and written while something waits on itself.
static void rearm(struct side *side)
{
    watch(EPOLL_CTL_MOD, side, (side->other->waiting ? 0 : EPOLLIN) | (side->waiting ? EPOLLOUT : 0));
}

static void end(struct side *side)
{
    if (side->gone)
        return;
    struct side *pair[] = {side, side->other};
    for (int i = 0; i < 2; i++) {
        close(pair[i]->fd);
        pair[i]->gone = 1;
        pair[i]->next_gone = gone;
        gone = pair[i];
    }
}

static void bury(void)
{
    while (gone) {
        struct side *next = gone->next_gone;
        free(gone->waiting);
        free(gone);
        gone = next;
    }
}

static struct side *add(int fd)
{
    int yes = 1;
    struct side *side = calloc(1, sizeof *side);
    side->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    watch(EPOLL_CTL_ADD, side, EPOLLIN);
    return side;
}

static void accept_all(int listener, const struct sockaddr_in *upstream)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        int far = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (far < 0 || (connect(far, (const void *)upstream, sizeof *upstream) && errno != EINPROGRESS)) {
            close(fd);
            if (far >= 0)
                close(far);
            continue;
        }
        struct side *near = add(fd), *away = add(far);
        near->other = away, away->other = near;
    }
}

// Passes on what `from` has. What the other side does not take waits, and `from` is not read until it has gone.
static void pass_on(struct side *from)
{
    struct side *to = from->other;
    ssize_t got = recv(from->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        end(from);
        return;
    }
    ssize_t taken = send(to->fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (taken < 0 && errno != EAGAIN && errno != ENOTCONN) {
        end(from);
        return;
    }
    taken = taken < 0 ? 0 : taken;
    if (taken < got) {
        to->size = (size_t)(got - taken), to->from = 0;
        to->waiting = malloc(to->size);
        memcpy(to->waiting, buffer + taken, to->size);
        rearm(to);
        rearm(from);
    }
}

static void write_waiting(struct side *side)
{
    ssize_t taken = send(side->fd, side->waiting + side->from, side->size - side->from, MSG_NOSIGNAL);
    if (taken < 0 && errno != EAGAIN) {
        end(side);
        return;
    }
    side->from += taken > 0 ? (size_t)taken : 0;
    if (side->from < side->size)
        return;
    free(side->waiting);
    side->waiting = NULL;
    rearm(side);
    rearm(side->other);
}

int main(int count, char **words)
{
    if (count != 3)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1])),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in upstream = here;
    upstream.sin_port = htons((uint16_t)atoi(words[2]));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096)) {
        perror("relay");
        return 1;
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ready[512], event = {.events = EPOLLIN};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;; bury()) {
        int events = epoll_wait(epoll_fd, ready, 512, -1);
        for (int i = 0; i < events; i++) {
            struct side *side = ready[i].data.ptr;
            if (!side)
                accept_all(listener, &upstream);
            else if (!side->gone && (ready[i].events & EPOLLOUT) && side->waiting)
                write_waiting(side);
            else if (!side->gone && (ready[i].events & EPOLLIN))
                pass_on(side);
            else if (!side->gone && (ready[i].events & (EPOLLHUP | EPOLLERR)))
                end(side);
        }
    }
}
