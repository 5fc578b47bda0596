/* linear(x [M, K], w [N, K], bias [N]?, residual [M, N]?) -> x @ w^T + bias + residual. The kernels are in gemm.h. */
#include "ops/linear/amx.h"
#include "ops/linear/qgemm_linear.h"
#include "ops/linear/share.h"
#include "ops/op.h"

enum { X, W, BIAS, RESIDUAL };

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, X), *w = op_in(g, n, W);
    char a[128], b[128];
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_rank(n, "x", x, 2));
    TRY(op_need_rank(n, "the weight", w, 2));
    if (graph_node(g, n->in[W])->op != OP_WEIGHT) return err_set(ST_INTERNAL, "the second input must be a weight");
    if (w->type != DT_F32 && w->type != DT_BF16 && w->type != DT_F16) return err_set(ST_INTERNAL, "the weight is %s", dtype_name(w->type));
    if (x->dim[1] != w->dim[1])
        return err_set(ST_INTERNAL, "x is %s, the weight %s: inner dimensions differ", shape_format(x, a, sizeof a), shape_format(w, b, sizeof b));
    if (x->axes[1] != w->axes[1])
        return err_set(ST_INTERNAL, "x's inner axis is %s, the weight's %s", axis_name(x->axes[1]), axis_name(w->axes[1]));
    *out = (shape){ DT_F32, 2, { x->dim[0], w->dim[0] }, { x->axes[0], w->axes[0] } };
    if (op_has_in(n, BIAS)) {
        const shape *bias = op_in(g, n, BIAS);
        if (bias->rank != 1 || bias->dim[0] != w->dim[0])
            return err_set(ST_INTERNAL, "the bias is %s, the weight %s", shape_format(bias, a, sizeof a), shape_format(w, b, sizeof b));
    }
    if (op_has_in(n, RESIDUAL) && !shape_equal(op_in(g, n, RESIDUAL), out))
        return err_set(ST_INTERNAL, "the residual is %s, the result %s", shape_format(op_in(g, n, RESIDUAL), a, sizeof a), shape_format(out, b, sizeof b));
    return ST_OK;
}

static void ref(const ref_call *c)
{
    int64_t m = c->out.dim[0], n = c->out.dim[1], k = c->in[X].dim[1];
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++) sum += (double)c->in[X].f[i * k + l] * c->in[W].f[j * k + l];
            if (op_has_in(c->n, BIAS)) sum += c->in[BIAS].f[j];
            if (op_has_in(c->n, RESIDUAL)) sum += c->in[RESIDUAL].f[i * n + j];
            c->out.f[i * n + j] = (float)sum;
        }
}

static gemm_fn *const kernels[ISA_COUNT] = OP_CPU_EACH(gemm);

/* Rows that stay in the second-level cache while a thread's panels pass: 1 MiB of activations less room for the weights. */
static int64_t row_block(int64_t k)
{
    int64_t rows = (int64_t)(512 << 10) / (k * 4) / GEMM_MR * GEMM_MR;
    return rows < 8 * GEMM_MR ? 8 * GEMM_MR : rows;
}

/* Activations as a kernel takes them: 32-bit lanes, ld apart. */
typedef struct operand { const float *x; int64_t ld; } operand;

static void product(const cpu_call *c, const cpu_thread *t, int phase, gemm_fn *fn, operand in, int64_t block)
{
    const gemm_weight *w = c->in[W].w;
    gemm_piece p;
    while (gemm_take(c, phase, gemm_n_panels(w->n), c->out.rows >= GEMM_MR && !amx_uses_tiles(c->isa) ? 3 : 4, block, &p)) {
        gemm_call call = { .w = w, .x = in.x + p.row * in.ld, .m = p.m, .ldx = in.ld, .y = c->out.f + p.row * c->out.ld, .ldy = c->out.ld, .scratch = t->scratch };
        if (op_has_in(c->n, BIAS)) call.bias = c->in[BIAS].f;
        if (op_has_in(c->n, RESIDUAL)) {
            call.residual = c->in[RESIDUAL].f + p.row * c->in[RESIDUAL].ld;
            call.ldr = c->in[RESIDUAL].ld;
        }
        fn(&call, p.p0, p.p1);
    }
}

#if defined(__x86_64__)
gemm_fn *gemm_dot_of(isa set)
{
    return set == ISA_avx512_bf16 ? gemm_dot_avx512bf16 : set == ISA_avx512_amx ? gemm_dot_amx : set == ISA_avx512_amx_emulated ? gemm_dot_amx_emulated : NULL;
}

/* The dot product needs rounded activations. Few of them every thread rounds for itself, which takes less time than waiting for
 * each other; many are rounded together in phase 0, and the product is phase 1. */
static bool is_dot(const cpu_call *c) { return gemm_dot_of(c->isa) && c->in[W].type == DT_BF16 && c->in[W].w->type == DT_BF16; }
static int64_t lanes_ld(int64_t k) { return (gemm_pairs(k) + 15) / 16 * 16 + 16; }   /* whole cache lines, no power of two */
static bool rounds_alone(const cpu_call *c) { return c->out.rows * lanes_ld(c->in[X].cols) * 4 <= 32 << 10; }

static void dot(const cpu_call *c, const cpu_thread *t, int phase)
{
    int64_t k = c->in[X].cols, ld = lanes_ld(k), from, to;
    if (rounds_alone(c)) {
        float *own = t->scratch;
        for (int64_t r = 0; r < c->out.rows; r++) gemm_round_avx512bf16(c->in[X].f + r * c->in[X].ld, k, own + r * ld);
        product(c, t, phase, gemm_dot_of(c->isa), (operand){ own, ld }, c->out.rows);
    } else if (phase == 0) {
        float *all = c->state;
        while (cpu_take(c, phase, c->out.rows, 4, &from, &to))
            for (; from < to; from++) gemm_round_avx512bf16(c->in[X].f + from * c->in[X].ld, k, all + from * ld);
    } else {
        product(c, t, phase, gemm_dot_of(c->isa), (operand){ c->state, ld }, row_block(gemm_pairs(k)));
    }
}

static bool skip_phase(const cpu_call *c, int phase) { return phase == 1 && (!is_dot(c) || rounds_alone(c)); }
#else
static bool is_dot(const cpu_call *c) { return (void)c, false; }
static int64_t lanes_ld(int64_t k) { return (void)k, 0; }
static void dot(const cpu_call *c, const cpu_thread *t, int phase) { (void)c, (void)t, (void)phase; }
static bool skip_phase(const cpu_call *c, int phase) { return (void)c, phase == 1; }
#endif

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    if (qgemm_is(c->in[W].w)) qgemm_linear(c, t, phase);
    else if (is_dot(c)) dot(c, t, phase);
    else product(c, t, phase, kernels[c->isa], (operand){ c->in[X].f, c->in[X].ld }, row_block(c->in[X].cols));
}

static bool skips(const cpu_call *c, int phase) { return qgemm_is(c->in[W].w) ? qgemm_linear_skips(c, phase) : skip_phase(c, phase); }

static quant_scheme scheme_of(const graph *g, const node *n) { return (quant_scheme)graph_node(g, n->in[W])->a.weight.scheme; }

static void needs(const graph *g, const node *n, const op_limits *l, op_needs *out)
{
    int64_t dim = n->s.dim[0], rows = dim == DIM_T ? l->max_tokens : dim == DIM_S ? l->max_seqs : dim == DIM_R ? l->max_rows : dim;
    out->scratch_bytes = GEMM_SCRATCH_BYTES;
    if (scheme_of(g, n)) qgemm_linear_needs(scheme_of(g, n), op_in(g, n, W)->dim[1], rows, out);
    if (scheme_of(g, n) || op_in(g, n, W)->type != DT_BF16) return;
    out->state_bytes = (size_t)(rows * lanes_ld(op_in(g, n, W)->dim[1])) * 4;
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    double m = op_dim(s, n->s.dim[0]), cols = (double)n->s.dim[1], k = (double)op_in(g, n, X)->dim[1];
    out->flops += 2 * m * cols * k;
    out->weight_bytes += cols * k * (scheme_of(g, n) ? quant_bits(scheme_of(g, n), k) : (double)dtype_bits(op_in(g, n, W)->type)) / 8;
    out->activation_bytes += 4 * m * (k + cols * (op_has_in(n, RESIDUAL) ? 2 : 1));
}

static tensor build_case(graph *g, int i, dtype type)
{
    static const struct { int64_t n, k; bool bias, residual, by_rows; } cases[] = {
        { 1, 1, false, false, false }, { 16, 16, true, false, false }, { 48, 33, false, true, false }, { 130, 257, true, true, false },
        { 64, 1030, false, false, true }, { 33, 64, true, true, false }, { 15, 1, false, false, true } };
    if (i >= 7) return NO_TENSOR;
    tensor x = case_input(g, cases[i].by_rows ? DIM_R : DIM_T, cases[i].k, AX_EMBED);
    tensor in[] = { x, case_weight(g, "w", type, cases[i].n, cases[i].k), NO_TENSOR, NO_TENSOR };
    if (cases[i].bias) in[BIAS] = case_weight(g, "bias", type, cases[i].n, 0);
    if (cases[i].residual) in[RESIDUAL] = case_input(g, DIM_T, cases[i].n, AX_EMBED);
    return graph_add(g, OP_LINEAR, in, 4, NULL);
}

const op_impl op_linear = { infer, ref, OP_CPU_ALL(cpu), linear_hlo, 2, skips, needs, cost, build_case };
