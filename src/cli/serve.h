/* `systolic serve` and its flags. */
#ifndef SYSTOLIC_CLI_SERVE_H
#define SYSTOLIC_CLI_SERVE_H

#include "cli/flags.h"

extern const flag_set serve_flags;
/* argv[0] is the first argument after "serve". Returns the exit status. */
int serve_main(int argc, char **argv);

#endif
