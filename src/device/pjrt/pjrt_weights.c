/* Weights to the devices. Host memory stays bounded: a stack of layers is put together here only if it is small, else layer
 * by layer on the device, by a program that updates the stack in place. SYSTOLIC_HOSTILE makes every stack a large one. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "device/pjrt/pjrt_model.h"
#include "graph/partition.h"
#include "ops/op.h"

enum { STAGE_BYTES = 256 << 20, HOSTILE_BYTES = 64 };

/* The columns that a checkpoint's tensor must have come out as the node's when they are cut. */
static bool fits(const node *n, const weight_part *p, const weight_data *d)
{
    int64_t shards = n->a.weight.col_shards > 1 ? n->a.weight.col_shards : 1;
    int rank = n->s.rank - weight_rows_dim(n);
    if (d->rank != rank || d->shape[0] != p->total) return false;
    return rank < 2 || (d->shape[1] > 0 && (d->shape[1] - 1) / shards + 1 == weight_cols(n));
}

static status check_part(const node *n, const weight_part *p, const weight_data *d)
{
    if (d->scales) return err_set(ST_UNSUPPORTED, "tensor %s is quantised, which the pjrt device does not support yet", p->name);
    if (d->type != DT_F32 && d->type != DT_BF16 && d->type != DT_F16 && d->type != DT_F64)
        return err_set(ST_UNSUPPORTED, "tensor %s is %s; supported: f32, bf16, f16, f64", p->name, dtype_name(d->type));
    if (fits(n, p, d)) return ST_OK;
    char a[128], b[128];
    shape have = { .type = d->type, .rank = d->rank < GRAPH_MAX_RANK ? d->rank : GRAPH_MAX_RANK };
    shape want = { .type = n->s.type, .rank = n->s.rank - weight_rows_dim(n), .dim = { p->total, weight_cols(n) * (n->a.weight.col_shards > 1 ? n->a.weight.col_shards : 1) } };
    for (int i = 0; i < have.rank; i++) have.dim[i] = d->shape[i];
    return err_set(ST_INVALID, "tensor %s is %s, expected %s", p->name, shape_format(&have, a, sizeof a), shape_format(&want, b, sizeof b));
}

static void convert(dtype from, const char *src, dtype to, char *dst, size_t n)
{
    float f[1024];
    if (from == to) {
        memcpy(dst, src, dtype_bytes(to, n));
        return;
    }
    for (size_t at = 0; at < n; at += 1024) {
        size_t k = n - at < 1024 ? n - at : 1024;
        dtype_to_f32(from, src + dtype_bytes(from, at), f, k);
        dtype_from_f32(to, f, dst + dtype_bytes(to, at), k);
    }
}

/* What tensor rank `rank` holds of a weight (of one expert of it), row-major, in the node's type. */
static void fill_local(const node *n, const weight_data *parts, int rank, int tp, char *dst)
{
    int64_t cols = weight_cols(n);
    memset(dst, 0, dtype_bytes(n->s.type, (size_t)(weight_rows(n) * cols)));
    for (int64_t i = 0; i < n->a.weight.n_parts; i++) {
        const weight_part *p = &n->a.weight.parts[i];
        const weight_data *d = &parts[i];
        int64_t from, count, local, col = 0, n_cols = cols, local_cols = cols, width = d->rank == 2 ? d->shape[1] : 1;
        weight_part_local(n, p, rank, tp, &from, &count, &local);
        if (d->rank == 2) weight_cols_local(n, width, rank, tp, &col, &n_cols, &local_cols);
        for (int64_t r = 0; r < count; r++)
            convert(d->type, (const char *)d->values + dtype_bytes(d->type, (size_t)((from + r * weight_part_step(p)) * width + col)), n->s.type,
                    dst + dtype_bytes(n->s.type, (size_t)(r * cols)), (size_t)n_cols);
        dst += dtype_bytes(n->s.type, (size_t)(local * cols));
    }
}

static int rank_of(const pjrt_model *m, int at) { return at % graph_mesh(m->c.plan->g).tp; }

/* One expert's tensors (or the only ones); every rank that has this expert gets its part of it. */
static status read_expert(pjrt_model *m, const weight_source *w, const node *n, int64_t expert, char *const *dst)
{
    weight_data parts[GRAPH_MAX_PARTS];
    char names[GRAPH_MAX_PARTS][WEIGHT_NAME_MAX];
    const char *name[GRAPH_MAX_PARTS];
    int64_t got = 0, here = weight_experts(n);
    int tp = graph_mesh(m->c.plan->g).tp;
    status st = ST_OK;
    for (; got < n->a.weight.n_parts && st == ST_OK; got++) {
        name[got] = weight_expert_name(n->a.weight.parts[got].name, expert, names[got], sizeof names[got]);
        st = name[got] ? w->get(w, name[got], &parts[got]) : err_set(ST_LIMIT, "the name %s is too long", n->a.weight.parts[got].name);
        if (st != ST_OK) break;
        st = check_part(n, &n->a.weight.parts[got], &parts[got]);
    }
    for (int r = 0; r < tp && st == ST_OK; r++) {
        int64_t at = expert - weight_first_expert(n, r, tp);
        if (at >= 0 && at < here) fill_local(n, parts, r, tp, dst[r] + dtype_bytes(n->s.type, (size_t)(at * weight_rows(n) * weight_cols(n))));
    }
    for (int64_t i = 0; i < got; i++) w->release(w, name[i], &parts[i]);
    return st;
}

/* dst[r] gets tensor rank r's part of node `id`. */
static status read_node(pjrt_model *m, const weight_source *w, int id, char *const *dst)
{
    const node *n = graph_at(m->c.plan->g, id);
    int64_t shards = n->a.weight.expert_shards > 1 ? n->a.weight.expert_shards : 1;
    for (int64_t e = 0; e < weight_experts(n) * shards; e++) TRY(read_expert(m, w, n, e, dst));
    return ST_OK;
}

/* stack [n, ...] (donated), one layer [...], its index: the stack with that layer. */
static status placer_text(const lower_weight *w, mesh on, buf *out)
{
    hlo h;
    hlo_val v[3];
    hlo_arg args[3] = { { "stack", w->s.type, w->s.rank + 1, { w->n }, 0 }, { "layer", w->s.type, w->s.rank, { 0 }, -1 }, { "at", DT_I32, 0, { 0 }, -1 } };
    for (int i = 0; i < w->s.rank; i++) args[0].dim[i + 1] = args[1].dim[i] = w->s.dim[i];
    hlo_begin(&h, "place", on, args, 3, v);
    int64_t one[HLO_RANK] = { 1 };
    for (int i = 0; i < w->s.rank; i++) one[i + 1] = w->s.dim[i];
    hlo_val starts[HLO_RANK] = { v[2] };
    hlo_val r = hlo_dynamic_update(&h, v[0], hlo_reshape(&h, v[1], w->s.rank + 1, one), starts);
    return hlo_finish(&h, &r, 1, out);
}

static status make_placer(pjrt_model *m, const lower_weight *w, pjrt_program **out)
{
    buf text = {0};
    pjrt_stats stats;
    status st = placer_text(w, graph_mesh(m->c.plan->g), &text);
    if (st == ST_OK) st = pjrt_model_compile(m, &(pjrt_source){ "place a layer", text.data, text.len }, &stats, out);
    buf_free(&text);
    return st;
}

/* ---- one argument ---- */

typedef struct loader {
    pjrt_model *m;
    const weight_source *w;
    void (*progress)(void *arg, int64_t done, int64_t total);
    void *arg;
    int64_t done, total;
    char *stage[PJRT_MAX_DEVICES];      /* by tensor rank */
    size_t stage_bytes;
    pjrt_event *busy[PJRT_MAX_DEVICES]; /* uploads that read the stage */
} loader;

static status stage_wait(loader *l)
{
    status st = ST_OK;
    for (int d = 0; d < l->m->n_devices; d++) {
        status last = pjrt_event_wait(l->m->dev->client, l->busy[d]);
        l->busy[d] = NULL;
        if (st == ST_OK) st = last;
    }
    return st;
}

/* The stage to device `at`, without another copy on the host. */
static status upload(loader *l, int at, const lower_weight *w, bool stack, pjrt_buffer **out)
{
    int64_t dim[GRAPH_MAX_RANK + 1];
    size_t rank = 0;
    if (stack) dim[rank++] = w->n;
    for (int i = 0; i < w->s.rank; i++) dim[rank++] = w->s.dim[i];
    return pjrt_upload(l->m->dev->client, at, w->s.type, dim, rank, l->stage[rank_of(l->m, at)], PJRT_HOLD_DONE, out, &l->busy[at]);
}

static void report(loader *l, int64_t bytes)
{
    l->done += bytes;
    if (l->progress) l->progress(l->arg, l->done, l->total);
}

/* Room for so many bytes per rank, which nobody reads any more. */
static status stage_reserve(loader *l, size_t bytes)
{
    int tp = graph_mesh(l->m->c.plan->g).tp;
    TRY(stage_wait(l));
    if (bytes <= l->stage_bytes) return ST_OK;
    for (int r = 0; r < tp; r++) {
        mem_free(l->stage[r]);
        l->stage_bytes = 0;
        l->stage[r] = mem_aligned(64, (bytes + 63) / 64 * 64);
        if (!l->stage[r]) return err_nomem();
    }
    l->stage_bytes = bytes;
    return ST_OK;
}

static pjrt_buffer **slot(pjrt_model *m, int at, int weight) { return &m->weights[(size_t)at * (size_t)m->c.plan->n_weights + (size_t)weight]; }

static status load_whole(loader *l, int i, size_t layer_bytes)
{
    pjrt_model *m = l->m;
    const lower_weight *w = &m->c.plan->weights[i];
    char *at[PJRT_MAX_DEVICES];
    int tp = graph_mesh(m->c.plan->g).tp;
    TRY(stage_reserve(l, layer_bytes * (size_t)w->n));
    for (int k = 0; k < w->n; k++) {
        for (int r = 0; r < tp; r++) at[r] = l->stage[r] + (size_t)k * layer_bytes;
        TRY(read_node(m, l->w, w->nodes[k], at));
        report(l, (int64_t)layer_bytes);
    }
    for (int d = 0; d < m->n_devices; d++) TRY(upload(l, d, w, w->stacked, slot(m, d, i)));
    return ST_OK;
}

static status place_layer(loader *l, int i, int k, pjrt_program *placer, pjrt_buffer **args, pjrt_buffer **outs)
{
    pjrt_model *m = l->m;
    const lower_weight *w = &m->c.plan->weights[i];
    int32_t at = k;
    memset(args, 0, (size_t)m->n_devices * 3 * sizeof *args);
    TRY(stage_wait(l));
    TRY(read_node(m, l->w, w->nodes[k], l->stage));
    status st = ST_OK;
    for (int d = 0; d < m->n_devices && st == ST_OK; d++) {
        args[3 * d] = *slot(m, d, i);
        st = upload(l, d, w, false, &args[3 * d + 1]);
        if (st == ST_OK) st = pjrt_upload(m->dev->client, d, DT_I32, NULL, 0, &at, PJRT_HOLD_CALL, &args[3 * d + 2], NULL);
    }
    if (st == ST_OK) st = pjrt_execute(placer, args, 3, NULL, 0, outs, NULL);
    for (int d = 0; d < m->n_devices; d++) {
        pjrt_buffer_free(m->dev->client, args[3 * d + 1]);
        pjrt_buffer_free(m->dev->client, args[3 * d + 2]);
        if (st != ST_OK) continue;
        pjrt_buffer_free(m->dev->client, *slot(m, d, i));
        *slot(m, d, i) = outs[d];
    }
    return st;
}

static status load_layers(loader *l, int i, size_t layer_bytes)
{
    pjrt_model *m = l->m;
    const lower_weight *w = &m->c.plan->weights[i];
    int64_t dim[GRAPH_MAX_RANK + 1] = { w->n };
    pjrt_buffer *made[PJRT_MAX_DEVICES], *args[3 * PJRT_MAX_DEVICES], *outs[PJRT_MAX_DEVICES];
    pjrt_program *placer = NULL;
    for (int k = 0; k < w->s.rank; k++) dim[k + 1] = w->s.dim[k];
    TRY(stage_reserve(l, layer_bytes));
    TRY(pjrt_zeros(m->dev->client, m->n_devices, w->s.type, dim, (size_t)w->s.rank + 1, made));
    for (int d = 0; d < m->n_devices; d++) *slot(m, d, i) = made[d];
    status st = make_placer(m, w, &placer);
    for (int k = 0; k < w->n && st == ST_OK; k++) {
        st = place_layer(l, i, k, placer, args, outs);
        if (st == ST_OK) report(l, (int64_t)layer_bytes);
    }
    pjrt_program_free(placer);
    return st;
}

status pjrt_weights_load(pjrt_model *m, const weight_source *w, void (*progress)(void *arg, int64_t done, int64_t total), void *arg)
{
    loader l = { .m = m, .w = w, .progress = progress, .arg = arg, .total = program_weight_bytes(&m->c) };
    status st = ST_OK, last;
    size_t most = (getenv("SYSTOLIC_HOSTILE") ? HOSTILE_BYTES : STAGE_BYTES) / (size_t)graph_mesh(m->c.plan->g).tp;
    m->weight_bytes = l.total;
    for (int i = 0; i < m->c.plan->n_weights && st == ST_OK; i++) {
        const lower_weight *x = &m->c.plan->weights[i];
        size_t layer = dtype_bytes(x->s.type, (size_t)(x->s.dim[0] * shape_cols(&x->s)));
        bool whole = x->n == 1 || layer * (size_t)x->n <= most;
        st = whole ? load_whole(&l, i, layer) : load_layers(&l, i, layer);
    }
    last = stage_wait(&l);
    if (st == ST_OK) st = last;
    for (int r = 0; r < PJRT_MAX_DEVICES; r++) mem_free(l.stage[r]);
    return st;
}
