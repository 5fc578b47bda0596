/* The list of a model's programs and what they need of a device's memory. */
#include "device/pjrt/programs.h"

#include <stdio.h>
#include <string.h>

#include "ops/experts/experts.h"
#include "ops/op.h"

enum { LEAST_DECODE = 8, LEAST_TOKENS = 16, LEAST_COPY = 64 << 20, STEP_ROOM = 256 << 20, ENCODER_ROOM = 64 << 20 };

/* ---- buckets ---- */

static int at_most(int a, int b) { return a < b ? a : b; }

/* Sequence parallelism cuts tokens evenly. */
static int even(int tokens, mesh m) { return m.sp ? (tokens + m.tp - 1) / m.tp * m.tp : tokens; }

/* Rounding up may make two equal. */
static void add_bucket(bucket_list *l, lower_bucket b)
{
    const lower_bucket *last = l->n ? &l->v[l->n - 1] : NULL;
    if (last && last->tokens == b.tokens && last->seqs == b.seqs && last->rows == b.rows && last->decode == b.decode) return;
    if (l->n < MAX_BUCKETS) l->v[l->n++] = b;
}

void buckets_make(const device_limits *l, mesh m, bucket_list *out)
{
    int most_seqs = at_most(l->max_seqs, l->max_tokens);
    out->n = 0;
    if (l->least_rows) {
        for (int t = at_most(l->least_rows, l->max_tokens);; t = at_most(2 * t, l->max_tokens)) {
            add_bucket(out, (lower_bucket){ .tokens = t, .seqs = 1, .rows = t, .encoder = true });
            if (t == l->max_tokens) break;
        }
        return;
    }
    for (int s = at_most(LEAST_DECODE, most_seqs);; s = at_most(2 * s, most_seqs)) {
        add_bucket(out, (lower_bucket){ even(s, m), even(s, m), even(s, m), true, false });
        if (s == most_seqs) break;
    }
    for (int t = at_most(LEAST_TOKENS, l->max_tokens);; t = at_most(2 * t, l->max_tokens)) {
        int n = even(t, m);
        add_bucket(out, (lower_bucket){ n, at_most(n, l->max_seqs), at_most(n, l->max_rows), false, false });
        if (t == l->max_tokens) break;
    }
}

int buckets_pick(const bucket_list *l, const batch *x)
{
    for (int i = 0; i < l->n; i++)
        if (bucket_fits(&l->v[i], x)) return i;
    return -1;
}

/* ---- context ---- */

static bool has_three_positions(const graph *g)
{
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        if (n->op == OP_ROPE_TABLE && n->a.rope_table.height + n->a.rope_table.width > 0) return true;
    }
    return false;
}

status program_context_new(const graph *g, const device_limits *l, dtype act, program_context *out)
{
    lower_plan *plan;
    mesh m = graph_mesh(g);
    TRY(lower_plan_new(g, l->kv_dtype, l->attention.head_multiple, &plan));
    *out = (program_context){ .plan = plan, .limits = *l, .vocab = (int)shape_cols(&graph_node(g, graph_output(g))->s) };
    out->lower = (lower_options){ .act = act, .page = l->block_size, .max_pages = (l->max_model_len + l->block_size - 1) / l->block_size,
                                  .groups = &plan->groups, .three = plan->n_inputs && has_three_positions(g), .see = l->see,
                                  .n_slots = STEP_DEPTH * l->max_seqs + 1, .attention = l->attention };
    buckets_make(l, m, &out->buckets);
    return ST_OK;
}

void program_context_free(program_context *c)
{
    lower_plan_free((lower_plan *)(uintptr_t)c->plan);
    c->plan = NULL;
}

/* ---- specs and texts ---- */

void program_step_spec(const program_context *c, int bucket, program_spec *out)
{
    *out = (program_spec){ .bucket = c->buckets.v[bucket] };
    snprintf(out->name, sizeof out->name, "%s t%d s%d", out->bucket.decode ? "decode" : "step", out->bucket.tokens, out->bucket.seqs);
    if (out->bucket.encoder) snprintf(out->name, sizeof out->name, "encoder t%d", out->bucket.tokens);
}

void program_sampler_spec(const sampler_kind *k, program_spec *out)
{
    *out = (program_spec){ .sampler = true, .kind = *k };
    snprintf(out->name, sizeof out->name, "sample r%d%s%s%s e%d h%d", k->rows, k->random ? " random" : "", k->cut ? " cut" : "", k->mask ? " mask" : "", k->edits, k->history);
}

int program_usual_samplers(const program_context *c, sampler_kind *out, int cap)
{
    int n = 0;
    for (int i = 0; i < c->buckets.n && !c->limits.least_rows; i++)
        for (int random = 0; random < 2; random++) {
            sampler_kind k = { .rows = c->buckets.v[i].rows, .vocab = c->vocab, .n_slots = c->lower.n_slots, .random = random, .cut = random };
            bool have = false;
            for (int j = 0; j < n && !have; j++) have = out[j].rows == k.rows && out[j].random == k.random && out[j].cut == k.cut;
            if (!have && n < cap) out[n++] = k;
        }
    return n;
}

status program_text(const program_context *c, const program_spec *s, buf *out)
{
    return s->sampler ? sampler_program(&s->kind, graph_mesh(c->plan->g), out) : lower_step(c->plan, &s->bucket, &c->lower, out);
}

void program_options(const graph *g, const char *kind, pjrt_compile_options *out)
{
    /* Else that chip re-tiles all stacked weights on every step. */
    static const pjrt_value tpu7x[] = { { .name = "xla_tpu_control_large_2nd_minor_layout_for_x16", .kind = PJRT_BOOL, .b = false } };
    mesh m = graph_mesh(g);
    *out = (pjrt_compile_options){ .n_partitions = m.dp * m.tp };
    if (strncmp(kind, "TPU7", 4) != 0) return;
    out->overrides = tpu7x;
    out->n_overrides = 1;
}

/* ---- memory ---- */

static int64_t elements(const shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->rank; i++) n *= s->dim[i];
    return n;
}

int64_t program_weight_bytes(const program_context *c)
{
    int64_t bytes = 0;
    for (int i = 0; i < c->plan->n_weights; i++) {
        const lower_weight *w = &c->plan->weights[i];
        bytes += (int64_t)dtype_bytes(w->s.type, (size_t)(elements(&w->s) * w->n));
    }
    return bytes;
}

int64_t program_page_bytes(const program_context *c)
{
    int64_t bytes = 0;
    for (int i = 0; i < c->plan->n_caches; i++) bytes += lower_cache_page_bytes(&c->plan->caches[i], c->lower.page) * c->plan->caches[i].n_places;
    return bytes;
}

int64_t program_layer_cache_bytes(const program_context *c)
{
    int64_t least = INT64_MAX;
    for (int i = 0; i < c->plan->n_caches; i++) {
        if (c->plan->caches[i].of_scales) continue;
        int64_t b = lower_cache_page_bytes(&c->plan->caches[i], c->lower.page) * c->lower.n_pages;
        least = b < least ? b : least;
    }
    return least;
}

/* Columns of a layer's widest activation. */
static int64_t widest_activation(const program_context *c)
{
    int64_t widest = 0;
    const graph *g = c->plan->g;
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        if (op_is(n->op, OPF_LEAF) || n->s.dim[0] != DIM_T) continue;
        int64_t cols = shape_cols(&n->s);
        widest = cols > widest ? cols : widest;
    }
    return widest;
}

/* Rows of encoders: zeros for the buckets, of which each has twice the tokens of the one before, and those of the steps in flight. */
static int64_t input_bytes(const program_context *c)
{
    int64_t cols = 0;
    for (int i = 0; i < c->plan->n_inputs; i++) cols += shape_cols(&graph_at(c->plan->g, c->plan->inputs[i])->s);
    return (2 + STEP_DEPTH) * cols * c->limits.max_tokens * 4;
}

/* The widest activation of a layer decides what lives beside each other; attention gathers KV in blocks of 32 MiB. An encoder's rows come and go
 * one item at a time. */
int64_t program_step_bytes(const program_context *c)
{
    if (c->limits.least_rows) {
        int64_t cols = c->vocab, act = (int64_t)dtype_bytes(c->lower.act, 1);
        for (int i = 0; i < c->plan->n_inputs; i++) cols += shape_cols(&graph_at(c->plan->g, c->plan->inputs[i])->s);
        return (3 * act * widest_activation(c) + 4 * cols) * c->limits.max_tokens + ENCODER_ROOM;
    }
    int64_t vocab_bytes = (int64_t)c->limits.max_rows * c->vocab * 4;
    return 6 * widest_activation(c) * c->limits.max_tokens * 4 + 4 * vocab_bytes + input_bytes(c) + STEP_ROOM;
}

int64_t program_kv_bytes(const program_context *c, int64_t memory_bytes, double utilization)
{
    return (int64_t)((double)memory_bytes * utilization) - program_weight_bytes(c) - program_step_bytes(c);
}

/* What quantised experts have beside other activations (experts_hlo.c): the largest matrix of one in f32, since a tile's expert is widened whole
 * where no kernel multiplies, and a part of the rows of all tiles where one does. */
static int64_t expert_bytes(const program_context *c)
{
    int64_t most = 0;
    const graph *g = c->plan->g;
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        for (int i = EXPERTS_W_IN; n->op == OP_EXPERTS && i <= EXPERTS_W_OUT; i++) {
            const node *w = graph_node(g, n->in[i]);
            int64_t bytes = w->a.weight.scheme ? 4 * weight_rows(w) * weight_cols(w) : 0;
            most = bytes > most ? bytes : most;
        }
    }
    return most ? most + experts_part_bytes : 0;
}

/* Activations as they are summed and quantised: in f32. */
bool program_copies_cache(const program_context *c, const lower_bucket *b, const pjrt_stats *s)
{
    int64_t beside_it = 2 * (int64_t)b->tokens * widest_activation(c) * 4 + expert_bytes(c);
    return s->temp_bytes >= LEAST_COPY && s->temp_bytes >= program_layer_cache_bytes(c) + beside_it;
}
