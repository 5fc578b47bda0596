/* Weights of a model by their checkpoint names: from safetensors, or made up (--load-format dummy). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "load/dummy.h"
#include "load/safetensors.h"
#include "model/kv_scales.h"
#include "model/model.h"
#include "model/quantization.h"

typedef struct source {
    weight_source base;
    st_set *set;            /* NULL: dummy */
    const graph *g;
    const quantization *stored;
    uint64_t seed;
} source;

/* Names vary between exports: with or without "model." before a bare decoder's, or nested in a multimodal model, whose newer
 * exports put its language model's name in the middle. */
static const st_tensor *find(const st_set *set, const char *name)
{
    static const char *const prefixes[] = { "", "model.", "language_model.", "thinker." };
    const st_tensor *t = st_find(set, name);
    if (!t && strncmp(name, "model.", 6) == 0) t = st_find(set, name + 6);
    char full[512];
    if (!t && strncmp(name, "model.", 6) == 0) {
        int n = snprintf(full, sizeof full, "model.language_model.%s", name + 6);
        if (n > 0 && (size_t)n < sizeof full) t = st_find(set, full);
    }
    for (size_t i = 1; !t && i < sizeof prefixes / sizeof *prefixes; i++) {
        int n = snprintf(full, sizeof full, "%s%s", prefixes[i], name);
        if (n > 0 && (size_t)n < sizeof full) t = st_find(set, full);
    }
    return t;
}

/* NAME[I] is slice I of a tensor; NAME[I/N] the I-th of N equal runs of a matrix's rows; NAME[I/N,A:B] rows A to B of that. A T behind
 * it swaps its two dimensions. */
typedef struct slice_name { char base[WEIGHT_NAME_MAX]; int64_t index, of, from, to; bool transposed; } slice_name;

static bool parse_slice(const char *name, slice_name *out)
{
    const char *open = strrchr(name, '[');
    char *end = NULL;
    if (!open || open[1] < '0' || open[1] > '9' || (size_t)(open - name) >= sizeof out->base) return false;
    *out = (slice_name){ .index = strtoll(open + 1, &end, 10), .to = -1 };
    if (*end == '/') out->of = strtoll(end + 1, &end, 10);
    if (*end == ',') {
        out->from = strtoll(end + 1, &end, 10);
        if (*end == ':') out->to = strtoll(end + 1, &end, 10);
    }
    out->transposed = strcmp(end, "]T") == 0;
    if (!out->transposed && strcmp(end, "]") != 0) return false;
    snprintf(out->base, sizeof out->base, "%.*s", (int)(open - name), name);
    return true;
}

/* What a name stands for, as it is stored: a tensor or a slice of one. */
typedef struct stored { st_tensor t; bool transposed; } stored;

/* Rows of a run of a matrix's rows. */
static status run_of_rows(const st_tensor *t, const slice_name *s, stored *out)
{
    if (t->rank != 2 || t->shape[0] % s->of || s->index >= s->of)
        return err_set(ST_INVALID, "tensor %s has %d dimensions and %lld rows, expected a matrix for each of %lld heads", t->name, t->rank, (long long)t->shape[0], (long long)s->of);
    int64_t each = t->shape[0] / s->of, to = s->to < 0 ? each : s->to;
    if (s->from >= to || to > each)
        return err_set(ST_INVALID, "tensor %s has %lld rows for each of %lld heads, rows %lld to %lld are wanted", t->name, (long long)each, (long long)s->of, (long long)s->from, (long long)to);
    size_t row = t->bytes / (size_t)t->shape[0];
    out->t = *t;
    out->t.shape[0] = to - s->from;
    out->t.bytes = row * (size_t)out->t.shape[0];
    out->t.data = (const char *)t->data + row * (size_t)(s->index * each + s->from);
    out->transposed = s->transposed;
    return ST_OK;
}

static status locate(const st_set *set, const char *name, stored *out)
{
    slice_name s;
    const st_tensor *t = find(set, name);
    *out = (stored){ 0 };
    if (t) {
        if (t->rank > 4) return err_set(ST_UNSUPPORTED, "tensor %s has %d dimensions", name, t->rank);
        out->t = *t;
        return ST_OK;
    }
    t = parse_slice(name, &s) ? find(set, s.base) : NULL;
    if (!t) return err_set(ST_NOT_FOUND, "tensor %s is not in the checkpoint", name);
    if (s.of > 0) return run_of_rows(t, &s, out);
    if (t->rank < 2 || t->rank > 4) return err_set(ST_INVALID, "tensor %s has %d dimensions, expected experts in front", t->name, t->rank);
    if (s.index >= t->shape[0]) return err_set(ST_INVALID, "tensor %s is of %lld experts, number %lld is wanted", t->name, (long long)t->shape[0], (long long)s.index);
    if (s.transposed && t->rank != 3) return err_set(ST_INVALID, "tensor %s has %d dimensions, expected 3", t->name, t->rank);
    out->t = *t;
    out->t.rank = t->rank - 1;
    out->t.bytes = t->bytes / (size_t)t->shape[0];
    out->t.data = (const char *)t->data + (size_t)s.index * out->t.bytes;
    for (int i = 0; i < out->t.rank; i++) out->t.shape[i] = t->shape[i + 1];
    out->transposed = s.transposed;
    return ST_OK;
}

/* [rows, cols] to [cols, rows], in squares that stay in cache. */
static void transpose(const char *src, char *dst, size_t size, int64_t rows, int64_t cols)
{
    enum { SQUARE = 32 };
    for (int64_t r0 = 0; r0 < rows; r0 += SQUARE)
        for (int64_t c0 = 0; c0 < cols; c0 += SQUARE)
            for (int64_t c = c0; c < cols && c < c0 + SQUARE; c++)
                for (int64_t r = r0; r < rows && r < r0 + SQUARE; r++)
                    memcpy(dst + (size_t)(c * rows + r) * size, src + (size_t)(r * cols + c) * size, size);
}

static const st_tensor *find_in(const void *set, const char *name) { return find(set, name); }

static bool is_float(dtype t) { return t == DT_F32 || t == DT_BF16 || t == DT_F16 || t == DT_F64; }

/* How the weight with this name is stored; false for one that is as it is. */
static bool find_quantised(const source *s, const char *name, quant_module *out)
{
    stored at;
    if (!s->stored || (locate(s->set, name, &at) == ST_OK && is_float(at.t.type))) return false;
    quantization_module(s->stored, name, out);
    return out->format != QUANT_FORMAT_NONE;
}

/* Rows of a run of a quantised matrix's rows (kv_b_proj's of one head), as floats: those who read it so know no quantised ones. */
static status get_run(const source *src, const quant_module *q, const slice_name *s, weight_data *out)
{
    weight_data all, w;
    stored run;
    TRY(quant_load(q, &(quant_files){ find_in, src->set }, s->base, &all));
    st_tensor t = { .name = s->base, .type = DT_F32, .rank = 2, .shape = { all.shape[0], all.shape[1] } };
    status st = run_of_rows(&t, s, &run);
    int64_t rows = run.t.shape[0], cols = all.shape[1];
    float *f = st == ST_OK ? mem_array((size_t)rows * 2, (size_t)cols * sizeof *f) : NULL;
    if (st == ST_OK && !f) st = err_nomem();
    w = (weight_data){ .type = DT_F32, .rank = 2, .shape = { rows, cols }, .values = f, .owned = f };
    for (int64_t r = 0; st == ST_OK && r < rows; r++) weight_row(&all, s->index * (all.shape[0] / s->of) + s->from + r, f + r * cols);
    if (st == ST_OK && s->transposed) {
        transpose((const char *)f, (char *)(f + rows * cols), sizeof *f, rows, cols);
        w.values = f + rows * cols;
        w.shape[0] = cols, w.shape[1] = rows;
    }
    if (st == ST_OK) *out = w;
    mem_free(all.owned);
    return st;
}

/* One number that is made up. */
static status get_number(float x, weight_data *out)
{
    float *f = mem_alloc(sizeof *f);
    if (!f) return err_nomem();
    *f = x;
    *out = (weight_data){ .type = DT_F32, .rank = 1, .shape = { 1 }, .values = f, .owned = f };
    return ST_OK;
}

static status get_kv_scale(const source *s, const char *name, weight_data *out)
{
    float x;
    TRY(kv_scale_read(&(quant_files){ find_in, s->set }, name, &x));
    return get_number(x, out);
}

static status get_stored(const weight_source *s, const char *name, weight_data *out)
{
    const source *src = (const source *)(const void *)s;
    quant_module q;
    if (kv_scale_wanted(name)) return get_kv_scale(src, name, out);
    if (find_quantised(src, name, &q)) {
        slice_name run;
        if (parse_slice(name, &run) && run.of > 0) return get_run(src, &q, &run, out);
        return quant_load(&q, &(quant_files){ find_in, src->set }, name, out);
    }
    stored at;
    TRY(locate(src->set, name, &at));
    weight_data d = { .type = at.t.type, .rank = at.t.rank, .values = at.t.data };
    for (int i = 0; i < at.t.rank; i++) d.shape[i] = at.t.shape[i];
    if (at.transposed) {
        if (dtype_bits(d.type) % 8) return err_set(ST_UNSUPPORTED, "tensor %s is %s, which is not transposed", name, dtype_name(d.type));
        d.owned = mem_alloc(at.t.bytes + 1);
        if (!d.owned) return err_nomem();
        transpose(at.t.data, d.owned, dtype_bytes(d.type, 1), d.shape[0], d.shape[1]);
        d.values = d.owned;
        d.shape[0] = at.t.shape[1];
        d.shape[1] = at.t.shape[0];
    }
    *out = d;
    return ST_OK;
}

/* What else a quantised weight was read from. */
static void release_parts(const source *s, const char *name)
{
    static const char *const suffixes[] = { "qweight", "weight_packed", "qzeros", "scales", "weight_scale" };
    char other[QUANT_NAME_MAX];
    size_t n = strlen(name);
    if (n < 7 || strcmp(name + n - 7, ".weight") != 0) return;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        snprintf(other, sizeof other, "%.*s%s", (int)n - 6, name, suffixes[i]);
        const st_tensor *t = find(s->set, other);
        if (t) st_release(s->set, t);
    }
}

static void release_stored(const weight_source *s, const char *name, weight_data *w)
{
    const source *src = (const source *)(const void *)s;
    stored at;
    if (locate(src->set, name, &at) == ST_OK) st_release(src->set, &at.t);
    if (w->scales) release_parts(src, name);
    mem_free(w->owned);
    *w = (weight_data){ 0 };
}

static void drop_stored(const weight_source *s, const weight_data *w, size_t from, size_t to)
{
    (void)s;
    if (!w->owned) st_drop((const char *)w->values + from, to - from);
}

static bool has_stored(const weight_source *s, const char *name)
{
    slice_name slice;
    quant_module q;
    const source *src = (const source *)(const void *)s;
    const st_set *set = src->set;
    bool sliced = parse_slice(name, &slice);
    if (kv_scale_wanted(name)) return true;
    if (find_quantised(src, name, &q)) return quant_has(&q, &(quant_files){ find_in, set }, sliced && slice.of > 0 ? slice.base : name);
    return find(set, name) || (sliced && find(set, slice.base));
}

static status identity_stored(const weight_source *s, buf *out) { return st_identity(((const source *)(const void *)s)->set, out); }

static status identity_dummy(const weight_source *s, buf *out)
{
    buf_printf(out, "dummy %llu", (unsigned long long)((const source *)(const void *)s)->seed);
    return buf_status(out);
}

/* Is `name` the part's, of any expert? */
static bool names_part(const char *part, const char *name)
{
    const char *star = strchr(part, '*');
    if (!star) return strcmp(part, name) == 0;
    size_t head = (size_t)(star - part), digits;
    if (strncmp(part, name, head) != 0) return false;
    digits = strspn(name + head, "0123456789");
    return digits > 0 && strcmp(star + 1, name + head + digits) == 0;
}

/* The part of the graph's weights with this name tells the shape. */
static const node *find_part(const graph *g, const char *name, int64_t *rows)
{
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        for (int64_t i = 0; n->op == OP_WEIGHT && i < n->a.weight.n_parts; i++)
            if (names_part(n->a.weight.parts[i].name, name)) {
                *rows = n->a.weight.parts[i].total;
                return n;
            }
    }
    return NULL;
}

static status get_dummy(const weight_source *s, const char *name, weight_data *out)
{
    const source *src = (const source *)(const void *)s;
    int64_t rows = 0;
    const node *n = find_part(src->g, name, &rows);
    if (!n) return err_set(ST_NOT_FOUND, "tensor %s is not in the model", name);
    if (kv_scale_wanted(name)) return get_number(1, out);
    return dummy_tensor(name, n->s.type, n->s.rank - weight_rows_dim(n), rows, weight_cols(n), src->seed, out);
}

static bool has_dummy(const weight_source *s, const char *name)
{
    int64_t rows;
    return find_part(((const source *)(const void *)s)->g, name, &rows) != NULL;
}

/* ---- checking a checkpoint against the graph ---- */

/* Quantised tensors are checked further when they are read. */
static status check_part(const source *s, const node *n, const weight_part *p, int64_t expert, buf *missing, int *n_missing)
{
    char space[WEIGHT_NAME_MAX];
    const char *name = weight_expert_name(p->name, expert, space, sizeof space);
    stored at;
    if (!name) return err_set(ST_LIMIT, "the name %s is too long", p->name);
    if (kv_scale_wanted(name)) {
        float x;
        return kv_scale_read(&(quant_files){ find_in, s->set }, name, &x);
    }
    status st = locate(s->set, name, &at);
    const st_tensor *t = &at.t;
    bool quantised = quant_is_stored((quant_scheme)n->a.weight.scheme);
    if (quantised && st == ST_OK && is_float(t->type))
        return err_set(ST_INVALID, "tensor %s is %s, but config.json's quantization_config says that it is quantised", name, dtype_name(t->type));
    quant_module q;
    bool stored_so = find_quantised(s, name, &q);
    if (stored_so && has_stored(&s->base, name)) return ST_OK;
    char values[QUANT_TENSOR_MAX];
    if (stored_so && quant_values_name(&q, name, values)) name = values;
    if (st == ST_NOT_FOUND || quantised) {
        if ((*n_missing)++ < 5) buf_printf(missing, "%s%s", missing->len ? ", " : "", name);
        return ST_OK;
    }
    TRY(st);
    if (!is_float(t->type))
        return err_set(ST_UNSUPPORTED, "tensor %s is %s; supported: f32, bf16, f16, f64", t->name, dtype_name(t->type));
    shape have = { .type = t->type, .rank = t->rank }, want = { .type = t->type, .rank = n->s.rank - weight_rows_dim(n), .dim = { p->total, weight_cols(n) } };
    for (int i = 0; i < have.rank; i++) have.dim[i] = t->shape[at.transposed ? 1 - i : i];
    if (have.rank == want.rank && have.dim[0] == want.dim[0] && (have.rank == 1 || have.dim[1] == want.dim[1])) return ST_OK;
    char a[128], b[128];
    return err_set(ST_INVALID, "tensor %s is %s, config.json wants %s", name, shape_format(&have, a, sizeof a), shape_format(&want, b, sizeof b));
}

static status check_all(const source *s)
{
    buf missing = { 0 };
    int n_missing = 0;
    status st = ST_OK;
    for (int id = 1; id <= graph_n_nodes(s->g) && st == ST_OK; id++) {
        const node *n = graph_at(s->g, id);
        int64_t count = n->op == OP_WEIGHT ? n->a.weight.n_parts * weight_experts(n) : 0;
        for (int64_t i = 0; i < count && st == ST_OK; i++)
            st = check_part(s, n, &n->a.weight.parts[i % n->a.weight.n_parts], i / n->a.weight.n_parts, &missing, &n_missing);
    }
    if (st == ST_OK) st = buf_status(&missing);
    if (st == ST_OK && n_missing) {
        st = err_set(ST_NOT_FOUND, "the checkpoint lacks %d tensor%s: %s%s", n_missing, n_missing > 1 ? "s" : "", buf_cstr(&missing), n_missing > 5 ? ", ..." : "");
        if (strstr(buf_cstr(&missing), "lm_head") && n_missing == 1)
            st = err_wrap(st, "config.json has tie_word_embeddings false");
    }
    buf_free(&missing);
    return st;
}

status model_weights_open(const model *m, const char *dir, bool dummy, uint64_t seed, weight_source **out)
{
    source *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    s->g = model_graph(m);
    s->stored = model_quantization(m);
    s->seed = seed;
    s->base = dummy ? (weight_source){ get_dummy, dummy_release, has_dummy, identity_dummy, NULL }
                    : (weight_source){ get_stored, release_stored, has_stored, identity_stored, drop_stored };
    status st = dummy ? ST_OK : st_open_dir(dir, &s->set);
    if (st == ST_OK && !dummy) st = check_all(s);
    if (st != ST_OK) {
        model_weights_close(&s->base);
        return st;
    }
    *out = &s->base;
    return ST_OK;
}

status model_kv_scales_stored(const char *dir, bool *out)
{
    st_set *set;
    *out = false;
    TRY(st_open_dir(dir, &set));
    for (size_t i = 0; i < st_count(set); i++) *out = *out || kv_scale_stored(st_get(set, i)->name);
    st_close(set);
    return ST_OK;
}

void model_weights_close(weight_source *w)
{
    source *s = (source *)(void *)w;
    if (!s) return;
    if (s->set) st_close(s->set);
    mem_free(s);
}
