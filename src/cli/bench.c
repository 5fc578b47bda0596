/* `systolic bench`: the table of benchmarks. */
#include "cli/bench.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/instance.h"

status bench_write_file(const char *path, const buf *text, bool append)
{
    FILE *f = fopen(path, append ? "a" : "w");
    if (!f) return err_errno("cannot write %s", path);
    size_t n = fwrite(buf_cstr(text), 1, text->len, f) + fwrite("\n", 1, 1, f);
    if (fclose(f) != 0 || n != text->len + 1) return err_errno("cannot write %s", path);
    return ST_OK;
}

status bench_check_writable(const char *path)
{
    if (!path || access(path, W_OK) == 0) return ST_OK;
    const char *slash = strrchr(path, '/');
    char dir[4096];
    int n = snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    if (n < 0 || (size_t)n >= sizeof dir) return err_set(ST_INVALID, "the path of the results is too long");
    return access(path, F_OK) != 0 && access(dir, W_OK) == 0 ? ST_OK : err_errno("cannot write %s", path);
}

status bench_check_flags(const flags *f, const bench_bound *bounds, size_t n)
{
    for (size_t i = 0; i < n; i++) TRY(flags_check_range(f, bounds[i].flag, bounds[i].min, bounds[i].max));
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
