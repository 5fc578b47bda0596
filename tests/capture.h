/* A sub-command run in the test's own process, with what it printed. */
#ifndef SYSTOLIC_TESTS_CAPTURE_H
#define SYSTOLIC_TESTS_CAPTURE_H

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/json.h"
#include "tests/test.h"

typedef struct ran { int rc; buf out, err; } ran;
static inline void ran_free(ran *r) { buf_free(&r->out); buf_free(&r->err); }

static inline void slurp(FILE *f, buf *out)
{
    char text[4096];
    size_t n;
    rewind(f);
    while ((n = fread(text, 1, sizeof text, f)) > 0) buf_append(out, text, n);
    fclose(f);
}

/* The command in this process, its two outputs kept. */
static inline ran run_command(int (*command)(int argc, char **argv), const char *const *args)
{
    char *argv[48];
    int argc = 0, keep_out = dup(STDOUT_FILENO), keep_err = dup(STDERR_FILENO);
    ran r = {0};
    FILE *out = tmpfile(), *err = tmpfile();
    for (; args[argc]; argc++) argv[argc] = (char *)(uintptr_t)args[argc];
    argv[argc] = NULL;
    fflush(stdout);
    dup2(fileno(out), STDOUT_FILENO);
    dup2(fileno(err), STDERR_FILENO);
    r.rc = command(argc, argv);
    fflush(stdout);
    dup2(keep_out, STDOUT_FILENO);
    dup2(keep_err, STDERR_FILENO);
    close(keep_out);
    close(keep_err);
    slurp(out, &r.out);
    slurp(err, &r.err);
    return r;
}

/* The one JSON object that a command printed, and nothing else beside it (the caller frees it). The command must have succeeded. */
static inline jv *ran_json(ran r)
{
    jv *o = NULL;
    CHECK_INT(r.rc, 0);
    if (jv_parse(buf_cstr(&r.out), r.out.len, &o) != ST_OK) FAIL("%s in: %.300s (%.600s)", err_msg(), buf_cstr(&r.out), buf_cstr(&r.err));
    ran_free(&r);
    return o;
}

#endif
