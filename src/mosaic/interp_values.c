/* The interpreter's arithmetic. A value is an array of floats (all float types, rounded to theirs) or of int32_t (all integers, i1). */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "mosaic/interp_internal.h"

/* Loops over elements are worth vectorising. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#endif

static int32_t wrap(uint32_t u) { int32_t i; memcpy(&i, &u, sizeof i); return i; }
static int32_t int_div(int32_t i, int32_t j) { return j == 0 ? 0 : j == -1 ? wrap(0u - (uint32_t)i) : i / j; }
static int32_t int_rem(int32_t i, int32_t j) { return j == 0 || j == -1 ? 0 : i % j; }

/* ---- types ---- */

size_t mk_element(dtype t) { return t == DT_BOOL || t == DT_I4 ? 1 : dtype_bits(t) / 8; }

size_t mk_array_bytes(dtype t, int rank, const int64_t *dim) { return mk_element(t) * (size_t)mk_count(rank, dim); }

/* As XLA converts: beyond the range there is no number but NaN or infinity. So kernels clamp. */
static uint8_t to_e4m3(float f) { return fabsf(f) > 464 ? 0x7F : f32_to_f8e4m3(f); }
static uint8_t to_e5m2(float f) { return isnan(f) ? 0x7E : fabsf(f) >= 61440 ? (f < 0 ? 0xFC : 0x7C) : f32_to_f8e5m2(f); }

static const float *table(dtype t)
{
    static _Thread_local float e4m3[256], e5m2[256];
    static _Thread_local bool made;
    if (!made) {
        for (int i = 0; i < 256; i++) {
            e4m3[i] = f8e4m3_to_f32((uint8_t)i);
            e5m2[i] = f8e5m2_to_f32((uint8_t)i);
        }
        made = true;
    }
    return t == DT_F8E4M3 ? e4m3 : e5m2;
}

void mk_unpack(dtype t, const void *src, void *dst, int64_t n)
{
    float *f = dst;
    int32_t *i = dst;
    const uint8_t *b = src;
    const uint16_t *h = src;
    switch (t) {
    case DT_BF16: for (int64_t e = 0; e < n; e++) f[e] = bf16_to_f32(h[e]); break;
    case DT_F8E4M3: case DT_F8E5M2: { const float *v = table(t); for (int64_t e = 0; e < n; e++) f[e] = v[b[e]]; break; }
    case DT_I16: for (int64_t e = 0; e < n; e++) i[e] = (int16_t)h[e]; break;
    case DT_I8: for (int64_t e = 0; e < n; e++) i[e] = (int8_t)b[e]; break;
    case DT_I4: for (int64_t e = 0; e < n; e++) i[e] = (b[e] & 15) - (b[e] & 8) * 2; break;
    case DT_BOOL: for (int64_t e = 0; e < n; e++) i[e] = b[e] != 0; break;
    default: memcpy(dst, src, (size_t)n * 4);
    }
}

void mk_pack(dtype t, const void *src, void *dst, int64_t n)
{
    const float *f = src;
    const int32_t *i = src;
    uint8_t *b = dst;
    uint16_t *h = dst;
    switch (t) {
    case DT_BF16: for (int64_t e = 0; e < n; e++) h[e] = f32_to_bf16(f[e]); break;
    case DT_F8E4M3: for (int64_t e = 0; e < n; e++) b[e] = to_e4m3(f[e]); break;
    case DT_F8E5M2: for (int64_t e = 0; e < n; e++) b[e] = to_e5m2(f[e]); break;
    case DT_I16: for (int64_t e = 0; e < n; e++) h[e] = (uint16_t)i[e]; break;
    case DT_I8: for (int64_t e = 0; e < n; e++) b[e] = (uint8_t)i[e]; break;
    case DT_I4: for (int64_t e = 0; e < n; e++) b[e] = (uint8_t)i[e] & 15; break;
    case DT_BOOL: for (int64_t e = 0; e < n; e++) b[e] = i[e] != 0; break;
    default: memcpy(dst, src, (size_t)n * 4);
    }
}

void mk_to_floats(dtype t, const void *src, float *dst, size_t n)
{
    mk_unpack(t, src, dst, (int64_t)n);
    if (mk_is_float(t)) return;
    for (size_t e = 0; e < n; e++) {
        int32_t i;
        memcpy(&i, dst + e, sizeof i);
        dst[e] = (float)i;
    }
}

void mk_from_floats(dtype t, const float *src, void *dst, size_t n)
{
    for (size_t e = 0; e < n; e++) {
        int32_t i = mk_is_float(t) || !(fabsf(src[e]) < 2147483648.0f) ? 0 : (int32_t)src[e];
        mk_pack(t, mk_is_float(t) ? (const void *)(src + e) : &i, (char *)dst + e * mk_element(t), 1);
    }
}

void mk_poison(dtype t, void *storage, int64_t n)
{
    if (t == DT_F32) for (int64_t e = 0; e < n; e++) ((uint32_t *)storage)[e] = 0x7FC00000u;
    else if (t == DT_BF16) for (int64_t e = 0; e < n; e++) ((uint16_t *)storage)[e] = 0x7FC0;
    else memset(storage, 0x7F, (size_t)n * mk_element(t));
}

/* After arithmetic in f32: what the type keeps. */
static void round_floats(dtype t, float *f, int64_t n)
{
    if (t == DT_BF16) for (int64_t e = 0; e < n; e++) f[e] = bf16_to_f32(f32_to_bf16(f[e]));
    else if (t == DT_F8E4M3) for (int64_t e = 0; e < n; e++) f[e] = f8e4m3_to_f32(to_e4m3(f[e]));
    else if (t == DT_F8E5M2) for (int64_t e = 0; e < n; e++) f[e] = f8e5m2_to_f32(to_e5m2(f[e]));
}

void mk_fill(dtype t, void *slot, int64_t n, double v)
{
    if (mk_is_float(t)) for (int64_t e = 0; e < n; e++) ((float *)slot)[e] = (float)v;
    else for (int64_t e = 0; e < n; e++) ((int32_t *)slot)[e] = (int32_t)v;
}

/* ---- element by element ---- */

static bool run_elementwise(mk_code code, dtype t, const void *a, const void *b, void *out, int64_t n)
{
    const float *xs = a, *ys = b;
    const int32_t *is = a, *js = b;
    float *fo = out;
    int32_t *io = out;
    bool f = mk_is_float(t);
    switch (code) {
#define UN(up, low, ft, it, fe, ie)                                                             \
    case MKO_##up:                                                                              \
        if (f) for (int64_t e = 0; e < n; e++) { float x = xs[e]; fo[e] = (fe); (void)x; }      \
        else for (int64_t e = 0; e < n; e++) { int32_t i = is[e]; io[e] = (ie); (void)i; }      \
        break;
#define BIN(up, low, ft, it, fe, ie)                                                                                      \
    case MKO_##up:                                                                                                        \
        if (f) for (int64_t e = 0; e < n; e++) { float x = xs[e], y = ys[e]; fo[e] = (fe); (void)x; (void)y; }            \
        else for (int64_t e = 0; e < n; e++) { int32_t i = is[e], j = js[e]; io[e] = (ie); (void)i; (void)j; }            \
        break;
#include "mosaic/ops.def"
    default: return false;
    }
    if (f) round_floats(t, out, n);
    return true;
}

#define COMPARE(T, op) { const T *x = a, *y = b; for (int64_t e = 0; e < n; e++) out[e] = x[e] op y[e]; break; }
#define PREDICATES(T)           \
    switch (p) {                \
    case MK_EQ: COMPARE(T, ==)  \
    case MK_NE: COMPARE(T, !=)  \
    case MK_LT: COMPARE(T, <)   \
    case MK_LE: COMPARE(T, <=)  \
    case MK_GT: COMPARE(T, >)   \
    default: COMPARE(T, >=)     \
    }
static void compare(mk_pred p, dtype t, const void *a, const void *b, int32_t *out, int64_t n)
{
    if (mk_is_float(t)) PREDICATES(float)
    else PREDICATES(int32_t)
}

/* Words, whatever they are. */
static void choose(const int32_t *pred, bool vector, const uint32_t *yes, const uint32_t *no, uint32_t *out, int64_t n)
{
    if (vector) for (int64_t e = 0; e < n; e++) out[e] = pred[e] ? yes[e] : no[e];
    else memcpy(out, pred[0] ? yes : no, (size_t)n * sizeof *out);
}

static int32_t narrow(dtype t, int32_t v)
{
    return t == DT_I16 ? (int16_t)(uint32_t)v : t == DT_I8 ? (int8_t)(uint32_t)v : t == DT_I4 ? (v & 15) - (v & 8) * 2 : v;
}

static void convert(dtype from, const void *src, dtype to, void *dst, int64_t n)
{
    const float *f = src;
    const int32_t *i = src;
    if (mk_is_float(from) && mk_is_float(to)) {
        memcpy(dst, src, (size_t)n * sizeof *f);
        round_floats(to, dst, n);
    } else if (mk_is_float(from)) {
        int bits = (int)dtype_bits(to);
        float most = ldexpf(1, bits - 1);
        for (int64_t e = 0; e < n; e++) ((int32_t *)dst)[e] = f[e] > -most - 1 && f[e] < most ? (int32_t)f[e] : wrap(0xFFFFFFFFu << (bits - 1));  /* what does not fit is open */
    } else if (mk_is_float(to)) {
        for (int64_t e = 0; e < n; e++) ((float *)dst)[e] = (float)i[e];
        round_floats(to, dst, n);
    } else {
        for (int64_t e = 0; e < n; e++) ((int32_t *)dst)[e] = narrow(to, i[e]);
    }
}

/* Bits of one element, and back. */
static uint32_t bits_of(dtype t, const void *slot, int64_t e)
{
    uint32_t v = 0;
    mk_pack(t, (const char *)slot + 4 * e, &v, 1);
    return v;
}

void mk_bitcast_slots(dtype from, const void *src, dtype to, void *dst, int64_t outer, int64_t rows, int64_t lanes)
{
    unsigned fb = (unsigned)dtype_bits(from), tb = (unsigned)dtype_bits(to);
    int64_t many = fb > tb ? fb / tb : tb / fb;      /* narrow rows in a wide one */
    int64_t wide = fb > tb ? rows : rows / many;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t r = 0; r < wide; r++)
            for (int64_t l = 0; l < lanes; l++) {
                uint32_t v = 0;
                if (fb >= tb) v = bits_of(from, src, (o * rows + r) * lanes + l);
                for (int64_t j = 0; fb < tb && j < many; j++) v |= bits_of(from, src, (o * rows + r * many + j) * lanes + l) << (fb * (unsigned)j);
                if (fb <= tb) mk_unpack(to, &v, (char *)dst + 4 * ((o * wide + r) * lanes + l), 1);
                for (int64_t j = 0; fb > tb && j < many; j++) {
                    uint32_t part = v >> (tb * (unsigned)j);
                    mk_unpack(to, &part, (char *)dst + 4 * ((o * rows * many + r * many + j) * lanes + l), 1);
                }
            }
}

/* ---- shapes: words are moved, whatever they are ---- */

/* out[i0, i1, ..] = in[sum of i * stride + off] */
static void gather(const uint32_t *in, uint32_t *out, int rank, const int64_t *dim, const int64_t *stride)
{
    int64_t n = mk_count(rank, dim), lanes = rank ? dim[rank - 1] : 1, step = rank ? stride[rank - 1] : 0;
    int64_t at[MK_RANK] = { 0 }, from = 0;
    for (int64_t e = 0; e < n; e += lanes) {
        if (step == 1) memcpy(out + e, in + from, (size_t)lanes * sizeof *out);
        else for (int64_t l = 0; l < lanes; l++) out[e + l] = in[from + l * step];
        for (int i = rank - 2; i >= 0; i--) {
            from += stride[i];
            if (++at[i] < dim[i]) break;
            from -= stride[i] * dim[i];
            at[i] = 0;
        }
    }
}

static void strides_of(int rank, const int64_t *dim, int64_t *stride)
{
    int64_t s = 1;
    for (int i = rank - 1; i >= 0; i--) {
        stride[i] = s;
        s *= dim[i];
    }
}

static void run_broadcast(const mk_def *in, const void *src, const mk_def *out, void *dst)
{
    int64_t own[MK_RANK], stride[MK_RANK] = { 0 };
    int skip = out->rank - in->rank;
    strides_of(in->rank, in->dim, own);
    for (int i = 0; i < in->rank; i++) stride[skip + i] = in->dim[i] == 1 ? 0 : own[i];
    gather(src, dst, out->rank, out->dim, stride);
}

static void run_transpose(const mk_def *in, const void *src, const mk_def *out, void *dst, const int64_t *perm)
{
    int64_t own[MK_RANK], stride[MK_RANK];
    strides_of(in->rank, in->dim, own);
    for (int i = 0; i < in->rank; i++) stride[i] = own[perm[i]];
    gather(src, dst, out->rank, out->dim, stride);
}

static void run_slice(const mk_def *in, const void *src, const mk_def *out, void *dst, const int64_t *from)
{
    int64_t stride[MK_RANK], off = 0;
    strides_of(in->rank, in->dim, stride);
    for (int i = 0; i < in->rank; i++) off += stride[i] * from[i];
    gather((const uint32_t *)src + off, dst, out->rank, out->dim, stride);
}

static void run_concat(const mk_machine *m, const mk_device *d, const mk_op *op, const int *in, void *dst, int along)
{
    const mk_def *o = &m->k->def[m->k->ids[op->out]];
    int64_t outer = mk_count(along, o->dim), row = mk_count(o->rank - along, o->dim + along), at = 0;
    for (int i = 0; i < op->n_in; i++) {
        const mk_def *x = &m->k->def[in[i]];
        int64_t part = mk_count(x->rank - along, x->dim + along);
        for (int64_t r = 0; r < outer; r++) memcpy((uint32_t *)dst + r * row + at, (const uint32_t *)d->slot[in[i]] + r * part, (size_t)part * sizeof(uint32_t));
        at += part;
    }
}

static void run_rotate(const mk_def *x, const uint32_t *src, uint32_t *dst, int32_t by, int along)
{
    int64_t n = x->dim[along], inner = mk_count(x->rank - along - 1, x->dim + along + 1), outer = mk_count(along, x->dim);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < n; i++) memcpy(dst + (o * n + (i + by) % n) * inner, src + (o * n + i) * inner, (size_t)inner * sizeof *dst);
}

static void run_iota(const mk_def *o, int32_t *dst, int along)
{
    int64_t n = o->dim[along], inner = mk_count(o->rank - along - 1, o->dim + along + 1), outer = mk_count(along, o->dim);
    for (int64_t a = 0; a < outer; a++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t b = 0; b < inner; b++) *dst++ = (int32_t)i;
}

/* ---- reductions, products ---- */

#define REDUCE(T, expr)                                                                            \
    for (int64_t o = 0; o < outer; o++)                                                            \
        for (int64_t i = 0; i < n; i++)                                                            \
            for (int64_t b = 0; b < inner; b++) {                                                  \
                T x = ((T *)dst)[o * inner + b], y = ((const T *)src)[(o * n + i) * inner + b];    \
                ((T *)dst)[o * inner + b] = i ? (T)(expr) : y;                                     \
            }
static void run_reduce(const mk_def *of, const void *src, void *dst, mk_reduction r, int along)
{
    int64_t n = of->dim[along], inner = mk_count(of->rank - along - 1, of->dim + along + 1), outer = mk_count(along, of->dim);
    bool f = of->type == DT_F32;
    if (r == MK_SUM && f) REDUCE(float, x + y)
    else if (r == MK_SUM) REDUCE(int32_t, wrap((uint32_t)x + (uint32_t)y))
    else if (r == MK_MAX && f) REDUCE(float, x > y || isnan(x) ? x : y)
    else if (r == MK_MAX) REDUCE(int32_t, x > y ? x : y)
    else if (f) REDUCE(float, x < y || isnan(x) ? x : y)
    else REDUCE(int32_t, x < y ? x : y)
}

/* c += a b, row by row, so that the inner loop runs along memory; of b transposed, eight sums side by side. */
static void product_f32(const float *a, const float *b, float *c, int64_t m, int64_t n, int64_t depth, bool transposed)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; transposed && j < n; j++) {
            float s[8] = { 0 };
            int64_t t = 0;
            for (; t + 8 <= depth; t += 8)
                for (int l = 0; l < 8; l++) s[l] += a[i * depth + t + l] * b[j * depth + t + l];
            for (; t < depth; t++) s[0] += a[i * depth + t] * b[j * depth + t];
            c[i * n + j] += ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
        }
    for (int64_t i = 0; !transposed && i < m; i++)
        for (int64_t t = 0; t < depth; t++) {
            float x = a[i * depth + t];
            for (int64_t j = 0; j < n; j++) c[i * n + j] += x * b[t * n + j];
        }
}

static void product_i32(const int32_t *a, const int32_t *b, uint32_t *c, int64_t m, int64_t n, int64_t depth, bool transposed)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t t = 0; t < depth; t++) {
            uint32_t x = (uint32_t)a[i * depth + t];
            for (int64_t j = 0; j < n; j++) c[i * n + j] += x * (uint32_t)(transposed ? b[j * depth + t] : b[t * n + j]);
        }
}

/* b may be of integers where a is of floats. */
static mk_next run_matmul(mk_machine *m, const mk_device *d, const int *in, const mk_def *o, void *dst, bool transposed)
{
    const mk_def *a = &m->k->def[in[0]], *b = &m->k->def[in[1]];
    const void *x = d->slot[in[0]], *y = d->slot[in[1]];
    float *floats = NULL;
    if (mk_is_float(a->type) && !mk_is_float(b->type)) {
        int64_t n = mk_count(b->rank, b->dim);
        floats = mem_array((size_t)n, sizeof *floats);
        if (!floats) return mk_no_memory(m);
        convert(b->type, y, DT_F32, floats, n);
        y = floats;
    }
    memcpy(dst, d->slot[in[2]], (size_t)(o->dim[0] * o->dim[1]) * 4);
    if (o->type == DT_F32) product_f32(x, y, dst, o->dim[0], o->dim[1], a->dim[1], transposed);
    else product_i32(x, y, dst, o->dim[0], o->dim[1], a->dim[1], transposed);
    m->report.matmul_flops += 2.0 * (double)(o->dim[0] * o->dim[1] * a->dim[1]);
    mem_free(floats);
    return MK_GO_ON;
}

static mk_next run_bitcast(const mk_def *x, const void *src, dtype to, void *dst)
{
    int64_t lanes = x->rank ? x->dim[x->rank - 1] : 1, rows = x->rank > 1 ? x->dim[x->rank - 2] : 1;
    mk_bitcast_slots(x->type, src, to, dst, mk_count(x->rank, x->dim) / (rows * lanes), rows, lanes);
    return MK_GO_ON;
}

static mk_next check_division(mk_machine *m, const mk_device *d, const mk_op *op, const mk_def *o, const int32_t *by, int64_t n)
{
    if ((op->code != MKO_DIV && op->code != MKO_REM) || mk_is_float(o->type)) return MK_GO_ON;
    for (int64_t e = 0; e < n; e++)
        if (by[e] == 0) return mk_trap(m, d, "by 0");
    return MK_GO_ON;
}

mk_next mk_run_value(mk_machine *m, mk_device *d, const mk_op *op)
{
    const mk *k = m->k;
    const int *in = k->ids + op->in;
    int out = k->ids[op->out];
    const int64_t *attr = op->n_attr ? k->attrs + op->attr : NULL;
    const mk_def *o = &k->def[out], *x = op->n_in ? &k->def[in[0]] : NULL;
    int64_t n = mk_count(o->rank, o->dim);
    const void *a = op->n_in ? d->slot[in[0]] : NULL, *b = op->n_in > 1 ? d->slot[in[1]] : NULL;
    void *dst = d->slot[out];
    switch (op->code) {
    case MKO_IOTA: run_iota(o, dst, (int)attr[0]); break;
    case MKO_RECIP: for (int64_t e = 0; e < n; e++) ((float *)dst)[e] = 1 / ((const float *)a)[e]; break;
    case MKO_CMP: compare((mk_pred)attr[0], x->type, a, b, dst, n); break;
    case MKO_SELECT: choose(a, x->rank > 0, b, d->slot[in[2]], dst, n); break;
    case MKO_CONVERT: convert(x->type, a, o->type, dst, n); break;
    case MKO_BITCAST: return run_bitcast(x, a, o->type, dst);
    case MKO_BROADCAST: run_broadcast(x, a, o, dst); break;
    case MKO_RESHAPE: case MKO_EXTRACT: memcpy(dst, a, (size_t)n * 4); break;
    case MKO_TRANSPOSE: run_transpose(x, a, o, dst, attr); break;
    case MKO_SLICE: run_slice(x, a, o, dst, attr); break;
    case MKO_CONCAT: run_concat(m, d, op, in, dst, (int)attr[0]); break;
    case MKO_ROTATE:
        if (mk_int(d, in[1]) < 0) return mk_trap(m, d, "by %d", mk_int(d, in[1]));
        run_rotate(x, a, dst, mk_int(d, in[1]), (int)attr[0]);
        break;
    case MKO_REDUCE: run_reduce(x, a, dst, (mk_reduction)attr[0], (int)attr[1]); break;
    case MKO_MATMUL: return run_matmul(m, d, in, o, dst, attr[0] != 0);
    case MKO_DEVICE_ID: *(int32_t *)dst = d->id; break;
    case MKO_MULTIPLE:
        if (mk_int(d, in[0]) % attr[0]) return mk_trap(m, d, "%d is no multiple of %lld", mk_int(d, in[0]), (long long)attr[0]);
        memcpy(dst, a, 4);
        break;
    default:
        if (check_division(m, d, op, o, b, n) != MK_GO_ON) return MK_FAILED;
        if (!run_elementwise(op->code, o->type, a, b, dst, n)) return mk_trap(m, d, "is not known");
    }
    return MK_GO_ON;
}
