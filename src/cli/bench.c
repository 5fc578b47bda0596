/* `systolic bench`: the table of benchmarks. */
#include "cli/bench.h"

#include <stdio.h>
#include <string.h>

#include "cli/command.h"

status bench_write_file(const char *path, const buf *text, bool append)
{
    FILE *f = fopen(path, append ? "a" : "w");
    if (!f) return err_errno("cannot write %s", path);
    size_t n = fwrite(buf_cstr(text), 1, text->len, f) + fwrite("\n", 1, 1, f);
    if (fclose(f) != 0 || n != text->len + 1) return err_errno("cannot write %s", path);
    return ST_OK;
}

int bench_main(int argc, char **argv)
{
    static const struct { const char *name; int (*run)(int, char **); const char *summary; } kinds[] = {
        { "serve", bench_serve_main, "requests to a running server: throughput, TTFT, TPOT, ITL" },
        { "latency", bench_latency_main, "time of one batch, in this process" },
        { "throughput", bench_throughput_main, "requests and tokens per second, in this process" },
    };
    for (size_t i = 0; argc > 0 && i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(argv[0], kinds[i].name) == 0) return kinds[i].run(argc - 1, argv + 1);
    bool help = argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0);
    FILE *f = help ? stdout : stderr;
    if (!help && argc > 0) fprintf(f, "systolic bench: error: unknown benchmark '%s'\n", argv[0]);
    fprintf(f, "usage: systolic bench KIND [...]\n\n");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) fprintf(f, "  %-12s %s\n", kinds[i].name, kinds[i].summary);
    return help ? 0 : COMMAND_USAGE;
}
