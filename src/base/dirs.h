/* Folders: made with their parents, and where caches belong. */
#ifndef SYSTOLIC_BASE_DIRS_H
#define SYSTOLIC_BASE_DIRS_H

#include "base/buf.h"
#include "base/err.h"

/* Makes the folder and those above it; those that are there are fine. The error names the one that could not be made. */
status dirs_make(const char *path) FALLIBLE;
/* The same for the folders above a file. */
status dirs_make_above(const char *path) FALLIBLE;
/* Appends $XDG_CACHE_HOME/systolic or ~/.cache/systolic, and "/leaf" if leaf is not empty. Appends nothing if neither variable is set. */
void dirs_cache(const char *leaf, buf *out);

#endif
