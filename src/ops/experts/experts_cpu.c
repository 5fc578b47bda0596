/* experts on the CPU.
 *
 * Every thread groups the step's (token, expert) pairs by expert for itself: a counting sort, so pairs are in order of expert, then
 * token. Work is cut into ranges of panels over all experts that have tokens, so that a single token's few experts keep as many
 * threads busy as a long prompt's many; an expert without tokens is never read.
 *   IN      gate and up of some columns for all rows of an expert, through the activation, to the pairs' inner rows
 *   ROUND   those to int8 or e4m3, where the outer weight wants it and rows are many; few are rounded by whoever needs them
 *   OUT     some columns of the result: zero, then expert after expert, ascending, each row's product times its weight is added
 * So a token's result is one chain over its own experts, whatever else is in the batch. */
#include <string.h>

#include "ops/experts/experts.h"
#include "ops/glu/glu.h"
#include "ops/linear/rows.h"

enum { MOST_ROWS = 64, MOST_PANELS = 12 };   /* of a product at once: its rows and results stay in the second-level cache */

static glu_fn *const glus[ISA_COUNT] = OP_CPU_EACH(glu);

/* ---- which rows go where ---- */

typedef struct pair { int32_t token; float weight; } pair;
typedef struct groups {
    int32_t n_hit, *expert;  /* [n_hit] that have tokens, ascending */
    int32_t *start;          /* [n_hit + 1] first of their pairs */
    pair *pairs;
} groups;

static size_t line(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t groups_bytes(int64_t experts, int64_t pairs)
{
    return line((size_t)(2 * experts + 1) * sizeof(int32_t)) + line((size_t)pairs * sizeof(pair));
}

/* The first top_k experts of a token, should it have more. */
static groups make_groups(const cpu_call *c, char *mem)
{
    const cpu_tensor *combine = &c->in[EXPERTS_COMBINE];
    int64_t experts = c->in[EXPERTS_W_IN].rows, rows = combine->rows, top = c->n->a.experts.top_k;   /* of a partitioned graph the first rank's */
    groups g = { 0, (int32_t *)(void *)mem, (int32_t *)(void *)mem + experts, (pair *)(void *)(mem + line((size_t)(2 * experts + 1) * sizeof(int32_t))) };
    int32_t *count = g.start, at = 0;
    memset(count, 0, (size_t)experts * sizeof *count);
    for (int64_t t = 0; t < rows; t++) {
        const float *w = combine->f + t * combine->ld;
        for (int64_t e = 0, n = 0; e < experts && n < top; e++)
            if (w[e] != 0) count[e]++, n++;
    }
    for (int64_t e = 0; e < experts; e++) {     /* count becomes where the expert's next pair goes */
        int32_t n = count[e];
        count[e] = at;
        at += n;
    }
    for (int64_t t = 0; t < rows; t++) {
        const float *w = combine->f + t * combine->ld;
        for (int64_t e = 0, n = 0; e < experts && n < top; e++)
            if (w[e] != 0) g.pairs[count[e]++] = (pair){ (int32_t)t, w[e] }, n++;
    }
    for (int64_t e = 0, from = 0; e < experts; e++) {   /* now count is where the expert's pairs end */
        int32_t end = count[e];
        if (end == from) continue;
        g.start[g.n_hit] = (int32_t)from;
        g.expert[g.n_hit++] = (int32_t)e;
        from = end;
    }
    g.start[g.n_hit] = at;
    return g;
}

/* ---- memory ---- */

static int64_t inner(const cpu_call *c) { return c->in[EXPERTS_W_OUT].w->k; }
static rows_form form_of(const cpu_call *c, int weight) { return rows_form_of(c->isa, c->in[weight].type, c->in[weight].w); }

/* A thread's: groups, kernels' own, rows in their form, results of two parts. */
typedef struct room { groups g; void *kernel; char *rows; float *y; int64_t ldy; } room;

static room enter(const cpu_call *c, const cpu_thread *t)
{
    char *mem = t->scratch;
    room r = { .g = make_groups(c, mem), .ldy = MOST_PANELS * GEMM_PANEL };
    mem += groups_bytes(c->in[EXPERTS_W_IN].rows, c->limits->max_tokens * c->n->a.experts.top_k);
    r.kernel = mem;
    r.y = (float *)(void *)(mem + line(GEMM_SCRATCH_BYTES));
    r.rows = (char *)(r.y + 2 * MOST_ROWS * r.ldy);
    return r;
}

/* Inner rows: one per pair, in the outer weight's form, or float32 until they are rounded. */
static bool rounds_first(const cpu_call *c)
{
    rows_form f = form_of(c, EXPERTS_W_OUT);
    return rows_rounds(f.scheme) && c->out.rows * c->n->a.experts.top_k > 16;
}
static size_t inner_bytes(int64_t k) { return line((size_t)k * sizeof(float)) + 64; }
static char *inner_row(const cpu_call *c, int64_t p) { return (char *)c->state + (size_t)p * inner_bytes(inner(c)); }
static char *rounded_row(const cpu_call *c, const rows_form *f, int64_t p)
{
    return (char *)c->state + (size_t)(c->limits->max_tokens * c->n->a.experts.top_k) * inner_bytes(inner(c)) + (size_t)p * f->bytes;
}

void experts_needs(const graph *g, const node *n, const op_limits *l, op_needs *out)
{
    const node *in = graph_node(g, n->in[EXPERTS_W_IN]), *to = graph_node(g, n->in[EXPERTS_W_OUT]);
    int64_t pairs = l->max_tokens * n->a.experts.top_k;
    quant_scheme s = (quant_scheme)to->a.weight.scheme;
    size_t a = rows_bytes_most((quant_scheme)in->a.weight.scheme, weight_cols(in)), b = rows_bytes_most(s, weight_cols(to));
    out->scratch_bytes = groups_bytes(weight_experts(in), pairs) + line(GEMM_SCRATCH_BYTES) +
                         2 * MOST_ROWS * MOST_PANELS * GEMM_PANEL * sizeof(float) + MOST_ROWS * (a > b ? a : b);
    out->state_bytes = (size_t)pairs * inner_bytes(weight_cols(to));
    if (rows_rounds(s)) out->state_bytes += (size_t)pairs * b;
}

/* Panels that a thread takes at once: about eight pieces a thread, and twelve panels at most. */
static int64_t grain_of(const cpu_call *c, int64_t panels, int64_t times)
{
    int64_t grain = panels * times / (8 * c->limits->n_threads);
    grain = grain < 1 ? 1 : grain > MOST_PANELS ? MOST_PANELS : grain;
    return grain < panels ? grain : panels;
}

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

static void count_bytes(const cpu_call *c, int64_t bytes) { atomic_fetch_add_explicit(&c->counters[OP_COUNT_BYTES], bytes, memory_order_relaxed); }

/* ---- the inner product ---- */

/* x of some pairs, in the weight's form. */
static void take_rows(const cpu_call *c, const rows_form *f, const pair *p, int64_t n, char *rows, float *scaled)
{
    const cpu_tensor *x = &c->in[EXPERTS_X];
    for (int64_t i = 0; i < n; i++) {
        const float *src = x->f + p[i].token * x->ld;
        if (c->n->a.experts.scale_input) {
            for (int64_t k = 0; k < x->cols; k++) scaled[k] = src[k] * p[i].weight;
            src = scaled;
        }
        rows_put(f, c->isa, src, rows + (size_t)i * f->bytes);
    }
}

/* Panels [p0, p0 + panels) of gate and of up, for the pairs of the i-th expert that has some. */
static void inner_piece(const cpu_call *c, const room *r, int64_t i, int64_t p0, int64_t panels)
{
    const qgemm_weight *w = &c->in[EXPERTS_W_IN].experts[r->g.expert[i]];
    int64_t f = inner(c), col = p0 * GEMM_PANEL, n = at_most(panels * GEMM_PANEL, f - col), up = gemm_n_panels(f);
    const float *bias = op_has_in(c->n, EXPERTS_BIAS_IN) ? c->in[EXPERTS_BIAS_IN].f + r->g.expert[i] * 2 * f + col : NULL;
    rows_form in = form_of(c, EXPERTS_W_IN), to = form_of(c, EXPERTS_W_OUT);
    glu_params params = { (activation)c->n->a.experts.act, (float)c->n->a.experts.alpha, (float)c->n->a.experts.limit };
    float *gate = r->y, *other = r->y + MOST_ROWS * r->ldy;
    in.w = w;
    for (int64_t at = r->g.start[i], m; at < r->g.start[i + 1]; at += m) {
        m = at_most(r->g.start[i + 1] - at, MOST_ROWS);
        take_rows(c, &in, r->g.pairs + at, m, r->rows, gate);
        rows_call call = { .w = w, .rows = r->rows, .m = m, .y = gate, .ldy = r->ldy, .bias = bias, .columns = n, .scratch = r->kernel };
        rows_product(&in, c->isa, &call, p0);
        call.y = other;
        call.bias = bias ? bias + f : NULL;
        rows_product(&in, c->isa, &call, up + p0);
        for (int64_t k = 0; k < m; k++) {
            float *y = gate + k * r->ldy, *row = (float *)(void *)inner_row(c, at + k);
            if (to.kind == ROWS_BF16) {
                glus[c->isa](&params, y, other + k * r->ldy, y, n);
                rows_put(&(rows_form){ .kind = ROWS_BF16, .k = n }, c->isa, y, (char *)row + col * 2);
            } else {
                glus[c->isa](&params, y, other + k * r->ldy, row + col, n);
            }
        }
    }
    count_bytes(c, 2 * gemm_n_panels(n) * (int64_t)rows_panel_bytes(w));
}

static void inner_work(const cpu_call *c, const room *r)
{
    int64_t panels = gemm_n_panels(inner(c)), grain = grain_of(c, panels, r->g.n_hit), chunks = (panels + grain - 1) / grain, from, to;
    while (cpu_take(c, EXPERTS_IN, r->g.n_hit * chunks, 1, &from, &to))
        inner_piece(c, r, from / chunks, from % chunks * grain, at_most(grain, panels - from % chunks * grain));
}

/* ---- the outer product ---- */

static void round_work(const cpu_call *c, const room *r)
{
    rows_form f = form_of(c, EXPERTS_W_OUT);
    int64_t from, to, i = 0;
    while (cpu_take(c, EXPERTS_ROUND, r->g.start[r->g.n_hit], 4, &from, &to))
        for (; from < to; from++) {
            while (r->g.start[i + 1] <= from) i++;
            f.w = &c->in[EXPERTS_W_OUT].experts[r->g.expert[i]];
            rows_put(&f, c->isa, (const float *)(const void *)inner_row(c, from), rounded_row(c, &f, from));
        }
}

/* The inner rows of pairs from `at` on, in the outer weight's form. */
static const void *outer_rows(const cpu_call *c, const room *r, rows_form *f, int64_t at, int64_t m)
{
    if (rounds_first(c)) return rounded_row(c, f, at);
    if (!rows_rounds(f->scheme)) {
        f->bytes = inner_bytes(inner(c));
        return inner_row(c, at);
    }
    for (int64_t k = 0; k < m; k++) rows_put(f, c->isa, (const float *)(const void *)inner_row(c, at + k), r->rows + (size_t)k * f->bytes);
    return r->rows;
}

/* Panels [p0, p0 + panels) of the result. */
static void outer_piece(const cpu_call *c, const room *r, int64_t p0, int64_t panels)
{
    int64_t col = p0 * GEMM_PANEL, n = at_most(panels * GEMM_PANEL, c->out.cols - col);
    bool scale = !c->n->a.experts.scale_input;
    rows_form f = form_of(c, EXPERTS_W_OUT);
    for (int64_t t = 0; t < c->out.rows; t++) memset(c->out.f + t * c->out.ld + col, 0, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < r->g.n_hit; i++) {
        const qgemm_weight *w = &c->in[EXPERTS_W_OUT].experts[r->g.expert[i]];
        const float *bias = op_has_in(c->n, EXPERTS_BIAS_OUT) ? c->in[EXPERTS_BIAS_OUT].f + r->g.expert[i] * c->out.cols + col : NULL;
        for (int64_t at = r->g.start[i], m; at < r->g.start[i + 1]; at += m) {
            m = at_most(r->g.start[i + 1] - at, MOST_ROWS);
            rows_form own = f;
            own.w = w;
            const void *rows = outer_rows(c, r, &own, at, m);
            rows_product(&own, c->isa, &(rows_call){ .w = w, .rows = rows, .m = m, .y = r->y, .ldy = r->ldy, .bias = bias, .columns = n, .scratch = r->kernel }, p0);
            for (int64_t k = 0; k < m; k++) {
                const pair *p = &r->g.pairs[at + k];
                float *out = c->out.f + p->token * c->out.ld + col, weight = scale ? p->weight : 1;
                const float *y = r->y + k * r->ldy;
                for (int64_t j = 0; j < n; j++) out[j] += weight * y[j];
            }
        }
        count_bytes(c, gemm_n_panels(n) * (int64_t)rows_panel_bytes(w));
    }
}

static void outer_work(const cpu_call *c, const room *r)
{
    int64_t panels = gemm_n_panels(c->out.cols), grain = grain_of(c, panels, 1), from, to;
    while (cpu_take(c, EXPERTS_OUT, panels, grain, &from, &to)) outer_piece(c, r, from, to - from);
}

void experts_cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    room r = enter(c, t);
    if (phase == EXPERTS_IN) inner_work(c, &r);
    else if (phase == EXPERTS_ROUND) round_work(c, &r);
    else outer_work(c, &r);
}

bool experts_skips(const cpu_call *c, int phase) { return phase == EXPERTS_ROUND && !rounds_first(c); }
