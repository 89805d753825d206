// The SSE server behind the proxy: one stream per request, events on demand.
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char HEAD_AND_COMMENT[] =
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: text/event-stream\r\n"
    "Cache-Control: no-cache\r\n"
    "Transfer-Encoding: chunked\r\n"
    "\r\n"
    "5\r\n" COMMENT "\r\n";

static struct {
    enum kind kind;
    int fd;
} listener = {LISTENER, -1};

static int open_count;
static struct origin **by_descriptor;  // to close them all
static int descriptors;

// One chunk, made once; only the three numbers of each event in it change.
static char *chunk;
static size_t chunk_size, chunk_from;  // where the first event begins
static int chunk_events;

void origin_prepare(void)
{
    chunk_events = event_size == BLAST_EVENT ? BLAST_EVENTS : 1;
    size_t payload = (size_t)chunk_events * (size_t)event_size;
    chunk = malloc(payload + 32);
    chunk_from = (size_t)sprintf(chunk, "%zx\r\n", payload);
    for (int i = 0; i < chunk_events; i++) {
        char *event = chunk + chunk_from + i * event_size;
        memset(event, 'x', (size_t)event_size);
        memcpy(event, "data: 00000 0000000000 0000000000000000000 ", EVENT_HEADER);
        memcpy(event + event_size - 2, "\n\n", 2);
    }
    memcpy(chunk + chunk_from + payload, "\r\n", 2);
    chunk_size = chunk_from + payload + 2;
}

static void put(char *end, uint64_t number, int width)
{
    for (int i = 1; i <= width; i++, number /= 10)
        end[-i] = (char)('0' + number % 10);
}

static void number_events(const struct stream *s)
{
    uint64_t now = now_ns();
    for (int i = 0; i < chunk_events; i++) {
        char *event = chunk + chunk_from + i * event_size;
        put(event + 11, (uint64_t)(s - streams), 5);
        put(event + 22, s->sent + 1 + (uint32_t)i, 10);
        put(event + 42, now, 19);
    }
}

void origin_listen(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    listener.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener.fd, (void *)&address, sizeof address) || listen(listener.fd, 4096))
        fail("the origin's port");
    watch(listener.fd, EPOLLIN, &listener);
}

void origin_accept(void)
{
    int fd, yes = 1;
    while ((fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct origin *o = calloc(1, sizeof *o);
        o->kind = ORIGIN, o->fd = fd, o->stream = -1;
        if (fd >= descriptors) {
            by_descriptor = realloc(by_descriptor, (size_t)(fd + 1024) * sizeof *by_descriptor);
            memset(by_descriptor + descriptors, 0, (size_t)(fd + 1024 - descriptors) * sizeof *by_descriptor);
            descriptors = fd + 1024;
        }
        by_descriptor[fd] = o;
        open_count++;
        watch(fd, EPOLLIN, o);
    }
    // Whoever connects waits until there are descriptors again; the test ends with unopened streams.
    if (errno == EMFILE || errno == ENFILE)
        fail("the load has too few descriptors (ulimit -n)");
}

int origin_open(void) { return open_count; }

static void let_go(struct origin *o)
{
    if (o->stream >= 0 && streams[o->stream].origin == o)
        streams[o->stream].origin = NULL;
    close(o->fd);
    by_descriptor[o->fd] = NULL;
    open_count--;
    free(o->waiting);
    free(o);
}

void origin_stop(void)
{
    close(listener.fd);
    listener.fd = -1;
    for (int fd = 0; fd < descriptors; fd++) {
        if (!by_descriptor[fd])
            continue;
        struct linger at_once = {.l_onoff = fd % 2, .l_linger = 0};  // a reset for every second one
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        let_go(by_descriptor[fd]);
    }
}

// Sends, and keeps what the socket does not take. 0: nothing was taken on, the connection is full or broken.
static int send_or_keep(struct origin *o, const char *bytes, size_t size)
{
    if (o->waiting)
        return 0;
    ssize_t taken = send(o->fd, bytes, size, MSG_NOSIGNAL);
    if (taken < 0)
        return 0;
    if ((size_t)taken < size) {
        o->waiting_size = size - (size_t)taken, o->waiting_from = 0;
        o->waiting = malloc(o->waiting_size);
        memcpy(o->waiting, bytes + taken, o->waiting_size);
        rewatch(o->fd, EPOLLIN | EPOLLOUT, o);
    }
    return 1;
}

int origin_send_event(struct stream *s)
{
    if (!s->origin)
        return 0;
    number_events(s);
    if (!send_or_keep(s->origin, chunk, chunk_size))
        return 0;
    s->sent += (uint32_t)chunk_events;
    return 1;
}

void origin_start_blast(void)
{
    blasting = 1;
    for (int i = 0; i < stream_count; i++)
        if (streams[i].origin)
            rewatch(streams[i].origin->fd, EPOLLIN | EPOLLOUT, streams[i].origin);
}

static void writable(struct origin *o)
{
    if (o->waiting) {
        ssize_t taken = send(o->fd, o->waiting + o->waiting_from, o->waiting_size - o->waiting_from, MSG_NOSIGNAL);
        if (taken > 0)
            o->waiting_from += (size_t)taken;
        if (o->waiting_from < o->waiting_size)
            return;
        free(o->waiting);
        o->waiting = NULL;
    }
    if (!blasting)
        rewatch(o->fd, EPOLLIN, o);
    else  // four at most, so that the clients have their turn
        for (int i = 0; i < 4 && origin_send_event(&streams[o->stream]); i++)
            ;
}

static void begin(struct origin *o)
{
    char *path = strstr(o->head, "/s/");
    int number = path ? atoi(path + 3) : -1;
    if (number < 0 || number >= stream_count) {
        faults.status++;
        return;
    }
    o->stream = number;
    streams[number].origin = o;
    if (!send_or_keep(o, HEAD_AND_COMMENT, sizeof HEAD_AND_COMMENT - 1))
        return;
    if (on_streaming)
        on_streaming(&streams[number]);
}

void origin_ready(struct origin *o, uint32_t events)
{
    if ((events & EPOLLOUT) && o->stream >= 0)
        writable(o);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return;
    char more[512];
    int reading = o->stream < 0;
    ssize_t got = reading ? recv(o->fd, o->head + o->head_size, sizeof o->head - 1 - (size_t)o->head_size, 0)
                          : recv(o->fd, more, sizeof more, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        let_go(o);
    } else if (reading) {
        o->head_size += (int)got;
        o->head[o->head_size] = 0;
        if (strstr(o->head, "\r\n\r\n"))
            begin(o);
    }
}
