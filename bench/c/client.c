// The clients of the proxy. What arrives is taken apart without mercy: a byte that should not be there is a
// fault, as is one that is missing.
#include "load.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 18];

static struct stream *stream_of(struct client *c)
{
    return (struct stream *)((char *)c - offsetof(struct stream, client));
}

void client_connect(struct stream *s, int port)
{
    struct client *c = &s->client;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1, refusal_expected = c->refusal_expected;
    memset(c, 0, sizeof *c);
    c->kind = CLIENT, c->state = CONNECTING, c->refusal_expected = refusal_expected, c->length = -1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        fail("the load has too few descriptors (ulimit -n)");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    opening++;
    watch(c->fd, EPOLLOUT, c);
    if (connect(c->fd, (void *)&address, sizeof address) && errno != EINPROGRESS) {
        faults.unopened++;
        client_close(c);
    }
}

void client_close(struct client *c)
{
    if (c->state == CLOSED)
        return;
    if (!c->opened)
        opening--;
    close(c->fd);
    c->state = CLOSED;
}

// It ended, though nobody had told it to.
static void ended(struct client *c)
{
    faults.ended++;
    client_close(c);
}

static void wrong_status(struct client *c)
{
    if (faults.status++ < 3)
        fprintf(stderr, "unexpected answer: %.300s\n", c->head);
    client_close(c);
}

static void ask(struct client *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    char request[256];
    int length = snprintf(request, sizeof request,
                          "GET /s/%ld HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
                          "Cache-Control: no-cache\r\nUser-Agent: sse-bench\r\n\r\n",
                          (long)(stream_of(c) - streams));
    if (error || send(c->fd, request, (size_t)length, MSG_NOSIGNAL) != length) {
        faults.unopened++;
        client_close(c);
        return;
    }
    c->state = HEAD;
    rewatch(c->fd, EPOLLIN, c);
}

static uint64_t number(const char *from, int width)
{
    uint64_t value = 0;
    for (int i = 0; i < width; i++)
        value = value * 10 + (uint64_t)(from[i] - '0');
    return value;
}

static void whole_event(struct client *c)
{
    struct stream *s = stream_of(c);
    uint32_t this_one = (uint32_t)number(c->head + 12, 10);
    if (memcmp(c->head, "data: ", 6) || number(c->head + 6, 5) != (uint64_t)(s - streams))
        faults.malformed++;
    else if (this_one != s->seen + 1)
        faults.disordered++;
    s->seen = this_one;
    if (measuring) {
        counts.events++;
        record(now_ns() - number(c->head + 23, 19));
    }
    if (on_event)
        on_event(s);
}

// Bytes of an event: its size is known, and its only line ends right before its last byte.
static size_t event_bytes(struct client *c, const char *bytes, size_t size)
{
    size_t want = (size_t)(event_size - c->at);
    if (size > want)
        size = want;
    if (c->at < EVENT_HEADER) {
        size_t head = (size_t)(EVENT_HEADER - c->at);
        memcpy(c->head + c->at, bytes, size < head ? size : head);
    }
    const char *newline = memchr(bytes, '\n', size);
    int where = newline ? c->at + (int)(newline - bytes) : -1;
    int ends_line = c->at <= event_size - 2 && c->at + (int)size > event_size - 2;
    int last = c->at + (int)size == event_size;
    if ((where >= 0 && where < event_size - 2) || (ends_line && where != event_size - 2) ||
        (last && bytes[size - 1] != '\n')) {
        faults.malformed++;
    }
    c->at += (int)size;
    if (last) {
        c->block = BOUNDARY;
        whole_event(c);
    }
    return size;
}

static size_t comment_bytes(struct client *c, const char *bytes, size_t size)
{
    const char *newline = memchr(bytes, '\n', size);
    if (newline)
        size = (size_t)(newline - bytes) + 1;
    for (size_t i = 0; i < size && c->at < EVENT_HEADER; i++)
        c->head[c->at++] = bytes[i];
    if (newline) {
        c->block = BOUNDARY;
        counts.comments += measuring != 0;
        counts.recovered += c->at > 17 && !memcmp(c->head, ":stream_recovered", 17);
    }
    return size;
}

// The body of a stream, its chunks taken off.
static void body(struct client *c, const char *bytes, size_t size)
{
    if (!c->opened && size) {
        c->opened = 1;
        opening--;
        counts.opened++;
    }
    while (size && c->state == BODY) {
        size_t used = 1;
        if (c->block == BOUNDARY) {
            c->at = 0;
            used = 0;
            if (*bytes == ':')
                c->block = COMMENT_LINE;
            else if (*bytes == 'd')
                c->block = EVENT;
            else if (*bytes == '\n')
                used = 1;  // behind a comment
            else
                faults.malformed++, used = 1;
        } else if (c->block == EVENT) {
            used = event_bytes(c, bytes, size);
        } else {
            used = comment_bytes(c, bytes, size);
        }
        bytes += used, size -= used;
    }
}

static void payload(struct client *c, const char *bytes, size_t size)
{
    if (c->state == REFUSED_BODY)
        c->got += (long)size;
    else
        body(c, bytes, size);
}

// Takes the chunked coding off; only the forms that RFC 9112 allows without extensions.
static void dechunk(struct client *c, const char *bytes, size_t size)
{
    while (size && c->state != CLOSED) {
        if (c->chunk == DATA) {
            size_t now = size < c->chunk_left ? size : (size_t)c->chunk_left;
            payload(c, bytes, now);
            bytes += now, size -= now, c->chunk_left -= now;
            if (!c->chunk_left)
                c->chunk = DATA_CR;
            continue;
        }
        char byte = *bytes++;
        size--;
        if (c->chunk == SIZE && isxdigit((unsigned char)byte))
            c->chunk_left = c->chunk_left * 16 + (uint64_t)(byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
        else if (c->chunk == SIZE && byte == '\r')
            c->chunk = SIZE_END;
        else if (c->chunk == SIZE_END && byte == '\n')
            c->chunk = c->chunk_left ? DATA : LAST;
        else if (c->chunk == DATA_CR && byte == '\r')
            c->chunk = DATA_LF;
        else if (c->chunk == DATA_LF && byte == '\n')
            c->chunk = SIZE;
        else if (c->chunk != LAST)
            faults.malformed++;
    }
}

// The end of a refusal: whole when all that was announced has come.
static void refused(struct client *c, int end_of_connection)
{
    int whole = c->chunked ? c->chunk == LAST : c->length >= 0 ? c->got == c->length : end_of_connection;
    if (!whole && !end_of_connection)
        return;
    if (whole)
        counts.refused++;
    else
        faults.ended++;
    client_close(c);
}

static void head_is_whole(struct client *c)
{
    int status = c->head_size > 12 ? atoi(c->head + 9) : 0;
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    c->length = length ? atol(length + 17) : -1;
    if (c->refusal_expected && status == 503 && strcasestr(c->head, "\r\nretry-after:"))
        c->state = REFUSED_BODY;
    else if (!c->refusal_expected && status == 200 && strcasestr(c->head, "\r\ncontent-type: text/event-stream"))
        c->state = BODY;
    else
        wrong_status(c);
}

// Takes what belongs to the head; how much that was.
static size_t head(struct client *c, const char *bytes, size_t size)
{
    size_t before = (size_t)c->head_size, room = sizeof c->head - 1 - before;
    size_t taken = size < room ? size : room;
    memcpy(c->head + before, bytes, taken);
    c->head_size += (int)taken;
    c->head[c->head_size] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        if (taken < size)
            wrong_status(c);
        return taken;
    }
    end[2] = 0;
    head_is_whole(c);
    return (size_t)(end + 4 - c->head) - before;
}

void client_ready(struct client *c, uint32_t events)
{
    (void)events;
    if (c->state == CLOSED)
        return;
    if (c->state == CONNECTING) {
        ask(c);
        return;
    }
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        if (c->state == REFUSED_BODY)
            refused(c, 1);
        else
            ended(c);
        return;
    }
    counts.bytes += measuring ? (uint64_t)got : 0;
    int opened_before = c->opened;
    size_t size = (size_t)got, used = c->state == HEAD ? head(c, buffer, size) : 0;
    if (c->state == CLOSED || c->state == HEAD)
        return;
    if (c->chunked)
        dechunk(c, buffer + used, size - used);
    else
        payload(c, buffer + used, size - used);
    if (c->state == REFUSED_BODY)
        refused(c, 0);
    else if (c->chunked && c->chunk == LAST && c->state == BODY)
        ended(c);
    else if (c->opened && !opened_before && on_opened)
        on_opened(stream_of(c));  // here, and not where it is seen: it may close and connect anew
}
