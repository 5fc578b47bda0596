/* What every sub-command does with its flags, and the sub-commands themselves. */
#ifndef SYSTOLIC_CLI_COMMAND_H
#define SYSTOLIC_CLI_COMMAND_H

#include <stdbool.h>

#include "cli/flags.h"

enum { COMMAND_USAGE = 2 }; /* exit status for wrong flags */

/* Parses the flags and answers --help and --version. False: the command is over, with exit status *rc. Otherwise the caller frees *f. */
bool command_flags(const flag_set *set, int argc, char **argv, flags **f, int *rc);
/* Prints "PROG: error: MESSAGE" with the current message; returns 1. */
int command_failed(const flag_set *set);

/* argv[0] is the first argument after the command's name. They return the exit status. */
int chat_main(int argc, char **argv);
int complete_main(int argc, char **argv);
int bench_main(int argc, char **argv);          /* bench serve|latency|throughput */
int run_batch_main(int argc, char **argv);
int compile_main(int argc, char **argv);
int plan_main(int argc, char **argv);
int collect_env_main(int argc, char **argv);

#endif
