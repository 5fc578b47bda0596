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

enum { LEAST_PAGES = 1 << 20, LEAST_KEPT = 64 << 20, SLICE_BYTES = 32 << 20 };    /* smaller models are packed as fast as they are mapped */
static const int64_t MOST_KEPT = (int64_t)64 << 30;

/* A weight, of experts one after the other. */
typedef struct pack_job {
    const node *n;
    weight_data part[GRAPH_MAX_PARTS];
    cpu_weight *out;
    quant_scheme scheme;     /* the layout: stored schemes with the type of their scales */
    size_t bytes;            /* of one expert */
    void *dst;
    int64_t panels, upto;     /* of all; of the slice that is being packed */
    _Atomic int64_t next;
} pack_job;

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
    int64_t k = weight_cols(n), p;
    quant_scheme s = j->scheme;
    while ((p = atomic_fetch_add(&j->next, 1)) < j->upto) {
        const void *rows[GEMM_PANEL] = { NULL };
        const weight_data *of[GEMM_PANEL] = { NULL };
        int64_t row[GEMM_PANEL] = { 0 };
        dtype type = j->part[0].type;
        int64_t at = 0;
        for (int64_t i = 0; i < n->a.weight.n_parts; i++) {
            const weight_part *part = &n->a.weight.parts[i];
            int64_t count = weight_part_count(part), every = weight_part_step(part);
            for (int64_t r = p * GEMM_PANEL; r < (p + 1) * GEMM_PANEL; r++)
                if (r >= at && r < at + count) {
                    int64_t c = r - p * GEMM_PANEL;
                    of[c] = &j->part[i];
                    row[c] = part->from + (r - at) * every;
                    rows[c] = (const char *)j->part[i].values + dtype_bytes(j->part[i].type, (size_t)(row[c] * k));
                }
            at += weight_has_experts(n) ? gemm_n_panels(count) * GEMM_PANEL : count;
        }
        if (quant_is_stored(s)) qgemm_pack_stored(s, j->dst, k, p, of, row);
        else if (s) quantise_panel(s, j->dst, k, p, rows, type);
        else gemm_pack_panel(j->out->packed.type, j->dst, k, p, rows, type);
    }
}

/* Rows as they are packed: an expert's parts start at whole panels each, so that gate and up of a column lie alike. */
static int64_t packed_rows(const node *n)
{
    int64_t rows = 0;
    if (!weight_has_experts(n)) return weight_rows(n);
    for (int64_t i = 0; i < n->a.weight.n_parts; i++) rows += gemm_n_panels(weight_part_count(&n->a.weight.parts[i])) * GEMM_PANEL;
    return rows;
}

/* Bytes of one expert's matrix, or of the only one. */
static size_t packed_bytes(const node *n, dtype type, quant_scheme s)
{
    size_t bytes = s ? qgemm_packed_bytes(s, packed_rows(n), weight_cols(n)) : gemm_packed_bytes(type, packed_rows(n), weight_cols(n));
    return (bytes + 63) / 64 * 64;
}

/* How kernels find it, once it has memory and a type. */
static status describe(cpu_weight *w, const node *n, dtype type, quant_scheme s)
{
    w->quantised = (qgemm_weight){ { .type = type, .n = packed_rows(n), .k = weight_cols(n), .data = w->mem }, s };
    if (!weight_has_experts(n)) return ST_OK;
    w->experts = mem_array((size_t)weight_experts(n), sizeof *w->experts);
    if (!w->experts) return err_nomem();
    for (int64_t e = 0; e < weight_experts(n); e++) {
        w->experts[e] = w->quantised;
        w->experts[e].base.data = (const char *)w->mem + (size_t)e * packed_bytes(n, type, s);
    }
    return ST_OK;
}

/* Memory for all experts, by what the first is stored as. */
static status begin_matrix(pack_job *j)
{
    const node *n = j->n;
    quant_scheme s = (quant_scheme)n->a.weight.scheme;
    if (s && weight_cols(n) > QGEMM_MAX_K)
        return err_set(ST_UNSUPPORTED, "tensor %s has %lld columns; quantised ones have %d at most", n->a.weight.parts[0].name, (long long)weight_cols(n), QGEMM_MAX_K);
    if (quant_is_stored(s)) s = qgemm_layout(s, j->part, n->a.weight.n_parts);
    dtype type = s ? quant_describe(s).type : packed_type(n, j->part);
    j->scheme = s;
    j->bytes = packed_bytes(n, type, s);
    j->panels = gemm_n_panels(packed_rows(n));
    TRY(reserve(j->out, j->bytes * (size_t)weight_experts(n), n->a.weight.parts[0].name));
    return describe(j->out, n, type, s);
}

/* In slices, so that the source's pages go while their copies come: the largest tensor is never there twice. Tensors that are packed
 * whole and in order are the large ones: embeddings and heads. */
static void pack_slices(cpu_model *m, const weight_source *w, pack_job *j)
{
    const weight_part *part = &j->n->a.weight.parts[0];
    size_t row = dtype_bytes(j->part[0].type, (size_t)weight_cols(j->n)), total = (size_t)part->total * row, done = 0;
    bool in_order = w->drop && !j->part[0].scales && j->n->a.weight.n_parts == 1 && part->from == 0 && weight_part_step(part) == 1;
    int64_t slice = in_order ? (int64_t)(SLICE_BYTES / (row * GEMM_PANEL)) + 1 : j->panels;
    for (j->upto = 0; j->upto < j->panels;) {
        atomic_store(&j->next, j->upto);
        j->upto = j->upto + slice < j->panels ? j->upto + slice : j->panels;
        pool_run(m->dev->pool, pack_panels, j);
        size_t end = (size_t)j->upto * GEMM_PANEL * row;
        if (end > total) end = total;
        if (in_order && slice < j->panels) w->drop(w, &j->part[0], done, end);
        done = end;
    }
}

static status pack_matrix(cpu_model *m, const weight_source *w, pack_job *j, int64_t expert)
{
    const node *n = j->n;
    for (int64_t i = 1; i < n->a.weight.n_parts; i++)
        if (j->part[i].type != j->part[0].type)
            return err_set(ST_UNSUPPORTED, "tensors %s and %s go together but are %s and %s", n->a.weight.parts[0].name, n->a.weight.parts[i].name,
                           dtype_name(j->part[0].type), dtype_name(j->part[i].type));
    if (expert == 0) TRY(begin_matrix(j));
    quant_scheme s = j->scheme;
    if (quant_is_stored(s) && quant_describe(s).scale != DT_F32 && qgemm_layout(s, j->part, n->a.weight.n_parts) != s)
        return err_set(ST_UNSUPPORTED, "tensor %s has scales of another type than those of other experts", n->a.weight.parts[0].name);
    j->dst = (char *)j->out->mem + (size_t)expert * j->bytes;
    pack_slices(m, w, j);
    if (quant_is_stored(s)) qgemm_pack_rest(s, j->dst, packed_rows(n), weight_cols(n), &j->part[0]);
    return ST_OK;
}

/* Vectors are few and small: float32, rounded to the model's type first. */
static status pack_vector(pack_job *j, int64_t expert)
{
    const node *n = j->n;
    if (expert == 0) TRY(reserve(j->out, (size_t)(weight_experts(n) * weight_rows(n)) * sizeof(float), n->a.weight.parts[0].name));
    j->out->vector = j->out->mem;
    float *v = j->out->vector + expert * weight_rows(n);
    for (int64_t i = 0; i < n->a.weight.n_parts; i++) {
        const weight_part *p = &n->a.weight.parts[i];
        size_t count = (size_t)weight_part_count(p), every = (size_t)weight_part_step(p);
        for (size_t e = 0; e < count; e += every > 1 ? 1 : count)
            dtype_to_f32(j->part[i].type, (const char *)j->part[i].values + dtype_bytes(j->part[i].type, (size_t)p->from + e * every), v + e, every > 1 ? 1 : count);
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

static bool find_kept(cpu_model *m, int id, const char *packing, dtype type, quant_scheme s)
{
    const node *n = graph_at(m->g, id);
    cpu_weight *w = &m->weights[id];
    const void *data;
    char name[512];
    kept_name(n, packing, name, sizeof name);
    size_t bytes = packed_bytes(n, type, s) * (size_t)weight_experts(n);
    if (!pack_cache_get(m->packed, name, bytes, &data)) return false;
    w->held = WEIGHT_FILE;
    w->mem = (void *)(uintptr_t)data;
    w->bytes = bytes;
    if (describe(w, n, type, s) != ST_OK) {
        *w = (cpu_weight){ 0 };     /* then it is packed, which says what is wrong */
        return false;
    }
    m->weight_bytes += (int64_t)bytes;
    return true;
}

static bool is_matrix(const node *n) { return n->s.rank == weight_rows_dim(n) + 2; }

/* The key is of these values, so whatever type they were packed as is the right one. */
static bool take_kept(cpu_model *m, int id)
{
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16, DT_F8E4M3, DT_F8E8M0 };
    const node *n = graph_at(m->g, id);
    quant_scheme s = (quant_scheme)n->a.weight.scheme;
    if (!is_matrix(n)) return false;
    for (int i = 0; i < (s && !quant_is_stored(s) ? 1 : s ? 5 : 3); i++) {
        quant_scheme l = quant_is_stored(s) ? quant_with_scale(s, types[i]) : s;
        char name[QUANT_NAME_CAP];
        if (find_kept(m, id, s ? quant_print(l, name) : dtype_name(types[i]), s ? quant_describe(l).type : types[i], l)) return true;
    }
    return false;
}

/* Of the values, the graph (names, shapes, types, schemes) and the layout's version. */
static status make_key(const cpu_model *m, const weight_source *w, char key[PACK_KEY_LEN])
{
    uint8_t hash[SHA256_BYTES];
    buf all = {0};
    buf_str(&all, "packed weights 4\n");
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
        if (!w->mem || !is_matrix(graph_at(m->g, id))) continue;
        char scheme[QUANT_NAME_CAP];
        kept_name(graph_at(m->g, id), qgemm_is(&w->packed) ? quant_print(w->quantised.scheme, scheme) : dtype_name(w->packed.type), names[count], sizeof names[count]);
        entries[count] = (pack_entry){ names[count], w->mem, w->bytes };
        bytes += w->bytes;
        count++;
    }
    status st = !names || !entries ? err_nomem() : bytes < least_kept() ? ST_OK : pack_cache_write(m->dev->weight_cache, key, entries, count, MOST_KEPT, &m->packed);
    mem_free(names);
    mem_free(entries);
    return st;
}

/* Parts that are of the same tensor (gate and up in one) share what the source made of it. */
static status pack_expert(cpu_model *m, const weight_source *w, pack_job *j, int64_t expert)
{
    const node *n = j->n;
    char names[GRAPH_MAX_PARTS][WEIGHT_NAME_MAX];
    const char *name[GRAPH_MAX_PARTS];
    bool same[GRAPH_MAX_PARTS];
    int64_t got = 0;
    status st = ST_OK;
    for (; got < n->a.weight.n_parts && st == ST_OK; got++) {
        const weight_part *p = &n->a.weight.parts[got];
        same[got] = got > 0 && strcmp(p->name, n->a.weight.parts[got - 1].name) == 0;
        if (same[got]) {
            j->part[got] = j->part[got - 1];
            continue;
        }
        name[got] = weight_expert_name(p->name, expert, names[got], sizeof names[got]);
        st = name[got] ? w->get(w, name[got], &j->part[got]) : err_set(ST_LIMIT, "the name %s is too long", p->name);
        if (st != ST_OK) break;
        st = weight_check_part(n, p, &j->part[got]);
    }
    dtype type = j->out->packed.type;
    if (st == ST_OK && expert > 0 && is_matrix(n) && !n->a.weight.scheme && packed_type(n, j->part) != type)
        st = err_set(ST_UNSUPPORTED, "tensor %s is %s, those of other experts are not", name[0], dtype_name(j->part[0].type));
    if (st == ST_OK) st = is_matrix(n) ? pack_matrix(m, w, j, expert) : pack_vector(j, expert);
    for (int64_t i = 0; i < got; i++)
        if (!same[i]) w->release(w, name[i], &j->part[i]);
    return st;
}

static status pack_one(cpu_model *m, const weight_source *w, int id)
{
    const node *n = graph_at(m->g, id);
    if (m->packed && take_kept(m, id)) return ST_OK;
    pack_job j = { .n = n, .out = &m->weights[id] };
    for (int64_t e = 0; e < weight_experts(n); e++) TRY(pack_expert(m, w, &j, e));
    m->weight_bytes += (int64_t)j.out->bytes;
    return ST_OK;
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
            if (!id || m->places[id].kind != PLACE_WEIGHT) continue;
            m->steps[s].call.in[i].f = m->weights[id].vector;
            m->steps[s].call.in[i].experts = m->weights[id].experts;
        }
    if (key[0] && !m->packed && keep(m, key) != ST_OK) log_warn("%s", err_msg());
    return ST_OK;
}

void cpu_unpack(cpu_model *m)
{
    pack_cache_close(m->packed); /* it may still be writing what is freed here */
    for (int id = 1; m->weights && id <= graph_n_nodes(m->g); id++) {
        cpu_weight *w = &m->weights[id];
        mem_free(w->experts);
        if (w->held == WEIGHT_PAGES) pages_free(w->mem, w->bytes);
        else if (w->held == WEIGHT_ALLOCATED) mem_free(w->mem);
    }
}
