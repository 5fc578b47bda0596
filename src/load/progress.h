/* Progress of one download on stderr: a bar on a terminal (10 times a second), else a log line every few seconds.
 * One thread. Private to src/load. */
#ifndef SYSTOLIC_LOAD_PROGRESS_H
#define SYSTOLIC_LOAD_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct progress {
    const char *name;
    int64_t total, done, start_done; /* bytes; total -1 if unknown */
    double started, shown;           /* clock_now() of start and last output */
    double window_at, speed;         /* of the moving average */
    int64_t window_done;
    bool on, terminal;
} progress;

/* `name` is borrowed until progress_end. */
void progress_start(progress *p, const char *name, int64_t total, bool on);
/* `done` of `total` bytes are there (it may go back). */
void progress_set(progress *p, int64_t done);
/* The last line; `ok` false leaves what is there. */
void progress_end(progress *p, bool ok);

/* "1.2 GB", "17 MB", "512 B" (powers of ten, as the hub shows sizes). Returns dst. */
const char *progress_bytes(int64_t n, char dst[16]);
/* The terminal line, `width` columns at most. For progress_set and its test. */
void progress_line(const progress *p, int width, char *dst, size_t cap);

#endif
