/* Kernels: loops and branches. */
#include <stdio.h>
#include <string.h>

#include "mosaic/ir.h"

#define NONE ((mk_val){ 0 })

static mk_bracket *top(mk *k, const char *op, bool is_for)
{
    if (!mk_begin(k, op)) return NULL;
    mk_bracket *b = k->n_open ? &k->open[k->n_open - 1] : NULL;
    if (!b || b->is_for != is_for) mk_fail_op(k, op, "there is no open %s", is_for ? "loop" : "branch");
    return mk_ok(k) ? b : NULL;
}

static mk_bracket *push(mk *k, const char *op, bool is_for)
{
    if (k->current) mk_fail_op(k, op, "in an index map");
    if (k->n_open == MK_DEPTH) mk_fail_op(k, op, "more than %d loops and branches inside each other", (int)MK_DEPTH);
    if (!mk_ok(k)) return NULL;
    mk_bracket *b = &k->open[k->n_open++];
    *b = (mk_bracket){ .region = ++k->n_regions, .is_for = is_for, .op = k->body.n };
    return b;
}

/* Values as ids, of the types of `like` (ids; -1: whatever). Returns where they are in k->ids. */
static int use_values(mk *k, const char *op, const mk_val *v, int n, int like)
{
    char a[96], b[96];
    int in[MK_CARRIED];
    if (n < 0 || n > MK_CARRIED) mk_fail_op(k, op, "%d values, expected 0 to %d", n, (int)MK_CARRIED);
    if (n > 0 && !v) mk_fail_op(k, op, "no values, expected %d", n);
    for (int i = 0; mk_ok(k) && i < n; i++) {
        in[i] = mk_use(k, op, v[i]);
        if (!mk_ok(k) || like < 0) continue;
        const mk_def *d = &k->def[in[i]], *w = &k->def[k->ids[like + i]];
        if (d->type != w->type || !mk_same_dims(d->rank, d->dim, w->rank, w->dim))
            mk_fail_op(k, op, "value %d is %s, expected %s", i, mk_describe(a, sizeof a, d->type, d->rank, d->dim), mk_describe(b, sizeof b, w->type, w->rank, w->dim));
    }
    int at = k->n_ids;
    for (int i = 0; mk_ok(k) && i < n; i++) mk_push_id(k, in[i]);
    return at;
}

/* New values of the types of k->ids[like ..], in the bracket that is open now. Returns where they are. */
static int define_like(mk *k, int like, int n)
{
    int at = k->n_ids;
    for (int i = 0; mk_ok(k) && i < n; i++) {
        mk_def d = k->def[k->ids[like + i]];
        d.origin = MKV_OP;
        d.region = k->n_open ? k->open[k->n_open - 1].region : 0;
        d.code_of = 0;
        mk_push_id(k, mk_define(k, &d));
    }
    return at;
}

static void values_out(const mk *k, int at, int n, mk_val *out)
{
    for (int i = 0; out && i < n; i++) out[i] = mk_ok(k) ? mk_val_of(k, k->ids[at + i]) : NONE;
}

/* FOR: in = lo, hi, initial values; out = index, carried values. END_FOR: in = next values; out = results. */
mk_val mk_for(mk *k, mk_val lo, mk_val hi, const mk_val *init, int n, mk_val *carried)
{
    mk_val first[MK_CARRIED];       /* init and carried may be the same array */
    if (n < 0 || n > MK_CARRIED || (n > 0 && (!init || !carried))) mk_fail_op(k, "for", "%d carried values, expected 0 to %d", n, (int)MK_CARRIED);
    else if (n) memcpy(first, init, (size_t)n * sizeof *first);
    for (int i = 0; i < n && carried; i++) carried[i] = NONE;
    if (!mk_begin(k, "for")) return NONE;
    int bounds[2] = { mk_use(k, "for", lo), mk_use(k, "for", hi) };
    for (int i = 0; i < 2; i++)
        if (mk_ok(k) && (k->def[bounds[i]].type != DT_I32 || k->def[bounds[i]].rank)) mk_fail_op(k, "for", "the bounds are i32 scalars");
    mk_op op = { .code = MKO_FOR, .n_in = 2 + n, .n_out = 1 + n };
    op.in = k->n_ids;
    for (int i = 0; mk_ok(k) && i < 2; i++) mk_push_id(k, bounds[i]);
    int at = use_values(k, "for", first, n, -1);
    mk_bracket *b = mk_ok(k) ? push(k, "for", true) : NULL;
    if (!b) return NONE;
    b->n = n;
    b->ids = at;
    mk_def d = mk_def_val(DT_I32, 0, NULL);
    d.region = b->region;
    op.out = k->n_ids;
    int index = mk_define(k, &d);
    mk_push_id(k, index);
    int got = define_like(k, at, n);
    if (!mk_ok(k) || !mk_push_op(k, op)) return NONE;
    values_out(k, got, n, carried);
    return mk_val_of(k, index);
}

void mk_end_for(mk *k, const mk_val *next, mk_val *out)
{
    mk_bracket *b = top(k, "end_for", true);
    if (!b) return;
    int n = b->n, like = b->ids;
    mk_op op = { .code = MKO_END_FOR, .n_in = n, .n_out = n };
    op.in = use_values(k, "end_for", next, n, like);
    if (!mk_ok(k)) return;
    k->n_open--;
    op.out = define_like(k, like, n);
    if (!mk_ok(k) || !mk_push_op(k, op)) return;
    values_out(k, op.out, n, out);
}

/* IF: in = condition. ELSE: in = the first branch's results. END_IF: in = the last one's; out = what came out. */
void mk_if(mk *k, mk_val cond)
{
    if (!mk_begin(k, "if")) return;
    int id = mk_use(k, "if", cond);
    if (mk_ok(k) && (k->def[id].type != DT_BOOL || k->def[id].rank)) mk_fail_op(k, "if", "the condition is an i1 scalar");
    if (mk_ok(k) && push(k, "if", false)) {
        mk_op op = { .code = MKO_IF, .in = mk_push_id(k, id), .n_in = 1 };
        mk_push_op(k, op);
    }
}

void mk_else(mk *k, const mk_val *yes, int n)
{
    mk_bracket *b = top(k, "else", false);
    if (!b) return;
    if (b->has_else) mk_fail_op(k, "else", "the second one of a branch");
    mk_op op = { .code = MKO_ELSE, .n_in = n };
    op.in = use_values(k, "else", yes, n, -1);
    if (!mk_ok(k)) return;
    b->has_else = true;
    b->n = n;
    b->ids = op.in;
    b->region = ++k->n_regions;
    mk_push_op(k, op);
}

void mk_end_if(mk *k, const mk_val *no, mk_val *out)
{
    mk_bracket *b = top(k, "end_if", false);
    if (!b) return;
    int n = b->n, like = b->ids;
    mk_op op = { .code = MKO_END_IF, .n_in = n, .n_out = n };
    op.in = use_values(k, "end_if", no, n, like);
    if (!mk_ok(k)) return;
    k->n_open--;
    op.out = define_like(k, like, n);
    if (!mk_ok(k) || !mk_push_op(k, op)) return;
    values_out(k, op.out, n, out);
}
