/* head_linear(x [T, h, a], w [h, b, a]) -> [T, h, b]: each head by a matrix of its own, y[t, i] = w[i] x[t, i]. Multi-head latent
 * attention reads its cache through such matrices: queries are brought to the latent's space before, values from it afterwards.
 * On the CPU a head is a product as linear's in float32, so an element has the same bits whatever is beside it. */
#include "ops/linear/qgemm.h"
#include "ops/op.h"

enum { X, W };

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, X), *w = op_in(g, n, W);
    const node *weight = graph_node(g, n->in[W]);
    char a[128], b[128];
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_rank(n, "x", x, 3));
    if (weight->op != OP_WEIGHT || !weight_has_experts(weight)) return err_set(ST_INTERNAL, "the second input must be a weight with a matrix for each head");
    TRY(op_need_rank(n, "the weight", w, 3));
    if (w->dim[0] != x->dim[1] || w->dim[2] != x->dim[2])
        return err_set(ST_INTERNAL, "x is %s, the weight %s", shape_format(x, a, sizeof a), shape_format(w, b, sizeof b));
    if (weight->a.weight.scheme) return err_set(ST_INTERNAL, "the weight is quantised");
    *out = *x;
    out->dim[2] = w->dim[1];
    return ST_OK;
}

static void ref(const ref_call *c)
{
    int64_t heads = c->out.dim[1], a = c->in[X].dim[2], b = c->out.dim[2];
    for (int64_t i = 0; i < c->out.dim[0] * heads * b; i++) {
        int64_t row = i / b, h = row % heads;
        double sum = 0;
        for (int64_t k = 0; k < a; k++) sum += (double)c->in[X].f[row * a + k] * c->in[W].f[(h * b + i % b) * a + k];
        c->out.f[i] = (float)sum;
    }
}

static gemm_fn *const kernels[ISA_COUNT] = OP_CPU_EACH(gemm);

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    int64_t heads = c->n->s.dim[1], a = c->in[X].cols / heads, b = c->n->s.dim[2], h, to;
    while (cpu_take(c, phase, heads, 1, &h, &to)) {
        gemm_weight w = c->in[W].experts[h].base;
        w.n = b;    /* without the padding of whole panels, where the next head begins */
        gemm_call call = { .w = &w, .x = c->in[X].f + h * a, .m = c->out.rows, .ldx = c->in[X].ld, .y = c->out.f + h * b, .ldy = c->out.ld, .scratch = t->scratch };
        kernels[c->isa](&call, 0, gemm_n_panels(b));
    }
}

static void needs(const graph *g, const node *n, const op_limits *l, op_needs *out)
{
    (void)g, (void)n, (void)l;
    out->scratch_bytes = GEMM_SCRATCH_BYTES;
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    const shape *x = op_in(g, n, X), *w = op_in(g, n, W);
    double tokens = op_dim(s, n->s.dim[0]), size = (double)(w->dim[0] * w->dim[1] * w->dim[2]);
    out->flops += 2 * tokens * size;
    out->weight_bytes += size * (double)dtype_bits(w->type) / 8;
    out->activation_bytes += 4 * tokens * (double)(shape_cols(x) + shape_cols(&n->s));
}

static tensor build_case(graph *g, int i, dtype type)
{
    static const struct { int64_t heads, a, b; } cases[] = { { 1, 4, 3 }, { 3, 16, 40 }, { 2, 33, 16 }, { 5, 64, 17 } };
    if (i >= 4) return NO_TENSOR;
    int64_t h = cases[i].heads, a = cases[i].a, b = cases[i].b;
    tensor x = case_input(g, DIM_T, h * a, AX_HEADS);
    x = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { a } });
    weight_part part = { .name = "heads.*.weight", .to = b, .total = b, .out_axis = AX_HEAD_DIM };
    tensor w = graph_weight_of(g, &(shape){ type, 3, { h, b, a }, { AX_EXPERTS, AX_HEAD_DIM, AX_HEAD_DIM } }, &(weight_attrs){ .role = ROLE_COL, .n_parts = 1, .parts = &part });
    return graph_add(g, OP_HEAD_LINEAR, (tensor[]){ x, w }, 2, NULL);
}

const op_impl op_head_linear = { infer, ref, OP_CPU_ALL(cpu), head_linear_hlo, 1, NULL, needs, cost, build_case };
