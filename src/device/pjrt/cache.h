/* Serialised executables on disk, one file each, named by a hash of everything that they depend on: program, options,
 * topology, platform and compiler version. A file is a line of JSON (size, hash of the rest, statistics) and the bytes. Files
 * appear whole (written aside and renamed), so processes may share a directory; a damaged one is reported, removed and
 * compiled anew. Threads: any; a cache is read-only after it was opened. */
#ifndef SYSTOLIC_DEVICE_PJRT_CACHE_H
#define SYSTOLIC_DEVICE_PJRT_CACHE_H

#include "base/buf.h"
#include "base/err.h"
#include "device/pjrt/pjrt.h"

typedef struct pjrt_cache pjrt_cache;
enum { PJRT_KEY_LEN = 65 };                 /* 64 hexadecimal digits and a NUL */

/* What decides whether two compilations are the same. */
typedef struct pjrt_key {
    const char *platform, *version;         /* pjrt_client_platform, pjrt_client_version */
    const char *topology;                   /* name and options, or anything that identifies the devices */
    const char *code; size_t code_len;
    const pjrt_compile_options *options;
} pjrt_key;

/* dir NULL: SYSTOLIC_PROGRAM_CACHE, else $XDG_CACHE_HOME/systolic/programs, else ~/.cache/systolic/programs. It is made if need be. */
status pjrt_cache_open(const char *dir, pjrt_cache **out) FALLIBLE;
void pjrt_cache_close(pjrt_cache *c);
const char *pjrt_cache_dir(const pjrt_cache *c);

status pjrt_cache_key(const pjrt_key *k, char out[PJRT_KEY_LEN]) FALLIBLE;
/* *found false: not there, or damaged (a warning is logged and the file removed). Appends to *executable. stats may be NULL. */
status pjrt_cache_get(const pjrt_cache *c, const char *key, buf *executable, pjrt_stats *stats, bool *found) FALLIBLE;
status pjrt_cache_put(const pjrt_cache *c, const char *key, const void *executable, size_t len, const pjrt_stats *stats) FALLIBLE;
/* One file's contents; what is wrong with them is ST_INVALID. Used by pjrt_cache_get and the fuzzer. */
status pjrt_cache_decode(const void *file, size_t len, const char **executable, size_t *executable_len, pjrt_stats *stats) FALLIBLE;

#endif
