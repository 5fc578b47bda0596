/* Large memory straight from the kernel: untouched pages cost nothing, huge pages where they help. */
#ifndef SYSTOLIC_DEVICE_CPU_PAGES_H
#define SYSTOLIC_DEVICE_CPU_PAGES_H

#include <stddef.h>

#include "base/err.h"

/* Zeroed, page-aligned. `what` is for the message. bytes may be 0 (then *out is NULL). */
status pages_alloc(size_t bytes, const char *what, void **out) FALLIBLE;
void pages_free(void *p, size_t bytes);

#endif
