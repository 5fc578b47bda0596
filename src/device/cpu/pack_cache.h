/* Packed weights on disk: the second start of a model maps them instead of reading and packing the checkpoint again.
 *
 * One file per model, type and packing, named by a hash of all that its contents depend on:
 *   "SYSTPACK", version, length of the index, hash of the index    32 bytes
 *   index: JSON, {"weights": [[name, offset, bytes], ...]}
 *   the weights, each at a multiple of 2 MiB
 * Files are written aside by a thread of their own after the model was loaded, so that a first start does not wait, and
 * renamed when they are complete. Reading checks the header, the index and the file's size; what is damaged is reported, removed and made
 * anew. The oldest files go when the folder grows beyond its limit.
 *
 * Threads: open, get and close by the thread that loads; the writer is the cache's own. */
#ifndef SYSTOLIC_DEVICE_CPU_PACK_CACHE_H
#define SYSTOLIC_DEVICE_CPU_PACK_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct pack_cache pack_cache;
enum { PACK_KEY_LEN = 65 };         /* 64 hexadecimal digits and a NUL */

/* A weight in memory or in the file. */
typedef struct pack_entry { const char *name; const void *data; size_t bytes; } pack_entry;

/* The folder: `dir`, else SYSTOLIC_WEIGHT_CACHE, else $XDG_CACHE_HOME/systolic/weights or ~/.cache/systolic/weights. "off" (in
 * either place) is ST_NOT_FOUND. */
status pack_cache_folder(const char *dir, char *out, size_t cap) FALLIBLE;

/* Maps dir/KEY.pack; ST_NOT_FOUND if there is none (or none that is whole). */
status pack_cache_open(const char *dir, const char *key, pack_cache **out) FALLIBLE;
/* The mapped weight of that name, if it has that size. */
bool pack_cache_get(const pack_cache *c, const char *name, size_t bytes, const void **data);
/* Bytes of all weights. */
size_t pack_cache_bytes(const pack_cache *c);

/* Begins writing dir/KEY.pack from memory that stays until pack_cache_close; names are copied. Needs twice the bytes free on the
 * disk; max_folder_bytes (0 = none) is kept by removing the files used longest ago. */
status pack_cache_write(const char *dir, const char *key, const pack_entry *entries, size_t n, int64_t max_folder_bytes, pack_cache **out) FALLIBLE;
/* Waits until it is written; what went wrong is the status. For tests. */
status pack_cache_finish(pack_cache *c) FALLIBLE;
/* Unmaps; a writer that is not done gives up and leaves nothing behind. NULL is fine. */
void pack_cache_close(pack_cache *c);

/* Checks a file's beginning: header and index. *index_bytes and offsets are within `file_bytes`. For the reader and the fuzzer. */
status pack_cache_check(const void *file, size_t len, uint64_t file_bytes) FALLIBLE;

#endif
