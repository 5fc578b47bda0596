/* Parts of `systolic bench`. */
#ifndef SYSTOLIC_CLI_BENCH_H
#define SYSTOLIC_CLI_BENCH_H

#include <stdint.h>

#include "base/buf.h"
#include "cli/flags.h"

int bench_serve_main(int argc, char **argv);
int bench_latency_main(int argc, char **argv);
int bench_throughput_main(int argc, char **argv);

/* Writes (or appends) the text and a newline; errors name the file. */
status bench_write_file(const char *path, const buf *text, bool append) FALLIBLE;
/* Whether that will work, asked before the work: the file or, where there is none yet, its directory can be written. NULL passes. */
status bench_check_writable(const char *path) FALLIBLE;

typedef struct bench_bound { const char *flag; int64_t min, max; } bench_bound;
enum { BENCH_MAX_PROMPTS = 10000000, BENCH_MAX_LEN = 1 << 24 };
/* The integer flags that were given are inside their bounds; errors name the flag. */
status bench_check_flags(const flags *f, const bench_bound *bounds, size_t n) FALLIBLE;

#endif
