/* Graphs as text, both ways. One node per line:
 *
 *   %3 = rms_norm(%1, %2) eps=1e-05 : f32[T, 64]{tokens, embed} @0
 *   %4 = weight role=col "model.layers.0.q_proj.weight"[0:64/64]heads : f32[64, 64]{heads, embed} @0
 *   output %9
 *
 * A partitioned graph opens with its mesh; parts of weights that are cut end in /shards, cut columns are named last:
 *
 *   mesh dp=1 tp=2 sp=0        (and ep=1 where experts are shared out)
 *   %4 = weight role=col "q"[0:64/64]heads/2 : f32[32, 64]{heads, embed} @0
 *   %5 = weight role=row "o"[0:64/64]embed cols/2 : f32[64, 32]{embed, heads} @0
 *
 * A part that takes every second row says so, and experts that are shared out are named after the columns:
 *
 *   %6 = weight role=col "experts[*]"[1:64/64:2]mlp experts/2 : f32[4, 32, 64]{experts, mlp, embed} @0
 *
 * A weight that is quantised ends in its scheme:
 *
 *   %6 = weight role=col "q"[0:64/64]heads scheme=int8_g32 : f32[64, 64]{heads, embed} @0
 *
 * Names are quoted as JSON; numbers are printed so that they read back to the same bits; `_` is an absent input and `@l` the
 * layer. The parser takes what the printer makes, white space free, and blank lines and `# comments` besides. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "graph/graph.h"

/* ---- printing ---- */

static void print_field(buf *out, const node *n, const op_field *f)
{
    const void *at = (const char *)&n->a + f->offset;
    char num[32];
    if (f->kind == FIELD_OPT && *(const int64_t *)at == 0) return;
    if (f->kind == FIELD_OPT_F64 && *(const double *)at == 0) return;
    buf_printf(out, " %s=", f->name);
    if (f->kind == FIELD_I64 || f->kind == FIELD_OPT) {
        buf_printf(out, "%lld", (long long)*(const int64_t *)at);
    } else if (f->kind == FIELD_F64 || f->kind == FIELD_OPT_F64) {
        json_repr_f64(num, sizeof num, *(const double *)at);
        buf_str(out, num);
    } else {
        const floats *v = at;
        buf_char(out, '[');
        for (int64_t i = 0; i < v->n; i++) buf_printf(out, "%s%.9g", i ? ", " : "", (double)v->v[i]);
        buf_char(out, ']');
    }
}

static void print_weight(buf *out, const node *n)
{
    static const char *const roles[] = {
#define WEIGHT_ROLE(up, low) #low,
        WEIGHT_ROLES(WEIGHT_ROLE)
#undef WEIGHT_ROLE
    };
    buf_printf(out, " role=%s", roles[n->a.weight.role]);
    for (int64_t i = 0; i < n->a.weight.n_parts; i++) {
        const weight_part *p = &n->a.weight.parts[i];
        jw w = jw_to(out);
        buf_char(out, ' ');
        jw_str(&w, p->name);
        buf_printf(out, "[%lld:%lld/%lld", (long long)p->from, (long long)p->to, (long long)p->total);
        if (p->step > 1) buf_printf(out, ":%d", p->step);
        buf_printf(out, "]%s", axis_name(p->out_axis));
        if (p->shards) buf_printf(out, "/%d", p->shards);
    }
    if (n->a.weight.col_shards) buf_printf(out, " cols/%lld", (long long)n->a.weight.col_shards);
    if (n->a.weight.expert_shards) buf_printf(out, " experts/%lld", (long long)n->a.weight.expert_shards);
    char scheme[QUANT_NAME_CAP];
    if (n->a.weight.scheme) buf_printf(out, " scheme=%s", quant_print((quant_scheme)n->a.weight.scheme, scheme));
}

static void print_node(buf *out, int id, const node *n)
{
    buf_printf(out, "%%%d = %s", id, op_name(n->op));
    if (!op_is(n->op, OPF_LEAF)) {
        buf_char(out, '(');
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i].id) buf_printf(out, "%s%%%d", i ? ", " : "", n->in[i].id);
            else buf_printf(out, "%s_", i ? ", " : "");
        buf_char(out, ')');
    }
    if (n->op == OP_WEIGHT) print_weight(out, n);
    else for (const op_field *f = op_schema_of(n->op)->fields; f->name; f++) print_field(out, n, f);
    char s[128];
    buf_printf(out, " : %s{", shape_format(&n->s, s, sizeof s));
    for (int i = 0; i < n->s.rank; i++) buf_printf(out, "%s%s", i ? ", " : "", axis_name(n->s.axes[i]));
    buf_char(out, '}');
    if (n->layer >= 0) buf_printf(out, " @%d", n->layer);
    buf_char(out, '\n');
}

status graph_print(const graph *g, buf *out)
{
    mesh m = graph_mesh(g);
    if (m.dp != 1 || m.tp != 1) buf_printf(out, "mesh dp=%d tp=%d sp=%d%s\n", m.dp, m.tp, m.sp, m.ep ? " ep=1" : "");
    for (int id = 1; id <= graph_n_nodes(g); id++) print_node(out, id, graph_at(g, id));
    if (graph_output(g).id) buf_printf(out, "output %%%d\n", graph_output(g).id);
    return buf_status(out);
}

/* ---- parsing ---- */

typedef struct reader {
    const char *p;
    int line, node_line;
    bool bad;          /* sticks, with `want` */
    const char *want;
    graph *g;
    float *values;     /* of FLOATS fields, one after the other */
    size_t n_values, cap_values;
    char *names[GRAPH_MAX_PARTS];
    int n_names;
} reader;

static void skip(reader *r)
{
    for (;; r->p++) {
        if (*r->p == '#') while (*r->p && *r->p != '\n') r->p++;
        if (*r->p == '\n') r->line++;
        if (!isspace((unsigned char)*r->p)) return;
    }
}

static void expected(reader *r, const char *what)
{
    if (!r->bad) r->want = what;
    r->bad = true;
}

static bool accept(reader *r, const char *text)
{
    skip(r);
    size_t n = strlen(text);
    if (r->bad || strncmp(r->p, text, n) != 0) return false;
    r->p += n;
    return true;
}

static void need(reader *r, const char *text) { if (!accept(r, text)) expected(r, text); }

static int64_t read_int(reader *r)
{
    skip(r);
    char *end;
    long long v = strtoll(r->p, &end, 10);
    if (end == r->p) expected(r, "a number");
    r->p = end;
    return v;
}

/* A number of devices or shards. */
static int read_count(reader *r)
{
    int64_t v = read_int(r);
    if (v >= 1 && v <= 1 << 20) return (int)v;
    expected(r, "a number from 1 to 1048576");
    return 1;
}

/* A word of [a-z0-9_] into dst. */
static void read_word(reader *r, char *dst, size_t cap)
{
    skip(r);
    size_t n = 0;
    while (isalnum((unsigned char)r->p[n]) || r->p[n] == '_') n++;
    if (n == 0 || n >= cap) expected(r, "a word");
    else memcpy(dst, r->p, n);
    dst[n < cap ? n : 0] = 0;
    r->p += n;
}

static axis read_axis(reader *r)
{
    char word[32];
    read_word(r, word, sizeof word);
    for (axis a = 0; a < AX_COUNT; a++)
        if (strcmp(word, axis_name(a)) == 0) return a;
    expected(r, "an axis");
    return AX_NONE;
}

static void read_shape(reader *r, shape *s)
{
    char word[32];
    read_word(r, word, sizeof word);
    for (s->type = 0; s->type < DT_COUNT && strcmp(word, dtype_name(s->type)) != 0;) s->type++;
    if (s->type == DT_COUNT) expected(r, "an element type");
    need(r, "[");
    do {
        if (s->rank == GRAPH_MAX_RANK) { expected(r, "at most 4 dimensions"); return; }
        s->dim[s->rank++] = accept(r, "TS") ? DIM_TS : accept(r, "T") ? DIM_T : accept(r, "S") ? DIM_S : accept(r, "R") ? DIM_R : read_int(r);
    } while (accept(r, ","));
    need(r, "]");
    need(r, "{");
    for (int i = 0; i < s->rank; i++) {
        if (i) need(r, ",");
        s->axes[i] = read_axis(r);
    }
    need(r, "}");
}

static status read_floats(reader *r, floats *out)
{
    need(r, "[");
    size_t first = r->n_values;
    while (!r->bad && !accept(r, "]")) {
        if (r->n_values > first) need(r, ",");
        if (r->n_values == r->cap_values) {
            size_t cap = r->cap_values ? r->cap_values * 2 : 256;
            float *v = mem_realloc_array(r->values, cap, sizeof *v);
            if (!v) return err_nomem();
            r->values = v;
            r->cap_values = cap;
        }
        skip(r);
        char *end;
        r->values[r->n_values++] = strtof(r->p, &end);
        if (end == r->p) expected(r, "a number");
        r->p = end;
    }
    out->n = (int64_t)(r->n_values - first);
    return ST_OK;
}

static status read_name(reader *r, const char **out)
{
    skip(r);
    const char *end = r->p + 1;
    while (*end && *end != '"' && *end != '\n') end += *end == '\\' && end[1] ? 2 : 1;
    if (*end != '"') { expected(r, "a closing quote"); return ST_OK; }
    jv *v = NULL;
    status st = jv_parse(r->p, (size_t)(end + 1 - r->p), &v);
    if (st == ST_NOMEM) return st;
    if (st != ST_OK) { expected(r, "a string"); return ST_OK; }
    char *name = mem_strdup(jv_str(v, ""));
    jv_free(v);
    if (!name) return err_nomem();
    r->names[r->n_names++] = name;
    r->p = end + 1;
    *out = name;
    return ST_OK;
}

static status read_parts(reader *r, weight_part *parts, int *n_parts)
{
    while (accept(r, "\"")) {
        r->p--;
        if (*n_parts == GRAPH_MAX_PARTS) { expected(r, "fewer parts"); return ST_OK; }
        weight_part *p = &parts[*n_parts];
        TRY(read_name(r, &p->name));
        if (r->bad) return ST_OK;
        ++*n_parts;
        need(r, "[");
        p->from = read_int(r);
        need(r, ":");
        p->to = read_int(r);
        need(r, "/");
        p->total = read_int(r);
        p->step = accept(r, ":") ? read_count(r) : 0;
        need(r, "]");
        p->out_axis = read_axis(r);
        p->shards = accept(r, "/") ? read_count(r) : 0;
    }
    return ST_OK;
}

static void read_role(reader *r, int64_t *role)
{
    need(r, "role");
    need(r, "=");
    char word[32];
    read_word(r, word, sizeof word);
#define WEIGHT_ROLE(up, low) if (strcmp(word, #low) == 0) { *role = ROLE_##up; return; }
    WEIGHT_ROLES(WEIGHT_ROLE)
#undef WEIGHT_ROLE
    expected(r, "a role");
}

static void read_scheme(reader *r, int64_t *scheme)
{
    char word[QUANT_NAME_CAP] = "";
    quant_scheme s;
    size_t n = 0;
    if (!accept(r, "scheme=")) return;
    while (isalnum((unsigned char)r->p[n]) || (r->p[n] && strchr("_.=", r->p[n]))) n++;
    if (n < sizeof word) memcpy(word, r->p, n);
    if (!quant_read(word, &s)) {
        expected(r, "a quantisation scheme");
        return;
    }
    *scheme = s;
    r->p += n;
}

static status read_fields(reader *r, op o, op_attrs *a)
{
    r->n_values = 0;
    for (const op_field *f = op_schema_of(o)->fields; f->name; f++) {
        void *at = (char *)a + f->offset;
        if (f->kind != FIELD_OPT && f->kind != FIELD_OPT_F64) need(r, f->name);
        else if (!accept(r, f->name)) continue;
        need(r, "=");
        if (f->kind == FIELD_I64 || f->kind == FIELD_OPT) *(int64_t *)at = read_int(r);
        else if (f->kind == FIELD_FLOATS) TRY(read_floats(r, at));
        else {
            char *end;
            skip(r);
            *(double *)at = strtod(r->p, &end);
            if (end == r->p) expected(r, "a number");
            r->p = end;
        }
    }
    size_t used = 0; /* the array may have moved while it grew: point into it only now */
    for (const op_field *f = op_schema_of(o)->fields; f->name; f++)
        if (f->kind == FIELD_FLOATS) {
            floats *v = (floats *)(void *)((char *)a + f->offset);
            v->v = r->values ? r->values + used : NULL;
            used += (size_t)v->n;
        }
    return ST_OK;
}

static void read_inputs(reader *r, tensor *in, int *n_in)
{
    need(r, "(");
    do {
        if (*n_in == GRAPH_MAX_INPUTS) { expected(r, "fewer inputs"); return; }
        int64_t id = 0;
        if (!accept(r, "_")) {
            need(r, "%");
            id = read_int(r);
            if (id < 1 || id > graph_n_nodes(r->g)) expected(r, "a tensor that exists");
        }
        in[(*n_in)++] = (tensor){ (int32_t)id };
    } while (accept(r, ","));
    need(r, ")");
}

static status read_node(reader *r)
{
    int64_t id = read_int(r);
    need(r, "=");
    char word[32];
    read_word(r, word, sizeof word);
    op o = 1;
    while (o < OP_COUNT && strcmp(word, op_name(o)) != 0) o++;
    if (o == OP_COUNT) expected(r, "an operation");
    if (r->bad) return ST_OK;
    tensor in[GRAPH_MAX_INPUTS], t = NO_TENSOR;
    int n_in = 0, n_parts = 0;
    op_attrs a = { 0 };
    weight_part parts[GRAPH_MAX_PARTS];
    weight_attrs w = { 0 };
    shape s = { 0 };
    if (!op_is(o, OPF_LEAF)) read_inputs(r, in, &n_in);
    if (o == OP_WEIGHT) {
        read_role(r, &w.role);
        TRY(read_parts(r, parts, &n_parts));
        if (accept(r, "cols/")) w.col_shards = read_count(r);
        if (accept(r, "experts/")) w.expert_shards = read_count(r);
        read_scheme(r, &w.scheme);
        w.parts = parts;
        w.n_parts = n_parts;
    } else {
        TRY(read_fields(r, o, &a));
    }
    need(r, ":");
    read_shape(r, &s);
    graph_set_layer(r->g, accept(r, "@") ? (int)read_int(r) : -1);
    if (r->bad) return ST_OK;
    if (o == OP_INPUT) t = graph_input(r->g, (input_kind)a.input.kind, &s);
    else if (o == OP_WEIGHT) t = graph_weight_of(r->g, &s, &w);
    else t = graph_add(r->g, o, in, n_in, &a);
    if (!t.id) return graph_finish(r->g, NO_TENSOR);
    if (t.id != id) expected(r, "the next number (or no repetition of a leaf)");
    else if (!shape_equal(&s, &graph_node(r->g, t)->s)) expected(r, "the inferred shape");
    return ST_OK;
}

static void read_mesh(reader *r)
{
    mesh m = { .dp = 1, .tp = 1 };
    if (!accept(r, "mesh")) return;
    r->node_line = r->line;
    need(r, "dp=");
    m.dp = read_count(r);
    need(r, "tp=");
    m.tp = read_count(r);
    need(r, "sp=");
    m.sp = read_int(r) != 0;
    if (accept(r, "ep=")) m.ep = read_int(r) != 0;
    graph_set_mesh(r->g, m);
}

static status read_graph(reader *r)
{
    read_mesh(r);
    while (!r->bad) {
        skip(r);
        r->node_line = r->line;
        if (accept(r, "output")) break;
        need(r, "%");
        if (!r->bad) TRY(read_node(r));
        for (int i = 0; i < r->n_names; i++) mem_free(r->names[i]);
        r->n_names = 0;
    }
    need(r, "%");
    int64_t id = r->bad ? 0 : read_int(r);
    skip(r);
    if (*r->p) expected(r, "the end");
    if (r->bad) return err_set(ST_INVALID, "graph text: line %d: expected %s", r->node_line, r->want);
    return graph_finish(r->g, (tensor){ id > 0 && id <= INT32_MAX ? (int32_t)id : 0 });
}

status graph_parse(const graph_rules *rules, const char *text, size_t len, graph **out)
{
    reader r = { .line = 1 };
    char *copy = mem_strndup(text, len);
    if (!copy) return err_nomem();
    status st = graph_new(rules, &r.g);
    r.p = copy;
    if (st == ST_OK) st = read_graph(&r);
    for (int i = 0; i < r.n_names; i++) mem_free(r.names[i]);
    mem_free(r.values);
    mem_free(copy);
    if (st == ST_OK) *out = r.g;
    else graph_free(r.g);
    return st;
}
