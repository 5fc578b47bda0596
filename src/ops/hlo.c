/* Lines of StableHLO. Every builder checks what the text would be wrong with, so that a mistake is a sentence and not a
 * compiler's complaint about line 9,000. */
#include "ops/hlo.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- errors, lines ---- */

void hlo_fail(hlo *h, const char *fmt, ...)
{
    if (h->st != ST_OK) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(h->error, sizeof h->error, fmt, ap);
    va_end(ap);
    h->st = ST_INTERNAL;
}

void hlo_fail_as(hlo *h, status st)
{
    if (st == ST_OK || h->st != ST_OK) return;
    hlo_fail(h, "%s", err_msg());
    h->st = st;
}

static void indent(hlo *h)
{
    for (int i = 0; i < h->depth; i++) buf_str(&h->text, "  ");
}

void hlo_comment(hlo *h, const char *fmt, ...)
{
    va_list ap;
    indent(h);
    buf_str(&h->text, "// ");
    va_start(ap, fmt);
    buf_vprintf(&h->text, fmt, ap);
    va_end(ap);
    buf_char(&h->text, '\n');
}

static const char *type_name(dtype t)
{
    static const char *const names[DT_COUNT] = {
        [DT_F32] = "f32", [DT_BF16] = "bf16", [DT_F16] = "f16", [DT_F64] = "f64", [DT_I64] = "i64", [DT_I32] = "i32", [DT_I16] = "i16", [DT_I8] = "i8",
        [DT_U8] = "ui8", [DT_BOOL] = "i1", [DT_F8E4M3] = "f8E4M3FN", [DT_F8E5M2] = "f8E5M2", [DT_F8E8M0] = "f8E8M0FNU", [DT_I4] = "i4",
        [DT_F4E2M1] = "f4E2M1FN", [DT_U16] = "ui16", [DT_U32] = "ui32", [DT_U64] = "ui64" };
    return names[t];
}

static bool is_float(dtype t) { return t == DT_F32 || t == DT_BF16 || t == DT_F16 || t == DT_F64 || t == DT_F8E4M3 || t == DT_F8E5M2; }
static bool is_unsigned(dtype t) { return t == DT_U8 || t == DT_U16 || t == DT_U32 || t == DT_U64 || t == DT_BOOL; }

void hlo_put_type(hlo *h, hlo_val v)
{
    buf_str(&h->text, "tensor<");
    for (int i = 0; i < v.rank; i++) buf_printf(&h->text, "%lldx", (long long)v.dim[i]);
    buf_printf(&h->text, "%s>", type_name(v.type));
}

void hlo_put_val(hlo *h, hlo_val v)
{
    if (!v.id) hlo_fail(h, "an operand that does not exist");
    if (v.id < 0) buf_printf(&h->text, "%%arg%d", -v.id - 1);
    else if (v.sub < 0) buf_printf(&h->text, "%%%d", v.id);
    else buf_printf(&h->text, "%%%d#%d", v.id, v.sub);
}

static hlo_val make(dtype t, int rank, const int64_t *dim)
{
    hlo_val v = { .sub = -1, .type = t, .rank = rank < 0 ? 0 : rank > HLO_RANK ? HLO_RANK : rank };
    for (int i = 0; i < v.rank; i++) v.dim[i] = dim[i];
    return v;
}

/* False, and the program fails, if there is no such rank or no such dimension. */
static bool need_rank(hlo *h, const char *verb, int rank)
{
    if (rank < 0 || rank > HLO_RANK) hlo_fail(h, "%s: rank %d, expected 0 to %d", verb, rank, HLO_RANK);
    return rank >= 0 && rank <= HLO_RANK;
}

static bool need_dim(hlo *h, const char *verb, hlo_val x, int along)
{
    if (along < 0 || along >= x.rank) hlo_fail(h, "%s: dimension %d of rank %d", verb, along, x.rank);
    return along >= 0 && along < x.rank;
}

/* "%7 = stablehlo.add ": begins the line that makes v. */
static void begin_op(hlo *h, hlo_val *v, const char *verb)
{
    v->id = ++h->next_id;
    indent(h);
    buf_printf(&h->text, "%%%d = %s%s", v->id, verb, verb[strlen(verb) - 1] == '(' ? "" : " ");
}

static void end_op(hlo *h) { buf_char(&h->text, '\n'); }

/* " : (A, B) -> R" */
static void put_signature(hlo *h, const hlo_val *in, int n, hlo_val out)
{
    buf_str(&h->text, " : (");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_type(h, in[i]);
    }
    buf_str(&h->text, ") -> ");
    hlo_put_type(h, out);
    end_op(h);
}

static void put_list(hlo *h, const char *open, const int64_t *v, int n, const char *close)
{
    buf_str(&h->text, open);
    for (int i = 0; i < n; i++) buf_printf(&h->text, "%s%lld", i ? ", " : "", (long long)v[i]);
    buf_str(&h->text, close);
}

static void put_ints(hlo *h, const char *open, const int *v, int n, const char *close)
{
    int64_t wide[HLO_RANK];
    for (int i = 0; i < n; i++) wide[i] = v[i];
    put_list(h, open, wide, n, close);
}

int64_t hlo_count(hlo_val v)
{
    int64_t n = 1;
    for (int i = 0; i < v.rank; i++) n *= v.dim[i];
    return n;
}

static bool same_dims(hlo_val a, hlo_val b)
{
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

static void need_same(hlo *h, const char *verb, hlo_val a, hlo_val b)
{
    if (a.type != b.type || !same_dims(a, b)) hlo_fail(h, "%s of %%%d (%s, rank %d) and %%%d (%s, rank %d): types or shapes differ", verb, a.id, type_name(a.type), a.rank, b.id, type_name(b.type), b.rank);
}

/* ---- the module ---- */

static void put_loc(hlo *h, const char *name)
{
    buf_str(&h->text, " loc(\"");
    for (const char *c = name; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') buf_printf(&h->text, "\\%02X", (unsigned)(unsigned char)*c);
        else buf_char(&h->text, *c);
    buf_str(&h->text, "\")");
}

void hlo_begin(hlo *h, const char *name, mesh m, const hlo_arg *args, int n, hlo_val *args_out)
{
    *h = (hlo){ .depth = 2, .mesh = m, .next_channel = 1 };
    buf_printf(&h->text, "module @%s attributes {mhlo.num_partitions = %d : i32, mhlo.num_replicas = 1 : i32} {\n  func.func public @main(", name, m.dp * m.tp);
    for (int i = 0; i < n; i++) {
        hlo_val v = make(args[i].type, args[i].rank, args[i].dim);
        v.id = -1 - i;
        buf_printf(&h->text, "%s\n      %%arg%d: ", i ? "," : "", i);
        hlo_put_type(h, v);
        if (args[i].alias >= 0) buf_printf(&h->text, " {tf.aliasing_output = %d : i32}", args[i].alias);
        if (args[i].name) put_loc(h, args[i].name);
        args_out[i] = v;
    }
    buf_str(&h->text, ")");
    h->head_len = h->text.len;
}

/* The result types are known last, so they are put where main's body begins. */
status hlo_finish(hlo *h, const hlo_val *results, int n, buf *out)
{
    buf sig = {0}, body = h->text;
    if (h->n_loops) hlo_fail(h, "%d loops have no end", h->n_loops);
    h->text = sig;
    buf_str(&h->text, " -> (");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_type(h, results[i]);
    }
    buf_str(&h->text, ") {\n");
    sig = h->text;
    h->text = body;
    indent(h);
    buf_str(&h->text, "return ");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, results[i]);
    }
    buf_str(&h->text, " : ");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_type(h, results[i]);
    }
    buf_str(&h->text, "\n  }\n}\n");
    status st = h->st != ST_OK ? err_set(h->st, "StableHLO: %s", h->error) : buf_status(&h->text);
    if (st == ST_OK) st = buf_status(&sig);
    if (st == ST_OK) {
        buf_append(out, h->text.data, h->head_len);
        buf_append(out, sig.data, sig.len);
        buf_append(out, h->text.data + h->head_len, h->text.len - h->head_len);
        st = buf_status(out);
    }
    buf_free(&sig);
    hlo_free(h);
    return st;
}

void hlo_free(hlo *h) { buf_free(&h->text); }

/* ---- constants ---- */

hlo_val hlo_float(hlo *h, dtype t, double v)
{
    hlo_val out = make(t, 0, NULL);
    begin_op(h, &out, "stablehlo.constant");
    if (isfinite(v)) {
        buf_printf(&h->text, t == DT_F64 ? "dense<%.17e> : " : "dense<%.9e> : ", v);
    } else {
        /* By their bits: infinity, minus infinity, not a number. */
        static const char *const bits[DT_COUNT][3] = {
            [DT_F32] = { "7F800000", "FF800000", "7FC00000" }, [DT_BF16] = { "7F80", "FF80", "7FC0" }, [DT_F16] = { "7C00", "FC00", "7E00" },
            [DT_F64] = { "7FF0000000000000", "FFF0000000000000", "7FF8000000000000" }, [DT_F8E5M2] = { "7C", "FC", "7E" } };
        if (!bits[t][0]) hlo_fail(h, "%s has no infinity", type_name(t));
        else buf_printf(&h->text, "dense<0x%s> : ", bits[t][isnan(v) ? 2 : v < 0]);
    }
    hlo_put_type(h, out);
    end_op(h);
    return out;
}

hlo_val hlo_int(hlo *h, dtype t, int64_t v)
{
    hlo_val out = make(t, 0, NULL);
    begin_op(h, &out, "stablehlo.constant");
    if (t == DT_BOOL) buf_printf(&h->text, "dense<%s> : ", v ? "true" : "false");
    else buf_printf(&h->text, "dense<%lld> : ", (long long)v);
    hlo_put_type(h, out);
    end_op(h);
    return out;
}

hlo_val hlo_full(hlo *h, hlo_val scalar, int rank, const int64_t *dim) { return rank ? hlo_broadcast(h, scalar, NULL, rank, dim) : scalar; }
hlo_val hlo_full_like(hlo *h, hlo_val scalar, hlo_val like) { return hlo_full(h, scalar, like.rank, like.dim); }

static void put_floats(hlo *h, const float **v, int rank, const int64_t *dim)
{
    if (rank == 0) {
        buf_printf(&h->text, "%.9e", (double)*(*v)++);
        return;
    }
    buf_char(&h->text, '[');
    for (int64_t i = 0; i < dim[0]; i++) {
        if (i) buf_str(&h->text, ", ");
        put_floats(h, v, rank - 1, dim + 1);
    }
    buf_char(&h->text, ']');
}

hlo_val hlo_floats(hlo *h, const float *v, int rank, const int64_t *dim)
{
    hlo_val out = make(DT_F32, rank, dim);
    begin_op(h, &out, "stablehlo.constant");
    buf_str(&h->text, "dense<");
    put_floats(h, &v, rank, dim);
    buf_str(&h->text, "> : ");
    hlo_put_type(h, out);
    end_op(h);
    return out;
}

hlo_val hlo_ints(hlo *h, const int32_t *v, int64_t n)
{
    hlo_val out = make(DT_I32, 1, &n);
    begin_op(h, &out, "stablehlo.constant");
    buf_str(&h->text, "dense<[");
    for (int64_t i = 0; i < n; i++) buf_printf(&h->text, "%s%d", i ? ", " : "", v[i]);
    buf_str(&h->text, "]> : ");
    hlo_put_type(h, out);
    end_op(h);
    return out;
}

hlo_val hlo_iota(hlo *h, dtype t, int along, int rank, const int64_t *dim)
{
    hlo_val out = make(t, rank, dim);
    need_rank(h, "iota", rank);
    need_dim(h, "iota", out, along);
    begin_op(h, &out, "stablehlo.iota");
    buf_printf(&h->text, "dim = %d : ", along);
    hlo_put_type(h, out);
    end_op(h);
    return out;
}

/* ---- element by element ---- */

static hlo_val same_type_op(hlo *h, const char *verb, const hlo_val *in, int n)
{
    char full[64];
    hlo_val out = make(in[0].type, in[0].rank, in[0].dim);
    snprintf(full, sizeof full, "stablehlo.%s", verb);
    begin_op(h, &out, full);
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    buf_str(&h->text, " : ");
    hlo_put_type(h, out);
    end_op(h);
    return out;
}

hlo_val hlo_un(hlo *h, const char *verb, hlo_val x) { return same_type_op(h, verb, &x, 1); }

hlo_val hlo_bin(hlo *h, const char *verb, hlo_val x, hlo_val y)
{
    need_same(h, verb, x, y);
    return same_type_op(h, verb, (hlo_val[]){ x, y }, 2);
}

static hlo_val constant_like(hlo *h, hlo_val x, double y)
{
    return hlo_full_like(h, is_float(x.type) ? hlo_float(h, x.type, y) : hlo_int(h, x.type, (int64_t)y), x);
}

hlo_val hlo_bin_scalar(hlo *h, const char *verb, hlo_val x, double y) { return hlo_bin(h, verb, x, constant_like(h, x, y)); }

hlo_val hlo_cmp(hlo *h, const char *verb, hlo_val x, hlo_val y)
{
    need_same(h, "compare", x, y);
    hlo_val out = make(DT_BOOL, x.rank, x.dim);
    begin_op(h, &out, "stablehlo.compare");
    buf_printf(&h->text, "%s, ", verb);
    hlo_put_val(h, x);
    buf_str(&h->text, ", ");
    hlo_put_val(h, y);
    buf_printf(&h->text, ", %s", is_float(x.type) ? "FLOAT" : is_unsigned(x.type) ? "UNSIGNED" : "SIGNED");
    put_signature(h, (hlo_val[]){ x, y }, 2, out);
    return out;
}

hlo_val hlo_cmp_scalar(hlo *h, const char *verb, hlo_val x, double y) { return hlo_cmp(h, verb, x, constant_like(h, x, y)); }

hlo_val hlo_select(hlo *h, hlo_val pred, hlo_val yes, hlo_val no)
{
    need_same(h, "select", yes, no);
    if (pred.type != DT_BOOL || (pred.rank && !same_dims(pred, yes))) hlo_fail(h, "select: the predicate %%%d does not fit", pred.id);
    hlo_val out = make(yes.type, yes.rank, yes.dim);
    begin_op(h, &out, "stablehlo.select");
    hlo_put_val(h, pred);
    buf_str(&h->text, ", ");
    hlo_put_val(h, yes);
    buf_str(&h->text, ", ");
    hlo_put_val(h, no);
    buf_str(&h->text, " : ");
    hlo_put_type(h, pred);
    buf_str(&h->text, ", ");
    hlo_put_type(h, out);
    end_op(h);
    return out;
}

static hlo_val retyped(hlo *h, const char *verb, hlo_val x, hlo_val out)
{
    begin_op(h, &out, verb);
    hlo_put_val(h, x);
    put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_convert(hlo *h, hlo_val x, dtype t) { return x.type == t ? x : retyped(h, "stablehlo.convert", x, make(t, x.rank, x.dim)); }

hlo_val hlo_bitcast(hlo *h, hlo_val x, dtype t)
{
    const int64_t from = (int64_t)dtype_bits(x.type), to = (int64_t)dtype_bits(t);
    hlo_val out = make(t, x.rank, x.dim);
    if (from > to && from % to == 0 && need_rank(h, "bitcast", x.rank + 1)) out.dim[out.rank++] = from / to;
    else if (from < to && x.rank > 0 && x.dim[x.rank - 1] * from == to) out.rank--;
    else if (from != to) hlo_fail(h, "bitcast from %s to %s", type_name(x.type), type_name(t));
    return x.type == t ? x : retyped(h, "stablehlo.bitcast_convert", x, out);
}

/* ---- shapes ---- */

hlo_val hlo_reshape(hlo *h, hlo_val x, int rank, const int64_t *dim)
{
    hlo_val out = make(x.type, rank, dim);
    if (need_rank(h, "reshape", rank) && hlo_count(out) != hlo_count(x)) hlo_fail(h, "reshape of %lld elements to %lld", (long long)hlo_count(x), (long long)hlo_count(out));
    return same_dims(x, out) ? x : retyped(h, "stablehlo.reshape", x, out);
}

hlo_val hlo_transpose(hlo *h, hlo_val x, const int *perm)
{
    hlo_val out = make(x.type, x.rank, x.dim);
    int seen = 0;
    for (int i = 0; i < x.rank; i++) {
        if (!need_dim(h, "transpose", x, perm[i])) return out;
        seen |= 1 << perm[i];
        out.dim[i] = x.dim[perm[i]];
    }
    if (seen != (1 << x.rank) - 1) hlo_fail(h, "transpose: a dimension is there twice");
    begin_op(h, &out, "stablehlo.transpose");
    hlo_put_val(h, x);
    put_ints(h, ", dims = [", perm, x.rank, "]");
    put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_broadcast(hlo *h, hlo_val x, const int *map, int rank, const int64_t *dim)
{
    hlo_val out = make(x.type, rank, dim);
    for (int i = 0; need_rank(h, "broadcast", rank) && i < x.rank; i++)
        if (!need_dim(h, "broadcast", out, map[i])) return out;
        else if (x.dim[i] != 1 && x.dim[i] != dim[map[i]]) hlo_fail(h, "broadcast: dimension %d has %lld, not %lld", i, (long long)x.dim[i], (long long)dim[map[i]]);
    begin_op(h, &out, "stablehlo.broadcast_in_dim");
    hlo_put_val(h, x);
    put_ints(h, ", dims = [", map, x.rank, "]");
    put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_broadcast_at(hlo *h, hlo_val x, int first, hlo_val like)
{
    int map[HLO_RANK];
    for (int i = 0; i < x.rank; i++) map[i] = first + i;
    return hlo_broadcast(h, x, map, like.rank, like.dim);
}

hlo_val hlo_slice(hlo *h, hlo_val x, int along, int64_t from, int64_t to)
{
    if (!need_dim(h, "slice", x, along) || (from == 0 && to == x.dim[along])) return x;
    if (from < 0 || to > x.dim[along] || from > to) hlo_fail(h, "slice [%lld:%lld] of %lld", (long long)from, (long long)to, (long long)x.dim[along]);
    hlo_val out = make(x.type, x.rank, x.dim);
    out.dim[along] = to - from;
    begin_op(h, &out, "stablehlo.slice");
    hlo_put_val(h, x);
    buf_str(&h->text, " [");
    for (int i = 0; i < x.rank; i++)
        buf_printf(&h->text, "%s%lld:%lld", i ? ", " : "", (long long)(i == along ? from : 0), (long long)(i == along ? to : x.dim[i]));
    buf_str(&h->text, "]");
    put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_concat(hlo *h, const hlo_val *x, int n, int along)
{
    if (n == 1) return x[0];
    hlo_val out = make(x[0].type, x[0].rank, x[0].dim);
    if (!need_dim(h, "concatenate", out, along)) return out;
    for (int i = 1; i < n; i++) {
        hlo_val y = x[i];
        y.dim[along] = x[0].dim[along];
        need_same(h, "concatenate", x[0], y);
        out.dim[along] += x[i].dim[along];
    }
    begin_op(h, &out, "stablehlo.concatenate");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, x[i]);
    }
    buf_printf(&h->text, ", dim = %d", along);
    put_signature(h, x, n, out);
    return out;
}

hlo_val hlo_pad(hlo *h, hlo_val x, int along, int64_t before, int64_t after, hlo_val scalar)
{
    int64_t lo[HLO_RANK] = {0}, hi[HLO_RANK] = {0}, in[HLO_RANK] = {0};
    if (!need_dim(h, "pad", x, along) || (!before && !after)) return x;
    if (scalar.rank || scalar.type != x.type || before < 0 || after < 0)
        hlo_fail(h, "pad of %s by %lld and %lld of %s, rank %d", type_name(x.type), (long long)before, (long long)after, type_name(scalar.type), scalar.rank);
    hlo_val out = make(x.type, x.rank, x.dim);
    out.dim[along] += before + after;
    lo[along] = before;
    hi[along] = after;
    begin_op(h, &out, "stablehlo.pad");
    hlo_put_val(h, x);
    buf_str(&h->text, ", ");
    hlo_put_val(h, scalar);
    put_list(h, ", low = [", lo, x.rank, "]");
    put_list(h, ", high = [", hi, x.rank, "]");
    put_list(h, ", interior = [", in, x.rank, "]");
    put_signature(h, (hlo_val[]){ x, scalar }, 2, out);
    return out;
}

/* Fills in zeros for starts that are not given. */
static void all_starts(hlo *h, const hlo_val *starts, int n, hlo_val *out)
{
    hlo_val zero = {0};
    for (int i = 0; i < n; i++) {
        if (starts[i].id && (starts[i].type != DT_I32 || starts[i].rank)) hlo_fail(h, "start %d is %s, rank %d, expected an i32 scalar", i, type_name(starts[i].type), starts[i].rank);
        if (!starts[i].id && !zero.id) zero = hlo_int(h, DT_I32, 0);
        out[i] = starts[i].id ? starts[i] : zero;
    }
}

hlo_val hlo_dynamic_slice(hlo *h, hlo_val x, const hlo_val *starts, const int64_t *sizes)
{
    hlo_val in[HLO_RANK + 1] = { x }, out = make(x.type, x.rank, sizes);
    for (int i = 0; i < x.rank; i++)
        if (sizes[i] < 0 || sizes[i] > x.dim[i]) hlo_fail(h, "dynamic_slice: %lld of %lld in dimension %d", (long long)sizes[i], (long long)x.dim[i], i);
    all_starts(h, starts, x.rank, in + 1);
    begin_op(h, &out, "stablehlo.dynamic_slice");
    for (int i = 0; i <= x.rank; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    put_list(h, ", sizes = [", sizes, x.rank, "]");
    put_signature(h, in, x.rank + 1, out);
    return out;
}

hlo_val hlo_dynamic_update(hlo *h, hlo_val x, hlo_val update, const hlo_val *starts)
{
    hlo_val in[HLO_RANK + 2] = { x, update }, out = make(x.type, x.rank, x.dim);
    bool fits = x.type == update.type && x.rank == update.rank;
    for (int i = 0; fits && i < x.rank; i++) fits = update.dim[i] <= x.dim[i];
    if (!fits) hlo_fail(h, "dynamic_update_slice: the update does not fit");
    all_starts(h, starts, x.rank, in + 2);
    begin_op(h, &out, "stablehlo.dynamic_update_slice");
    for (int i = 0; i < x.rank + 2; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    put_signature(h, in, x.rank + 2, out);
    return out;
}

hlo_val hlo_row(hlo *h, hlo_val x, hlo_val at)
{
    hlo_val starts[HLO_RANK] = { at };
    int64_t sizes[HLO_RANK];
    if (!need_dim(h, "row", x, 0)) return x;
    memcpy(sizes, x.dim, sizeof sizes);
    sizes[0] = 1;
    return hlo_reshape(h, hlo_dynamic_slice(h, x, starts, sizes), x.rank - 1, x.dim + 1);
}

/* ---- reductions, products ---- */

/* What changes nothing when it is added, ... */
static hlo_val neutral(hlo *h, const char *verb, dtype t)
{
    bool max = strcmp(verb, "maximum") == 0, min = strcmp(verb, "minimum") == 0, and = strcmp(verb, "and") == 0;
    if (!max && !min && !and && strcmp(verb, "add") != 0 && strcmp(verb, "or") != 0) hlo_fail(h, "reduce with %s", verb);
    if (is_float(t)) return hlo_float(h, t, max ? -INFINITY : min ? INFINITY : 0);
    if (t == DT_BOOL) return hlo_int(h, t, and || min);
    int bits = (int)dtype_bits(t);
    int64_t most = (int64_t)(UINT64_MAX >> (is_unsigned(t) && bits < 64 ? 64 - bits : 65 - bits));
    if (max) return hlo_int(h, t, is_unsigned(t) ? 0 : -most - 1);
    if (is_unsigned(t) && bits == 64 && (min || and)) hlo_fail(h, "reduce of ui64 with %s", verb);
    return hlo_int(h, t, min || (and && is_unsigned(t)) ? most : and ? -1 : 0);
}

hlo_val hlo_reduce(hlo *h, const char *verb, hlo_val x, int along)
{
    hlo_val out = make(x.type, x.rank - 1, x.dim), init;
    if (!need_dim(h, "reduce", x, along)) return out;
    for (int i = along; i < x.rank - 1; i++) out.dim[i] = x.dim[i + 1];
    init = neutral(h, verb, x.type);
    begin_op(h, &out, "stablehlo.reduce(");
    hlo_put_val(h, x);
    buf_str(&h->text, " init: ");
    hlo_put_val(h, init);
    buf_printf(&h->text, ") applies stablehlo.%s across dimensions = [%d]", verb, along);
    put_signature(h, (hlo_val[]){ x, init }, 2, out);
    return out;
}

hlo_val hlo_softmax_block(hlo *h, hlo_val s, hlo_val seen, hlo_val *greatest, hlo_val *sum, hlo_val *fade)
{
    const hlo_val before = *greatest;
    s = hlo_select(h, seen, s, hlo_full_like(h, hlo_float(h, DT_F32, HLO_NO_SCORE), s));
    *greatest = hlo_bin(h, "maximum", before, hlo_reduce(h, "maximum", s, s.rank - 1));
    hlo_val p = hlo_un(h, "exponential", hlo_bin(h, "subtract", s, hlo_broadcast_at(h, *greatest, 0, s)));
    p = hlo_select(h, seen, p, hlo_full_like(h, hlo_float(h, DT_F32, 0), p));
    *fade = hlo_un(h, "exponential", hlo_bin(h, "subtract", before, *greatest));
    *sum = hlo_bin(h, "add", hlo_bin(h, "multiply", *sum, *fade), hlo_reduce(h, "add", p, p.rank - 1));
    return p;
}

/* One pass over pairs (value, index): the larger value, of equals the lower index. @ stands for the type of a value. */
hlo_val hlo_argmax(hlo *h, hlo_val x, int along)
{
    static const char *const lines[] = {
        "^bb0(%va: @, %ia: tensor<i32>, %vb: @, %ib: tensor<i32>):",
        "  %gt = stablehlo.compare GT, %va, %vb, FLOAT : (@, @) -> tensor<i1>",
        "  %eq = stablehlo.compare EQ, %va, %vb, FLOAT : (@, @) -> tensor<i1>",
        "  %v = stablehlo.select %gt, %va, %vb : tensor<i1>, @",
        "  %low = stablehlo.minimum %ia, %ib : tensor<i32>",
        "  %one = stablehlo.select %gt, %ia, %ib : tensor<i1>, tensor<i32>",
        "  %i = stablehlo.select %eq, %low, %one : tensor<i1>, tensor<i32>",
        "  stablehlo.return %v, %i : @, tensor<i32>" };
    if (!is_float(x.type)) hlo_fail(h, "argmax of %s", type_name(x.type));
    if (!need_dim(h, "argmax", x, along)) return x;
    const hlo_val in[] = { x, hlo_iota(h, DT_I32, along, x.rank, x.dim), hlo_float(h, x.type, -INFINITY), hlo_int(h, DT_I32, INT32_MAX) };
    hlo_val out = make(DT_I32, x.rank - 1, x.dim);
    for (int i = along; i < x.rank - 1; i++) out.dim[i] = x.dim[i + 1];
    hlo_val best = out;
    best.type = x.type;
    out.id = ++h->next_id;
    out.sub = 1;
    indent(h);
    buf_printf(&h->text, "%%%d:2 = \"stablehlo.reduce\"(", out.id);
    for (int i = 0; i < 4; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    buf_printf(&h->text, ") <{dimensions = array<i64: %d>}> ({\n", along);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        indent(h);
        for (const char *c = lines[i]; *c; c++) {
            if (*c == '@') buf_printf(&h->text, "tensor<%s>", type_name(x.type));
            else buf_char(&h->text, *c);
        }
        end_op(h);
    }
    indent(h);
    buf_str(&h->text, "}) : (");
    for (int i = 0; i < 4; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_type(h, in[i]);
    }
    buf_str(&h->text, ") -> (");
    hlo_put_type(h, best);
    buf_str(&h->text, ", ");
    hlo_put_type(h, out);
    buf_str(&h->text, ")\n");
    return out;
}

static bool listed(hlo_dims d, int i)
{
    for (int j = 0; j < d.n; j++)
        if (d.v[j] == i) return true;
    return false;
}

hlo_val hlo_dot(hlo *h, hlo_val a, hlo_val b, hlo_dims batch_a, hlo_dims batch_b, hlo_dims over_a, hlo_dims over_b, dtype type)
{
    hlo_val out = { .sub = -1, .type = type };
    if (batch_a.n != batch_b.n || over_a.n != over_b.n) hlo_fail(h, "dot: %d and %d batch dimensions, over %d and %d", batch_a.n, batch_b.n, over_a.n, over_b.n);
    if (!need_rank(h, "dot", a.rank + b.rank - batch_a.n - 2 * over_a.n) || batch_a.n != batch_b.n || over_a.n != over_b.n) return out;
    for (int i = 0; i < batch_a.n; i++) {
        if (a.dim[batch_a.v[i]] != b.dim[batch_b.v[i]]) hlo_fail(h, "dot: batch dimensions differ");
        out.dim[out.rank++] = a.dim[batch_a.v[i]];
    }
    for (int i = 0; i < over_a.n; i++)
        if (a.dim[over_a.v[i]] != b.dim[over_b.v[i]]) hlo_fail(h, "dot over %lld and %lld", (long long)a.dim[over_a.v[i]], (long long)b.dim[over_b.v[i]]);
    for (int i = 0; i < a.rank && out.rank < HLO_RANK; i++)
        if (!listed(batch_a, i) && !listed(over_a, i)) out.dim[out.rank++] = a.dim[i];
    for (int i = 0; i < b.rank && out.rank < HLO_RANK; i++)
        if (!listed(batch_b, i) && !listed(over_b, i)) out.dim[out.rank++] = b.dim[i];
    begin_op(h, &out, "stablehlo.dot_general");
    hlo_put_val(h, a);
    buf_str(&h->text, ", ");
    hlo_put_val(h, b);
    if (batch_a.n) {
        put_ints(h, ", batching_dims = [", batch_a.v, batch_a.n, "] x [");
        put_ints(h, "", batch_b.v, batch_b.n, "]");
    }
    put_ints(h, ", contracting_dims = [", over_a.v, over_a.n, "] x [");
    put_ints(h, "", over_b.v, over_b.n, "]");
    if (a.type == DT_F32 || b.type == DT_F32) buf_str(&h->text, ", precision = [HIGHEST, HIGHEST]");
    put_signature(h, (hlo_val[]){ a, b }, 2, out);
    return out;
}

/* ---- gather, scatter ---- */

hlo_val hlo_take(hlo *h, hlo_val x, hlo_val at)
{
    hlo_val out = make(x.type, at.rank, at.dim);
    if (!need_dim(h, "gather", x, 0) || !need_rank(h, "gather", at.rank + x.rank - 1)) return out;
    int offset[HLO_RANK] = {0};
    int64_t sizes[HLO_RANK];
    memcpy(sizes, x.dim, sizeof sizes);
    sizes[0] = 1;
    for (int i = 1; i < x.rank && out.rank < HLO_RANK; i++) {
        offset[i - 1] = out.rank;
        out.dim[out.rank++] = x.dim[i];
    }
    begin_op(h, &out, "\"stablehlo.gather\"(");
    hlo_put_val(h, x);
    buf_str(&h->text, ", ");
    hlo_put_val(h, at);
    buf_str(&h->text, ") <{dimension_numbers = #stablehlo.gather<");
    if (x.rank > 1) put_ints(h, "offset_dims = [", offset, x.rank - 1, "], ");
    buf_printf(&h->text, "collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = %d>", at.rank);
    put_list(h, ", slice_sizes = array<i64: ", sizes, x.rank, ">, indices_are_sorted = false}>");
    put_signature(h, (hlo_val[]){ x, at }, 2, out);
    return out;
}

static hlo_val scatter(hlo *h, hlo_val x, hlo_val at, hlo_val y, bool adds)
{
    int window[HLO_RANK], inserted[HLO_RANK], k = at.rank == 2 && at.dim[1] <= x.rank ? (int)at.dim[1] : 0;
    hlo_val out = make(x.type, x.rank, x.dim), in[] = { x, at, y };
    bool fits = k > 0 && y.rank == x.rank - k + 1 && y.dim[0] == at.dim[0] && y.type == x.type;
    for (int i = 1; fits && i < y.rank; i++) fits = y.dim[i] == x.dim[k + i - 1];
    if (!fits) {
        hlo_fail(h, "scatter: indices or updates do not fit");
        return out;
    }
    for (int i = 0; i < y.rank - 1; i++) window[i] = i + 1;
    for (int i = 0; i < k; i++) inserted[i] = i;
    begin_op(h, &out, "\"stablehlo.scatter\"(");
    for (int i = 0; i < 3; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    buf_str(&h->text, ") <{scatter_dimension_numbers = #stablehlo.scatter<");
    if (y.rank > 1) put_ints(h, "update_window_dims = [", window, y.rank - 1, "], ");
    put_ints(h, "inserted_window_dims = [", inserted, k, "], ");
    put_ints(h, "scatter_dims_to_operand_dims = [", inserted, k, "], index_vector_dim = 1>, indices_are_sorted = false, unique_indices = false}> ({\n");
    int old = ++h->next_id, add = ++h->next_id;
    indent(h);
    buf_printf(&h->text, "^bb0(%%%d: tensor<%s>, %%%d: tensor<%s>):\n", old, type_name(x.type), add, type_name(x.type));
    h->depth++;
    if (adds) {
        int sum = ++h->next_id;
        indent(h);
        buf_printf(&h->text, "%%%d = stablehlo.add %%%d, %%%d : tensor<%s>\n", sum, old, add, type_name(x.type));
        add = sum;
    }
    indent(h);
    buf_printf(&h->text, "stablehlo.return %%%d : tensor<%s>\n", add, type_name(x.type));
    h->depth--;
    indent(h);
    buf_str(&h->text, "})");
    put_signature(h, in, 3, out);
    return out;
}

hlo_val hlo_put(hlo *h, hlo_val x, hlo_val at, hlo_val y) { return scatter(h, x, at, y, false); }
hlo_val hlo_put_add(hlo *h, hlo_val x, hlo_val at, hlo_val y) { return scatter(h, x, at, y, true); }

/* ---- loops ---- */

void hlo_while(hlo *h, const hlo_val *init, int n, hlo_val *carried)
{
    if (h->n_loops == HLO_WHILES || n > HLO_CARRIED) {
        hlo_fail(h, "%d loops in each other with %d values, at most %d and %d are supported", h->n_loops + 1, n, HLO_WHILES, HLO_CARRIED);
        for (int i = 0; i < n; i++) carried[i] = init[i];
        n = 0;
    }
    int level = h->n_loops < HLO_WHILES ? h->n_loops++ : HLO_WHILES - 1;
    h->loop[level].id = ++h->next_id;
    h->loop[level].n = n;
    indent(h);
    buf_printf(&h->text, "%%%d:%d = stablehlo.while(", h->loop[level].id, n);
    for (int i = 0; i < n; i++) {
        h->loop[level].init[i] = init[i];
        carried[i] = make(init[i].type, init[i].rank, init[i].dim);
        carried[i].id = ++h->next_id;
        buf_printf(&h->text, "%s%%%d = ", i ? ", " : "", carried[i].id);
        hlo_put_val(h, init[i]);
    }
    buf_str(&h->text, ") : ");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_type(h, init[i]);
    }
    end_op(h);
    indent(h);
    buf_str(&h->text, "cond {\n");
    h->depth++;
}

static void put_return(hlo *h, const hlo_val *v, int n)
{
    indent(h);
    buf_str(&h->text, "stablehlo.return ");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, v[i]);
    }
    buf_str(&h->text, " : ");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_type(h, v[i]);
    }
    end_op(h);
    h->depth--;
    indent(h);
}

void hlo_do(hlo *h, hlo_val pred)
{
    put_return(h, &pred, 1);
    buf_str(&h->text, "} do {\n");
    h->depth++;
}

void hlo_end(hlo *h, const hlo_val *next, hlo_val *out)
{
    if (h->n_loops == 0) {
        hlo_fail(h, "the end of a loop that was not begun");
        return;
    }
    int level = --h->n_loops, n = h->loop[level].n;
    h->counter[level] = (hlo_val){0};
    for (int i = 0; i < n; i++) {
        need_same(h, "while", h->loop[level].init[i], next[i]);
        out[i] = make(next[i].type, next[i].rank, next[i].dim);
        out[i].id = h->loop[level].id;
        out[i].sub = i;
    }
    put_return(h, next, n);
    buf_str(&h->text, "}\n");
}

hlo_val hlo_for(hlo *h, hlo_val from, hlo_val to, const hlo_val *init, int n, hlo_val *carried)
{
    hlo_val in[HLO_CARRIED + 1] = { from }, at[HLO_CARRIED + 1];
    if (n > HLO_CARRIED - 1) {
        hlo_fail(h, "a loop with %d values, at most %d are supported", n, HLO_CARRIED - 1);
        for (int i = 0; i < n; i++) carried[i] = init[i];
        n = 0;
    }
    for (int i = 0; i < n; i++) in[i + 1] = init[i];
    hlo_while(h, in, n + 1, at);
    hlo_do(h, hlo_cmp(h, "LT", at[0], to));
    for (int i = 0; i < n; i++) carried[i] = at[i + 1];
    if (h->n_loops) h->counter[h->n_loops - 1] = at[0];
    return at[0];
}

void hlo_end_for(hlo *h, const hlo_val *next, hlo_val *out)
{
    hlo_val all[HLO_CARRIED + 1], res[HLO_CARRIED + 1];
    if (h->n_loops == 0 || !hlo_is(h->counter[h->n_loops - 1])) {
        hlo_fail(h, "the end of a loop that was not begun");
        return;
    }
    int n = h->loop[h->n_loops - 1].n - 1;
    all[0] = hlo_bin_scalar(h, "add", h->counter[h->n_loops - 1], 1);
    for (int i = 0; i < n; i++) all[i + 1] = next[i];
    hlo_end(h, all, res);
    for (int i = 0; i < n; i++) out[i] = res[i + 1];
}

/* ---- collectives ---- */

/* dense<[[0, 1], [2, 3]]> : tensor<2x2xi64>: the tensor ranks of each data rank. */
static void put_groups(hlo *h)
{
    buf_str(&h->text, "dense<[");
    for (int d = 0; d < h->mesh.dp; d++) {
        buf_str(&h->text, d ? ", [" : "[");
        for (int t = 0; t < h->mesh.tp; t++) buf_printf(&h->text, "%s%d", t ? ", " : "", d * h->mesh.tp + t);
        buf_str(&h->text, "]");
    }
    buf_printf(&h->text, "]> : tensor<%dx%dxi64>", h->mesh.dp, h->mesh.tp);
}

static void begin_collective(hlo *h, hlo_val *out, const char *verb, hlo_val x)
{
    begin_op(h, out, verb);
    hlo_put_val(h, x);
    buf_str(&h->text, ") <{");
}

static void end_collective(hlo *h)
{
    buf_str(&h->text, "replica_groups = ");
    put_groups(h);
    buf_printf(&h->text, ", channel_handle = #stablehlo.channel_handle<handle = %d, type = 1>, use_global_device_ids}>", h->next_channel++);
}

/* The region that adds two numbers. */
static void put_sum(hlo *h, dtype t)
{
    int a = ++h->next_id, b = ++h->next_id, sum = ++h->next_id;
    buf_printf(&h->text, " ({\n");
    indent(h);
    buf_printf(&h->text, "^bb0(%%%d: tensor<%s>, %%%d: tensor<%s>):\n", a, type_name(t), b, type_name(t));
    h->depth++;
    indent(h);
    buf_printf(&h->text, "%%%d = stablehlo.add %%%d, %%%d : tensor<%s>\n", sum, a, b, type_name(t));
    indent(h);
    buf_printf(&h->text, "stablehlo.return %%%d : tensor<%s>\n", sum, type_name(t));
    h->depth--;
    indent(h);
    buf_str(&h->text, "})");
}

hlo_val hlo_tensor_rank(hlo *h)
{
    if (h->mesh.tp == 1) return hlo_int(h, DT_I32, 0);
    if (!hlo_is(h->rank)) hlo_fail(h, "the tensor rank is not an argument of this program");
    return h->rank;
}

hlo_val hlo_all_reduce(hlo *h, hlo_val x)
{
    if (h->mesh.tp == 1) return x;
    hlo_val out = make(x.type, x.rank, x.dim);
    begin_collective(h, &out, "\"stablehlo.all_reduce\"(", x);
    end_collective(h);
    put_sum(h, x.type);
    put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_all_gather(hlo *h, hlo_val x, int along)
{
    if (h->mesh.tp == 1) return x;
    hlo_val out = make(x.type, x.rank, x.dim);
    if (!need_dim(h, "all_gather", x, along)) return x;
    out.dim[along] *= h->mesh.tp;
    begin_collective(h, &out, "\"stablehlo.all_gather\"(", x);
    buf_printf(&h->text, "all_gather_dim = %d : i64, ", along);
    end_collective(h);
    put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_reduce_scatter(hlo *h, hlo_val x, int along)
{
    if (h->mesh.tp == 1) return x;
    hlo_val out = make(x.type, x.rank, x.dim);
    if (!need_dim(h, "reduce_scatter", x, along)) return x;
    if (x.dim[along] % h->mesh.tp) hlo_fail(h, "reduce_scatter of %lld over %d ranks", (long long)x.dim[along], h->mesh.tp);
    out.dim[along] /= h->mesh.tp;
    begin_collective(h, &out, "\"stablehlo.reduce_scatter\"(", x);
    buf_printf(&h->text, "scatter_dimension = %d : i64, ", along);
    end_collective(h);
    put_sum(h, x.type);
    put_signature(h, &x, 1, out);
    return out;
}

/* ---- buckets ---- */

int64_t hlo_dim(const hlo_step *s, mesh m, int64_t dim)
{
    return dim == DIM_T ? s->T : dim == DIM_S ? s->S : dim == DIM_R ? s->R : dim == DIM_TS ? s->T / m.tp : dim;
}
