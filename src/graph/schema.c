/* Tables that ops.def makes: names, arity, flags and attribute fields. */
#include <stdio.h>
#include <string.h>

#include "graph/graph.h"

#define I64(o, f) { #f, FIELD_I64, offsetof(op_attrs, o.f) },
#define OPT(o, f) { #f, FIELD_OPT, offsetof(op_attrs, o.f) },
#define F64(o, f) { #f, FIELD_F64, offsetof(op_attrs, o.f) },
#define OPT_F64(o, f) { #f, FIELD_OPT_F64, offsetof(op_attrs, o.f) },
#define FLOATS(o, f) { #f, FIELD_FLOATS, offsetof(op_attrs, o.f) },
static const op_schema schemas[OP_COUNT] = {
    [OP_NULL] = { "null", 0, 0, 0, { { NULL, FIELD_I64, 0 } } },
#define OP(up, low, lo, hi, fl, ...) [OP_##up] = { #low, lo, hi, fl, { __VA_ARGS__ { NULL, FIELD_I64, 0 } } },
#include "graph/ops.def"
#undef OP
};

const op_schema *op_schema_of(op o) { return &schemas[(unsigned)o < OP_COUNT ? o : OP_NULL]; }

const char *axis_name(axis a)
{
#define GRAPH_AXIS(up, low) #low,
    static const char *const names[] = { GRAPH_AXES(GRAPH_AXIS) };
#undef GRAPH_AXIS
    return (unsigned)a < AX_COUNT ? names[a] : "?";
}

bool shape_equal(const shape *a, const shape *b)
{
    if (a->type != b->type || a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i] || a->axes[i] != b->axes[i]) return false;
    return true;
}

char *shape_format(const shape *s, char *dst, size_t cap)
{
    size_t at = (size_t)snprintf(dst, cap, "%s[", dtype_name(s->type));
    for (int i = 0; i < s->rank && at < cap; i++) {
        const char *sep = i ? ", " : "";
        int64_t d = s->dim[i];
        int n = d >= 0 ? snprintf(dst + at, cap - at, "%s%lld", sep, (long long)d)
                       : snprintf(dst + at, cap - at, "%s%s", sep, d == DIM_T ? "T" : d == DIM_S ? "S" : d == DIM_R ? "R" : d == DIM_TS ? "TS" : "?");
        at += (size_t)n;
    }
    if (at < cap) snprintf(dst + at, cap - at, "]");
    return dst;
}

static bool floats_equal(const floats *a, const floats *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->v, b->v, (size_t)a->n * sizeof(float)) == 0);
}

static bool parts_equal(const node *a, const node *b)
{
    if (a->a.weight.n_parts != b->a.weight.n_parts || a->a.weight.col_shards != b->a.weight.col_shards ||
        a->a.weight.scheme != b->a.weight.scheme || a->a.weight.expert_shards != b->a.weight.expert_shards)
        return false;
    for (int64_t i = 0; i < a->a.weight.n_parts; i++) {
        const weight_part *p = &a->a.weight.parts[i], *q = &b->a.weight.parts[i];
        if (p->from != q->from || p->to != q->to || p->total != q->total || p->out_axis != q->out_axis || p->shards != q->shards ||
            weight_part_step(p) != weight_part_step(q) ||
            strcmp(p->name, q->name) != 0)
            return false;
    }
    return true;
}

/* ---- weights of experts ---- */

bool weight_has_experts(const node *w) { return w->op == OP_WEIGHT && strchr(w->a.weight.parts[0].name, '*') != NULL; }
int64_t weight_experts(const node *w) { return weight_has_experts(w) ? w->s.dim[0] : 1; }
int64_t weight_rows(const node *w) { return w->s.dim[weight_rows_dim(w)]; }
int64_t weight_cols(const node *w) { return w->s.rank > weight_rows_dim(w) + 1 ? w->s.dim[weight_rows_dim(w) + 1] : 1; }

const char *weight_expert_name(const char *name, int64_t expert, char *dst, size_t cap)
{
    const char *star = strchr(name, '*');
    if (!star) return name;
    int n = snprintf(dst, cap, "%.*s%lld%s", (int)(star - name), name, (long long)expert, star + 1);
    return n > 0 && (size_t)n < cap ? dst : NULL;
}

bool node_equal(const node *a, const node *b)
{
    if (a->op != b->op || a->n_in != b->n_in || !shape_equal(&a->s, &b->s)) return false;
    for (int i = 0; i < a->n_in; i++)
        if (a->in[i].id != b->in[i].id) return false;
    if (a->op == OP_WEIGHT && !parts_equal(a, b)) return false;
    for (const op_field *f = op_schema_of(a->op)->fields; f->name; f++) {
        const char *x = (const char *)&a->a + f->offset, *y = (const char *)&b->a + f->offset;
        if (f->kind == FIELD_FLOATS ? !floats_equal((const floats *)(const void *)x, (const floats *)(const void *)y) : memcmp(x, y, 8) != 0)
            return false;
    }
    return true;
}
