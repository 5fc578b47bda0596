/* Weights from their source into the layout the kernels stream, once, by all threads. Values keep the type they are stored
 * in where that loses nothing (a bf16 checkpoint under float32), else they are rounded to the model's type. Weights with a
 * quantisation scheme are quantised on the way, panel by panel, from the values as they are stored. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "device/cpu/cpu.h"
#include "device/cpu/pages.h"
#include "ops/linear/quantise.h"

enum { LEAST_PAGES = 1 << 20, LEAST_KEPT = 64 << 20 };    /* smaller models are packed as fast as they are mapped */
static const int64_t MOST_KEPT = (int64_t)64 << 30;

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
    w->held = w->bytes >= LEAST_PAGES ? WEIGHT_PAGES : WEIGHT_ALLOCATED;
    if (w->held == WEIGHT_PAGES) return pages_alloc(w->bytes, name, &w->mem);
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

/* ---- the cache on disk ---- */

/* "model.layers.0.mlp.gate_proj.weight 2 bf16": parts begin with it, packed as that. */
static void kept_name(const node *n, const char *packing, char *dst, size_t cap)
{
    snprintf(dst, cap, "%s %lld %s", n->a.weight.parts[0].name, (long long)n->a.weight.n_parts, packing);
}

static bool find_kept(cpu_model *m, int id, const char *packing, dtype type, quant_scheme s, size_t bytes)
{
    const node *n = graph_at(m->g, id);
    cpu_weight *w = &m->weights[id];
    const void *data;
    char name[512];
    kept_name(n, packing, name, sizeof name);
    bytes = (bytes + 63) / 64 * 64;
    if (!pack_cache_get(m->packed, name, bytes, &data)) return false;
    w->held = WEIGHT_FILE;
    w->mem = (void *)(uintptr_t)data;
    w->bytes = bytes;
    w->quantised = (qgemm_weight){ { .type = type, .n = n->s.dim[0], .k = n->s.dim[1], .data = data }, s };
    m->weight_bytes += (int64_t)bytes;
    return true;
}

/* The key is of these values, so whatever type they were packed as is the right one. */
static bool take_kept(cpu_model *m, int id)
{
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16 };
    const node *n = graph_at(m->g, id);
    quant_scheme s = (quant_scheme)n->a.weight.scheme;
    if (n->s.rank != 2) return false;
    if (s) return find_kept(m, id, quant_describe(s)->name, quant_describe(s)->type, s, qgemm_packed_bytes(s, n->s.dim[0], n->s.dim[1]));
    for (int i = 0; i < 3; i++)
        if (find_kept(m, id, dtype_name(types[i]), types[i], s, gemm_packed_bytes(types[i], n->s.dim[0], n->s.dim[1]))) return true;
    return false;
}

/* Of the values, the graph (names, shapes, types, schemes) and the layout's version. */
static status make_key(const cpu_model *m, const weight_source *w, char key[PACK_KEY_LEN])
{
    uint8_t hash[SHA256_BYTES];
    buf all = {0};
    buf_str(&all, "packed weights 2\n");
    status st = graph_print(m->g, &all);
    if (st == ST_OK) st = w->identity(w, &all);
    if (st == ST_OK) st = buf_status(&all);
    if (st == ST_OK) {
        sha256(all.data, all.len, hash);
        hash_hex(hash, sizeof hash, key);
    }
    buf_free(&all);
    return st;
}

/* SYSTOLIC_WEIGHT_CACHE_LEAST: bytes, for tests. */
static size_t least_kept(void)
{
    const char *s = getenv("SYSTOLIC_WEIGHT_CACHE_LEAST");
    return s && *s ? (size_t)strtoull(s, NULL, 10) : LEAST_KEPT;
}

static status keep(cpu_model *m, const char *key)
{
    size_t n = (size_t)graph_n_nodes(m->g) + 1, count = 0, bytes = 0;
    char(*names)[512] = mem_array(n, sizeof *names);
    pack_entry *entries = mem_array(n, sizeof *entries);
    for (int id = 1; names && entries && id < (int)n; id++) {
        const cpu_weight *w = &m->weights[id];
        if (!w->mem || graph_at(m->g, id)->s.rank != 2) continue;
        kept_name(graph_at(m->g, id), w->quantised.scheme && qgemm_is(&w->packed) ? quant_describe(w->quantised.scheme)->name : dtype_name(w->packed.type),
                  names[count], sizeof names[count]);
        entries[count] = (pack_entry){ names[count], w->mem, w->bytes };
        bytes += w->bytes;
        count++;
    }
    status st = !names || !entries ? err_nomem() : bytes < least_kept() ? ST_OK : pack_cache_write(m->dev->weight_cache, key, entries, count, MOST_KEPT, &m->packed);
    mem_free(names);
    mem_free(entries);
    return st;
}

static status pack_one(cpu_model *m, const weight_source *w, int id)
{
    const node *n = graph_at(m->g, id);
    if (m->packed && take_kept(m, id)) return ST_OK;
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
    char key[PACK_KEY_LEN] = "";
    if (m->dev->weight_cache && w->identity) {
        TRY(make_key(m, w, key));
        if (pack_cache_open(m->dev->weight_cache, key, &m->packed) == ST_OK) log_info("Packed weights: %.2f GiB from %s", (double)pack_cache_bytes(m->packed) / 1073741824, m->dev->weight_cache);
    }
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
    if (key[0] && !m->packed && keep(m, key) != ST_OK) log_warn("%s", err_msg());
    return ST_OK;
}

void cpu_unpack(cpu_model *m)
{
    pack_cache_close(m->packed); /* it may still be writing what is freed here */
    for (int id = 1; m->weights && id <= graph_n_nodes(m->g); id++) {
        cpu_weight *w = &m->weights[id];
        if (w->held == WEIGHT_PAGES) pages_free(w->mem, w->bytes);
        else if (w->held == WEIGHT_ALLOCATED) mem_free(w->mem);
    }
}
