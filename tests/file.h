/* Files that tests read whole. */
#ifndef SYSTOLIC_TESTS_FILE_H
#define SYSTOLIC_TESTS_FILE_H

#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"

/* A whole file; ST_NOT_FOUND if there is none (path may be NULL). */
static inline status test_file(const char *path, buf *out)
{
    char block[1 << 16];
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f) return err_set(ST_NOT_FOUND, "cannot open %s", path ? path : "it");
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;) buf_append(out, block, n);
    fclose(f);
    return buf_status(out);
}

#endif
