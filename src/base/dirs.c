#include "base/dirs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"

/* Each prefix of path[0, len) that ends before a slash or at len. */
static status make_prefixes(const char *path, size_t len)
{
    char *p = mem_strndup(path, len);
    status st = p ? ST_OK : err_nomem();
    for (size_t i = 1; i <= len && len > 0 && st == ST_OK; i++) {
        if (i < len && p[i] != '/') continue;
        p[i] = 0;
        if (mkdir(p, 0777) != 0 && errno != EEXIST) st = err_errno("cannot create the folder %s", p);
        if (i < len) p[i] = '/';
    }
    mem_free(p);
    return st;
}

status dirs_make(const char *path) { return make_prefixes(path, strlen(path)); }

status dirs_make_above(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? make_prefixes(path, (size_t)(slash - path)) : ST_OK;
}

void dirs_cache(const char *leaf, buf *out)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && *xdg) buf_printf(out, "%s/systolic", xdg);
    else if (home && *home) buf_printf(out, "%s/.cache/systolic", home);
    else return;
    if (*leaf) buf_printf(out, "/%s", leaf);
}
