/* Parts of `systolic bench`. */
#ifndef SYSTOLIC_CLI_BENCH_H
#define SYSTOLIC_CLI_BENCH_H

#include "base/buf.h"

int bench_serve_main(int argc, char **argv);
int bench_latency_main(int argc, char **argv);
int bench_throughput_main(int argc, char **argv);

/* Writes (or appends) the text and a newline; errors name the file. */
status bench_write_file(const char *path, const buf *text, bool append) FALLIBLE;

#endif
