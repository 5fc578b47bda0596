/* Serialised executables on disk, one file each, named by a hash of everything that they depend on: program, options,
 * topology, platform and compiler version. A file is a line of JSON (size, hash of the rest, statistics) and the bytes. Files
 * appear whole (written aside and renamed), so processes may share a directory; a damaged one is reported, removed and
 * compiled anew. Threads: any; a cache is read-only after it was opened. */
#ifndef SYSTOLIC_DEVICE_PJRT_CACHE_H
#define SYSTOLIC_DEVICE_PJRT_CACHE_H

#include "base/arena.h"
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

/* A directory that exists and is not writable can be read: shipped programs. dir NULL: SYSTOLIC_PROGRAM_CACHE, else $XDG_CACHE_HOME/systolic/programs, else ~/.cache/systolic/programs. It is made if need be. */
status pjrt_cache_open(const char *dir, pjrt_cache **out) FALLIBLE;
void pjrt_cache_close(pjrt_cache *c);
const char *pjrt_cache_dir(const pjrt_cache *c);

status pjrt_cache_key(const pjrt_key *k, char out[PJRT_KEY_LEN]) FALLIBLE;
/* *found false: not there, or damaged (a warning is logged and the file removed). Appends to *executable. stats may be NULL. */
status pjrt_cache_get(const pjrt_cache *c, const char *key, buf *executable, pjrt_stats *stats, bool *found) FALLIBLE;
status pjrt_cache_put(const pjrt_cache *c, const char *key, const void *executable, size_t len, const pjrt_stats *stats) FALLIBLE;
/* One file's contents; what is wrong with them is ST_INVALID. Used by pjrt_cache_get and the fuzzer. */
status pjrt_cache_decode(const void *file, size_t len, const char **executable, size_t *executable_len, pjrt_stats *stats) FALLIBLE;

/* ---- a directory of shipped programs ---- */
/* manifest.json beside the programs says what they are, for people, tools and a clear word on why they do not fit. The keys
 * alone decide what is used: a manifest is never needed to find a program. */
typedef struct pjrt_manifest_program {
    char key[PJRT_KEY_LEN];
    const char *name;                       /* "step t64 s64" */
    int64_t tokens, seqs;                   /* the bucket */
    pjrt_stats stats;
} pjrt_manifest_program;

/* Strings may be NULL when written ("" when read). What was read lies in `mem`; pjrt_manifest_free. */
typedef struct pjrt_manifest {
    const char *model;                      /* architecture: "Qwen3ForCausalLM" */
    const char *shape;                      /* hash of all that the graph was made from */
    const char *flags;                      /* as they were given */
    const char *target;                     /* as users name it: "v6e:2x2" */
    const char *topology, *platform, *version;      /* of pjrt_target_info */
    const char *compiler;                   /* "libtpu 0.0.52", for messages: pjrt_package */
    pjrt_manifest_program *programs; size_t n_programs;
    arena mem;
} pjrt_manifest;

enum { PJRT_MANIFEST_BYTES = 16 << 20, PJRT_MANIFEST_PROGRAMS = 10000, PJRT_MANIFEST_TEXT = 16384 };  /* what is read at most */

/* dir/manifest.json, replaced as a whole; the directory must exist. */
status pjrt_manifest_write(const char *dir, const pjrt_manifest *m) FALLIBLE;
/* ST_NOT_FOUND if there is none; errors name the file and the field. */
status pjrt_manifest_read(const char *dir, pjrt_manifest *out) FALLIBLE;
/* A manifest's text; used by pjrt_manifest_read and the fuzzer. */
status pjrt_manifest_parse(const char *text, size_t len, pjrt_manifest *out) FALLIBLE;
void pjrt_manifest_free(pjrt_manifest *m);
/* True if the programs of `m` are for what `here` says (its programs are not looked at; a NULL there is not compared). Else
 * `why` is a sentence: "the programs in DIR were compiled for v6e:2x2 by libtpu 0.0.52, this is v6e:2x2 with libtpu 0.0.53:
 * compiling anew". The target and the package are only for this sentence. */
bool pjrt_manifest_fits(const pjrt_manifest *m, const char *dir, const pjrt_manifest *here, char *why, size_t cap);

#endif
