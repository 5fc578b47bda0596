/* What the tests of operations share: a ragged step over some sequences, values that every type holds exactly, the
 * reference's cache, and lines for the table of what works (docs/lowering.md). */
#ifndef SYSTOLIC_TESTS_OPS_CASES_H
#define SYSTOLIC_TESTS_OPS_CASES_H

#include "base/mem.h"
#include "graph/kv_groups.h"
#include "ops/op.h"
#include "tests/test.h"

/* ---- a step ---- */

enum { CASE_SEQS = 8, CASE_TOKENS = 64, CASE_PAGES = 512, CASE_GROUPS = 4 };
typedef struct case_step {
    batch b;
    int tp;             /* ranks of the case's mesh, for DIM_TS */
    int block, n_slots;
    int32_t ids[CASE_TOKENS], positions[CASE_TOKENS], slots[CASE_TOKENS], rows[CASE_TOKENS];
    int32_t cu[CASE_SEQS + 1], kv_lens[CASE_SEQS], variants[CASE_SEQS], pages[CASE_SEQS][CASE_PAGES];
    int32_t group_slots[CASE_GROUPS * CASE_TOKENS], group_pages[CASE_GROUPS * CASE_SEQS][CASE_PAGES];   /* case_step_groups */
} case_step;

/* One sequence: how many tokens it has after the step, how many of them are new (0: it sits this step out). */
typedef struct case_seq { int kv_len, q_len; } case_seq;

static inline int32_t case_slot(const case_step *s, int seq, int pos) { return s->pages[seq][pos / s->block] * s->block + pos % s->block; }

/* Sequence i has the same pages in every step: room for `room` tokens each, scattered over the blocks from `first_block` on. */
static inline void case_step_make(case_step *s, const case_seq *seqs, int n_seqs, const int32_t *rows, int n_rows, int block, int n_slots,
                                  int first_block, int room)
{
    *s = (case_step){ .tp = 1, .block = block, .n_slots = n_slots };
    batch *b = &s->b;
    int n_blocks = n_slots / block - first_block, per_seq = (room + block - 1) / block;
    CHECK(n_blocks % 11 && n_seqs * per_seq <= n_blocks);   /* so no page is given twice */
    *b = (batch){ .token_ids = s->ids, .positions = s->positions, .cu_q_lens = s->cu, .kv_lens = s->kv_lens, .page_table = s->pages[0],
                  .max_pages = CASE_PAGES, .slots = s->slots, .rope_variant = s->variants, .rows = s->rows, .n_rows = n_rows };
    for (int i = 0; i < n_seqs; i++) {
        int at = b->n_seqs, t0 = b->n_tokens;
        if (!seqs[i].q_len) continue;
        for (int p = 0; p * block < seqs[i].kv_len; p++) s->pages[at][p] = (int32_t)(first_block + ((i * per_seq + p) * 11 + 3) % n_blocks);
        s->kv_lens[at] = seqs[i].kv_len;
        s->variants[at] = i % 2;
        for (int t = 0; t < seqs[i].q_len; t++) {
            int pos = seqs[i].kv_len - seqs[i].q_len + t;
            s->positions[t0 + t] = pos;
            s->slots[t0 + t] = case_slot(s, at, pos);
            s->ids[t0 + t] = (t0 + t) * 7 % 50;
        }
        b->n_tokens += seqs[i].q_len;
        s->cu[++b->n_seqs] = b->n_tokens;
    }
    for (int r = 0; r < n_rows; r++) s->rows[r] = rows[r];
}

/* The same step for several groups of layers: group g has the blocks of the first one, g * n_blocks further on; block 0 stands for
 * those that no new token sees. */
static inline void case_step_groups(case_step *s, const kv_layout *kv, int n_blocks)
{
    batch *b = &s->b;
    CHECK(kv->n_groups <= CASE_GROUPS);
    for (int g = 0; g < kv->n_groups; g++) {
        for (int t = 0; t < b->n_tokens; t++) s->group_slots[g * b->n_tokens + t] = s->slots[t] + g * n_blocks * s->block;
        for (int i = 0; i < b->n_seqs; i++) {
            int first_new = s->kv_lens[i] - (s->cu[i + 1] - s->cu[i]), from = (int)kv_first_seen(&kv->group[g], first_new) / s->block;
            for (int p = 0; p < CASE_PAGES; p++) s->group_pages[g * b->n_seqs + i][p] = p < from ? 0 : s->pages[i][p] + g * n_blocks;
        }
    }
    b->n_groups = kv->n_groups;
    b->slots = s->group_slots;
    b->page_table = s->group_pages[0];
}

static inline int64_t case_dim(const case_step *s, int64_t dim)
{
    if (dim == DIM_TS) return s->b.n_tokens / s->tp;
    return dim == DIM_T ? s->b.n_tokens : dim == DIM_S ? s->b.n_seqs : dim == DIM_R ? s->b.n_rows : dim;
}

/* ---- values: pseudo-random, exact in every weight type ---- */

static inline float case_value(uint32_t seed, uint32_t i)
{
    uint32_t x = (seed * 2654435761u) ^ (i * 2246822519u);
    x ^= x >> 15; x *= 2654435761u; x ^= x >> 13; x *= 3266489917u; x ^= x >> 16;
    return ((float)(x & 255) - 127.5f) / 128;
}

static inline int64_t case_count(const case_step *s, const node *n) { return case_dim(s, n->s.dim[0]) * shape_cols(&n->s); }

/* For ref_run: the values of a weight or an input. arg: the case_step. */
static inline void case_fill(void *arg, const node *n, float *dst)
{
    int64_t count = case_count(arg, n);
    uint32_t seed = n->op == OP_WEIGHT ? (uint32_t)strlen(n->a.weight.parts[0].name) * 7 : (uint32_t)count;
    for (int64_t i = 0; i < count; i++) dst[i] = case_value(seed, (uint32_t)i);
    /* what caches are divided by is positive, and far from 1 */
    bool scales = n->op == OP_WEIGHT && strstr(n->a.weight.parts[0].name, "kv_scales");
    for (int64_t i = 0; scales && i < count; i++) dst[i] = i % 2 ? 3.0f : 0.375f;
    /* a single column is a mask or numbers of groups: few whole numbers */
    for (int64_t i = 0; n->op == OP_INPUT && n->s.rank == 2 && n->s.dim[1] == 1 && i < count; i++) dst[i] = floorf(2 * dst[i]);
}

/* The attention node of a case, which has at most one. */
static inline const node *case_attention(const graph *g)
{
    for (int id = 1; id <= graph_n_nodes(g); id++)
        if (graph_at(g, id)->op == OP_PAGED_ATTENTION) return graph_at(g, id);
    return NULL;
}

/* Its cache, full of values; nothing if there is none. */
static inline ref_cache case_cache(const graph *g, dtype type, int n_slots, int64_t *heads, int64_t *dim)
{
    ref_cache c = { .type = type };
    const node *a = case_attention(g);
    if (!a) return c;
    const shape *k = &graph_node(g, a->in[1])->s;
    *heads = k->dim[1];
    *dim = k->dim[2];
    size_t n = (size_t)(n_slots * *heads * *dim);
    c.k = mem_array(n, sizeof(float));
    c.v = mem_array(n, sizeof(float));
    for (size_t i = 0; i < n; i++) {
        c.k[i] = case_value(11, (uint32_t)i);
        c.v[i] = case_value(12, (uint32_t)i);
    }
    for (size_t i = 0; i < n && dtype_bits(type) == 8; i += (size_t)*dim) {
        kv_rounded(type, c.k + i, *dim, 1, c.k + i);
        kv_rounded(type, c.v + i, *dim, 1, c.v + i);
    }
    return c;
}

/* ---- results ---- */

/* The largest difference, relative to the largest value; infinite where one is not a number. */
static inline double case_error(const float *got, const float *want, int64_t n)
{
    double worst = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= worst)) worst = isnan(d) ? INFINITY : d;
        if (fabs((double)want[i]) > scale) scale = fabs((double)want[i]);
    }
    return scale > 0 ? worst / scale : worst;
}

/* A line for tools/support_matrix.py, which has the format, if SYSTOLIC_SUPPORT_MATRIX names a file. stored: the type of
 * weights or cache, NULL if the operation has neither. */
static inline void case_report(const char *op_label, const char *path, const char *stored, const char *act, double error, double tolerance)
{
    const char *file = getenv("SYSTOLIC_SUPPORT_MATRIX");
    FILE *f = file && *file ? fopen(file, "a") : NULL;
    if (!f) return;
    fprintf(f, "%s\t%s\t%s\t%s\t%s\t%.3g\t%.3g\n", op_label, path, stored ? stored : "-", act, error <= tolerance ? "pass" : "fail", error, tolerance);
    fclose(f);
}

/* "f32" if something of the graph is stored in the type that the case was built with: a weight, or a cache. */
static inline const char *case_stored(const graph *g, dtype weights, dtype cache)
{
    if (case_attention(g)) return dtype_name(cache);
    for (int id = 1; id <= graph_n_nodes(g); id++)
        if (graph_at(g, id)->op == OP_WEIGHT) return dtype_name(weights);
    return NULL;
}

#endif
