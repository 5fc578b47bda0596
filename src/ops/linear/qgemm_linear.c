#include "ops/linear/qgemm_linear.h"

enum { X, W, BIAS, RESIDUAL };

const qgemm_kernels *qgemm_kernels_of(isa i)
{
    if (i == ISA_portable) return &qgemm_portable;
#if defined(__x86_64__)
    if (i != ISA_avx2 && qgemm_avx512vnni.available()) return &qgemm_avx512vnni;
    if (qgemm_avxvnni.available()) return &qgemm_avxvnni;
    return &qgemm_avx2;
#endif
    return &qgemm_portable;
}

qgemm_fn *qgemm_wide_of(isa i)
{
#if defined(__x86_64__)
    if (i == ISA_avx2) return qgemm_wide_avx2;
    if (i != ISA_portable) return qgemm_wide_avx512;
#endif
    (void)i;
    return qgemm_wide_portable;
}

static const qgemm_weight *weight_of(const cpu_call *c) { return (const qgemm_weight *)(const void *)c->in[W].w; }

/* ---- rounded activations ---- */

/* Rows of int8 start on cache lines, and not all in the same sets of the caches. */
static int64_t row_bytes(quant_scheme s, int64_t k)
{
    int64_t bytes = (qgemm_padded_k(s, k) + 63) / 64 * 64;
    return bytes % 1024 == 0 ? bytes + 64 : bytes;
}

/* Where rows are rounded to: all values, then all scales. */
typedef struct rounded { int8_t *q; qgemm_scale *s; int64_t ldq, lds; } rounded;
static rounded rounded_at(void *mem, quant_scheme s, int64_t k, int64_t rows)
{
    int64_t ldq = row_bytes(s, k);
    return (rounded){ mem, (qgemm_scale *)(void *)((char *)mem + rows * ldq), ldq, qgemm_groups(s, k) };
}

static size_t rounded_bytes(quant_scheme s, int64_t k, int64_t rows)
{
    return (size_t)(rows * (row_bytes(s, k) + qgemm_groups(s, k) * (int64_t)sizeof(qgemm_scale)));
}

/* Few rows every thread rounds for itself, which takes less time than waiting for each other. */
enum { ALONE_BYTES = 16 << 10 };
static bool rounds_alone(const cpu_call *c) { return rounded_bytes(weight_of(c)->scheme, c->in[X].cols, c->out.rows) <= ALONE_BYTES; }

static void round_rows(const cpu_call *c, const rounded *to, int64_t from, int64_t end)
{
    const qgemm_weight *w = weight_of(c);
    qgemm_round_fn *fn = qgemm_kernels_of(c->isa)->round;
    for (int64_t r = from; r < end; r++)
        fn(c->in[X].f + r * c->in[X].ld, w->base.k, qgemm_group(w->scheme, w->base.k), qgemm_offset(w->scheme), to->q + r * to->ldq, to->s + r * to->lds);
}

/* ---- the product ---- */

static void product(const cpu_call *c, const cpu_thread *t, int phase, const rounded *in)
{
    const qgemm_weight *w = weight_of(c);
    qgemm_fn *fn = in ? qgemm_kernels_of(c->isa)->run : qgemm_wide_of(c->isa);
    int64_t panels = gemm_n_panels(w->base.n), rows = c->out.rows, from, to;
    /* As for 16-bit weights (linear.c), in pieces of whole tiles: twelve panels are widths 1, 2, 3 and 4 */
    int64_t grain = panels / (8 * c->limits->n_threads);
    grain = grain < 12 ? 12 : grain > 96 ? 96 : grain / 12 * 12;
    if (grain * c->limits->n_threads > panels) grain = (panels + c->limits->n_threads - 1) / c->limits->n_threads;
    /* rows that stay in the second-level cache while panels pass */
    int64_t block = (512 << 10) / (in ? in->ldq : w->base.k * 4) / 24 * 24;
    if (block < 48) block = 48;
    while (cpu_take(c, phase, panels, grain, &from, &to))
        for (int64_t r = 0; r < rows; r += block) {
            qgemm_call call = { .w = w, .m = rows - r < block ? rows - r : block, .y = c->out.f + r * c->out.ld, .ldy = c->out.ld, .scratch = t->scratch };
            if (in) {
                call.q = in->q + r * in->ldq, call.ldq = in->ldq;
                call.s = in->s + r * in->lds, call.lds = in->lds;
            } else {
                call.x = c->in[X].f + r * c->in[X].ld, call.ldx = c->in[X].ld;
            }
            if (op_has_in(c->n, BIAS)) call.bias = c->in[BIAS].f;
            if (op_has_in(c->n, RESIDUAL)) {
                call.residual = c->in[RESIDUAL].f + r * c->in[RESIDUAL].ld;
                call.ldr = c->in[RESIDUAL].ld;
            }
            fn(&call, from, to);
        }
}

static bool rounds(const cpu_call *c) { return quant_describe(weight_of(c)->scheme)->int8_activations; }

void qgemm_linear(const cpu_call *c, const cpu_thread *t, int phase)
{
    quant_scheme s = weight_of(c)->scheme;
    int64_t k = c->in[X].cols, from, to;
    if (!rounds(c)) {
        product(c, t, phase, NULL);
        return;
    }
    bool alone = rounds_alone(c);
    rounded in = rounded_at(alone ? t->scratch : c->state, s, k, c->out.rows);
    if (alone) {
        round_rows(c, &in, 0, c->out.rows);
        product(c, t, phase, &in);
    } else if (phase == 0) {
        while (cpu_take(c, phase, c->out.rows, 4, &from, &to)) round_rows(c, &in, from, to);
    } else {
        product(c, t, phase, &in);
    }
}

bool qgemm_linear_skips(const cpu_call *c, int phase) { return phase == 1 && (!rounds(c) || rounds_alone(c)); }

void qgemm_linear_needs(quant_scheme s, int64_t k, int64_t most_rows, op_needs *out)
{
    out->scratch_bytes = GEMM_SCRATCH_BYTES > ALONE_BYTES ? GEMM_SCRATCH_BYTES : ALONE_BYTES;
    if (quant_describe(s)->int8_activations) out->state_bytes = rounded_bytes(s, k, most_rows);
}
