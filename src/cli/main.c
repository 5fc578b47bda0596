/* systolic COMMAND ...: the table of sub-commands. */
#include <stdio.h>
#include <string.h>

#include "api/server.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/serve.h"

typedef struct command { const char *name; int (*run)(int argc, char **argv); const char *summary; } command;

static const command commands[] = {
    { "serve", serve_main, "serve a model over HTTP with OpenAI's API" },
    { "chat", chat_main, "chat with a running server" },
    { "complete", complete_main, "complete text with a running server" },
    { "run-batch", run_batch_main, "answer a file of OpenAI batch requests" },
    { "bench", bench_main, "measure: serve, latency, throughput" },
    { "compile", compile_main, "compile a model's programs for TPUs that need not be here" },
    { "plan", plan_main, "tell what a model takes and on which TPUs it fits" },
    { "collect-env", collect_env_main, "print a report of the machine and the build" },
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void usage(FILE *f)
{
    fprintf(f, "usage: systolic COMMAND [...]\n\ncommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++) fprintf(f, "  %-12s %s\n", commands[i].name, commands[i].summary);
    fprintf(f, "\nsystolic --version, systolic COMMAND --help\n");
}

int main(int argc, char **argv)
{
    log_init();
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-v") == 0) {
        printf("%s (vLLM API %s)\n", SYSTOLIC_VERSION, API_VLLM_VERSION);
        return 0;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        usage(stdout);
        return 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0) return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "systolic: error: unknown command '%s'\n", name);
    usage(stderr);
    return 2;
}
