// What each test does: how many streams it opens, what it sends, when it measures.
#include "load.h"

#include <stdio.h>
#include <string.h>

struct results result;

static void turn_for(double seconds)
{
    for (uint64_t end = now_ns() + (uint64_t)(seconds * 1e9); now_ns() < end;)
        turn(20);
}

// Opens the streams from `first` through `last - 1`, `at_once` at a time. Those that have not opened after a
// minute, or failed, are faults.
static void open_streams(int first, int last)
{
    uint64_t give_up = now_ns() + 60000000000u;
    int next = first;
    while ((next < last || opening) && now_ns() < give_up) {
        while (next < last && opening < option.at_once)
            client_connect(&streams[next++], option.target);
        turn(20);
    }
    faults.unopened += (uint64_t)(opening + last - next);
}

static uint64_t on_the_way(int to_open_clients_only)
{
    uint64_t sum = 0;
    for (int i = 0; i < stream_count; i++)
        if (streams[i].sent > streams[i].seen && (!to_open_clients_only || streams[i].client.state != CLOSED))
            sum += streams[i].sent - streams[i].seen;
    return sum;
}

// Waits until every event that was sent has come; what is not there after two seconds of waiting is missing, and
// so is at once what was on its way to a client that has been cut off.
static void collect(void)
{
    on_event = NULL;
    blasting = 0;
    for (uint64_t end = now_ns() + 2000000000u; now_ns() < end && on_the_way(1);)
        turn(20);
    faults.missing += on_the_way(0);
}

static void send_next(struct stream *s) { counts.skipped += !origin_send_event(s); }

// For `in_flight`: an event that has come lets the next stream have one, so that the number on the way stays.
static void send_to_next_stream(struct stream *s)
{
    static int next;
    (void)s;
    next = (next + 1) % stream_count;
    send_next(&streams[next]);
}

static void closed_loop(struct window *window, double warm, double seconds)
{
    on_event = option.in_flight ? send_to_next_stream : send_next;
    int first = option.in_flight && option.in_flight < stream_count ? option.in_flight : stream_count;
    for (int i = 0; i < first; i++)
        send_next(&streams[i]);
    turn_for(warm);
    forget_recorded();
    measuring = 1;
    window_begin(window);
    turn_for(seconds);
    window_end(window);
    measuring = 0;
    collect();
}

// Events at their due times, whether or not earlier ones have come. Turns without waiting: a sleep would be
// part of what is measured.
static void send_at_rate(double seconds)
{
    static int next;
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), sent = 0;
    for (uint64_t now = start; now < end; now = now_ns()) {
        for (int burst = 0; burst < 64 && (double)sent < (double)(now - start) / 1e9 * option.rate; burst++, sent++) {
            send_next(&streams[next]);
            next = (next + 1) % stream_count;
        }
        turn(0);
    }
}

void run_events(void)
{
    open_streams(0, stream_count);
    turn_for(0.2);
    if (!strcmp(option.mode, "closed")) {
        closed_loop(&result.main, option.warm, option.seconds);
        return;
    }
    int blast = !strcmp(option.mode, "blast");
    if (blast)
        origin_start_blast();
    for (int phase = 0; phase < 2; phase++) {
        double seconds = phase ? option.seconds : option.warm;
        if (phase) {
            forget_recorded();
            counts.skipped = 0;
            measuring = 1;
            window_begin(&result.main);
        }
        if (blast)
            turn_for(seconds);
        else
            send_at_rate(seconds);
    }
    window_end(&result.main);
    measuring = 0;
    collect();
}

static void open_again(struct stream *s)
{
    client_close(&s->client);
    client_connect(s, option.target);
}

// `at_once` clients open, take the first byte, leave and come back. Then all leave, and the proxy has a second
// to leave the origin, too.
void run_churn(void)
{
    on_opened = open_again;
    for (int i = 0; i < option.at_once && i < stream_count; i++)
        client_connect(&streams[i], option.target);
    turn_for(option.warm);
    uint64_t before = counts.opened;
    window_begin(&result.main);
    turn_for(option.seconds);
    window_end(&result.main);
    counts.events = counts.opened - before;
    on_opened = NULL;
    for (int i = 0; i < stream_count; i++)
        client_close(&streams[i].client);
    for (uint64_t end = now_ns() + 1000000000u; now_ns() < end && origin_open();)
        turn(20);
    result.left = origin_open();
}

// `baseline` streams are opened before memory is read first: what a process takes once is then behind it.
void run_idle(void)
{
    open_streams(0, option.baseline);
    turn_for(option.baseline ? 0.5 : 0);
    result.rss_before = rss_kib();
    window_begin(&result.open);
    open_streams(option.baseline, stream_count);
    window_end(&result.open);
    turn_for(1);
    measuring = 1;
    window_begin(&result.main);
    turn_for(option.seconds);
    window_end(&result.main);
    measuring = 0;
    result.rss_after = rss_kib();
    counts.events = 0;
    if (option.event_seconds > 0)
        closed_loop(&result.events, option.warm, option.event_seconds);
}

// Every place taken; `refusals` more are turned away; the proxy is watched; the held streams get three events.
void run_full(void)
{
    int held = stream_count - option.refusals;
    open_streams(0, held);
    turn_for(0.5);
    for (int i = held; i < stream_count; i++)
        streams[i].client.refusal_expected = 1;
    open_streams(held, stream_count);
    window_begin(&result.main);
    turn_for(option.seconds);
    window_end(&result.main);
    stream_count = held;
    measuring = 1;
    for (int event = 0; event < 3; event++)
        for (int i = 0; i < held; i++)
            send_next(&streams[i]);
    faults.missing += counts.skipped;
    collect();
    measuring = 0;
}

static uint64_t back_at;

static void note_return(struct stream *s)
{
    (void)s;
    counts.events++;
    record(now_ns() - back_at);
}

// The origin dies under all its streams and comes back; each stream that is opened again gets an event.
void run_storm(void)
{
    open_streams(0, stream_count);
    turn_for(1);
    forget_recorded();
    printf("mark\n");  // from here on somebody else watches the proxy's loop
    fflush(stdout);
    window_begin(&result.main);
    origin_stop();
    turn_for(option.outage);
    on_streaming = send_next;
    on_event = note_return;
    origin_listen(option.origin);
    back_at = now_ns();
    uint64_t give_up = back_at + (uint64_t)(option.seconds * 1e9);
    while (counts.events + faults.ended < (uint64_t)stream_count && now_ns() < give_up)
        turn(20);
    result.reopened_s = (double)(now_ns() - back_at) / 1e9;
    window_end(&result.main);
    faults.unopened += (uint64_t)stream_count - counts.events;
    result.reopened_p50_us = recorded_us(0.5);
}
