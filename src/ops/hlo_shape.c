/* Lines of StableHLO that move numbers: shapes, slices, gather and scatter. */
#include "ops/hlo_text.h"

/* ---- shapes ---- */

hlo_val hlo_reshape(hlo *h, hlo_val x, int rank, const int64_t *dim)
{
    hlo_val out = hlo_make(x.type, rank, dim);
    if (hlo_need_rank(h, "reshape", rank) && hlo_count(out) != hlo_count(x)) hlo_fail(h, "reshape of %lld elements to %lld", (long long)hlo_count(x), (long long)hlo_count(out));
    return hlo_same_dims(x, out) ? x : hlo_retyped(h, "stablehlo.reshape", x, out);
}

hlo_val hlo_transpose(hlo *h, hlo_val x, const int *perm)
{
    hlo_val out = hlo_make(x.type, x.rank, x.dim);
    int seen = 0;
    for (int i = 0; i < x.rank; i++) {
        if (!hlo_need_dim(h, "transpose", x, perm[i])) return out;
        seen |= 1 << perm[i];
        out.dim[i] = x.dim[perm[i]];
    }
    if (seen != (1 << x.rank) - 1) hlo_fail(h, "transpose: a dimension is there twice");
    hlo_begin_op(h, &out, "stablehlo.transpose");
    hlo_put_val(h, x);
    hlo_put_ints(h, ", dims = [", perm, x.rank, "]");
    hlo_put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_broadcast(hlo *h, hlo_val x, const int *map, int rank, const int64_t *dim)
{
    hlo_val out = hlo_make(x.type, rank, dim);
    for (int i = 0; hlo_need_rank(h, "broadcast", rank) && i < x.rank; i++)
        if (!hlo_need_dim(h, "broadcast", out, map[i])) return out;
        else if (x.dim[i] != 1 && x.dim[i] != dim[map[i]]) hlo_fail(h, "broadcast: dimension %d has %lld, not %lld", i, (long long)x.dim[i], (long long)dim[map[i]]);
    hlo_begin_op(h, &out, "stablehlo.broadcast_in_dim");
    hlo_put_val(h, x);
    hlo_put_ints(h, ", dims = [", map, x.rank, "]");
    hlo_put_signature(h, &x, 1, out);
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
    if (!hlo_need_dim(h, "slice", x, along) || (from == 0 && to == x.dim[along])) return x;
    if (from < 0 || to > x.dim[along] || from > to) hlo_fail(h, "slice [%lld:%lld] of %lld", (long long)from, (long long)to, (long long)x.dim[along]);
    hlo_val out = hlo_make(x.type, x.rank, x.dim);
    out.dim[along] = to - from;
    hlo_begin_op(h, &out, "stablehlo.slice");
    hlo_put_val(h, x);
    buf_str(&h->text, " [");
    for (int i = 0; i < x.rank; i++)
        buf_printf(&h->text, "%s%lld:%lld", i ? ", " : "", (long long)(i == along ? from : 0), (long long)(i == along ? to : x.dim[i]));
    buf_str(&h->text, "]");
    hlo_put_signature(h, &x, 1, out);
    return out;
}

hlo_val hlo_concat(hlo *h, const hlo_val *x, int n, int along)
{
    if (n == 1) return x[0];
    hlo_val out = hlo_make(x[0].type, x[0].rank, x[0].dim);
    if (!hlo_need_dim(h, "concatenate", out, along)) return out;
    for (int i = 1; i < n; i++) {
        hlo_val y = x[i];
        y.dim[along] = x[0].dim[along];
        hlo_need_same(h, "concatenate", x[0], y);
        out.dim[along] += x[i].dim[along];
    }
    hlo_begin_op(h, &out, "stablehlo.concatenate");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, x[i]);
    }
    buf_printf(&h->text, ", dim = %d", along);
    hlo_put_signature(h, x, n, out);
    return out;
}

hlo_val hlo_pad(hlo *h, hlo_val x, int along, int64_t before, int64_t after, hlo_val scalar)
{
    int64_t lo[HLO_RANK] = {0}, hi[HLO_RANK] = {0}, in[HLO_RANK] = {0};
    if (!hlo_need_dim(h, "pad", x, along) || (!before && !after)) return x;
    if (scalar.rank || scalar.type != x.type || before < 0 || after < 0)
        hlo_fail(h, "pad of %s by %lld and %lld of %s, rank %d", hlo_type_name(x.type), (long long)before, (long long)after, hlo_type_name(scalar.type), scalar.rank);
    hlo_val out = hlo_make(x.type, x.rank, x.dim);
    out.dim[along] += before + after;
    lo[along] = before;
    hi[along] = after;
    hlo_begin_op(h, &out, "stablehlo.pad");
    hlo_put_val(h, x);
    buf_str(&h->text, ", ");
    hlo_put_val(h, scalar);
    hlo_put_list(h, ", low = [", lo, x.rank, "]");
    hlo_put_list(h, ", high = [", hi, x.rank, "]");
    hlo_put_list(h, ", interior = [", in, x.rank, "]");
    hlo_put_signature(h, (hlo_val[]){ x, scalar }, 2, out);
    return out;
}

/* Fills in zeros for starts that are not given. */
static void all_starts(hlo *h, const hlo_val *starts, int n, hlo_val *out)
{
    hlo_val zero = {0};
    for (int i = 0; i < n; i++) {
        if (starts[i].id && (starts[i].type != DT_I32 || starts[i].rank)) hlo_fail(h, "start %d is %s, rank %d, expected an i32 scalar", i, hlo_type_name(starts[i].type), starts[i].rank);
        if (!starts[i].id && !zero.id) zero = hlo_int(h, DT_I32, 0);
        out[i] = starts[i].id ? starts[i] : zero;
    }
}

hlo_val hlo_dynamic_slice(hlo *h, hlo_val x, const hlo_val *starts, const int64_t *sizes)
{
    hlo_val in[HLO_RANK + 1] = { x }, out = hlo_make(x.type, x.rank, sizes);
    for (int i = 0; i < x.rank; i++)
        if (sizes[i] < 0 || sizes[i] > x.dim[i]) hlo_fail(h, "dynamic_slice: %lld of %lld in dimension %d", (long long)sizes[i], (long long)x.dim[i], i);
    all_starts(h, starts, x.rank, in + 1);
    hlo_begin_op(h, &out, "stablehlo.dynamic_slice");
    for (int i = 0; i <= x.rank; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    hlo_put_list(h, ", sizes = [", sizes, x.rank, "]");
    hlo_put_signature(h, in, x.rank + 1, out);
    return out;
}

hlo_val hlo_dynamic_update(hlo *h, hlo_val x, hlo_val update, const hlo_val *starts)
{
    hlo_val in[HLO_RANK + 2] = { x, update }, out = hlo_make(x.type, x.rank, x.dim);
    bool fits = x.type == update.type && x.rank == update.rank;
    for (int i = 0; fits && i < x.rank; i++) fits = update.dim[i] <= x.dim[i];
    if (!fits) hlo_fail(h, "dynamic_update_slice: the update does not fit");
    all_starts(h, starts, x.rank, in + 2);
    hlo_begin_op(h, &out, "stablehlo.dynamic_update_slice");
    for (int i = 0; i < x.rank + 2; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    hlo_put_signature(h, in, x.rank + 2, out);
    return out;
}

hlo_val hlo_row(hlo *h, hlo_val x, hlo_val at)
{
    hlo_val starts[HLO_RANK] = { at };
    int64_t sizes[HLO_RANK];
    if (!hlo_need_dim(h, "row", x, 0)) return x;
    memcpy(sizes, x.dim, sizeof sizes);
    sizes[0] = 1;
    return hlo_reshape(h, hlo_dynamic_slice(h, x, starts, sizes), x.rank - 1, x.dim + 1);
}

/* ---- gather, scatter ---- */

hlo_val hlo_take(hlo *h, hlo_val x, hlo_val at)
{
    hlo_val out = hlo_make(x.type, at.rank, at.dim);
    if (!hlo_need_dim(h, "gather", x, 0) || !hlo_need_rank(h, "gather", at.rank + x.rank - 1)) return out;
    int offset[HLO_RANK] = {0};
    int64_t sizes[HLO_RANK];
    memcpy(sizes, x.dim, sizeof sizes);
    sizes[0] = 1;
    for (int i = 1; i < x.rank && out.rank < HLO_RANK; i++) {
        offset[i - 1] = out.rank;
        out.dim[out.rank++] = x.dim[i];
    }
    hlo_begin_op(h, &out, "\"stablehlo.gather\"(");
    hlo_put_val(h, x);
    buf_str(&h->text, ", ");
    hlo_put_val(h, at);
    buf_str(&h->text, ") <{dimension_numbers = #stablehlo.gather<");
    if (x.rank > 1) hlo_put_ints(h, "offset_dims = [", offset, x.rank - 1, "], ");
    buf_printf(&h->text, "collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = %d>", at.rank);
    hlo_put_list(h, ", slice_sizes = array<i64: ", sizes, x.rank, ">, indices_are_sorted = false}>");
    hlo_put_signature(h, (hlo_val[]){ x, at }, 2, out);
    return out;
}

static hlo_val scatter(hlo *h, hlo_val x, hlo_val at, hlo_val y, bool adds)
{
    int window[HLO_RANK], inserted[HLO_RANK], k = at.rank == 2 && at.dim[1] <= x.rank ? (int)at.dim[1] : 0;
    hlo_val out = hlo_make(x.type, x.rank, x.dim), in[] = { x, at, y };
    bool fits = k > 0 && y.rank == x.rank - k + 1 && y.dim[0] == at.dim[0] && y.type == x.type;
    for (int i = 1; fits && i < y.rank; i++) fits = y.dim[i] == x.dim[k + i - 1];
    if (!fits) {
        hlo_fail(h, "scatter: indices or updates do not fit");
        return out;
    }
    for (int i = 0; i < y.rank - 1; i++) window[i] = i + 1;
    for (int i = 0; i < k; i++) inserted[i] = i;
    hlo_begin_op(h, &out, "\"stablehlo.scatter\"(");
    for (int i = 0; i < 3; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    buf_str(&h->text, ") <{scatter_dimension_numbers = #stablehlo.scatter<");
    if (y.rank > 1) hlo_put_ints(h, "update_window_dims = [", window, y.rank - 1, "], ");
    hlo_put_ints(h, "inserted_window_dims = [", inserted, k, "], ");
    hlo_put_ints(h, "scatter_dims_to_operand_dims = [", inserted, k, "], index_vector_dim = 1>, indices_are_sorted = false, unique_indices = false}> ({\n");
    int old = ++h->next_id, add = ++h->next_id;
    hlo_indent(h);
    buf_printf(&h->text, "^bb0(%%%d: tensor<%s>, %%%d: tensor<%s>):\n", old, hlo_type_name(x.type), add, hlo_type_name(x.type));
    h->depth++;
    if (adds) {
        int sum = ++h->next_id;
        hlo_indent(h);
        buf_printf(&h->text, "%%%d = stablehlo.add %%%d, %%%d : tensor<%s>\n", sum, old, add, hlo_type_name(x.type));
        add = sum;
    }
    hlo_indent(h);
    buf_printf(&h->text, "stablehlo.return %%%d : tensor<%s>\n", add, hlo_type_name(x.type));
    h->depth--;
    hlo_indent(h);
    buf_str(&h->text, "})");
    hlo_put_signature(h, in, 3, out);
    return out;
}

hlo_val hlo_put(hlo *h, hlo_val x, hlo_val at, hlo_val y) { return scatter(h, x, at, y, false); }
hlo_val hlo_put_add(hlo *h, hlo_val x, hlo_val at, hlo_val y) { return scatter(h, x, at, y, true); }
