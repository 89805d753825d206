// The command line and the loop. Prints one line of JSON with raw counts; what they mean is worked out by whoever
// reads it.
//
//   load MODE --origin PORT --target PORT --pids 1,2 [--streams N] [--seconds S] [--warm S] …
#include "load.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

struct stream *streams;
int stream_count = 1, event_size = SMALL_EVENT, opening, measuring, blasting;
struct faults faults;
struct counts counts;
void (*on_event)(struct stream *);
void (*on_opened)(struct stream *);
void (*on_streaming)(struct stream *);

struct option_values option = {.at_once = 64, .seconds = 1.5, .warm = 0.5, .rate = 5000, .outage = 1};

static int epoll_fd;

void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

void watch(int fd, uint32_t events, void *owner)
{
    struct epoll_event event = {.events = events, .data.ptr = owner};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
        fail("epoll");
}

void rewatch(int fd, uint32_t events, void *owner)
{
    struct epoll_event event = {.events = events, .data.ptr = owner};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

// One turn of the loop. A handler closes no connection but its own, so that no later event of the same turn
// belongs to something that is gone.
void turn(int wait_ms)
{
    static struct epoll_event ready[512];
    int count = epoll_wait(epoll_fd, ready, 512, wait_ms);
    for (int i = 0; i < count; i++) {
        switch (*(enum kind *)ready[i].data.ptr) {
        case LISTENER: origin_accept(); break;
        case ORIGIN: origin_ready(ready[i].data.ptr, ready[i].events); break;
        case CLIENT: client_ready(ready[i].data.ptr, ready[i].events); break;
        }
    }
}

static void print_result(void)
{
    printf("{\"seconds\":%.4f,\"cpu_s\":%.6f,\"load_cpu_s\":%.6f,\"events\":%lu,\"bytes\":%lu,\"comments\":%lu,"
           "\"skipped\":%lu,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"opened\":%lu,\"open_s\":%.4f,\"open_cpu_s\":%.6f,\"rss_before_kib\":%ld,\"rss_after_kib\":%ld,"
           "\"event_s\":%.4f,\"event_cpu_s\":%.6f,\"refused\":%lu,\"recovered\":%lu,\"left\":%d,"
           "\"reopened_s\":%.3f,\"reopened_p50_us\":%.0f,\"faults\":{\"missing\":%lu,\"disordered\":%lu,"
           "\"malformed\":%lu,\"status\":%lu,\"ended\":%lu,\"unopened\":%lu}}\n",
           result.main.seconds, result.main.proxy_s, result.main.own_s, counts.events, counts.bytes,
           counts.comments, counts.skipped, recorded_us(0.5), recorded_us(0.99), counts.opened,
           result.open.seconds, result.open.proxy_s, result.rss_before, result.rss_after,
           result.events.seconds, result.events.proxy_s, counts.refused, counts.recovered, result.left,
           result.reopened_s, result.reopened_p50_us, faults.missing, faults.disordered, faults.malformed,
           faults.status, faults.ended, faults.unopened);
}

static void parse(int count, char **words)
{
    static const struct option known[] = {
        {"origin", 1, 0, 'o'},  {"target", 1, 0, 't'},   {"pids", 1, 0, 'p'},      {"streams", 1, 0, 'n'},
        {"seconds", 1, 0, 's'}, {"warm", 1, 0, 'w'},     {"rate", 1, 0, 'r'},      {"at-once", 1, 0, 'c'},
        {"limit", 1, 0, 'l'},   {"refusals", 1, 0, 'x'}, {"baseline", 1, 0, 'b'},  {"event-seconds", 1, 0, 'e'},
        {"outage", 1, 0, 'g'},  {"in-flight", 1, 0, 'f'}, {0, 0, 0, 0}};
    unsigned limit = 120;  // seconds: whatever happens, it ends by itself
    int letter;
    while ((letter = getopt_long(count, words, "", known, NULL)) != -1)
        switch (letter) {
        case 'o': option.origin = atoi(optarg); break;
        case 't': option.target = atoi(optarg); break;
        case 'p': meter_watch(optarg); break;
        case 'n': stream_count = atoi(optarg); break;
        case 's': option.seconds = atof(optarg); break;
        case 'w': option.warm = atof(optarg); break;
        case 'r': option.rate = atof(optarg); break;
        case 'c': option.at_once = atoi(optarg); break;
        case 'l': limit = (unsigned)atoi(optarg); break;
        case 'x': option.refusals = atoi(optarg); break;
        case 'b': option.baseline = atoi(optarg); break;
        case 'e': option.event_seconds = atof(optarg); break;
        case 'g': option.outage = atof(optarg); break;
        case 'f': option.in_flight = atoi(optarg); break;
        default: exit(2);
        }
    if (optind != count - 1 || !option.origin || !option.target || stream_count < 1 || stream_count > 99999)
        errno = EINVAL, fail("usage: load MODE --origin PORT --target PORT …");
    option.mode = words[optind];
    alarm(limit);
}

int main(int count, char **words)
{
    static const struct { const char *name; void (*run)(void); } modes[] = {
        {"closed", run_events}, {"rate", run_events}, {"blast", run_events}, {"churn", run_churn},
        {"idle", run_idle},     {"full", run_full},   {"storm", run_storm}};
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    parse(count, words);
    if (!strcmp(option.mode, "blast"))
        event_size = BLAST_EVENT;
    streams = calloc((size_t)stream_count, sizeof *streams);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    origin_prepare();
    origin_listen(option.origin);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(option.mode, modes[i].name)) {
            modes[i].run();
            print_result();
            return 0;
        }
    errno = EINVAL, fail("unknown mode");
}
