/* Where a device gets weights from: a named source of canonical tensors, whatever the format on disk. */
#ifndef SYSTOLIC_GRAPH_WEIGHTS_H
#define SYSTOLIC_GRAPH_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "graph/graph.h"

/* The canonical tensor: values, and for quantised ones scales (and zero points) over groups. */
typedef struct weight_data {
    dtype type;               /* of the values */
    int rank;
    int64_t shape[4];         /* logical shape: linear weights are [out, in] */
    const void *values;       /* row-major, may be unaligned; packed types two per byte along the last dimension */
    /* Quantised only (scales == NULL otherwise): value = (q - zero) * scale. DT_I4 values are 0..15 with 8 as their
     * zero unless `zeros` says another; the other types have none. */
    const void *scales;       /* [ceil(out/group_out)][ceil(in/group_in)], unaligned allowed */
    dtype scale_type;
    float global;             /* what every scale is divided by, in float32; 1 if nothing */
    const float *zeros;       /* as many as scales, or NULL */
    int64_t group_out, group_in;
    const int32_t *order;     /* [in] or NULL: values have the input order[i] in column i (act-order) */
    float input_scale;        /* of activations; 0 = the checkpoint has none */
    void *owned;              /* freed by release() if not NULL */
} weight_data;

static inline int64_t weight_groups(const weight_data *w) { return (w->shape[1] + w->group_in - 1) / w->group_in; }
/* The scale and the zero of row `row`, column `col` (as values has columns). */
float weight_scale_at(const weight_data *w, int64_t row, int64_t col);
float weight_zero_at(const weight_data *w, int64_t row, int64_t col);
/* What row `row` stands for in float32, [in] numbers in the inputs' order. Of unquantised matrices too. */
void weight_row(const weight_data *w, int64_t row, float *dst);

/* Is it what a part of the weight node n wants: type, quantisation, shape (before the part is cut)? Errors name the tensor. */
status weight_check_part(const node *n, const weight_part *p, const weight_data *d) FALLIBLE;
/* The quantisation alone: a stored scheme wants the type, groups, zeros and order that it says. */
status weight_check_stored(const char *name, quant_scheme s, const weight_data *d) FALLIBLE;

typedef struct weight_source weight_source;
struct weight_source {
    /* Looks a tensor up by its checkpoint name. ST_NOT_FOUND names the tensor. Thread-safe. Of experts one is asked for at a time:
     * by its name with the number filled in, or as NAME[I], slice I of what holds all of them; NAME[I]T is a slice stored [in, out].
     * What comes out is [out, in] (or a vector) in any case. */
    status (*get)(const weight_source *s, const char *name, weight_data *out);
    /* Done with it: frees what was made for it and tells the kernel that mapped pages may go. */
    void (*release)(const weight_source *s, const char *name, weight_data *w);
    bool (*has)(const weight_source *s, const char *name);
    /* Appends bytes that are equal only if all the values are: what a cache of packed weights is keyed by. NULL: not known. */
    status (*identity)(const weight_source *s, buf *out);
    /* Bytes [from, to) of the values will not be read again before another get: memory of theirs may go. NULL: it waits for release. */
    void (*drop)(const weight_source *s, const weight_data *w, size_t from, size_t to);
};

#endif
