#include "cli/command.h"

#include <stdio.h>

#include "api/server.h"

int command_failed(const flag_set *set)
{
    fprintf(stderr, "%s: error: %s\n", set->prog, err_msg());
    return 1;
}

bool command_flags(const flag_set *set, int argc, char **argv, flags **f, int *rc)
{
    *rc = 0;
    if (flags_parse(set, argc, argv, f) != ST_OK) {
        command_failed(set);
        *rc = COMMAND_USAGE;
        return false;
    }
    if (flags_version(*f)) {
        printf("%s (vLLM API %s)\n", SYSTOLIC_VERSION, API_VLLM_VERSION);
    } else if (flags_help(*f)) {
        buf text = {0};
        if (flags_write_help(set, flags_help(*f), &text) != ST_OK) {
            command_failed(set);
            *rc = COMMAND_USAGE;
        }
        fputs(buf_cstr(&text), stdout);
        buf_free(&text);
    } else {
        return true;
    }
    flags_free(*f);
    *f = NULL;
    return false;
}
