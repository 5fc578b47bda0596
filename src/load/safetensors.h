/* Safetensors: one file or a sharded set, memory-mapped and validated before any tensor is handed out.
 * Format: https://huggingface.co/docs/safetensors (u64 header length, JSON header, data). */
#ifndef SYSTOLIC_LOAD_SAFETENSORS_H
#define SYSTOLIC_LOAD_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "graph/dtype.h"

enum { ST_MAX_RANK = 8 };

typedef struct st_tensor {
    const char *name;          /* borrowed from the set */
    dtype type;
    int rank;
    int64_t shape[ST_MAX_RANK];
    const void *data;          /* in the mapping; may be unaligned for its type */
    size_t bytes;
    int file;                  /* index of the shard */
} st_tensor;

typedef struct st_set st_set;

/* DIR/model.safetensors, or DIR/model.safetensors.index.json with its shards, or (else) every *.safetensors in DIR.
 * Checks: header length (<= 100 MB and within the file), JSON, dtypes, shape x dtype == bytes, offsets within the file,
 * no overlap, no hole, duplicate names, shards named by the index exist and hold what it says. */
status st_open_dir(const char *dir, st_set **out) FALLIBLE;
status st_open_file(const char *path, st_set **out) FALLIBLE;
void st_close(st_set *s);                                       /* unmaps: tensors become invalid */
const st_tensor *st_find(const st_set *s, const char *name);    /* NULL if absent */
size_t st_count(const st_set *s);
const st_tensor *st_get(const st_set *s, size_t i);             /* in file order */
const char *st_path(const st_set *s, int file);
size_t st_total_bytes(const st_set *s);
/* Appends bytes that change when a file does: of each file its size, time of change, header, and samples of its data. */
status st_identity(const st_set *s, buf *out) FALLIBLE;
/* Tells the kernel that these bytes have been read for the last time (after packing), so RSS does not hold them twice. */
void st_release(const st_set *s, const st_tensor *t);
/* The same for a piece of a tensor's data. */
void st_drop(const void *data, size_t bytes);

#endif
