/* A tiny decoder like Llama's, with what its relatives add; its weights by name; steps of its tokens. For the tests of
 * programs on meshes and of the pjrt device. */
#ifndef SYSTOLIC_TESTS_PJRT_DECODER_H
#define SYSTOLIC_TESTS_PJRT_DECODER_H

#include "device/device.h"
#include "graph/partition.h"
#include "graph/passes.h"
#include "graph/weights.h"
#include "tests/unit/ops/cases.h"

/* period: layers of which the last sees all keys, the others a window of 6; 0: all see everything. */
typedef struct decoder { int layers, hidden, heads, kv_heads, head_dim, mlp, vocab, period; bool qk_norm, bias, tied; dtype type; int experts, top_k; /* 0: a dense MLP */
    bool sinks, gemma, llama4;   /* a logit for each head; norms of 1 + w behind attention and MLP; every second layer without rope, the others with chunks */
    int chunk;                   /* of these; 0: 5 */
    bool kv_scales;              /* of each layer its own */
} decoder;

/* ---- the graph ---- */

static inline tensor decoder_weight(graph *g, const decoder *d, int l, weight_role role, const char *name, axis out, int64_t rows, axis in, int64_t cols)
{
    char full[64];
    if (l >= 0) snprintf(full, sizeof full, "%d.%s", l, name);
    else snprintf(full, sizeof full, "%s", name);
    graph_set_layer(g, l);
    shape s = { d->type, cols ? 2 : 1, { rows, cols }, { out, in } };
    return graph_weight(g, role, &s, &(weight_part){ full, 0, rows, rows, out, 0, 0 }, 1);
}

static inline tensor decoder_linear(graph *g, const decoder *d, int l, tensor x, weight_role role, const char *name, axis out, int64_t rows, bool bias)
{
    shape s = graph_node(g, x)->s;
    char bias_name[32];
    snprintf(bias_name, sizeof bias_name, "%s.bias", name);
    tensor in[] = { x, decoder_weight(g, d, l, role, name, out, rows, s.axes[1], s.dim[1]), NO_TENSOR };
    if (bias) in[2] = decoder_weight(g, d, l, role, bias_name, out, rows, AX_NONE, 0);
    return graph_add(g, OP_LINEAR, in, 3, NULL);
}

static inline tensor decoder_norm(graph *g, const decoder *d, int l, tensor x, const char *name)
{
    const shape *s = &graph_node(g, x)->s;
    int last = s->rank ? s->rank - 1 : 0;
    tensor in[] = { x, decoder_weight(g, d, l, ROLE_REPL, name, s->axes[last], s->dim[last], AX_NONE, 0) };
    return graph_add(g, OP_RMS_NORM, in, 2, &(op_attrs){ .rms_norm = { 1e-5 } });
}

static inline tensor decoder_two(graph *g, op o, tensor x, tensor y) { return graph_add(g, o, (tensor[]){ x, y }, 2, NULL); }

static inline tensor decoder_heads(graph *g, const decoder *d, int l, tensor x, const char *name, axis out, int n)
{
    x = decoder_linear(g, d, l, x, ROLE_COL, name, out, (int64_t)n * d->head_dim, d->bias);
    return graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { d->head_dim } });
}

static inline tensor decoder_expert_weight(graph *g, const decoder *d, int l, const char *const *names, int n, int64_t rows, int64_t cols)
{
    char full[2][64];
    weight_part parts[2];
    axis out = n > 1 ? AX_MLP : AX_EMBED, in = !cols ? AX_NONE : n > 1 ? AX_EMBED : AX_MLP;
    for (int i = 0; i < n; i++) {
        snprintf(full[i], sizeof full[i], "%d.experts.*.%s", l, names[i]);
        parts[i] = (weight_part){ full[i], 0, rows, rows, out, 0, 0 };
    }
    graph_set_layer(g, l);
    return graph_weight(g, n > 1 ? ROLE_COL : ROLE_ROW, &(shape){ d->type, cols ? 3 : 2, { d->experts, n * rows, cols }, { AX_EXPERTS, out, in } }, parts, n);
}

static inline tensor decoder_experts(graph *g, const decoder *d, int l, tensor x)
{
    static const char *const both[] = { "gate", "up" }, *const biases[] = { "gate.bias", "up.bias" }, *const down[] = { "down" }, *const down_bias[] = { "down.bias" };
    tensor logits = decoder_linear(g, d, l, x, ROLE_REPL, "router", AX_EXPERTS, d->experts, false);
    tensor combine = graph_add(g, OP_ROUTE, &logits, 1, &(op_attrs){ .route = { .top_k = d->top_k, .kind = ROUTE_SOFTMAX_TOPK, .norm = 1, .scale = 1 } });
    tensor in[] = { x, combine, decoder_expert_weight(g, d, l, both, 2, d->mlp, d->hidden), decoder_expert_weight(g, d, l, down, 1, d->hidden, d->mlp), NO_TENSOR, NO_TENSOR };
    if (d->bias) in[4] = decoder_expert_weight(g, d, l, biases, 2, d->mlp, 0), in[5] = decoder_expert_weight(g, d, l, down_bias, 1, d->hidden, 0);
    return graph_add(g, OP_EXPERTS, in, 6, &(op_attrs){ .experts = { .top_k = d->top_k } });
}

/* What attention or an MLP made, as Gemma adds it. */
static inline tensor decoder_made(graph *g, const decoder *d, int l, tensor y, const char *name)
{
    if (!d->gemma) return y;
    tensor in[] = { y, decoder_weight(g, d, l, ROLE_REPL, name, AX_EMBED, d->hidden, AX_NONE, 0) };
    return graph_add(g, OP_RMS_NORM, in, 2, &(op_attrs){ .rms_norm = { 1e-5, 1 } });
}

/* q or k with its position in it. */
static inline tensor decoder_rope(graph *g, const decoder *d, int l, tensor x, tensor table, bool query)
{
    if (!d->llama4) return decoder_two(g, OP_ROPE, x, table);
    op_attrs tuned = { .scale_by_position = { 3, 0.5 } };
    if (l % 2) return query ? graph_add(g, OP_SCALE_BY_POSITION, (tensor[]){ x, case_ints(g, IN_POSITIONS) }, 2, &tuned) : x;
    x = graph_add(g, OP_ROPE, (tensor[]){ x, table }, 2, &(op_attrs){ .rope = { 1 } });
    return graph_add(g, OP_RMS_NORM, &x, 1, &(op_attrs){ .rms_norm = { 1e-5, 0 } });
}

static inline tensor decoder_scales(graph *g, int l)
{
    char full[64];
    snprintf(full, sizeof full, "%d.kv_scales", l);
    graph_set_layer(g, l);
    return graph_weight(g, ROLE_REPL, &(shape){ DT_F32, 1, { 2 }, { AX_NONE } }, &(weight_part){ full, 0, 2, 2, AX_NONE, 0, 0 }, 1);
}

static inline tensor decoder_layer(graph *g, const decoder *d, int l, tensor x, tensor table)
{
    tensor y = decoder_norm(g, d, l, x, "in"), q = decoder_heads(g, d, l, y, "q", AX_HEADS, d->heads), k, v;
    k = decoder_heads(g, d, l, y, "k", AX_KV_HEADS, d->kv_heads);
    v = decoder_heads(g, d, l, y, "v", AX_KV_HEADS, d->kv_heads);
    if (d->qk_norm) q = decoder_norm(g, d, l, q, "q_norm"), k = decoder_norm(g, d, l, k, "k_norm");
    tensor in[] = { decoder_rope(g, d, l, q, table, true), decoder_rope(g, d, l, k, table, false), v, NO_TENSOR, NO_TENSOR };
    if (d->kv_scales) in[4] = decoder_scales(g, l);
    if (d->sinks) in[3] = decoder_weight(g, d, l, ROLE_COL, "sinks", AX_HEADS, d->heads, AX_NONE, 0);
    int64_t window = d->period && (l + 1) % d->period ? 6 : 0;
    y = graph_add(g, OP_PAGED_ATTENTION, in, 5, &(op_attrs){ .paged_attention = { .cache = l, .scale = 0.4, .window = window, .chunk = d->llama4 && l % 2 == 0 ? d->chunk ? d->chunk : 5 : 0 } });
    y = graph_add(g, OP_MERGE_HEADS, &y, 1, NULL);
    x = decoder_two(g, OP_ADD, x, decoder_made(g, d, l, decoder_linear(g, d, l, y, ROLE_ROW, "o", AX_EMBED, d->hidden, d->bias), "o_norm"));
    y = decoder_norm(g, d, l, x, "post");
    if (d->experts) return decoder_two(g, OP_ADD, x, decoder_experts(g, d, l, y));
    tensor gate = decoder_linear(g, d, l, y, ROLE_COL, "gate", AX_MLP, d->mlp, d->bias), up = decoder_linear(g, d, l, y, ROLE_COL, "up", AX_MLP, d->mlp, d->bias);
    y = graph_add(g, OP_GLU, (tensor[]){ gate, up }, 2, &(op_attrs){ .glu = { .act = d->gemma ? ACT_GELU_TANH : ACT_SILU } });
    return decoder_two(g, OP_ADD, x, decoder_made(g, d, l, decoder_linear(g, d, l, y, ROLE_ROW, "down", AX_EMBED, d->hidden, d->bias), "down_norm"));
}

static inline status decoder_whole(const decoder *d, graph **out)
{
    static const float freq[] = { 1, 0.3f, 1, 0.5f }, scale[] = { 1, 1.1f };
    graph *g;
    TRY(graph_new(ops_rules(), &g));
    tensor ids = case_ints(g, IN_TOKENS), pos = case_ints(g, IN_POSITIONS), rows = case_ints(g, IN_ROWS);
    tensor table = graph_add(g, OP_ROPE_TABLE, &pos, 1, &(op_attrs){ .rope_table = { { 2, scale }, { 4, freq } } });
    tensor x = decoder_two(g, OP_EMBED, ids, decoder_weight(g, d, -1, ROLE_VOCAB, "embed", AX_VOCAB, d->vocab, AX_EMBED, d->hidden));
    if (d->gemma) x = graph_add(g, OP_SCALE, &x, 1, &(op_attrs){ .scale = { 5 } });
    for (int l = 0; l < d->layers; l++) x = decoder_layer(g, d, l, x, table);
    graph_set_layer(g, -1);
    x = decoder_two(g, OP_GATHER_ROWS, decoder_norm(g, d, -1, x, "norm"), rows);
    status st = graph_finish(g, decoder_linear(g, d, -1, x, ROLE_VOCAB, d->tied ? "embed" : "head", AX_VOCAB, d->vocab, false));
    if (st == ST_OK) *out = g;
    else graph_free(g);
    return st;
}

/* As a device that makes loops wants it. */
static inline status decoder_graph(const decoder *d, mesh m, graph **out)
{
    graph *whole = NULL, *parts = NULL;
    status st = decoder_whole(d, &whole);
    if (st == ST_OK) st = graph_partition(whole, m, &parts);
    graph_free(whole);
    if (st == ST_OK) st = graph_optimize_uniform(parts, out);
    graph_free(parts);
    return st;
}

/* ---- weights ---- */

/* Of the decoder's whole graph; `stored` is their type. `bad` names a tensor that is wrong in the way that `how` says. */
typedef enum decoder_fault { FAULT_MISSING, FAULT_ROWS, FAULT_COLS, FAULT_RANK, FAULT_TYPE, FAULT_QUANTISED } decoder_fault;
typedef struct decoder_source { weight_source base; const graph *whole; dtype stored; const char *bad; decoder_fault how; int live, gets; } decoder_source;

static inline const node *decoder_find(const graph *whole, const char *name)
{
    for (int id = 1; id <= graph_n_nodes(whole); id++) {
        const node *n = graph_at(whole, id);
        for (int64_t i = 0; n->op == OP_WEIGHT && i < n->a.weight.n_parts; i++)
            if (strcmp(n->a.weight.parts[i].name, name) == 0) return n;
    }
    return NULL;
}

/* Values that every float type holds exactly. */
static inline float decoder_value(const char *name, const node *n, uint32_t i)
{
    uint32_t seed = 5381;
    for (const char *c = name; *c; c++) seed = seed * 33 + (unsigned char)*c;
    float v = case_value(seed, i);
    if (strstr(name, "kv_scales")) return 0.25f + fabsf(v);
    return n->s.rank == weight_rows_dim(n) + 2 ? v / 4 : strstr(name, "bias") ? v / 8 : 1 + floorf(v * 8) / 32;
}

static inline void decoder_spoil(const decoder_source *s, const node *n, weight_data *out)
{
    static const float scales[] = { 1 };
    switch (s->how) {
    case FAULT_MISSING: break;
    case FAULT_ROWS: out->shape[0]--; break;
    case FAULT_COLS: out->shape[1]--; break;
    case FAULT_RANK: out->rank = n->s.rank == 1 ? 2 : 1; break;
    case FAULT_TYPE: out->type = DT_I8; break;
    case FAULT_QUANTISED: out->scales = scales; break;
    }
}

static inline status decoder_get(const weight_source *base, const char *name, weight_data *out)
{
    decoder_source *s = (decoder_source *)(uintptr_t)base;
    const node *n = decoder_find(s->whole, name);
    bool bad = s->bad && strcmp(s->bad, name) == 0;
    if (!n || (bad && s->how == FAULT_MISSING)) return err_set(ST_NOT_FOUND, "there is no tensor %s", name);
    size_t count = (size_t)(n->s.dim[0] * (n->s.rank == 2 ? n->s.dim[1] : 1)), at;
    char *values = mem_array(count + 1, 8);
    if (!values) return err_nomem();
    for (at = 0; at < count; at++) {
        float f = decoder_value(name, n, (uint32_t)at);
        double wide = f;
        if (s->stored == DT_F64) memcpy(values + 8 * at, &wide, 8);
        else dtype_from_f32(s->stored, &f, values + dtype_bytes(s->stored, at), 1);
    }
    *out = (weight_data){ .type = s->stored, .rank = n->s.rank, .shape = { n->s.dim[0], n->s.rank == 2 ? n->s.dim[1] : 0 }, .values = values, .owned = values };
    if (bad) decoder_spoil(s, n, out);
    s->live++;
    s->gets++;
    return ST_OK;
}

static inline void decoder_release(const weight_source *base, const char *name, weight_data *w)
{
    (void)name;
    ((decoder_source *)(uintptr_t)base)->live--;
    mem_free(w->owned);
}

static inline bool decoder_has(const weight_source *base, const char *name) { return decoder_find(((const decoder_source *)(const void *)base)->whole, name) != NULL; }

static inline decoder_source decoder_weights(const graph *whole, dtype stored)
{
    return (decoder_source){ .base = { decoder_get, decoder_release, decoder_has }, .whole = whole, .stored = stored };
}

/* ---- steps ---- */

/* A chunk of prompts, the rest of them beside a decode and a new prompt, decode of all. Block 0 is padding's. */
enum { DECODER_STEPS = 4, DECODER_BLOCK = 4, DECODER_BLOCKS = 42, DECODER_LEN = 36, DECODER_SEQS = 4 };

/* Of data rank `rank`: others have other tokens and lengths. */
static inline void decoder_step(case_step *s, const decoder *d, int step, int rank)
{
    const int r = rank % 3;
    const case_seq seqs[DECODER_STEPS][DECODER_SEQS] = {
        { { 5 + r, 5 + r }, { 7, 7 }, { 0, 0 }, { 0, 0 } },
        { { 14, 9 - r }, { 8, 1 }, { 3, 3 }, { 0, 0 } },
        { { 15, 1 }, { 9, 1 }, { 4, 1 }, { 1, 1 } },
        { { 16, 1 }, { 10, 1 }, { 0, 0 }, { 2, 1 } } };
    int32_t rows[DECODER_SEQS];
    int n = 0;
    case_step_make(s, seqs[step], DECODER_SEQS, NULL, 0, DECODER_BLOCK, DECODER_BLOCKS * DECODER_BLOCK, 1, DECODER_LEN);
    for (int i = 0; i < s->b.n_seqs; i++) rows[n++] = s->cu[i + 1] - 1;
    memcpy(s->rows, rows, (size_t)n * sizeof *rows);
    s->b.n_rows = n;
    for (int t = 0; t < s->b.n_tokens; t++) s->ids[t] = (s->positions[t] * 31 + step * 57 + rank * 13 + t * 5) % d->vocab;
}

static inline int decoder_best(const float *v, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) best = v[i] > v[best] ? i : best;
    return best;
}

/* A decoder's model on a device, and what it came from. */
typedef struct loaded { device *d; graph *whole, *g; device_model *m; decoder_source s; bool own; } loaded;   /* own: closes the device too */

static inline void drop(loaded *l)
{
    device_unload(l->m);
    graph_free(l->g);
    graph_free(l->whole);
    if (l->own) device_close(l->d);
    memset(l, 0, sizeof *l);
}

#endif
