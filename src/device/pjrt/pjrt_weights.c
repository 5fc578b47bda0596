/* Weights to the devices. Host memory stays bounded: a stack of layers is put together here only if it is small, else layer
 * by layer on the device, by a program that updates the stack in place. SYSTOLIC_HOSTILE makes every stack a large one. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "device/pjrt/pjrt_model.h"
#include "device/pjrt/pjrt_pieces.h"
#include "graph/partition.h"
#include "ops/op.h"

enum { STAGE_BYTES = 256 << 20, HOSTILE_BYTES = 64 };

/* The pieces of one weight, which are read together: arguments first to first + n of the plan. A stage has one layer of each, or all
 * layers, one piece after the other. */
typedef struct pieces { int first, n; size_t layer[WEIGHT_PIECES], at[WEIGHT_PIECES], bytes; } pieces;

static const lower_weight *weight_at(const pjrt_model *m, int i) { return &m->c.plan->weights[i]; }

static int64_t pieces_layer_bytes(const pieces *p)
{
    int64_t bytes = 0;
    for (int i = 0; i < p->n; i++) bytes += (int64_t)p->layer[i];
    return bytes;
}

/* From argument i on, with room for so many layers. */
static pieces pieces_at(const pjrt_model *m, int i, int layers)
{
    pieces p = { .first = i };
    do {
        const lower_weight *w = weight_at(m, i);
        p.at[p.n] = p.bytes;
        p.layer[p.n] = dtype_bytes(w->s.type, (size_t)(w->s.dim[0] * shape_cols(&w->s)));
        p.bytes += (p.layer[p.n++] * (size_t)layers + 63) / 64 * 64;
    } while (++i < m->c.plan->n_weights && weight_at(m, i)->piece != PIECE_VALUES);
    return p;
}

static int rank_of(const pjrt_model *m, int at) { return at % graph_mesh(m->c.plan->g).tp; }

typedef struct loader {
    pjrt_model *m;
    const weight_source *w;
    void (*progress)(void *arg, int64_t done, int64_t total);
    void *arg;
    int64_t done, total;
    char *stage[PJRT_MAX_DEVICES];      /* by tensor rank */
    size_t stage_bytes;
    pjrt_event *busy[PJRT_MAX_DEVICES * WEIGHT_PIECES]; /* uploads that read the stage */
} loader;

/* Frees what was made of a part, and tells the source. */
static void release_parts(const weight_source *w, const char *const *name, weight_data *stored, weight_data *made, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        mem_free(made[i].owned);
        w->release(w, name[i], &stored[i]);
    }
}

/* One expert's tensors (or the only ones), layer k of the stage; every rank that has this expert gets its part of it. */
static status read_expert(loader *l, const pieces *p, const node *n, int k, int64_t expert)
{
    weight_data stored[GRAPH_MAX_PARTS], made[GRAPH_MAX_PARTS] = { { 0 } }, parts[GRAPH_MAX_PARTS];
    char names[GRAPH_MAX_PARTS][WEIGHT_NAME_MAX];
    const char *name[GRAPH_MAX_PARTS];
    int64_t got = 0, here = weight_experts(n);
    int tp = graph_mesh(l->m->c.plan->g).tp;
    status st = ST_OK;
    while (got < n->a.weight.n_parts && st == ST_OK) {
        const weight_part *part = &n->a.weight.parts[got];
        name[got] = weight_expert_name(part->name, expert, names[got], sizeof names[got]);
        st = name[got] ? l->w->get(l->w, name[got], &stored[got]) : err_set(ST_LIMIT, "the name %s is too long", part->name);
        if (st != ST_OK) break;
        parts[got] = stored[got];
        st = weight_check_part(n, part, &stored[got]);
        if (st == ST_OK && n->a.weight.scheme && !stored[got].scales) {
            st = pjrt_quantise(n, &stored[got], &made[got]);
            if (st == ST_OK) parts[got] = made[got];
        }
        got++;
    }
    for (int r = 0; r < tp && st == ST_OK; r++) {
        int64_t at = expert - weight_first_expert(n, r, tp);
        for (int i = 0; at >= 0 && at < here && i < p->n; i++)
            pjrt_fill_piece(n, weight_at(l->m, p->first + i)->piece, parts, r, tp, l->stage[r] + p->at[i] + p->layer[i] * (size_t)k + p->layer[i] / (size_t)here * (size_t)at);
    }
    release_parts(l->w, name, stored, made, got);
    return st;
}

/* Layer `layer` of a weight to place k of the stage. */
static status read_layer(loader *l, const pieces *p, int layer, int k)
{
    const node *n = graph_at(l->m->c.plan->g, weight_at(l->m, p->first)->nodes[layer]);
    int64_t shards = n->a.weight.expert_shards > 1 ? n->a.weight.expert_shards : 1;
    for (int64_t e = 0; e < weight_experts(n) * shards; e++) TRY(read_expert(l, p, n, k, e));
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

/* ---- one weight ---- */

static status stage_wait(loader *l)
{
    status st = ST_OK;
    for (int d = 0; d < l->m->n_devices * WEIGHT_PIECES; d++) {
        status last = pjrt_event_wait(l->m->dev->client, l->busy[d]);
        l->busy[d] = NULL;
        if (st == ST_OK) st = last;
    }
    return st;
}

/* A piece in the stage to device `at`, without another copy on the host. */
static status upload(loader *l, int at, const pieces *p, int i, bool stack, pjrt_buffer **out)
{
    const lower_weight *w = weight_at(l->m, p->first + i);
    const char *from = l->stage[rank_of(l->m, at)] + p->at[i];
    int64_t dim[GRAPH_MAX_RANK + 1];
    size_t rank = 0;
    if (stack) dim[rank++] = w->n;
    for (int j = 0; j < w->s.rank; j++) dim[rank++] = w->s.dim[j];
    return pjrt_upload(l->m->dev->client, at, w->s.type, dim, rank, from, PJRT_HOLD_DONE, out, &l->busy[at * WEIGHT_PIECES + i]);
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

static status load_whole(loader *l, int i)
{
    pjrt_model *m = l->m;
    const lower_weight *w = weight_at(m, i);
    pieces p = pieces_at(m, i, w->n);
    TRY(stage_reserve(l, p.bytes));
    for (int k = 0; k < w->n; k++) {
        TRY(read_layer(l, &p, k, k));
        report(l, pieces_layer_bytes(&p));
    }
    for (int d = 0; d < m->n_devices; d++)
        for (int x = 0; x < p.n; x++) TRY(upload(l, d, &p, x, w->stacked, slot(m, d, i + x)));
    return ST_OK;
}

/* One layer of piece x into its stack. */
static status place_piece(loader *l, const pieces *p, int x, int k, pjrt_program *placer, pjrt_buffer **args, pjrt_buffer **outs)
{
    pjrt_model *m = l->m;
    int32_t at = k;
    memset(args, 0, (size_t)m->n_devices * 3 * sizeof *args);
    status st = ST_OK;
    for (int d = 0; d < m->n_devices && st == ST_OK; d++) {
        args[3 * d] = *slot(m, d, p->first + x);
        st = upload(l, d, p, x, false, &args[3 * d + 1]);
        if (st == ST_OK) st = pjrt_upload(m->dev->client, d, DT_I32, NULL, 0, &at, PJRT_HOLD_CALL, &args[3 * d + 2], NULL);
    }
    if (st == ST_OK) st = pjrt_execute(placer, args, 3, NULL, 0, outs, NULL);
    for (int d = 0; d < m->n_devices; d++) {
        pjrt_buffer_free(m->dev->client, args[3 * d + 1]);
        pjrt_buffer_free(m->dev->client, args[3 * d + 2]);
        if (st != ST_OK) continue;
        pjrt_buffer_free(m->dev->client, *slot(m, d, p->first + x));
        *slot(m, d, p->first + x) = outs[d];
    }
    return st;
}

/* Empty stacks, and what fills them. */
static status make_stacks(loader *l, const pieces *p, pjrt_program **placers)
{
    pjrt_model *m = l->m;
    for (int x = 0; x < p->n; x++) {
        const lower_weight *w = weight_at(m, p->first + x);
        int64_t dim[GRAPH_MAX_RANK + 1] = { w->n };
        pjrt_buffer *made[PJRT_MAX_DEVICES];
        for (int k = 0; k < w->s.rank; k++) dim[k + 1] = w->s.dim[k];
        TRY(pjrt_zeros(m->dev->client, m->n_devices, w->s.type, dim, (size_t)w->s.rank + 1, made));
        for (int d = 0; d < m->n_devices; d++) *slot(m, d, p->first + x) = made[d];
        TRY(make_placer(m, w, &placers[x]));
    }
    return ST_OK;
}

static status load_layers(loader *l, int i)
{
    pjrt_model *m = l->m;
    pieces p = pieces_at(m, i, 1);
    pjrt_buffer *args[3 * PJRT_MAX_DEVICES], *outs[PJRT_MAX_DEVICES];
    pjrt_program *placers[WEIGHT_PIECES] = { NULL };
    TRY(stage_reserve(l, p.bytes));
    status st = make_stacks(l, &p, placers);
    for (int k = 0; k < weight_at(m, i)->n && st == ST_OK; k++) {
        st = stage_wait(l);
        if (st == ST_OK) st = read_layer(l, &p, k, 0);
        for (int x = 0; x < p.n && st == ST_OK; x++) st = place_piece(l, &p, x, k, placers[x], args, outs);
        if (st == ST_OK) report(l, pieces_layer_bytes(&p));
    }
    for (int x = 0; x < p.n; x++) pjrt_program_free(placers[x]);
    return st;
}

status pjrt_weights_load(pjrt_model *m, const weight_source *w, void (*progress)(void *arg, int64_t done, int64_t total), void *arg)
{
    loader l = { .m = m, .w = w, .progress = progress, .arg = arg, .total = program_weight_bytes(&m->c) };
    status st = ST_OK, last;
    size_t most = (getenv("SYSTOLIC_HOSTILE") ? HOSTILE_BYTES : STAGE_BYTES) / (size_t)graph_mesh(m->c.plan->g).tp;
    m->weight_bytes = l.total;
    for (int i = 0; i < m->c.plan->n_weights && st == ST_OK; i += pieces_at(m, i, 1).n) {
        bool whole = weight_at(m, i)->n == 1 || pieces_at(m, i, weight_at(m, i)->n).bytes <= most;
        st = whole ? load_whole(&l, i) : load_layers(&l, i);
    }
    last = stage_wait(&l);
    if (st == ST_OK) st = last;
    for (int r = 0; r < PJRT_MAX_DEVICES; r++) mem_free(l.stage[r]);
    return st;
}
