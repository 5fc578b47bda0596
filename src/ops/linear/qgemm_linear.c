#include "ops/linear/amx.h"
#include "ops/linear/qgemm_linear.h"
#include "ops/linear/share.h"

enum { X, W, BIAS, RESIDUAL };

const qgemm_kernels *qgemm_kernels_of(isa i)
{
    if (i == ISA_portable) return &qgemm_portable;
#if defined(__x86_64__)
    if (i == ISA_avx512_amx && qgemm_amx.available()) return &qgemm_amx;
    if (i == ISA_avx512_amx_emulated && qgemm_amx_emulated.available()) return &qgemm_amx_emulated;
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

/* ---- activations before the product: int8 with their scales, or floats in another order or rounded ---- */

typedef enum kind { AS_THEY_ARE, INT8, FLOATS } kind;
static kind kind_of(quant_scheme s)
{
    quant_info q = quant_describe(s);
    return q.int8_activations ? INT8 : q.act || q.ordered ? FLOATS : AS_THEY_ARE;
}

/* Rows start on cache lines, and not all in the same sets of the caches. */
static int64_t row_bytes(quant_scheme s, int64_t k)
{
    int64_t bytes = ((kind_of(s) == INT8 ? qgemm_padded_k(s, k) : k * (int64_t)sizeof(float)) + 63) / 64 * 64;
    return bytes % 1024 == 0 ? bytes + 64 : bytes;
}

/* Where rows go: all values (int8 or floats), then all scales of int8. */
typedef struct rounded { char *rows; qgemm_scale *s; int64_t ld, lds; } rounded;
static rounded rounded_at(void *mem, quant_scheme s, int64_t k, int64_t rows)
{
    int64_t ld = row_bytes(s, k);
    return (rounded){ mem, (qgemm_scale *)(void *)((char *)mem + rows * ld), ld, qgemm_groups(s, k) };
}

static size_t rounded_bytes(quant_scheme s, int64_t k, int64_t rows)
{
    return (size_t)(rows * (row_bytes(s, k) + (kind_of(s) == INT8 ? qgemm_groups(s, k) * (int64_t)sizeof(qgemm_scale) : 0)));
}

/* Few rows every thread makes for itself, which takes less time than waiting for each other. They come after what a kernel needs. */
enum { ALONE_BYTES = 16 << 10 };
static bool rounds_alone(const cpu_call *c) { return rounded_bytes(weight_of(c)->scheme, c->in[X].cols, c->out.rows) <= ALONE_BYTES; }

void qgemm_round_row(const qgemm_weight *w, isa set, const float *x, void *row, qgemm_scale *s)
{
    quant_info q = quant_describe(w->scheme);
    const int64_t k = w->base.k;
    if (!q.int8_activations) qgemm_prepare(q.act, qgemm_input_scale(w), qgemm_order(w), x, k, row);
    else if (q.act == QUANT_ACT_INT8_STATIC) qgemm_round_static(x, k, qgemm_input_scale(w), qgemm_offset(w->scheme), row, s);
    else qgemm_kernels_of(set)->round(x, k, qgemm_group(w->scheme, k), qgemm_offset(w->scheme), row, s);
}

static void round_rows(const cpu_call *c, const rounded *to, int64_t from, int64_t end)
{
    for (int64_t r = from; r < end; r++) qgemm_round_row(weight_of(c), c->isa, c->in[X].f + r * c->in[X].ld, to->rows + r * to->ld, to->s + r * to->lds);
}

/* ---- the product ---- */

static void product(const cpu_call *c, const cpu_thread *t, int phase, const rounded *in)
{
    const qgemm_weight *w = weight_of(c);
    bool int8 = kind_of(w->scheme) == INT8;
    qgemm_fn *fn = int8 ? qgemm_kernels_of(c->isa)->run : qgemm_wide_of(c->isa);
    /* rows that stay in the second-level cache while panels pass */
    int64_t block = (512 << 10) / (in ? in->ld : w->base.k * 4) / 24 * 24;
    int64_t width = int8 && qgemm_group(w->scheme, w->base.k) < w->base.k ? 2 : 3;   /* sums per group take more registers */
    if (int8 && amx_uses_tiles(c->isa)) width = 4;
    gemm_piece p;
    while (gemm_take(c, phase, gemm_n_panels(w->base.n), width, block < 48 ? 48 : block, &p)) {
        qgemm_call call = { .w = w, .m = p.m, .y = c->out.f + p.row * c->out.ld, .ldy = c->out.ld, .scratch = t->scratch };
        if (int8) {
            call.q = (const int8_t *)in->rows + p.row * in->ld, call.ldq = in->ld;
            call.s = in->s + p.row * in->lds, call.lds = in->lds;
        } else if (in) {
            call.x = (const float *)(const void *)(in->rows + p.row * in->ld), call.ldx = in->ld / (int64_t)sizeof(float);
        } else {
            call.x = c->in[X].f + p.row * c->in[X].ld, call.ldx = c->in[X].ld;
        }
        if (op_has_in(c->n, BIAS)) call.bias = c->in[BIAS].f;
        if (op_has_in(c->n, RESIDUAL)) {
            call.residual = c->in[RESIDUAL].f + p.row * c->in[RESIDUAL].ld;
            call.ldr = c->in[RESIDUAL].ld;
        }
        fn(&call, p.p0, p.p1);
    }
}

static bool rounds(const cpu_call *c) { return kind_of(weight_of(c)->scheme) != AS_THEY_ARE; }

void qgemm_linear(const cpu_call *c, const cpu_thread *t, int phase)
{
    quant_scheme s = weight_of(c)->scheme;
    int64_t k = c->in[X].cols, from, to;
    if (!rounds(c)) {
        product(c, t, phase, NULL);
        return;
    }
    bool alone = rounds_alone(c);
    rounded in = rounded_at(alone ? (char *)t->scratch + GEMM_SCRATCH_BYTES : c->state, s, k, c->out.rows);
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
    out->scratch_bytes = GEMM_SCRATCH_BYTES + ALONE_BYTES;
    if (kind_of(s) != AS_THEY_ARE) out->state_bytes = rounded_bytes(s, k, most_rows);
}
