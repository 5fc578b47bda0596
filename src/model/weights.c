/* Weights of a model by their checkpoint names: from safetensors, or made up (--load-format dummy). */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "load/dummy.h"
#include "load/safetensors.h"
#include "model/model.h"

typedef struct source {
    weight_source base;
    st_set *set;            /* NULL: dummy */
    const graph *g;
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

static status get_stored(const weight_source *s, const char *name, weight_data *out)
{
    const st_tensor *t = find(((const source *)(const void *)s)->set, name);
    if (!t) return err_set(ST_NOT_FOUND, "tensor %s is not in the checkpoint", name);
    if (t->rank > 4) return err_set(ST_UNSUPPORTED, "tensor %s has %d dimensions", name, t->rank);
    weight_data d = { .type = t->type, .rank = t->rank, .values = t->data };
    for (int i = 0; i < t->rank; i++) d.shape[i] = t->shape[i];
    *out = d;
    return ST_OK;
}

static void release_stored(const weight_source *s, const char *name, weight_data *w)
{
    const source *src = (const source *)(const void *)s;
    const st_tensor *t = find(src->set, name);
    if (t) st_release(src->set, t);
    *w = (weight_data){ 0 };
}

static bool has_stored(const weight_source *s, const char *name) { return find(((const source *)(const void *)s)->set, name) != NULL; }

static status identity_stored(const weight_source *s, buf *out) { return st_identity(((const source *)(const void *)s)->set, out); }

static status identity_dummy(const weight_source *s, buf *out)
{
    buf_printf(out, "dummy %llu", (unsigned long long)((const source *)(const void *)s)->seed);
    return buf_status(out);
}

/* The part of the graph's weights with this name tells the shape. */
static const node *find_part(const graph *g, const char *name, int64_t *rows)
{
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        for (int64_t i = 0; n->op == OP_WEIGHT && i < n->a.weight.n_parts; i++)
            if (strcmp(n->a.weight.parts[i].name, name) == 0) {
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
    weight_data d = { .type = n->s.type, .rank = n->s.rank, .shape = { rows, n->s.rank == 2 ? n->s.dim[1] : 0 } };
    size_t count = (size_t)(rows * (n->s.rank == 2 ? n->s.dim[1] : 1));
    d.values = d.owned = mem_alloc(dtype_bytes(d.type, count));
    if (!d.owned) return err_nomem();
    dummy_fill(d.owned, d.type, count, name, src->seed);
    *out = d;
    return ST_OK;
}

static void release_dummy(const weight_source *s, const char *name, weight_data *w)
{
    (void)s, (void)name;
    mem_free(w->owned);
    *w = (weight_data){ 0 };
}

static bool has_dummy(const weight_source *s, const char *name)
{
    int64_t rows;
    return find_part(((const source *)(const void *)s)->g, name, &rows) != NULL;
}

/* ---- checking a checkpoint against the graph ---- */

static status check_part(const st_set *set, const node *n, const weight_part *p, buf *missing, int *n_missing)
{
    const st_tensor *t = find(set, p->name);
    if (!t) {
        if ((*n_missing)++ < 5) buf_printf(missing, "%s%s", missing->len ? ", " : "", p->name);
        return ST_OK;
    }
    if (t->type != DT_F32 && t->type != DT_BF16 && t->type != DT_F16 && t->type != DT_F64)
        return err_set(ST_UNSUPPORTED, "tensor %s is %s; supported: f32, bf16, f16, f64", t->name, dtype_name(t->type));
    if (t->rank == n->s.rank && t->shape[0] == p->total && (t->rank == 1 || t->shape[1] == n->s.dim[1])) return ST_OK;
    shape have = { .type = t->type, .rank = t->rank < GRAPH_MAX_RANK ? t->rank : GRAPH_MAX_RANK }, want = n->s;
    for (int i = 0; i < have.rank; i++) have.dim[i] = t->shape[i];
    want.dim[0] = p->total;
    want.type = t->type;
    char a[128], b[128];
    return err_set(ST_INVALID, "tensor %s is %s, config.json wants %s", t->name, shape_format(&have, a, sizeof a), shape_format(&want, b, sizeof b));
}

static status check_all(const source *s)
{
    buf missing = { 0 };
    int n_missing = 0;
    status st = ST_OK;
    for (int id = 1; id <= graph_n_nodes(s->g) && st == ST_OK; id++) {
        const node *n = graph_at(s->g, id);
        for (int64_t i = 0; n->op == OP_WEIGHT && i < n->a.weight.n_parts && st == ST_OK; i++)
            st = check_part(s->set, n, &n->a.weight.parts[i], &missing, &n_missing);
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
    s->seed = seed;
    s->base = dummy ? (weight_source){ get_dummy, release_dummy, has_dummy, identity_dummy }
                    : (weight_source){ get_stored, release_stored, has_stored, identity_stored };
    status st = dummy ? ST_OK : st_open_dir(dir, &s->set);
    if (st == ST_OK && !dummy) st = check_all(s);
    if (st != ST_OK) {
        model_weights_close(&s->base);
        return st;
    }
    *out = &s->base;
    return ST_OK;
}

void model_weights_close(weight_source *w)
{
    source *s = (source *)(void *)w;
    if (!s) return;
    if (s->set) st_close(s->set);
    mem_free(s);
}
