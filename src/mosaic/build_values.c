/* Kernels: arithmetic, shapes, reductions, products. */
#include <stdio.h>
#include <string.h>

#include "mosaic/ir.h"

#define NONE ((mk_val){ 0 })

static bool is_int(dtype t) { return !mk_is_float(t) && t != DT_BOOL; }

static const char *say(char dst[96], mk_val v) { return mk_describe(dst, 96, v.type, v.rank, v.dim); }

/* An operand as it is in the table, so that constants have their types; none after a failure. */
static mk_val operand(mk *k, const char *op, mk_val v) { return mk_val_of(k, mk_use(k, op, v)); }

static mk_val emit(mk *k, mk_code code, const int *in, int n_in, const int64_t *attr, int n_attr, dtype t, int rank, const int64_t *dim)
{
    if (!mk_ok(k)) return NONE;
    mk_def d = mk_def_val(t, rank, dim);
    int64_t n = 1;
    for (int i = 0; i < rank; i++) {
        if (dim[i] < 1 || dim[i] > MK_MAX_VECTOR / n) mk_fail_op(k, mk_op_infos[code].name, "dimension %d of the result is %lld, expected at least 1 and at most %lld elements in all", i, (long long)dim[i], (long long)MK_MAX_VECTOR);
        else n *= dim[i];
        if (!mk_ok(k)) return NONE;
    }
    return mk_val_of(k, mk_emit(k, code, in, n_in, attr, n_attr, &d));
}

/* ---- element by element ---- */

static mk_val repeat(mk *k, mk_val v, int rank, const int64_t *dim)
{
    if (!mk_ok(k) || mk_same_dims(v.rank, v.dim, rank, dim)) return v;
    mk_dims d = { .n = rank };
    memcpy(d.v, dim, (size_t)rank * sizeof *dim);
    return v.rank ? mk_broadcast(k, v, d) : mk_full(k, v, d);
}

/* Gives both the same shape; their types must be the same already. */
static void pair(mk *k, const char *op, mk_val *x, mk_val *y)
{
    char a[96], b[96];
    *x = operand(k, op, *x);
    *y = operand(k, op, *y);
    if (!mk_ok(k)) return;
    if (x->type != y->type) {
        mk_fail_op(k, op, "%s and %s: convert one of them (arithmetic with constants is in f32 or i32)", say(a, *x), say(b, *y));
        return;
    }
    int rank = x->rank > y->rank ? x->rank : y->rank;
    int64_t dim[MK_RANK] = { 0 };
    if (x->rank && y->rank && x->rank != y->rank) mk_fail_op(k, op, "%s and %s differ in rank", say(a, *x), say(b, *y));
    for (int i = 0; mk_ok(k) && i < rank; i++) {
        int64_t p = x->rank ? x->dim[i] : 1, q = y->rank ? y->dim[i] : 1;
        if (p != q && p != 1 && q != 1) mk_fail_op(k, op, "%s and %s: dimension %d differs", say(a, *x), say(b, *y), i);
        dim[i] = p > q ? p : q;
    }
    *x = repeat(k, *x, rank, dim);
    *y = repeat(k, *y, rank, dim);
}

/* Mosaic has no arithmetic on narrower integers and 8-bit floats. */
static void need_computable(mk *k, const char *op, mk_val x, const char *f_text, const char *i_text)
{
    char a[96];
    if (!mk_ok(k)) return;
    if (x.type != DT_F32 && x.type != DT_BF16 && x.type != DT_I32 && x.type != DT_BOOL) mk_fail_op(k, op, "of %s: convert to f32 or i32 first", say(a, x));
    else if (!*(mk_is_float(x.type) ? f_text : i_text)) mk_fail_op(k, op, "not for %s", say(a, x));
}

static mk_val unary(mk *k, mk_code code, mk_val x)
{
    const mk_op_info *info = &mk_op_infos[code];
    if (!mk_begin(k, info->name)) return NONE;
    x = operand(k, info->name, x);
    need_computable(k, info->name, x, info->f_text, info->i_text);
    if (mk_ok(k) && x.type == DT_BOOL) mk_fail_op(k, info->name, "not for i1");
    return emit(k, code, &x.id, 1, NULL, 0, x.type, x.rank, x.dim);
}

static mk_val binary(mk *k, mk_code code, mk_val x, mk_val y)
{
    const mk_op_info *info = &mk_op_infos[code];
    if (!mk_begin(k, info->name)) return NONE;
    pair(k, info->name, &x, &y);
    need_computable(k, info->name, x, info->f_text, info->i_text);
    if (mk_ok(k) && x.type == DT_BOOL && code != MKO_AND && code != MKO_OR && code != MKO_XOR) mk_fail_op(k, info->name, "not for i1");
    return emit(k, code, (int[]){ x.id, y.id }, 2, NULL, 0, x.type, x.rank, x.dim);
}

#define UN(up, low, ft, it, fe, ie) static mk_val do_##low(mk *k, mk_val x) { return unary(k, MKO_##up, x); }
#define BIN(up, low, ft, it, fe, ie) mk_val mk_##low(mk *k, mk_val x, mk_val y) { return binary(k, MKO_##up, x, y); }
#include "mosaic/ops.def"

/* Integers have no negation in Mosaic. */
mk_val mk_neg(mk *k, mk_val x) { return mk_is_float(x.type) ? do_neg(k, x) : mk_sub(k, mk_i32(0), x); }
#define SAME(low) mk_val mk_##low(mk *k, mk_val x) { return do_##low(k, x); }
SAME(abs) SAME(exp) SAME(log) SAME(tanh) SAME(sqrt) SAME(rsqrt) SAME(round) SAME(floor) SAME(ceil)

mk_val mk_not(mk *k, mk_val x) { return mk_xor(k, x, mk_bool(true)); }

mk_val mk_recip(mk *k, mk_val x, bool approximate)
{
    if (!mk_begin(k, "recip")) return NONE;
    x = operand(k, "recip", x);
    if (mk_ok(k) && (x.type != DT_F32 || !x.rank)) mk_fail_op(k, "recip", "expected a vector of f32");
    return emit(k, MKO_RECIP, &x.id, 1, (int64_t[]){ approximate }, 1, x.type, x.rank, x.dim);
}

mk_val mk_cmp(mk *k, mk_pred p, mk_val x, mk_val y)
{
    if (!mk_begin(k, "cmp")) return NONE;
    pair(k, "cmp", &x, &y);
    need_computable(k, "cmp", x, "x", "x");
    if (mk_ok(k) && (int)p > MK_GE) mk_fail_op(k, "cmp", "there is no predicate %d", (int)p);
    return emit(k, MKO_CMP, (int[]){ x.id, y.id }, 2, (int64_t[]){ (int64_t)p }, 1, DT_BOOL, x.rank, x.dim);
}

mk_val mk_select(mk *k, mk_val pred, mk_val yes, mk_val no)
{
    char a[96], b[96];
    if (!mk_begin(k, "select")) return NONE;
    pred = operand(k, "select", pred);
    pair(k, "select", &yes, &no);
    if (mk_ok(k) && pred.type != DT_BOOL) mk_fail_op(k, "select", "by %s, expected i1", say(a, pred));
    if (mk_ok(k) && pred.rank && !yes.rank) {
        yes = repeat(k, yes, pred.rank, pred.dim);
        no = repeat(k, no, pred.rank, pred.dim);
    }
    if (mk_ok(k) && pred.rank && !mk_same_dims(pred.rank, pred.dim, yes.rank, yes.dim)) mk_fail_op(k, "select", "by %s of %s: shapes differ", say(a, pred), say(b, yes));
    return emit(k, MKO_SELECT, (int[]){ pred.id, yes.id, no.id }, 3, NULL, 0, yes.type, yes.rank, yes.dim);
}

mk_val mk_convert(mk *k, mk_val x, dtype t)
{
    char a[96];
    if (!mk_begin(k, "convert")) return NONE;
    x = operand(k, "convert", x);
    if (!mk_ok(k) || x.type == t) return x;
    if (!mk_is_type(t)) mk_fail_op(k, "convert", "kernels do not know the type");
    else if (t == DT_BOOL) mk_fail_op(k, "convert", "to i1: compare instead");
    else if (!x.rank && (t != DT_F32 && t != DT_I32)) mk_fail_op(k, "convert", "of a scalar: to f32 or i32 only");
    else if (mk_is_float(x.type) && mk_is_float(t) && x.type != DT_F32 && t != DT_F32 && dtype_bits(x.type) == dtype_bits(t)) mk_fail_op(k, "convert", "of %s to %s: through f32", say(a, x), dtype_name(t));
    else if (x.type == DT_BOOL && t != DT_I32) return mk_convert(k, mk_convert(k, x, DT_I32), t);
    else if (is_int(x.type) && mk_is_float(t) && t != DT_F32) return mk_convert(k, mk_convert(k, x, DT_F32), t);
    else if (mk_is_float(x.type) && is_int(t) && x.type != DT_F32) return mk_convert(k, mk_convert(k, x, DT_F32), t);
    return emit(k, MKO_CONVERT, &x.id, 1, NULL, 0, t, x.rank, x.dim);
}

mk_val mk_bitcast(mk *k, mk_val x, dtype t)
{
    char a[96];
    if (!mk_begin(k, "bitcast")) return NONE;
    x = operand(k, "bitcast", x);
    if (!mk_ok(k) || x.type == t) return x;
    if (!mk_is_type(t) || t == DT_BOOL || x.type == DT_BOOL) mk_fail_op(k, "bitcast", "of %s to that type", say(a, x));
    int64_t dim[MK_RANK], from = (int64_t)dtype_bits(x.type), to = mk_ok(k) ? (int64_t)dtype_bits(t) : from;
    memcpy(dim, x.dim, sizeof dim);
    if (mk_ok(k) && from != to) {
        if (x.rank < 2) mk_fail_op(k, "bitcast", "of %s to another width needs two dimensions", say(a, x));
        else if (dim[x.rank - 2] * from % to) mk_fail_op(k, "bitcast", "of %s to %s: the second-last dimension does not divide", say(a, x), dtype_name(t));
        else dim[x.rank - 2] = dim[x.rank - 2] * from / to;
    }
    return emit(k, MKO_BITCAST, &x.id, 1, NULL, 0, t, x.rank, dim);
}

/* ---- shapes ---- */

mk_val mk_iota(mk *k, int along, mk_dims dims)
{
    if (!mk_begin(k, "iota")) return NONE;
    if (dims.n < 2 || dims.n > MK_RANK) mk_fail_op(k, "iota", "rank %d: Mosaic needs two dimensions at least", dims.n);
    else if (along < 0 || along >= dims.n) mk_fail_op(k, "iota", "along dimension %d of rank %d", along, dims.n);
    return emit(k, MKO_IOTA, NULL, 0, (int64_t[]){ along }, 1, DT_I32, dims.n, dims.v);
}

mk_val mk_broadcast(mk *k, mk_val x, mk_dims dims)
{
    char a[96];
    double imm;
    if (!mk_begin(k, "broadcast")) return NONE;
    if (!x.rank && mk_constant(k, x, &imm)) return mk_full(k, x, dims);
    x = operand(k, "broadcast", x);
    if (!mk_ok(k) || mk_same_dims(x.rank, x.dim, dims.n, dims.v)) return x;
    if (x.rank > dims.n) mk_fail_op(k, "broadcast", "of %s to rank %d", say(a, x), dims.n);
    for (int i = 0, skip = dims.n - x.rank; mk_ok(k) && i < x.rank; i++)
        if (x.dim[i] != 1 && x.dim[i] != dims.v[skip + i]) mk_fail_op(k, "broadcast", "of %s: dimension %d cannot become %lld", say(a, x), i, (long long)dims.v[skip + i]);
    return emit(k, MKO_BROADCAST, &x.id, 1, NULL, 0, x.type, dims.n, dims.v);
}

mk_val mk_reshape(mk *k, mk_val x, mk_dims dims)
{
    char a[96];
    if (!mk_begin(k, "reshape")) return NONE;
    x = operand(k, "reshape", x);
    if (!mk_ok(k) || mk_same_dims(x.rank, x.dim, dims.n, dims.v)) return x;
    int64_t n = 1, have = mk_count(x.rank, x.dim);
    for (int i = 0; i < dims.n && n; i++) n = dims.v[i] < 1 || dims.v[i] > have / n ? 0 : n * dims.v[i];
    if (n != have) mk_fail_op(k, "reshape", "of %s: the elements differ in number", say(a, x));
    else if (!x.rank || !dims.n) mk_fail_op(k, "reshape", "of %s: to and from scalars with mk_full and mk_extract", say(a, x));
    return emit(k, MKO_RESHAPE, &x.id, 1, NULL, 0, x.type, dims.n, dims.v);
}

mk_val mk_transpose(mk *k, mk_val x, const int *perm)
{
    if (!mk_begin(k, "transpose")) return NONE;
    x = operand(k, "transpose", x);
    int64_t dim[MK_RANK] = { 0 }, attr[MK_RANK] = { 0 };
    unsigned seen = 0;
    for (int i = 0; mk_ok(k) && i < x.rank; i++) {
        if (perm[i] < 0 || perm[i] >= x.rank || seen >> perm[i] & 1) {
            mk_fail_op(k, "transpose", "the permutation's number %d is %d", i, perm[i]);
            break;
        }
        seen |= 1u << perm[i];
        dim[i] = x.dim[perm[i]];
        attr[i] = perm[i];
    }
    return emit(k, MKO_TRANSPOSE, &x.id, 1, attr, x.rank, x.type, x.rank, dim);
}

mk_val mk_slice(mk *k, mk_val x, mk_dims from, mk_dims size)
{
    char a[96];
    if (!mk_begin(k, "slice")) return NONE;
    x = operand(k, "slice", x);
    if (mk_ok(k) && (from.n != x.rank || size.n != x.rank || !x.rank)) mk_fail_op(k, "slice", "of %s: %d offsets, %d sizes", say(a, x), from.n, size.n);
    for (int i = 0; mk_ok(k) && i < x.rank; i++)
        if (from.v[i] < 0 || size.v[i] < 1 || from.v[i] > x.dim[i] || size.v[i] > x.dim[i] - from.v[i])
            mk_fail_op(k, "slice", "of %s: %lld elements from %lld on in dimension %d", say(a, x), (long long)size.v[i], (long long)from.v[i], i);
    return emit(k, MKO_SLICE, &x.id, 1, from.v, x.rank, x.type, x.rank, size.v);
}

mk_val mk_concat(mk *k, const mk_val *x, int n, int along)
{
    enum { MOST = 256 };
    int in[MOST];
    char a[96], b[96];
    if (!mk_begin(k, "concat")) return NONE;
    if (n < 1 || n > MOST) mk_fail_op(k, "concat", "of %d, expected 1 to %d", n, (int)MOST);
    mk_val first = mk_ok(k) ? operand(k, "concat", x[0]) : NONE;
    if (mk_ok(k) && (along < 0 || along >= first.rank)) mk_fail_op(k, "concat", "along dimension %d of %s", along, say(a, first));
    int64_t dim[MK_RANK], sum = 0;
    memcpy(dim, first.dim, sizeof dim);
    for (int i = 0; mk_ok(k) && i < n; i++) {
        mk_val v = operand(k, "concat", x[i]);
        in[i] = v.id;
        dim[along] = v.dim[along];
        if (mk_ok(k) && (v.type != first.type || !mk_same_dims(v.rank, v.dim, first.rank, dim))) mk_fail_op(k, "concat", "%s with %s along dimension %d", say(a, first), say(b, v), along);
        sum += v.dim[along];
    }
    if (!mk_ok(k)) return NONE;
    dim[along] = sum;
    return n == 1 ? first : emit(k, MKO_CONCAT, in, n, (int64_t[]){ along }, 1, first.type, first.rank, dim);
}

mk_val mk_rotate(mk *k, mk_val x, mk_val by, int along)
{
    char a[96];
    if (!mk_begin(k, "rotate")) return NONE;
    x = operand(k, "rotate", x);
    by = operand(k, "rotate", by);
    if (mk_ok(k) && (x.rank < 2 || dtype_bits(x.type) != 32)) mk_fail_op(k, "rotate", "of %s: Mosaic rotates f32 and i32 of two dimensions", say(a, x));
    if (mk_ok(k) && (along < 0 || along >= x.rank)) mk_fail_op(k, "rotate", "along dimension %d of %s", along, say(a, x));
    if (mk_ok(k) && (by.type != DT_I32 || by.rank)) mk_fail_op(k, "rotate", "by %s, expected an i32 scalar", say(a, by));
    return emit(k, MKO_ROTATE, (int[]){ x.id, by.id }, 2, (int64_t[]){ along }, 1, x.type, x.rank, x.dim);
}

mk_val mk_extract(mk *k, mk_val x)
{
    char a[96];
    if (!mk_begin(k, "extract")) return NONE;
    x = operand(k, "extract", x);
    if (!mk_ok(k) || !x.rank) return x;
    if (mk_count(x.rank, x.dim) != 1 || (x.type != DT_F32 && x.type != DT_I32)) mk_fail_op(k, "extract", "of %s, expected one element of f32 or i32", say(a, x));
    return emit(k, MKO_EXTRACT, &x.id, 1, NULL, 0, x.type, 0, NULL);
}

/* ---- reductions, products ---- */

mk_val mk_reduce(mk *k, mk_reduction r, mk_val x, int along)
{
    char a[96];
    if (!mk_begin(k, "reduce")) return NONE;
    x = operand(k, "reduce", x);
    if (mk_ok(k) && x.type != DT_F32 && x.type != DT_I32) mk_fail_op(k, "reduce", "of %s: convert to f32 or i32 first", say(a, x));
    if (mk_ok(k) && (along < 0 || along >= x.rank)) mk_fail_op(k, "reduce", "along dimension %d of %s", along, say(a, x));
    if (mk_ok(k) && x.rank < 2) mk_fail_op(k, "reduce", "of %s: Mosaic needs two dimensions at least", say(a, x));
    if (mk_ok(k) && (int)r > MK_MIN) mk_fail_op(k, "reduce", "there is no reduction %d", (int)r);
    if (!mk_ok(k)) return NONE;
    int64_t dim[MK_RANK];
    memcpy(dim, x.dim, sizeof dim);
    dim[along] = 1;
    return emit(k, MKO_REDUCE, &x.id, 1, (int64_t[]){ (int64_t)r, along }, 2, x.type, x.rank, dim);
}

mk_val mk_matmul(mk *k, mk_val a, mk_val b, bool transpose_b, dtype acc, mk_val acc_in)
{
    char s[96], t[96];
    if (!mk_begin(k, "matmul")) return NONE;
    a = operand(k, "matmul", a);
    b = operand(k, "matmul", b);
    if (!mk_ok(k)) return NONE;
    if (a.rank != 2 || b.rank != 2) mk_fail_op(k, "matmul", "%s by %s, expected matrices", say(s, a), say(t, b));
    else if (a.dim[1] != b.dim[transpose_b]) mk_fail_op(k, "matmul", "%s by %s%s", say(s, a), say(t, b), transpose_b ? " transposed" : "");
    else if (a.type != b.type && (a.type != DT_BF16 || dtype_bits(b.type) != 8)) mk_fail_op(k, "matmul", "%s by %s: operands are of one type, or bf16 by one of 8 bits", say(s, a), say(t, b));
    else if (mk_is_float(a.type) ? acc != DT_F32 : acc != DT_I32 || (a.type != DT_I8 && a.type != DT_I4)) mk_fail_op(k, "matmul", "%s by %s into %s: floats give f32, int8 and int4 give i32", say(s, a), say(t, b), acc < DT_COUNT ? dtype_name(acc) : "?");
    if (!mk_ok(k)) return NONE;
    int64_t dim[2] = { a.dim[0], b.dim[!transpose_b] };
    if (!mk_is(acc_in)) acc_in = mk_full(k, acc == DT_F32 ? mk_f32(0) : mk_i32(0), MK_DIMS(dim[0], dim[1]));
    acc_in = operand(k, "matmul", acc_in);
    if (mk_ok(k) && (acc_in.type != acc || !mk_same_dims(acc_in.rank, acc_in.dim, 2, dim))) mk_fail_op(k, "matmul", "added to %s, expected %s", say(s, acc_in), mk_describe(t, sizeof t, acc, 2, dim));
    return emit(k, MKO_MATMUL, (int[]){ a.id, b.id, acc_in.id }, 3, (int64_t[]){ transpose_b }, 1, acc, 2, dim);
}
