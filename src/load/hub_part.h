/* A file while it arrives: BLOB.incomplete, its running hash, and the checks of length and contents. The two callbacks
 * run inside fetch_run and leave their reason in `failed` and `why`. One thread. Private to src/load. */
#ifndef SYSTOLIC_LOAD_HUB_PART_H
#define SYSTOLIC_LOAD_HUB_PART_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fetch.h"
#include "base/hash.h"
#include "load/hub_net.h"
#include "load/progress.h"

typedef struct hub_part {
    const char *path;      /* borrowed */
    const hub_meta *meta;  /* borrowed */
    int fd;
    int64_t have;          /* bytes in the file, all of them hashed */
    sha256_stream *hash;   /* NULL unless the etag is a SHA-256 */
    progress bar;
    status failed;         /* of a callback; `why` is its message */
    bool wrong;            /* the contents cannot become right: restart */
    char why[512];
} hub_part;

/* Opens or creates `path` and hashes what is there. Checks that the disk has room for the rest. */
status hub_part_open(const char *path, const char *name, const hub_meta *m, bool show, hub_part *out) FALLIBLE;
/* Forgets the contents. */
status hub_part_restart(hub_part *p) FALLIBLE;
bool hub_part_head(hub_part *p, const fetch_response *r);
bool hub_part_data(hub_part *p, const void *data, size_t n);
/* All bytes there and the hash right? ST_IO otherwise, with `wrong` set unless bytes are only missing. Asked once per contents. */
status hub_part_check(hub_part *p) FALLIBLE;
/* Closes the file; removes it if its contents are wrong or nothing has arrived. `ok`: it is complete. */
void hub_part_close(hub_part *p, bool ok);

#endif
