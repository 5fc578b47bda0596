/* Weights of encoders: kernels of convolutions are matrices here (all dimensions but the first are one), and the few stored the other way
 * round (names that end in "^T" in the graph) are turned. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "load/dummy.h"
#include "load/safetensors.h"
#include "model/encoder_int.h"

typedef struct source { weight_source base; st_set *set; const encoder *e; uint64_t seed; } source;     /* without a set, made up for the encoder e */

/* Exports differ in what they nest a tower in. */
static const st_tensor *find(const st_set *set, const char *name)
{
    static const char *const prefixes[] = { "", "model.", "thinker.", "model.thinker." };
    char full[512];
    const size_t n = strlen(name), bare = n > 2 && strcmp(name + n - 2, "^T") == 0 ? n - 2 : n;
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        snprintf(full, sizeof full, "%s%.*s", prefixes[i], (int)bare, name);
        const st_tensor *t = st_find(set, full);
        if (t) return t;
    }
    return NULL;
}

static bool is_turned(const char *name) { const size_t n = strlen(name); return n > 2 && strcmp(name + n - 2, "^T") == 0; }

static status turn(const st_tensor *t, weight_data *d)
{
    const size_t rows = (size_t)t->shape[0], cols = (size_t)t->shape[1], size = dtype_bytes(t->type, 1);
    char *out = mem_array(rows * cols, size);
    if (!out) return err_nomem();
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) memcpy(out + (c * rows + r) * size, (const char *)t->data + (r * cols + c) * size, size);
    *d = (weight_data){ .type = t->type, .rank = 2, .shape = { t->shape[1], t->shape[0] }, .values = out, .owned = out };
    return ST_OK;
}

static status get(const weight_source *s, const char *name, weight_data *out)
{
    const st_tensor *t = find(((const source *)(const void *)s)->set, name);
    if (!t) return err_set(ST_NOT_FOUND, "tensor %s is not in the checkpoint", name);
    if (t->type != DT_F32 && t->type != DT_BF16 && t->type != DT_F16 && t->type != DT_F64) return err_set(ST_UNSUPPORTED, "tensor %s is %s", t->name, dtype_name(t->type));
    if (is_turned(name) && t->rank == 2) return turn(t, out);
    weight_data d = { .type = t->type, .rank = t->rank > 1 ? 2 : 1, .shape = { t->shape[0], 1 }, .values = t->data };
    for (int i = 1; i < t->rank; i++) d.shape[1] *= t->shape[i];
    *out = d;
    return ST_OK;
}

static void release(const weight_source *s, const char *name, weight_data *w)
{
    const st_tensor *t = find(((const source *)(const void *)s)->set, name);
    if (t && !w->owned) st_release(((const source *)(const void *)s)->set, t);
    mem_free(w->owned);
    *w = (weight_data){ 0 };
}

static bool has(const weight_source *s, const char *name) { return find(((const source *)(const void *)s)->set, name) != NULL; }

/* A table of `rows` as float32; its size is checked. */
static status read_table(const weight_source *s, const char *name, int64_t rows, int64_t cols, float *dst)
{
    weight_data d;
    TRY(get(s, name, &d));
    const int64_t have = d.rank == 2 ? d.shape[0] * d.shape[1] : d.shape[0];
    status st = have == rows * cols ? ST_OK : err_set(ST_INVALID, "tensor %s has %lld values, config.json wants %lld", name, (long long)have, (long long)(rows * cols));
    if (st == ST_OK) dtype_to_f32(d.type, d.values, dst, (size_t)have);
    release(s, name, &d);
    return st;
}

static status read_tables(encoder *e, const weight_source *s)
{
    if (!e->table_name || e->table) return ST_OK;
    const int64_t d = e->hidden;
    e->table = mem_array((size_t)(e->table_rows + 1), (size_t)d * sizeof *e->table);
    if (!e->table) return err_nomem();
    TRY(read_table(s, e->table_name, e->table_rows, d, e->table));
    if (!e->class_name) return ST_OK;
    float *last = e->table + (e->table_rows - 1) * d, *extra = last + d;
    TRY(read_table(s, e->class_name, 1, d, extra));
    for (int64_t i = 0; i < d; i++) last[i] += extra[i];
    return ST_OK;
}

static status check_all(const encoder *e, const weight_source *s)
{
    for (int g = 0; g < e->n_stages; g++)
        for (int id = 1; id <= graph_n_nodes(e->g[g]); id++) {
            const node *n = graph_at(e->g[g], id);
            for (int64_t i = 0; n->op == OP_WEIGHT && i < n->a.weight.n_parts; i++)
                if (!has(s, n->a.weight.parts[i].name)) return err_set(ST_NOT_FOUND, "the checkpoint lacks tensor %s of an encoder", n->a.weight.parts[i].name);
        }
    return ST_OK;
}

status encoder_weights_open(encoder *e, const char *dir, weight_source **out)
{
    source *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    s->base = (weight_source){ .get = get, .release = release, .has = has };
    status st = st_open_dir(dir, &s->set);
    if (st == ST_OK) st = check_all(e, &s->base);
    if (st == ST_OK) st = read_tables(e, &s->base);
    if (st == ST_OK) *out = &s->base;
    else encoder_weights_close(&s->base);
    return st;
}

/* ---- made up ---- */

/* A weight of some stage that has such a part, and the part. */
static const node *find_part(const encoder *e, const char *name, const weight_part **part)
{
    for (int g = 0; g < e->n_stages; g++)
        for (int id = 1; id <= graph_n_nodes(e->g[g]); id++) {
            const node *n = graph_at(e->g[g], id);
            for (int64_t i = 0; n->op == OP_WEIGHT && i < n->a.weight.n_parts; i++)
                if (strcmp(n->a.weight.parts[i].name, name) == 0) {
                    *part = &n->a.weight.parts[i];
                    return n;
                }
        }
    return NULL;
}

static status get_dummy(const weight_source *w, const char *name, weight_data *out)
{
    const source *s = (const source *)(const void *)w;
    const weight_part *part;
    const node *n = find_part(s->e, name, &part);
    if (!n) return err_set(ST_NOT_FOUND, "no stage has a tensor %s", name);
    return dummy_tensor(name, n->s.type, n->s.rank, part->total, n->s.rank > 1 ? n->s.dim[1] : 1, s->seed, out);
}

static bool has_dummy(const weight_source *w, const char *name)
{
    const weight_part *part;
    return find_part(((const source *)(const void *)w)->e, name, &part) != NULL;
}

status encoder_weights_dummy(encoder *e, uint64_t seed, weight_source **out)
{
    source *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    s->base = (weight_source){ .get = get_dummy, .release = dummy_release, .has = has_dummy };
    s->e = e;
    s->seed = seed;
    const size_t count = (size_t)((e->table_rows + 1) * e->hidden);
    if (e->table_name && !e->table) {
        e->table = mem_array(count, sizeof *e->table);
        if (!e->table) {
            mem_free(s);
            return err_nomem();
        }
        dummy_fill(e->table, DT_F32, count, e->table_name, seed);
    }
    *out = &s->base;
    return ST_OK;
}

void encoder_weights_close(weight_source *w)
{
    source *s = (source *)(void *)w;
    if (!s) return;
    if (s->set) st_close(s->set);
    mem_free(s);
}
