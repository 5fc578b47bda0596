#include "device/pjrt/hlo_cost.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- the wire format: https://protobuf.dev/programming-guides/encoding ---- */

typedef struct wire { const uint8_t *at, *end; bool bad; } wire;
typedef struct wire_field { uint64_t number, value; wire body; bool is_body; } wire_field;

static uint64_t varint(wire *w)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        const uint8_t b = *w->at++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) return v;
    }
    w->bad = true;
    w->at = w->end;
    return 0;
}

static bool next(wire *w, wire_field *f)
{
    if (w->bad || w->at == w->end) return false;
    const uint64_t tag = varint(w), kind = tag & 7;
    *f = (wire_field){ .number = tag >> 3 };
    if (kind == 0) f->value = varint(w);
    else if (kind == 1 || kind == 5) f->value = kind == 1 ? 8 : 4;
    else if (kind == 2) f->value = varint(w);
    else w->bad = true;
    if (kind == 0 || w->bad) return !w->bad;
    if (f->value > (uint64_t)(w->end - w->at)) {
        w->bad = true;
        return false;
    }
    f->is_body = kind == 2;
    f->body = (wire){ .at = w->at, .end = w->at + f->value };
    w->at += f->value;
    return true;
}

/* Repeated integers come packed or one by one. */
static int put_ints(const wire_field *f, int64_t *v, int n, int cap)
{
    wire w = f->body;
    if (!f->is_body && n < cap) v[n++] = (int64_t)f->value;
    while (f->is_body && w.at < w.end && n < cap) v[n++] = (int64_t)varint(&w);
    return n;
}

static bool is(const wire *w, const char *text)
{
    const size_t n = strlen(text);
    return (size_t)(w->end - w->at) == n && memcmp(w->at, text, n) == 0;
}

static bool starts(const wire *w, const char *text)
{
    const size_t n = strlen(text);
    return (size_t)(w->end - w->at) >= n && memcmp(w->at, text, n) == 0;
}

/* ---- the program ---- */

enum { MAX_RANK = 8, MAX_OPERANDS = 2, MAX_CALLED = 16, MAX_DEPTH = 32, MAX_VISITS = 1 << 20 };
typedef enum hlo_op { HLO_OTHER, HLO_WHILE, HLO_FUSION, HLO_CALL /* its computations run once, among them an asynchronous operation's */, HLO_COMPARE, HLO_CONSTANT, HLO_DOT, HLO_CONVOLUTION, HLO_COLLECTIVE, HLO_KERNEL } hlo_op;
typedef enum kernel_kind { KERNEL_OF_DATA, KERNEL_PRODUCT, KERNEL_OTHER } kernel_kind;

typedef struct instruction {
    hlo_op op;
    int64_t id, operands[MAX_OPERANDS], called[MAX_CALLED];
    int n_operands, n_called, rank;
    int64_t dim[MAX_RANK];
    int64_t scalar;             /* of an integer constant */
    bool has_scalar, less;      /* less: of a comparison */
    int64_t contracting[MAX_RANK]; int n_contracting;  /* of a dot: what is summed over; of a convolution: the one dimension that is not */
    int64_t trips;              /* the compiler's own count, -1 = none */
    double window, bundle;      /* cycles, -1 = none */
    int64_t line;
} instruction;

typedef struct computation { int64_t id, root; size_t first, n; } computation;

typedef struct module {
    instruction *v; size_t n, cap;
    computation *c; size_t n_c, cap_c;
    int64_t entry;
    const char *source; size_t source_len;
    int64_t visits;
    hlo_cost cost;
} module;

static hlo_op op_of(const wire *w)
{
    static const struct { const char *name; hlo_op op; } names[] = {
        { "while", HLO_WHILE }, { "fusion", HLO_FUSION }, { "call", HLO_CALL }, { "conditional", HLO_CALL }, { "async-start", HLO_CALL }, { "compare", HLO_COMPARE },
        { "constant", HLO_CONSTANT }, { "dot", HLO_DOT }, { "convolution", HLO_CONVOLUTION }, { "custom-call", HLO_KERNEL },
    };
    static const char *const collectives[] = { "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-", "ragged-all-to-all" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is(w, names[i].name)) return names[i].op;
    for (size_t i = 0; i < sizeof collectives / sizeof *collectives; i++)
        if (starts(w, collectives[i])) return HLO_COLLECTIVE;
    return HLO_OTHER;
}

static void read_shape(wire w, instruction *x)
{
    for (wire_field f; next(&w, &f);)
        if (f.number == 3) x->rank = put_ints(&f, x->dim, x->rank, MAX_RANK);
}

/* "KEY":"123" after `from` in the JSON of a backend_config; -1 where it is not, or is libtpu's largest number, which means unknown. */
static double number_after(const wire *w, const char *from, const char *key)
{
    const char *text = (const char *)w->at;
    const size_t len = (size_t)(w->end - w->at);
    const char *at = memmem(text, len, from, strlen(from));
    if (at) at = memmem(at, len - (size_t)(at - text), key, strlen(key));
    if (!at) return -1;
    char digits[24];
    size_t n = 0;
    for (at += strlen(key); at < text + len && n + 1 < sizeof digits && (*at == '"' || *at == ':'); at++) {}
    for (; at < text + len && n + 1 < sizeof digits && *at >= '0' && *at <= '9'; at++) digits[n++] = *at;
    digits[n] = 0;
    const double x = n ? strtod(digits, NULL) : -1;
    return x < 9e18 ? x : -1;
}

static void read_config(wire w, instruction *x)
{
    static const char cycles[] = "\"estimated_cycles\"";
    x->window = number_after(&w, "\"window_config\"", cycles);
    x->bundle = number_after(&w, "\"bundle_analysis_data\"", cycles);
    x->trips = (int64_t)number_after(&w, "\"known_trip_count\"", "\"n\"");
}

static void read_literal(wire w, instruction *x)
{
    int64_t v[2];
    int n = 0;
    for (wire_field f; next(&w, &f);)
        if (f.number == 4 || f.number == 5) n = put_ints(&f, v, n, 2);     /* s32s, s64s */
    x->has_scalar = n == 1;
    if (n == 1) x->scalar = v[0];
}

static void read_dot(wire w, instruction *x)
{
    for (wire_field f; next(&w, &f);)
        if (f.number == 1) x->n_contracting = put_ints(&f, x->contracting, x->n_contracting, MAX_RANK);    /* of the left operand */
}

/* The kernel's dimension that is the result's features: all its others are summed over. */
static void read_convolution(wire w, instruction *x)
{
    x->n_contracting = 1;
    for (wire_field f; next(&w, &f);)
        if (f.number == 4) x->contracting[0] = (int64_t)f.value;
}

static void read_metadata(wire w, instruction *x)
{
    for (wire_field f; next(&w, &f);)
        if (f.number == 4) x->line = (int64_t)f.value;
}

static bool read_instruction(wire w, instruction *x)
{
    *x = (instruction){ .trips = -1, .window = -1, .bundle = -1 };
    bool is_kernel = false;
    for (wire_field f; next(&w, &f);) switch (f.number) {
        case 2: x->op = op_of(&f.body); break;
        case 3: read_shape(f.body, x); break;
        case 7: read_metadata(f.body, x); break;
        case 8: read_literal(f.body, x); break;
        case 16: read_convolution(f.body, x); break;
        case 28: is_kernel = is(&f.body, "tpu_custom_call"); break;
        case 30: read_dot(f.body, x); break;
        case 35: x->id = (int64_t)f.value; break;
        case 36: x->n_operands = put_ints(&f, x->operands, x->n_operands, MAX_OPERANDS); break;
        case 38: x->n_called = put_ints(&f, x->called, x->n_called, MAX_CALLED); break;
        case 43: read_config(f.body, x); break;
        case 63: x->less = is(&f.body, "LT"); break;
        default: break;
        }
    if (x->op == HLO_KERNEL && !is_kernel) x->op = HLO_OTHER;
    return !w.bad;
}

static status grow(void **v, size_t *cap, size_t n, size_t size)
{
    if (n < *cap) return ST_OK;
    void *more = mem_realloc_array(*v, *cap * 2 + 64, size);
    if (!more) return err_nomem();
    *v = more;
    *cap = *cap * 2 + 64;
    return ST_OK;
}

static status bad(const char *what) { return err_set(ST_INVALID, "optimised program: %s", what); }

static status read_computation(module *m, wire w)
{
    void *v = m->c;
    TRY(grow(&v, &m->cap_c, m->n_c, sizeof *m->c));
    m->c = v;
    computation *c = &m->c[m->n_c++];
    *c = (computation){ .first = m->n };
    for (wire_field f; next(&w, &f);) {
        if (f.number == 5) c->id = (int64_t)f.value;
        if (f.number == 6) c->root = (int64_t)f.value;
        if (f.number != 2) continue;
        v = m->v;
        TRY(grow(&v, &m->cap, m->n, sizeof *m->v));
        m->v = v;
        if (!read_instruction(f.body, &m->v[m->n++])) return bad("an instruction is damaged");
        c->n++;
    }
    return w.bad ? bad("a computation is damaged") : ST_OK;
}

static status read_module(module *m, wire w)
{
    for (wire_field f; next(&w, &f);) {
        if (f.number == 6) m->entry = (int64_t)f.value;
        if (f.number == 3) TRY(read_computation(m, f.body));
    }
    return w.bad ? bad("it ends in the middle") : ST_OK;
}

static const computation *computation_of(const module *m, int64_t id)
{
    for (size_t i = 0; i < m->n_c; i++)
        if (m->c[i].id == id) return &m->c[i];
    return NULL;
}

static const instruction *find(const module *m, const computation *c, int64_t id)
{
    for (size_t i = 0; i < c->n; i++)
        if (m->v[c->first + i].id == id) return &m->v[c->first + i];
    return NULL;
}

/* ---- what it costs ---- */

static double elements(const instruction *x)
{
    double n = 1;
    for (int i = 0; i < x->rank; i++) n *= (double)x->dim[i];
    return n;
}

static double flops_of(const module *m, const computation *c, const instruction *x)
{
    const bool dot = x->op == HLO_DOT;
    const instruction *by = x->n_operands == 2 ? find(m, c, x->operands[dot ? 0 : 1]) : NULL;
    double sum = 1;
    if (!by || (!dot && x->n_contracting != 1)) return 0;
    for (int i = 0; dot && i < x->n_contracting; i++) sum *= x->contracting[i] >= 0 && x->contracting[i] < by->rank ? (double)by->dim[x->contracting[i]] : 1;
    if (!dot && x->contracting[0] >= 0 && x->contracting[0] < by->rank && by->dim[x->contracting[0]] > 0) sum = elements(by) / (double)by->dim[x->contracting[0]];
    return 2 * elements(x) * sum;
}

/* How often a loop runs; -1: data decides. Loops here count from 0 in ones (lower.c). */
static int64_t trips_of(const module *m, const instruction *loop)
{
    if (loop->trips >= 0) return loop->trips;
    for (int k = 0; k < loop->n_called; k++) {
        const computation *c = computation_of(m, loop->called[k]);
        const instruction *root = c ? find(m, c, c->root) : NULL;
        if (!root || root->op != HLO_COMPARE || !root->less || root->n_operands != 2) continue;
        const instruction *bound = find(m, c, root->operands[1]);
        if (bound && bound->op == HLO_CONSTANT && bound->has_scalar && bound->scalar >= 0) return bound->scalar;
    }
    return -1;
}

static bool has(const char *text, size_t n, const char *const *parts, size_t n_parts)
{
    for (size_t i = 0; i < n_parts; i++)
        if (memmem(text, n, parts[i], strlen(parts[i]))) return true;
    return false;
}

/* The name of the kernel that is called on a line of the source; n 0: nobody knows. */
static const char *kernel_name(const module *m, int64_t line, size_t *n)
{
    static const char mark[] = "kernel_name = \"";
    const char *at = m->source, *end = m->source ? m->source + m->source_len : NULL;
    *n = 0;
    if (!at || line < 1) return "";
    for (int64_t l = 1; at && l < line; l++) {
        at = memchr(at, '\n', (size_t)(end - at));
        if (at) at++;
    }
    const char *stop = at ? memchr(at, '\n', (size_t)(end - at)) : NULL;
    if (at && !stop) stop = end;
    at = at ? memmem(at, (size_t)(stop - at), mark, sizeof mark - 1) : NULL;
    if (!at) return "";
    at += sizeof mark - 1;
    const char *close = memchr(at, '"', (size_t)(stop - at));
    if (close) *n = (size_t)(close - at);
    return at;
}

/* Loops of attention run over pages, those of grouped products over the tiles of experts. */
static kernel_kind kind_of_kernel(const module *m, int64_t line)
{
    static const char *const of_data[] = { "ragged", "mla", "kv_update", "grouped" }, *const product[] = { "matmul" };
    size_t n;
    const char *name = kernel_name(m, line, &n);
    if (n == 0 || has(name, n, of_data, sizeof of_data / sizeof *of_data)) return KERNEL_OF_DATA;
    return has(name, n, product, sizeof product / sizeof *product) ? KERNEL_PRODUCT : KERNEL_OTHER;
}

static void count_cycles(module *m, const instruction *x, double times)
{
    const double cycles = x->bundle >= 0 ? x->bundle : x->window;
    hlo_cost *o = &m->cost;
    if (x->op == HLO_KERNEL) {
        const kernel_kind kind = kind_of_kernel(m, x->line);
        if (kind == KERNEL_OF_DATA) return;
        if (kind == KERNEL_PRODUCT && cycles < 0) o->n_unknown++;
    }
    if (cycles < 0) return;
    o->bundles = o->bundles || x->bundle >= 0;
    o->cycles = (o->cycles < 0 ? 0 : o->cycles) + times * cycles;
    o->operations += times;
    if (x->bundle < 0) o->start_cycles += times * (cycles < HLO_START ? cycles : HLO_START);
}

/* times: how often the computation runs, 0 inside of open loops. fused: what is in it has no cycles of its own. */
static status visit(module *m, int64_t id, double times, bool fused, int depth)
{
    const computation *c = computation_of(m, id);
    if (!c) return ST_OK;
    if (depth > MAX_DEPTH) return bad("its computations call each other too deeply");
    for (size_t i = 0; i < c->n; i++) {
        const instruction *x = &m->v[c->first + i];
        if (++m->visits > MAX_VISITS) return bad("it is too large");
        if (x->op == HLO_DOT || x->op == HLO_CONVOLUTION) {
            const double flops = flops_of(m, c, x);
            m->cost.flops += times * flops;
            m->cost.flops_once += flops;
        }
        if (x->op == HLO_COLLECTIVE) continue;
        if (!fused && times > 0) count_cycles(m, x, times);
        double inside = times;
        if (x->op == HLO_WHILE) {
            const int64_t trips = trips_of(m, x);
            m->cost.n_loops += trips >= 0;
            m->cost.n_open += trips < 0;
            inside = trips < 0 ? 0 : times * (double)trips;
        } else if (x->op != HLO_FUSION && x->op != HLO_CALL) {
            continue;       /* what else calls something applies it to elements */
        }
        for (int k = 0; k < x->n_called; k++) TRY(visit(m, x->called[k], inside, fused || x->op == HLO_FUSION, depth + 1));
    }
    return ST_OK;
}

static status read_all(module *m, const void *data, size_t len, bool with_config)
{
    wire w = { .at = data, .end = (const uint8_t *)data + len }, all = w;
    bool found = !with_config;
    if (len > HLO_MAX_BYTES) return bad("it is too large");
    for (wire_field f; with_config && next(&all, &f);)
        if (f.number == 1 && f.is_body) {
            w = f.body;
            found = true;
        }
    if (all.bad || !found) return bad("there is no module in it");
    TRY(read_module(m, w));
    if (!computation_of(m, m->entry)) return bad("it has no entry");
    return visit(m, m->entry, 1, false, 0);
}

status hlo_cost_read(const void *data, size_t len, bool with_config, const char *source, size_t source_len, hlo_cost *out)
{
    module m = { .source = source, .source_len = source_len, .cost = { .cycles = -1 } };
    status st = read_all(&m, data, len, with_config);
    mem_free(m.v);
    mem_free(m.c);
    if (st == ST_OK) *out = m.cost;
    return st;
}
