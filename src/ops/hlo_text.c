/* Errors, lines and values of a StableHLO program's text. */
#include "ops/hlo_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

void hlo_indent(hlo *h)
{
    for (int i = 0; i < h->depth; i++) buf_str(&h->text, "  ");
}

void hlo_comment(hlo *h, const char *fmt, ...)
{
    va_list ap;
    hlo_indent(h);
    buf_str(&h->text, "// ");
    va_start(ap, fmt);
    buf_vprintf(&h->text, fmt, ap);
    va_end(ap);
    buf_char(&h->text, '\n');
}

const char *hlo_type_name(dtype t)
{
    static const char *const names[DT_COUNT] = {
        [DT_F32] = "f32", [DT_BF16] = "bf16", [DT_F16] = "f16", [DT_F64] = "f64", [DT_I64] = "i64", [DT_I32] = "i32", [DT_I16] = "i16", [DT_I8] = "i8",
        [DT_U8] = "ui8", [DT_BOOL] = "i1", [DT_F8E4M3] = "f8E4M3FN", [DT_F8E5M2] = "f8E5M2", [DT_F8E8M0] = "f8E8M0FNU", [DT_I4] = "i4",
        [DT_F4E2M1] = "f4E2M1FN", [DT_U16] = "ui16", [DT_U32] = "ui32", [DT_U64] = "ui64" };
    return names[t];
}

bool hlo_is_float(dtype t) { return t == DT_F32 || t == DT_BF16 || t == DT_F16 || t == DT_F64 || t == DT_F8E4M3 || t == DT_F8E5M2; }
bool hlo_is_unsigned(dtype t) { return t == DT_U8 || t == DT_U16 || t == DT_U32 || t == DT_U64 || t == DT_BOOL; }

void hlo_put_type(hlo *h, hlo_val v)
{
    buf_str(&h->text, "tensor<");
    for (int i = 0; i < v.rank; i++) buf_printf(&h->text, "%lldx", (long long)v.dim[i]);
    buf_printf(&h->text, "%s>", hlo_type_name(v.type));
}

void hlo_put_val(hlo *h, hlo_val v)
{
    if (!v.id) hlo_fail(h, "an operand that does not exist");
    if (v.id < 0) buf_printf(&h->text, "%%arg%d", -v.id - 1);
    else if (v.sub < 0) buf_printf(&h->text, "%%%d", v.id);
    else buf_printf(&h->text, "%%%d#%d", v.id, v.sub);
}

hlo_val hlo_make(dtype t, int rank, const int64_t *dim)
{
    hlo_val v = { .sub = -1, .type = t, .rank = rank < 0 ? 0 : rank > HLO_RANK ? HLO_RANK : rank };
    for (int i = 0; i < v.rank; i++) v.dim[i] = dim[i];
    return v;
}

bool hlo_need_rank(hlo *h, const char *verb, int rank)
{
    if (rank < 0 || rank > HLO_RANK) hlo_fail(h, "%s: rank %d, expected 0 to %d", verb, rank, HLO_RANK);
    return rank >= 0 && rank <= HLO_RANK;
}

bool hlo_need_dim(hlo *h, const char *verb, hlo_val x, int along)
{
    if (along < 0 || along >= x.rank) hlo_fail(h, "%s: dimension %d of rank %d", verb, along, x.rank);
    return along >= 0 && along < x.rank;
}

void hlo_begin_op(hlo *h, hlo_val *v, const char *verb)
{
    v->id = ++h->next_id;
    hlo_indent(h);
    buf_printf(&h->text, "%%%d = %s%s", v->id, verb, verb[strlen(verb) - 1] == '(' ? "" : " ");
}

void hlo_end_op(hlo *h) { buf_char(&h->text, '\n'); }

static void put_types(hlo *h, const hlo_val *v, int n)
{
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_type(h, v[i]);
    }
}

void hlo_put_signatures(hlo *h, const hlo_val *in, int n, const hlo_val *out, int n_out)
{
    buf_str(&h->text, " : (");
    put_types(h, in, n);
    buf_str(&h->text, n_out > 1 ? ") -> (" : ") -> ");
    put_types(h, out, n_out);
    if (n_out > 1) buf_char(&h->text, ')');
    hlo_end_op(h);
}

void hlo_put_signature(hlo *h, const hlo_val *in, int n, hlo_val out) { hlo_put_signatures(h, in, n, &out, 1); }

void hlo_put_list(hlo *h, const char *open, const int64_t *v, int n, const char *close)
{
    buf_str(&h->text, open);
    for (int i = 0; i < n; i++) buf_printf(&h->text, "%s%lld", i ? ", " : "", (long long)v[i]);
    buf_str(&h->text, close);
}

void hlo_put_ints(hlo *h, const char *open, const int *v, int n, const char *close)
{
    int64_t wide[HLO_RANK];
    for (int i = 0; i < n; i++) wide[i] = v[i];
    hlo_put_list(h, open, wide, n, close);
}

int64_t hlo_count(hlo_val v)
{
    int64_t n = 1;
    for (int i = 0; i < v.rank; i++) n *= v.dim[i];
    return n;
}

bool hlo_same_dims(hlo_val a, hlo_val b)
{
    if (a.rank != b.rank) return false;
    for (int i = 0; i < a.rank; i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

void hlo_need_same(hlo *h, const char *verb, hlo_val a, hlo_val b)
{
    if (a.type != b.type || !hlo_same_dims(a, b)) hlo_fail(h, "%s of %%%d (%s, rank %d) and %%%d (%s, rank %d): types or shapes differ", verb, a.id, hlo_type_name(a.type), a.rank, b.id, hlo_type_name(b.type), b.rank);
}
