/* `systolic serve` and its flags. */
#ifndef SYSTOLIC_CLI_SERVE_H
#define SYSTOLIC_CLI_SERVE_H

#include "cli/flags.h"

extern const flag_set serve_flags;

/* A server in this process: the model loaded, the API answering. */
typedef struct serving serving;
/* private_uds: answer on that Unix socket alone, whatever --host, --port and the TLS flags say; NULL = by the flags. */
status serving_open(const flags *f, const char *private_uds, serving **out) FALLIBLE;
void serving_close(serving *s, double drain_s);

/* Other commands' own flags with those of serve behind them (without the HTTP ones unless frontend); a name in `own` wins. The table is
 * the caller's (mem_free). */
status serve_flags_with(const flag_def *own, int n_own, bool frontend, flag_def **table, int *n) FALLIBLE;
/* argv[0] is the first argument after "serve". Returns the exit status. */
int serve_main(int argc, char **argv);

#endif
