/* Weights from their source into the layout the kernels stream, once, by all threads. Values keep the type they are stored
 * in where that loses nothing (a bf16 checkpoint under float32), else they are rounded to the model's type. Weights with a
 * quantisation scheme are quantised on the way, panel by panel, from the values as they are stored. */
#include <string.h>

#include "base/mem.h"
#include "device/cpu/cpu.h"
#include "device/cpu/pages.h"
#include "ops/linear/quantise.h"

typedef struct pack_job {
    const node *n;
    weight_data part[GRAPH_MAX_PARTS];
    cpu_weight *out;
    int64_t panels;
    _Atomic int64_t next;
} pack_job;

static status check_part(const node *n, const weight_part *p, const weight_data *d)
{
    if (d->scales) return err_set(ST_UNSUPPORTED, "tensor %s is quantised, which the cpu device does not support here", p->name);
    if (d->type != DT_F32 && d->type != DT_BF16 && d->type != DT_F16 && d->type != DT_F64)
        return err_set(ST_UNSUPPORTED, "tensor %s is %s; supported: f32, bf16, f16, f64", p->name, dtype_name(d->type));
    bool right = d->rank == n->s.rank && d->shape[0] == p->total && (n->s.rank == 1 || d->shape[1] == n->s.dim[1]);
    if (right) return ST_OK;
    shape have = { .type = d->type, .rank = d->rank < GRAPH_MAX_RANK ? d->rank : GRAPH_MAX_RANK }, want = n->s;
    for (int i = 0; i < have.rank; i++) have.dim[i] = d->shape[i];
    want.dim[0] = p->total;
    char a[128], b[128];
    return err_set(ST_INVALID, "tensor %s is %s, expected %s", p->name, shape_format(&have, a, sizeof a), shape_format(&want, b, sizeof b));
}

/* The stored type if no value changes by keeping it. */
static dtype packed_type(const node *n, const weight_data *parts)
{
    if (n->s.type != DT_F32) return n->s.type;
    dtype t = parts[0].type;
    for (int64_t i = 1; i < n->a.weight.n_parts; i++)
        if (parts[i].type != t) return DT_F32;
    return t == DT_BF16 || t == DT_F16 ? t : DT_F32;
}

static status reserve(cpu_weight *w, size_t bytes, const char *name)
{
    w->bytes = (bytes + 63) / 64 * 64;
    w->mapped = w->bytes >= (size_t)1 << 20;
    if (w->mapped) return pages_alloc(w->bytes, name, &w->mem);
    w->mem = mem_aligned(64, w->bytes);
    return w->mem ? ST_OK : err_nomem();
}

static void pack_panels(void *arg, int thread)
{
    (void)thread;
    pack_job *j = arg;
    const node *n = j->n;
    int64_t k = n->s.dim[1], p;
    while ((p = atomic_fetch_add(&j->next, 1)) < j->panels) {
        const void *rows[GEMM_PANEL] = { NULL };
        dtype type = j->part[0].type;
        int64_t at = 0;
        for (int64_t i = 0; i < n->a.weight.n_parts; i++) {
            const weight_part *part = &n->a.weight.parts[i];
            int64_t count = part->to - part->from;
            for (int64_t r = p * GEMM_PANEL; r < (p + 1) * GEMM_PANEL; r++)
                if (r >= at && r < at + count)
                    rows[r - p * GEMM_PANEL] = (const char *)j->part[i].values + dtype_bytes(j->part[i].type, (size_t)((part->from + r - at) * k));
            at += count;
        }
        if (qgemm_is(&j->out->packed)) quantise_panel(j->out->quantised.scheme, j->out->mem, k, p, rows, type);
        else gemm_pack_panel(j->out->packed.type, j->out->mem, k, p, rows, type);
    }
}

static status pack_matrix(cpu_model *m, pack_job *j)
{
    const node *n = j->n;
    for (int64_t i = 1; i < n->a.weight.n_parts; i++)
        if (j->part[i].type != j->part[0].type)
            return err_set(ST_UNSUPPORTED, "tensors %s and %s go together but are %s and %s", n->a.weight.parts[0].name, n->a.weight.parts[i].name,
                           dtype_name(j->part[0].type), dtype_name(j->part[i].type));
    quant_scheme s = (quant_scheme)n->a.weight.scheme;
    if (s && n->s.dim[1] > QGEMM_MAX_K)
        return err_set(ST_UNSUPPORTED, "tensor %s has %lld columns; quantised ones have %d at most", n->a.weight.parts[0].name, (long long)n->s.dim[1], QGEMM_MAX_K);
    dtype type = s ? quant_describe(s)->type : packed_type(n, j->part);
    size_t bytes = s ? qgemm_packed_bytes(s, n->s.dim[0], n->s.dim[1]) : gemm_packed_bytes(type, n->s.dim[0], n->s.dim[1]);
    TRY(reserve(j->out, bytes, n->a.weight.parts[0].name));
    j->out->quantised = (qgemm_weight){ { .type = type, .n = n->s.dim[0], .k = n->s.dim[1], .data = j->out->mem }, s };
    j->panels = gemm_n_panels(n->s.dim[0]);
    pool_run(m->dev->pool, pack_panels, j);
    return ST_OK;
}

/* Vectors are few and small: float32, rounded to the model's type first. */
static status pack_vector(pack_job *j)
{
    const node *n = j->n;
    TRY(reserve(j->out, (size_t)n->s.dim[0] * sizeof(float), n->a.weight.parts[0].name));
    float *v = j->out->vector = j->out->mem;
    for (int64_t i = 0; i < n->a.weight.n_parts; i++) {
        const weight_part *p = &n->a.weight.parts[i];
        size_t count = (size_t)(p->to - p->from);
        dtype_to_f32(j->part[i].type, (const char *)j->part[i].values + dtype_bytes(j->part[i].type, (size_t)p->from), v, count);
        for (size_t e = 0; e < count && n->s.type != DT_F32; e++) {
            uint32_t bits = 0;
            dtype_from_f32(n->s.type, &v[e], &bits, 1);
            dtype_to_f32(n->s.type, &bits, &v[e], 1);
        }
        v += count;
    }
    return ST_OK;
}

static status pack_one(cpu_model *m, const weight_source *w, int id)
{
    const node *n = graph_at(m->g, id);
    pack_job j = { .n = n, .out = &m->weights[id] };
    int64_t got = 0;
    status st = ST_OK;
    for (; got < n->a.weight.n_parts && st == ST_OK; got++) {
        const weight_part *p = &n->a.weight.parts[got];
        st = w->get(w, p->name, &j.part[got]);
        if (st != ST_OK) break;
        st = check_part(n, p, &j.part[got]);
    }
    if (st == ST_OK) st = n->s.rank == 2 ? pack_matrix(m, &j) : pack_vector(&j);
    if (st == ST_OK) m->weight_bytes += (int64_t)j.out->bytes;
    for (int64_t i = 0; i < got; i++) w->release(w, n->a.weight.parts[i].name, &j.part[i]);
    return st;
}

static int64_t elements(const node *n) { return n->s.dim[0] * shape_cols(&n->s); }

status cpu_pack(cpu_model *m, const weight_source *w, void (*progress)(void *arg, int64_t done, int64_t total), void *arg)
{
    int64_t total = 0, done = 0;
    for (int id = 1; id <= graph_n_nodes(m->g); id++) {
        const node *n = graph_at(m->g, id);
        if (n->op == OP_WEIGHT) total += (int64_t)dtype_bytes(n->s.type, (size_t)elements(n));
    }
    for (int id = 1; id <= graph_n_nodes(m->g); id++) {
        const node *n = graph_at(m->g, id);
        if (n->op != OP_WEIGHT) continue;
        TRY(pack_one(m, w, id));
        done += (int64_t)dtype_bytes(n->s.type, (size_t)elements(n));
        if (progress) progress(arg, done, total);
    }
    /* vectors have an address only now */
    for (int s = 0; s < m->n_steps; s++)
        for (int i = 0; i < m->steps[s].call.n->n_in; i++) {
            int id = m->steps[s].call.n->in[i].id;
            if (id && m->places[id].kind == PLACE_WEIGHT) m->steps[s].call.in[i].f = m->weights[id].vector;
        }
    return ST_OK;
}

void cpu_unpack(cpu_model *m)
{
    for (int id = 1; m->weights && id <= graph_n_nodes(m->g); id++) {
        if (m->weights[id].mapped) pages_free(m->weights[id].mem, m->weights[id].bytes);
        else mem_free(m->weights[id].mem);
    }
}
