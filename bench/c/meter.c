// Time, and what the processes that are measured have used of CPU and memory.
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

#define MOST_PIDS 64
#define MOST_RECORDED 4000000  // 16 MB: four times the events of the longest test

static pid_t pids[MOST_PIDS];
static clockid_t clocks[MOST_PIDS];
static int pid_count;
static uint32_t *recorded;  // in units of 100 ns
static size_t recorded_count;

static uint64_t read_clock(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t))
        fail("a measured process has gone");
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

// Takes the process ids to measure, "12,34". The CPU clock of a process counts all its threads, those that
// have ended too, in nanoseconds; /proc/PID/stat would give it in ticks of 10 ms.
void meter_watch(const char *list)
{
    char *copy = strdup(list), *place = NULL;
    for (char *word = strtok_r(copy, ",", &place); word; word = strtok_r(NULL, ",", &place)) {
        if (pid_count == MOST_PIDS)
            fail("too many processes to measure");
        pids[pid_count] = atoi(word);
        if (clock_getcpuclockid(pids[pid_count], &clocks[pid_count]))
            fail("no CPU clock of a measured process");
        pid_count++;
    }
    free(copy);
}

static uint64_t watched_cpu(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < pid_count; i++)
        sum += read_clock(clocks[i]);
    return sum;
}

void window_begin(struct window *w)
{
    w->proxy_cpu = watched_cpu();
    w->own_cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    w->began = now_ns();
}

void window_end(struct window *w)
{
    w->seconds = (double)(now_ns() - w->began) / 1e9;
    w->proxy_s = (double)(watched_cpu() - w->proxy_cpu) / 1e9;
    w->own_s = (double)(read_clock(CLOCK_PROCESS_CPUTIME_ID) - w->own_cpu) / 1e9;
}

// Resident memory of all measured processes. smaps_rollup counts pages; the figure in status is an estimate
// that may be off by some hundred KiB.
long rss_kib(void)
{
    long sum = 0;
    for (int i = 0; i < pid_count; i++) {
        static const char *const files[] = {"smaps_rollup", "status"};
        static const char *const formats[] = {"Rss: %ld", "VmRSS: %ld"};
        long found = -1;
        for (int way = 0; way < 2 && found < 0; way++) {
            char path[64], line[256];
            snprintf(path, sizeof path, "/proc/%d/%s", pids[i], files[way]);
            FILE *file = fopen(path, "r");
            while (file && found < 0 && fgets(line, sizeof line, file))
                if (sscanf(line, formats[way], &found) != 1)
                    found = -1;
            if (file)
                fclose(file);
        }
        sum += found > 0 ? found : 0;
    }
    return sum;
}

void record(uint64_t ns)
{
    if (!recorded && !(recorded = malloc(MOST_RECORDED * sizeof *recorded)))
        fail("memory");
    if (recorded_count < MOST_RECORDED)
        recorded[recorded_count++] = ns / 100 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 100);
}

void forget_recorded(void) { recorded_count = 0; }

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

double recorded_us(double quantile)
{
    if (!recorded_count)
        return 0;
    qsort(recorded, recorded_count, sizeof *recorded, compare);
    return recorded[(size_t)(quantile * (double)(recorded_count - 1))] / 10.0;
}
