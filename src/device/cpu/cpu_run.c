/* One step of the engine: all threads walk the plan together. */
#include <string.h>

#include "device/cpu/cpu.h"

/* ---- what the engine hands in ---- */

static status check_range(const char *what, const int32_t *v, int n, int64_t most)
{
    for (int i = 0; i < n; i++)
        if (v[i] < 0 || v[i] >= most) return err_set(ST_INVALID, "batch: %s[%d] is %d, expected 0 to %lld", what, i, v[i], (long long)most - 1);
    return ST_OK;
}

static status check_seq(const cpu_model *m, const batch *b, int s)
{
    int q = b->cu_q_lens[s + 1] - b->cu_q_lens[s];
    if (q < 1 || b->cu_q_lens[s] < 0 || b->cu_q_lens[s + 1] > b->n_tokens || b->kv_lens[s] < q || b->kv_lens[s] > m->limits.max_model_len)
        return err_set(ST_INVALID, "batch: sequence %d has %d new tokens of %d, at most %d", s, q, b->kv_lens[s], m->limits.max_model_len);
    int pages = (b->kv_lens[s] + m->limits.block_size - 1) / m->limits.block_size;
    if (pages > b->max_pages) return err_set(ST_INVALID, "batch: sequence %d needs %d pages, its row has %d", s, pages, b->max_pages);
    for (int g = 0; g < m->groups.n_groups; g++) TRY(check_range("page_table", batch_pages(b, g, s), pages, m->n_blocks));
    return ST_OK;
}

static status check_batch(const cpu_model *m, const batch *b)
{
    const op_limits *l = &m->limits;
    if (b->n_tokens < 1 || b->n_tokens > l->max_tokens || b->n_seqs < 1 || b->n_seqs > l->max_seqs || b->n_rows < 0 || b->n_rows > l->max_rows)
        return err_set(ST_INVALID, "batch: %d tokens, %d sequences, %d rows; planned for %d, %d, %d", b->n_tokens, b->n_seqs, b->n_rows,
                       l->max_tokens, l->max_seqs, l->max_rows);
    if (m->n_caches == 0) return b->positions ? check_range("positions", b->positions, b->n_tokens, INT32_MAX) : ST_OK; /* an encoder */
    if (b->cu_q_lens[0] != 0 || b->cu_q_lens[b->n_seqs] != b->n_tokens) return err_set(ST_INVALID, "batch: cu_q_lens does not span the tokens");
    if (batch_groups(b) != m->groups.n_groups)
        return err_set(ST_INVALID, "batch: pages for %d groups of layers, the model has %d", batch_groups(b), m->groups.n_groups);
    for (int s = 0; s < b->n_seqs; s++) TRY(check_seq(m, b, s));
    if (m->vocab) TRY(check_range("token_ids", b->token_ids, b->n_tokens, m->vocab));
    TRY(check_range("positions", b->positions, b->n_tokens, INT32_MAX));
    TRY(check_range("slots", b->slots, b->n_tokens * m->groups.n_groups, (int64_t)m->n_blocks * l->block_size));
    return check_range("rows", b->rows, b->n_rows, b->n_tokens);
}

/* ---- the walk ---- */

static int64_t rows_of(const batch *b, int64_t dim) { return dim == DIM_T ? b->n_tokens : dim == DIM_S ? b->n_seqs : dim == DIM_R ? b->n_rows : dim; }

static const int32_t *input_of(const batch *b, int64_t kind)
{
    return kind == IN_TOKENS ? b->token_ids : kind == IN_POSITIONS ? b->positions : b->rows;
}

static void bind_step(const cpu_model *m, step *s, const batch *b)
{
    const node *n = s->call.n;
    s->call.b = b;
    for (int i = 0; i < n->n_in; i++) {
        const node *in = graph_node(m->g, n->in[i]);
        s->call.in[i].rows = rows_of(b, in->s.dim[0]);
        if (in->op == OP_INPUT && in->a.input.kind != IN_ACTIVATION) s->call.in[i].i = input_of(b, in->a.input.kind);
        if (in->op == OP_INPUT && in->a.input.kind == IN_ACTIVATION)
            s->call.in[i].f = (b->activations ? (float *)(uintptr_t)b->activations[m->places[n->in[i].id].offset] : m->zeros) + m->places[n->in[i].id].col;
        if (m->places[n->in[i].id].kind == PLACE_LOGITS) s->call.in[i].f = b->logits + m->places[n->in[i].id].col;
    }
    s->call.out.rows = rows_of(b, n->s.dim[0]);
    if (n == graph_node(m->g, graph_output(m->g))) s->call.out.f = b->logits;
}

static void walk(void *arg, int thread)
{
    cpu_model *m = arg;
    pool *p = m->dev->pool;
    cpu_thread t = { thread, m->scratch + (size_t)thread * m->scratch_bytes };
    for (int i = 0; i < m->n_steps; i++) {
        step *s = &m->steps[i];
        if (s->barrier) pool_barrier(p);
        op_cpu_fn *fn = s->impl->cpu[s->call.isa];
        for (int phase = 0; phase < s->impl->n_phases; phase++) {
            if (phase > 0) {
                if (s->impl->skip_phase && s->impl->skip_phase(&s->call, phase)) continue;
                pool_barrier(p);
            }
            fn(&s->call, &t, phase);
        }
    }
}

status cpu_run(device_model *dm, const batch *b)
{
    cpu_model *m = (cpu_model *)(void *)dm;
    TRY(check_batch(m, b));
    for (int i = 0; i < m->n_steps; i++) {
        bind_step(m, &m->steps[i], b);
        for (int j = 0; j < OP_COUNTERS; j++) atomic_store_explicit(&m->counters[i * COUNTERS + j], 0, memory_order_relaxed);
    }
    pool_run(m->dev->pool, walk, m);
    return ST_OK;
}
