// layer: cli
/* Command lines (words separated by newlines) and config files (first byte 'y'): no crash, no leak, a message with every refusal. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/serve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static status command_line(char *text)
{
    char *argv[64], *save = NULL;
    int argc = 0;
    for (char *p = strtok_r(text, "\n", &save); p && argc < 64; p = strtok_r(NULL, "\n", &save))
        if (strncmp(p, "--config", 8) != 0) argv[argc++] = p; /* no files from here */
    flags *f = NULL;
    status st = flags_parse(&serve_flags, argc, argv, &f);
    if (st == ST_OK) {
        buf b = {0};
        flags_repr(f, &b);
        if (flags_help(f)) {
            status ignored = flags_write_help(&serve_flags, flags_help(f), &b);
            (void)ignored;
        }
        buf_free(&b);
        flags_free(f);
    }
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    log_set_level(LOG_ERROR);
    if (size == 0) return 0;
    int64_t live = mem_live();
    err_clear();
    status st;
    if (data[0] == 'y') {
        config_file c = {0};
        st = config_file_parse((const char *)data + 1, size - 1, &c);
        if (st == ST_OK) config_file_free(&c);
    } else {
        char *text = mem_strndup((const char *)data, size);
        if (!text) return 0;
        st = command_line(text);
        mem_free(text);
    }
    if (st != ST_OK && !*err_msg()) abort();
    if (mem_live() != live) abort();
    return 0;
}
