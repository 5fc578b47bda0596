/* Lines of StableHLO that sum up: reductions, softmax, products. */
#include "ops/hlo_text.h"

#include <math.h>

/* What changes nothing when it is added, ... */
static hlo_val neutral(hlo *h, const char *verb, dtype t)
{
    bool max = strcmp(verb, "maximum") == 0, min = strcmp(verb, "minimum") == 0, and = strcmp(verb, "and") == 0;
    if (!max && !min && !and && strcmp(verb, "add") != 0 && strcmp(verb, "or") != 0) hlo_fail(h, "reduce with %s", verb);
    if (hlo_is_float(t)) return hlo_float(h, t, max ? -INFINITY : min ? INFINITY : 0);
    if (t == DT_BOOL) return hlo_int(h, t, and || min);
    int bits = (int)dtype_bits(t);
    int64_t most = (int64_t)(UINT64_MAX >> (hlo_is_unsigned(t) && bits < 64 ? 64 - bits : 65 - bits));
    if (max) return hlo_int(h, t, hlo_is_unsigned(t) ? 0 : -most - 1);
    if (hlo_is_unsigned(t) && bits == 64 && (min || and)) hlo_fail(h, "reduce of ui64 with %s", verb);
    return hlo_int(h, t, min || (and && hlo_is_unsigned(t)) ? most : and ? -1 : 0);
}

hlo_val hlo_reduce(hlo *h, const char *verb, hlo_val x, int along)
{
    hlo_val out = hlo_make(x.type, x.rank - 1, x.dim), init;
    if (!hlo_need_dim(h, "reduce", x, along)) return out;
    for (int i = along; i < x.rank - 1; i++) out.dim[i] = x.dim[i + 1];
    init = neutral(h, verb, x.type);
    hlo_begin_op(h, &out, "stablehlo.reduce(");
    hlo_put_val(h, x);
    buf_str(&h->text, " init: ");
    hlo_put_val(h, init);
    buf_printf(&h->text, ") applies stablehlo.%s across dimensions = [%d]", verb, along);
    hlo_put_signature(h, (hlo_val[]){ x, init }, 2, out);
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
    if (!hlo_is_float(x.type)) hlo_fail(h, "argmax of %s", hlo_type_name(x.type));
    if (!hlo_need_dim(h, "argmax", x, along)) return x;
    const hlo_val in[] = { x, hlo_iota(h, DT_I32, along, x.rank, x.dim), hlo_float(h, x.type, -INFINITY), hlo_int(h, DT_I32, INT32_MAX) };
    hlo_val out = hlo_make(DT_I32, x.rank - 1, x.dim);
    for (int i = along; i < x.rank - 1; i++) out.dim[i] = x.dim[i + 1];
    hlo_val best = out;
    best.type = x.type;
    out.id = ++h->next_id;
    out.sub = 1;
    hlo_indent(h);
    buf_printf(&h->text, "%%%d:2 = \"stablehlo.reduce\"(", out.id);
    for (int i = 0; i < 4; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    buf_printf(&h->text, ") <{dimensions = array<i64: %d>}> ({\n", along);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        hlo_indent(h);
        for (const char *c = lines[i]; *c; c++) {
            if (*c == '@') buf_printf(&h->text, "tensor<%s>", hlo_type_name(x.type));
            else buf_char(&h->text, *c);
        }
        hlo_end_op(h);
    }
    hlo_indent(h);
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
    if (!hlo_need_rank(h, "dot", a.rank + b.rank - batch_a.n - 2 * over_a.n) || batch_a.n != batch_b.n || over_a.n != over_b.n) return out;
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
    hlo_begin_op(h, &out, "stablehlo.dot_general");
    hlo_put_val(h, a);
    buf_str(&h->text, ", ");
    hlo_put_val(h, b);
    if (batch_a.n) {
        hlo_put_ints(h, ", batching_dims = [", batch_a.v, batch_a.n, "] x [");
        hlo_put_ints(h, "", batch_b.v, batch_b.n, "]");
    }
    hlo_put_ints(h, ", contracting_dims = [", over_a.v, over_a.n, "] x [");
    hlo_put_ints(h, "", over_b.v, over_b.n, "]");
    if (a.type == DT_F32 || b.type == DT_F32) buf_str(&h->text, ", precision = [HIGHEST, HIGHEST]");
    hlo_put_signature(h, (hlo_val[]){ a, b }, 2, out);
    return out;
}
