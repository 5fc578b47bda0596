/* Conversations with the hub: the list of a model's files, what one file is, its bytes. Retries what may pass (cut
 * connections, stalls, 408, 429 with Retry-After, 5xx) with growing pauses, and explains what may not. Everything the
 * server says is checked. One thread per hub_net. Private to src/load. */
#ifndef SYSTOLIC_LOAD_HUB_NET_H
#define SYSTOLIC_LOAD_HUB_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/fetch.h"
#include "base/json.h"

typedef struct hub_net {
    arena *mem;               /* borrowed: URLs */
    fetch *http;
    const char *endpoint;     /* HF_ENDPOINT without the final slash */
    const char *headers[2];   /* Authorization, if there is a token */
    const char *id, *revision;
    double stall_s;           /* HF_HUB_DOWNLOAD_TIMEOUT */
    bool progress;
} hub_net;

enum { HUB_ETAG_CAP = 132 };
typedef struct hub_meta {
    char etag[HUB_ETAG_CAP];  /* the blob's file name; safe as one */
    int64_t size;             /* -1 if the hub does not say */
    bool is_sha256;           /* the etag is the SHA-256 of the contents (LFS files) */
} hub_meta;

/* `token` may be NULL. id, revision and token are borrowed. */
status hub_net_open(hub_net *n, arena *mem, const char *id, const char *revision, const char *token, bool show) FALLIBLE;
void hub_net_close(hub_net *n);
/* The model's entry: an object with "sha" (the commit, checked) and "siblings". ST_IO and ST_LIMIT mean that the hub
 * could not be reached, ST_NOT_FOUND and ST_DENIED are its answer. */
status hub_net_list(hub_net *n, jv **out) FALLIBLE;
status hub_net_head(hub_net *n, const char *commit, const char *name, hub_meta *out) FALLIBLE;
/* Downloads into the file `part`, going on where an earlier attempt ended, and checks length and hash. After ST_OK it is
 * complete; wrong contents are removed, an interrupted download is kept for the next time. */
status hub_net_download(hub_net *n, const char *commit, const char *name, const hub_meta *m, const char *part) FALLIBLE;

#endif
