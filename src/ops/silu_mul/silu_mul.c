/* silu_mul(gate, up) -> gate / (1 + exp(-gate)) * up: the gated MLP (Shazeer 2020, arXiv:2002.05202). */
#include <math.h>

#include "ops/op.h"
#include "ops/silu_mul/silu_mul.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *y = op_in(g, n, 1);
    char a[128], b[128];
    TRY(op_need_type("gate", x, DT_F32));
    if (!shape_equal(x, y))
        return err_set(ST_INTERNAL, "gate is %s, up %s", shape_format(x, a, sizeof a), shape_format(y, b, sizeof b));
    *out = *x;
    return ST_OK;
}

static void ref(const ref_call *c)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++) {
        double x = c->in[0].f[i];
        c->out.f[i] = (float)(x / (1 + exp(-x)) * c->in[1].f[i]);
    }
}

static silu_mul_fn *const kernels[ISA_COUNT] = OP_CPU_EACH(silu_mul);

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    enum { PIECE = 1024 };   /* columns: a single row is work for several threads */
    int64_t pieces = (c->out.cols + PIECE - 1) / PIECE, from, to;
    while (cpu_take(c, phase, c->out.rows * pieces, 1, &from, &to)) {
        int64_t r = from / pieces, at = from % pieces * PIECE, n = c->out.cols - at < PIECE ? c->out.cols - at : PIECE;
        kernels[c->isa](c->in[0].f + r * c->in[0].ld + at, c->in[1].f + r * c->in[1].ld + at, c->out.f + r * c->out.ld + at, n);
    }
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
    out->flops += 16 * count;
    out->activation_bytes += 12 * count;
}

static tensor build_case(graph *g, int i, dtype type)
{
    static const int64_t widths[] = { 1, 16, 45, 2060 };
    (void)type;
    if (i >= 4) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, 2 * widths[i], AX_MLP);
    tensor gate = graph_add(g, OP_SLICE, &x, 1, &(op_attrs){ .slice = { 0, widths[i] } });
    tensor up = graph_add(g, OP_SLICE, &x, 1, &(op_attrs){ .slice = { widths[i], 2 * widths[i] } });
    return graph_add(g, OP_SILU_MUL, (tensor[]){ gate, up }, 2, NULL);
}

const op_impl op_silu_mul = { infer, ref, OP_CPU_ALL(cpu), silu_mul_hlo, 1, NULL, NULL, cost, build_case };
