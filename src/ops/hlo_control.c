/* Loops and collectives of a StableHLO program. */
#include "ops/hlo_text.h"

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
    hlo_indent(h);
    buf_printf(&h->text, "%%%d:%d = stablehlo.while(", h->loop[level].id, n);
    for (int i = 0; i < n; i++) {
        h->loop[level].init[i] = init[i];
        carried[i] = hlo_make(init[i].type, init[i].rank, init[i].dim);
        carried[i].id = ++h->next_id;
        buf_printf(&h->text, "%s%%%d = ", i ? ", " : "", carried[i].id);
        hlo_put_val(h, init[i]);
    }
    buf_str(&h->text, ") : ");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_type(h, init[i]);
    }
    hlo_end_op(h);
    hlo_indent(h);
    buf_str(&h->text, "cond {\n");
    h->depth++;
}

static void put_return(hlo *h, const hlo_val *v, int n)
{
    hlo_indent(h);
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
    hlo_end_op(h);
    h->depth--;
    hlo_indent(h);
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
        hlo_need_same(h, "while", h->loop[level].init[i], next[i]);
        out[i] = hlo_make(next[i].type, next[i].rank, next[i].dim);
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
    hlo_begin_op(h, out, verb);
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
    hlo_indent(h);
    buf_printf(&h->text, "^bb0(%%%d: tensor<%s>, %%%d: tensor<%s>):\n", a, hlo_type_name(t), b, hlo_type_name(t));
    h->depth++;
    hlo_indent(h);
    buf_printf(&h->text, "%%%d = stablehlo.add %%%d, %%%d : tensor<%s>\n", sum, a, b, hlo_type_name(t));
    hlo_indent(h);
    buf_printf(&h->text, "stablehlo.return %%%d : tensor<%s>\n", sum, hlo_type_name(t));
    h->depth--;
    hlo_indent(h);
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
    hlo_val out = hlo_make(x.type, x.rank, x.dim);
    begin_collective(h, &out, "\"stablehlo.all_reduce\"(", x);
    end_collective(h);
    put_sum(h, x.type);
    hlo_put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_all_gather(hlo *h, hlo_val x, int along)
{
    if (h->mesh.tp == 1) return x;
    hlo_val out = hlo_make(x.type, x.rank, x.dim);
    if (!hlo_need_dim(h, "all_gather", x, along)) return x;
    out.dim[along] *= h->mesh.tp;
    begin_collective(h, &out, "\"stablehlo.all_gather\"(", x);
    buf_printf(&h->text, "all_gather_dim = %d : i64, ", along);
    end_collective(h);
    hlo_put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_reduce_scatter(hlo *h, hlo_val x, int along)
{
    if (h->mesh.tp == 1) return x;
    hlo_val out = hlo_make(x.type, x.rank, x.dim);
    if (!hlo_need_dim(h, "reduce_scatter", x, along)) return x;
    if (x.dim[along] % h->mesh.tp) hlo_fail(h, "reduce_scatter of %lld over %d ranks", (long long)x.dim[along], h->mesh.tp);
    out.dim[along] /= h->mesh.tp;
    begin_collective(h, &out, "\"stablehlo.reduce_scatter\"(", x);
    buf_printf(&h->text, "scatter_dimension = %d : i64, ", along);
    end_collective(h);
    put_sum(h, x.type);
    hlo_put_signature(h, &x, 1, out);
    return out;
}
