/* Lines of StableHLO: the module, constants, what works element by element (shapes: hlo_shape.c, sums and products: hlo_reduce.c, loops and
 * collectives: hlo_control.c). Every builder checks what the text would be wrong with, so that a mistake is a sentence and not a compiler's
 * complaint about line 9,000. */
#include "ops/hlo_text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
        hlo_val v = hlo_make(args[i].type, args[i].rank, args[i].dim);
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
    hlo_indent(h);
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
    hlo_val out = hlo_make(t, 0, NULL);
    hlo_begin_op(h, &out, "stablehlo.constant");
    if (isfinite(v)) {
        buf_printf(&h->text, t == DT_F64 ? "dense<%.17e> : " : "dense<%.9e> : ", v);
    } else {
        /* By their bits: infinity, minus infinity, not a number. */
        static const char *const bits[DT_COUNT][3] = {
            [DT_F32] = { "7F800000", "FF800000", "7FC00000" }, [DT_BF16] = { "7F80", "FF80", "7FC0" }, [DT_F16] = { "7C00", "FC00", "7E00" },
            [DT_F64] = { "7FF0000000000000", "FFF0000000000000", "7FF8000000000000" }, [DT_F8E5M2] = { "7C", "FC", "7E" } };
        if (!bits[t][0]) hlo_fail(h, "%s has no infinity", hlo_type_name(t));
        else buf_printf(&h->text, "dense<0x%s> : ", bits[t][isnan(v) ? 2 : v < 0]);
    }
    hlo_put_type(h, out);
    hlo_end_op(h);
    return out;
}

hlo_val hlo_int(hlo *h, dtype t, int64_t v)
{
    hlo_val out = hlo_make(t, 0, NULL);
    hlo_begin_op(h, &out, "stablehlo.constant");
    if (t == DT_BOOL) buf_printf(&h->text, "dense<%s> : ", v ? "true" : "false");
    else buf_printf(&h->text, "dense<%lld> : ", (long long)v);
    hlo_put_type(h, out);
    hlo_end_op(h);
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
    hlo_val out = hlo_make(DT_F32, rank, dim);
    hlo_begin_op(h, &out, "stablehlo.constant");
    buf_str(&h->text, "dense<");
    put_floats(h, &v, rank, dim);
    buf_str(&h->text, "> : ");
    hlo_put_type(h, out);
    hlo_end_op(h);
    return out;
}

hlo_val hlo_ints(hlo *h, const int32_t *v, int64_t n)
{
    hlo_val out = hlo_make(DT_I32, 1, &n);
    hlo_begin_op(h, &out, "stablehlo.constant");
    buf_str(&h->text, "dense<[");
    for (int64_t i = 0; i < n; i++) buf_printf(&h->text, "%s%d", i ? ", " : "", v[i]);
    buf_str(&h->text, "]> : ");
    hlo_put_type(h, out);
    hlo_end_op(h);
    return out;
}

hlo_val hlo_iota(hlo *h, dtype t, int along, int rank, const int64_t *dim)
{
    hlo_val out = hlo_make(t, rank, dim);
    hlo_need_rank(h, "iota", rank);
    hlo_need_dim(h, "iota", out, along);
    hlo_begin_op(h, &out, "stablehlo.iota");
    buf_printf(&h->text, "dim = %d : ", along);
    hlo_put_type(h, out);
    hlo_end_op(h);
    return out;
}

/* ---- element by element ---- */

static hlo_val same_type_op(hlo *h, const char *verb, const hlo_val *in, int n)
{
    char full[64];
    hlo_val out = hlo_make(in[0].type, in[0].rank, in[0].dim);
    snprintf(full, sizeof full, "stablehlo.%s", verb);
    hlo_begin_op(h, &out, full);
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    buf_str(&h->text, " : ");
    hlo_put_type(h, out);
    hlo_end_op(h);
    return out;
}

hlo_val hlo_un(hlo *h, const char *verb, hlo_val x) { return same_type_op(h, verb, &x, 1); }

hlo_val hlo_bin(hlo *h, const char *verb, hlo_val x, hlo_val y)
{
    hlo_need_same(h, verb, x, y);
    return same_type_op(h, verb, (hlo_val[]){ x, y }, 2);
}

static hlo_val constant_like(hlo *h, hlo_val x, double y)
{
    return hlo_full_like(h, hlo_is_float(x.type) ? hlo_float(h, x.type, y) : hlo_int(h, x.type, (int64_t)y), x);
}

hlo_val hlo_bin_scalar(hlo *h, const char *verb, hlo_val x, double y) { return hlo_bin(h, verb, x, constant_like(h, x, y)); }

hlo_val hlo_cmp(hlo *h, const char *verb, hlo_val x, hlo_val y)
{
    hlo_need_same(h, "compare", x, y);
    hlo_val out = hlo_make(DT_BOOL, x.rank, x.dim);
    hlo_begin_op(h, &out, "stablehlo.compare");
    buf_printf(&h->text, "%s, ", verb);
    hlo_put_val(h, x);
    buf_str(&h->text, ", ");
    hlo_put_val(h, y);
    buf_printf(&h->text, ", %s", hlo_is_float(x.type) ? "FLOAT" : hlo_is_unsigned(x.type) ? "UNSIGNED" : "SIGNED");
    hlo_put_signature(h, (hlo_val[]){ x, y }, 2, out);
    return out;
}

hlo_val hlo_cmp_scalar(hlo *h, const char *verb, hlo_val x, double y) { return hlo_cmp(h, verb, x, constant_like(h, x, y)); }

hlo_val hlo_select(hlo *h, hlo_val pred, hlo_val yes, hlo_val no)
{
    hlo_need_same(h, "select", yes, no);
    if (pred.type != DT_BOOL || (pred.rank && !hlo_same_dims(pred, yes))) hlo_fail(h, "select: the predicate %%%d does not fit", pred.id);
    hlo_val out = hlo_make(yes.type, yes.rank, yes.dim);
    hlo_begin_op(h, &out, "stablehlo.select");
    hlo_put_val(h, pred);
    buf_str(&h->text, ", ");
    hlo_put_val(h, yes);
    buf_str(&h->text, ", ");
    hlo_put_val(h, no);
    buf_str(&h->text, " : ");
    hlo_put_type(h, pred);
    buf_str(&h->text, ", ");
    hlo_put_type(h, out);
    hlo_end_op(h);
    return out;
}

hlo_val hlo_retyped(hlo *h, const char *verb, hlo_val x, hlo_val out)
{
    hlo_begin_op(h, &out, verb);
    hlo_put_val(h, x);
    hlo_put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_convert(hlo *h, hlo_val x, dtype t) { return x.type == t ? x : hlo_retyped(h, "stablehlo.convert", x, hlo_make(t, x.rank, x.dim)); }

hlo_val hlo_bitcast(hlo *h, hlo_val x, dtype t)
{
    const int64_t from = (int64_t)dtype_bits(x.type), to = (int64_t)dtype_bits(t);
    hlo_val out = hlo_make(t, x.rank, x.dim);
    if (from > to && from % to == 0 && hlo_need_rank(h, "bitcast", x.rank + 1)) out.dim[out.rank++] = from / to;
    else if (from < to && x.rank > 0 && x.dim[x.rank - 1] * from == to) out.rank--;
    else if (from != to) hlo_fail(h, "bitcast from %s to %s", hlo_type_name(x.type), hlo_type_name(t));
    return x.type == t ? x : hlo_retyped(h, "stablehlo.bitcast_convert", x, out);
}

/* ---- buckets ---- */

int64_t hlo_dim(const hlo_step *s, mesh m, int64_t dim)
{
    return dim == DIM_T ? s->T : dim == DIM_S ? s->S : dim == DIM_R ? s->R : dim == DIM_TS ? s->T / m.tp : dim;
}
