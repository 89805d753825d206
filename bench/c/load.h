// What the files of the load generator share. It plays an SSE server and its clients in one epoll loop, so
// that both ends of an event are seen by one clock, and nothing has to be told from process to process.
//
//   load.c    the command line, the loop, the line of JSON at the end
//   tests.c   what each test does
//   origin.c  the server: accepts, answers a request with a stream, sends events
//   client.c  the clients: connect, ask, take the answer apart, check every byte of every event
//   meter.c   time, CPU and memory of the proxy that is measured, percentiles
#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>

// An event is "data: STREAM NUMBER TIME xxx…\n\n", with fixed widths, so that a client that knows the size can
// tell one that was cut, glued, injected into or swapped from a whole one without looking for its end.
#define EVENT_HEADER 43   // through the blank behind TIME
#define SMALL_EVENT 200   // bytes: in every test but blast
#define BLAST_EVENT 1024  // bytes: in blast, where one write carries 64 of them
#define BLAST_EVENTS 64
#define COMMENT ":ok\n\n"  // sent with the head, so that a client of any proxy has a first byte at once

enum kind { LISTENER, ORIGIN, CLIENT };

// Everything that epoll knows begins with its kind.
struct origin {
    enum kind kind;
    int fd;
    int stream;           // -1 until its request has been read
    char *waiting;        // what the socket did not take yet, or NULL
    size_t waiting_size, waiting_from;
    int head_size;
    char head[1024];
};

enum client_state { CLOSED, CONNECTING, HEAD, BODY, REFUSED_BODY };
enum chunk_state { SIZE, SIZE_END, DATA, DATA_CR, DATA_LF, LAST };
enum block_state { BOUNDARY, EVENT, COMMENT_LINE };

struct client {
    enum kind kind;
    int fd;
    enum client_state state;
    int opened;           // the first byte of the body is there
    int refusal_expected; // this one is to be answered 503
    int chunked;
    enum chunk_state chunk;
    uint64_t chunk_left;
    enum block_state block;
    int at;               // bytes of the block so far
    long length, got;     // of a refusal's body; -1 where it does not say
    int head_size;
    char head[2048];      // the response's head, then the first bytes of a block
};

struct stream {
    struct client client;
    struct origin *origin;
    uint32_t sent, seen;  // numbers of the last event sent and received
};

struct faults {
    uint64_t missing;     // events sent that had not arrived two seconds after the last
    uint64_t disordered;  // events that did not carry the next number: lost, doubled, swapped
    uint64_t malformed;   // bytes where no event, comment or chunk may begin, and blocks that were changed
    uint64_t status;      // answers that were not what they had to be
    uint64_t ended;       // streams that ended or broke
    uint64_t unopened;    // streams that did not open in time
};

struct counts {
    uint64_t opened, events, comments, recovered, bytes, refused, skipped;
};

extern struct stream *streams;
extern int stream_count;     // how many of them this run has
extern int event_size;
extern struct faults faults;
extern struct counts counts;
extern int opening;          // clients that wait for their first byte
extern int measuring;        // events are counted and timed
extern int blasting;         // origins send as much as their sockets take

// Set by a test to be told: an event has come; a first byte has come; an origin has begun to stream.
extern void (*on_event)(struct stream *);
extern void (*on_opened)(struct stream *);
extern void (*on_streaming)(struct stream *);

// What the command line asks for; seconds, and events a second.
extern struct option_values {
    const char *mode;
    int origin, target;   // ports
    int at_once;          // streams that are being opened at a time
    int in_flight;        // closed: events on the way over all streams; 0: one on each
    int refusals;         // full: this many of the streams must be refused
    int baseline;         // idle: streams that are open before memory is read first
    double seconds, warm, rate, event_seconds, outage;
} option;

// load.c
void turn(int wait_ms);
void fail(const char *what);
void watch(int fd, uint32_t events, void *owner);
void rewatch(int fd, uint32_t events, void *owner);

// origin.c
void origin_prepare(void);
void origin_listen(int port);
void origin_stop(void);      // as a server that is killed: no listener, half its connections reset
void origin_accept(void);
void origin_ready(struct origin *o, uint32_t events);
int origin_send_event(struct stream *s);
void origin_start_blast(void);
int origin_open(void);       // connections that the proxy holds to the origin

// client.c
void client_connect(struct stream *s, int port);
void client_ready(struct client *c, uint32_t events);
void client_close(struct client *c);

// meter.c
struct window {
    uint64_t began, proxy_cpu, own_cpu;
    double seconds, proxy_s, own_s;
};
uint64_t now_ns(void);
void meter_watch(const char *pids);
void window_begin(struct window *w);
void window_end(struct window *w);
long rss_kib(void);
void record(uint64_t ns);
void forget_recorded(void);
double recorded_us(double quantile);

// tests.c
extern struct results {
    struct window open, main, events;  // while streams open; the test itself; events behind an idle test
    long rss_before, rss_after;
    double reopened_s, reopened_p50_us;
    int left;                          // connections to the origin a second after all clients had left
} result;
void run_events(void);
void run_churn(void);
void run_idle(void);
void run_full(void);
void run_storm(void);

#endif
