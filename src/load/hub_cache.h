/* The hub cache on disk, exactly as Python's huggingface_hub lays it out, so that either reads what the other fetched:
 *
 *   ROOT/models--org--name/refs/main                    the commit that "main" meant when last asked
 *   ROOT/models--org--name/snapshots/COMMIT/FILE        relative link to ../../blobs/ETAG
 *   ROOT/models--org--name/blobs/ETAG, ETAG.incomplete  contents, and what has arrived of one so far
 *   ROOT/.locks/models--org--name/ETAG.lock             flock()ed by whoever downloads that blob
 *
 * Also the environment variables of huggingface_hub. Private to src/load. Strings live in the arena given; names that
 * come from the network must have passed hub_name_ok. One thread; other processes may use the same cache. */
#ifndef SYSTOLIC_LOAD_HUB_CACHE_H
#define SYSTOLIC_LOAD_HUB_CACHE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"

typedef struct hub_cache { const char *root, *repo, *locks; } hub_cache;

/* Finds the folders; creates nothing. `dir` NULL = HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub. */
status hub_cache_at(arena *a, const char *id, const char *dir, hub_cache *out) FALLIBLE;
/* The commit of a revision: refs/REVISION, or the revision itself if there is a snapshot of that name. ST_NOT_FOUND. */
status hub_cache_commit(arena *a, const hub_cache *c, const char *revision, const char **commit) FALLIBLE;
/* Writes refs/REVISION (atomically) unless it says so already. */
status hub_cache_set_ref(arena *a, const hub_cache *c, const char *revision, const char *commit) FALLIBLE;
/* Paths; NULL when out of memory. */
const char *hub_cache_snapshot(arena *a, const hub_cache *c, const char *commit);
const char *hub_cache_file(arena *a, const hub_cache *c, const char *commit, const char *name);
const char *hub_cache_blob(arena *a, const hub_cache *c, const char *etag);
bool hub_is_file(const char *path); /* links followed */
/* Makes snapshots/COMMIT/NAME lead to the blob, which is moved there where links are not possible. */
status hub_cache_link(arena *a, const hub_cache *c, const char *etag, const char *commit, const char *name) FALLIBLE;
/* Creates the folders and takes the blob's lock, waiting for other processes. hub_cache_unlock releases it. */
status hub_cache_lock(arena *a, const hub_cache *c, const char *etag, int *fd) FALLIBLE;
void hub_cache_unlock(int fd);

/* A relative path from the network that stays inside its folder: no "..", no leading "/", no "\", no control characters. */
bool hub_name_ok(const char *name);
/* "org/name" or "name" by the hub's own rules. */
bool hub_id_ok(const char *id);
bool hub_is_hex(const char *s, size_t n); /* exactly n lower-case hex digits */

/* Set and true: 1, ON, YES, TRUE. */
bool hub_env_true(const char *name);
/* HF_HOME with ~ expanded, else $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface. */
status hub_home(arena *a, const char **out) FALLIBLE;
/* `given`, HF_TOKEN, HUGGING_FACE_HUB_TOKEN, else the file HF_TOKEN_PATH or HF_HOME/token; *out is NULL when there is none. */
status hub_token(arena *a, const char *given, const char **out) FALLIBLE;

#endif
