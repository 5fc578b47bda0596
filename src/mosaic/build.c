/* Kernels: life, errors, signature. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "mosaic/ir.h"

const mk_op_info mk_op_infos[MKO_COUNT] = {
#define UN(up, low, ft, it, fe, ie) { #low, ft, it, 1 },
#define BIN(up, low, ft, it, fe, ie) { #low, ft, it, 2 },
#define OP(up, low) { #low, "", "", 0 },
#include "mosaic/ops.def"
};

/* What mk_new returns without memory. It has failed already, so nothing writes it. */
static mk no_memory = { .st = ST_NOMEM, .name = "?" };

/* ---- errors ---- */

static void fail(mk *k, status st, const char *op, const char *fmt, va_list ap)
{
    if (k->st != ST_OK) return;
    int n = op ? snprintf(k->error, sizeof k->error, "operation %d, %s: ", k->body.n, op) : 0;
    if (n >= 0 && (size_t)n < sizeof k->error) vsnprintf(k->error + n, sizeof k->error - (size_t)n, fmt, ap);
    k->st = st;
}

void mk_fail(mk *k, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail(k, ST_INVALID, NULL, fmt, ap);
    va_end(ap);
}

void mk_fail_op(mk *k, const char *op, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail(k, ST_INVALID, op, fmt, ap);
    va_end(ap);
}

static void out_of_memory(mk *k)
{
    if (k->st == ST_OK) k->st = ST_NOMEM;
}

bool mk_begin(mk *k, const char *op)
{
    if (k->st != ST_OK) return false;
    if (k->finished) mk_fail_op(k, op, "the kernel is finished");
    return k->st == ST_OK;
}

/* ---- types ---- */

bool mk_is_float(dtype t) { return t == DT_F32 || t == DT_BF16 || t == DT_F8E4M3 || t == DT_F8E5M2; }

bool mk_is_type(dtype t) { return mk_is_float(t) || t == DT_I32 || t == DT_I16 || t == DT_I8 || t == DT_I4 || t == DT_BOOL; }

int64_t mk_count(int rank, const int64_t *dim)
{
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dim[i];
    return n;
}

bool mk_same_dims(int rank, const int64_t *a, int rank_b, const int64_t *b)
{
    return rank == rank_b && (rank == 0 || memcmp(a, b, (size_t)rank * sizeof *a) == 0);
}

const char *mk_describe(char *dst, size_t cap, dtype t, int rank, const int64_t *dim)
{
    size_t n = (size_t)snprintf(dst, cap, "%s[", t < DT_COUNT ? dtype_name(t) : "?");
    for (int i = 0; i < rank && n < cap; i++) n += (size_t)snprintf(dst + n, cap - n, dim[i] < 0 ? "%s?" : "%s%lld", i ? "," : "", (long long)dim[i]);
    if (n < cap) snprintf(dst + n, cap - n, "]");
    return dst;
}

mk_def mk_def_val(dtype t, int rank, const int64_t *dim)
{
    mk_def d = { .origin = MKV_OP, .type = t, .rank = rank };
    for (int i = 0; i < rank && i < MK_RANK; i++) d.dim[i] = dim[i];
    return d;
}

/* Dimensions of an array or a vector: none below 1, not too many elements. */
static bool dims_ok(mk *k, const char *op, mk_dims d, int64_t most)
{
    int64_t n = 1;
    if (d.n < 0 || d.n > MK_RANK) mk_fail_op(k, op, "rank %d, expected 0 to %d", d.n, MK_RANK);
    for (int i = 0; mk_ok(k) && i < d.n; i++) {
        if (d.v[i] < 1 || d.v[i] > most / n) mk_fail_op(k, op, "dimension %d is %lld, expected at least 1 and at most %lld elements in all", i, (long long)d.v[i], (long long)most);
        else n *= d.v[i];
    }
    return mk_ok(k);
}

/* ---- tables ---- */

static bool grow(mk *k, void *table, int n, int *cap, size_t size)
{
    if (n < *cap) return true;
    if (n >= 8 * MK_MAX_OPS) {
        mk_fail(k, "more than %d entries: the kernel is too long", 8 * MK_MAX_OPS);
        return false;
    }
    int want = *cap ? *cap * 2 : 64;
    void *old;
    memcpy(&old, table, sizeof old);
    void *p = mem_realloc_array(old, (size_t)want, size);
    if (!p) {
        out_of_memory(k);
        return false;
    }
    memcpy(table, &p, sizeof p);
    *cap = want;
    return true;
}

int mk_define(mk *k, const mk_def *d)
{
    if (!k->n_defs && grow(k, &k->def, 0, &k->cap_defs, sizeof *k->def)) k->def[k->n_defs++] = (mk_def){ 0 };
    if (!mk_ok(k) || !grow(k, &k->def, k->n_defs, &k->cap_defs, sizeof *k->def)) return 0;
    k->def[k->n_defs] = *d;
    return k->n_defs++;
}

int mk_push_id(mk *k, int id)
{
    if (!grow(k, &k->ids, k->n_ids, &k->cap_ids, sizeof *k->ids)) return -1;
    k->ids[k->n_ids] = id;
    return k->n_ids++;
}

mk_op *mk_push_op(mk *k, mk_op op)
{
    mk_list *l = k->current ? &k->arg[k->current - 1].map : &k->body;
    if (l->n >= MK_MAX_OPS) {
        mk_fail(k, "more than %d operations", MK_MAX_OPS);
        return NULL;
    }
    if (!grow(k, &l->v, l->n, &l->cap, sizeof *l->v)) return NULL;
    l->v[l->n] = op;
    return &l->v[l->n++];
}

int mk_emit(mk *k, mk_code code, const int *in, int n_in, const int64_t *attr, int n_attr, const mk_def *out)
{
    mk_op op = { .code = code, .in = k->n_ids, .n_in = n_in, .attr = k->n_attrs, .n_attr = n_attr };
    if (!mk_begin(k, mk_op_infos[code].name)) return 0;
    for (int i = 0; i < n_in; i++) {
        if (!in[i]) mk_fail_op(k, mk_op_infos[code].name, "operand %d does not exist", i);
        mk_push_id(k, in[i]);
    }
    for (int i = 0; i < n_attr && mk_ok(k) && grow(k, &k->attrs, k->n_attrs, &k->cap_attrs, sizeof *k->attrs); i++) k->attrs[k->n_attrs++] = attr[i];
    op.out = k->n_ids;
    int id = 0;
    if (out && mk_ok(k)) {
        mk_def d = *out;
        d.origin = MKV_OP;
        d.region = k->n_open ? k->open[k->n_open - 1].region : 0;
        d.code_of = k->current;
        id = mk_define(k, &d);
        mk_push_id(k, id);
        op.n_out = 1;
    }
    if (!mk_ok(k) || !mk_push_op(k, op)) return 0;
    return id;
}

/* ---- operands ---- */

mk_val mk_val_of(const mk *k, int id)
{
    mk_val v = { .id = id };
    if (!id) return v;
    const mk_def *d = &k->def[id];
    v.type = d->type;
    v.rank = d->rank;
    memcpy(v.dim, d->dim, sizeof v.dim);
    v.imm = d->imm;
    return v;
}

mk_ref mk_ref_of(const mk *k, int id)
{
    mk_ref r = { .id = id };
    if (!id) return r;
    const mk_def *d = &k->def[id];
    r.kind = d->kind;
    r.space = d->space;
    r.type = d->type;
    r.rank = d->rank;
    memcpy(r.dim, d->dim, sizeof r.dim);
    return r;
}

/* Constants are made once. */
static int constant(mk *k, dtype t, int rank, const int64_t *dim, double imm)
{
    for (int i = 0; i < k->n_consts; i++) {
        const mk_def *d = &k->def[k->consts[i]];
        if (d->type == t && mk_same_dims(d->rank, d->dim, rank, dim) && memcmp(&d->imm, &imm, sizeof imm) == 0) return k->consts[i];
    }
    mk_def d = mk_def_val(t, rank, dim);
    d.origin = MKV_CONST;
    d.imm = imm;
    d.code_of = -1;
    int id = mk_define(k, &d);
    if (!id || !grow(k, &k->consts, k->n_consts, &k->cap_consts, sizeof *k->consts)) return 0;
    k->consts[k->n_consts++] = id;
    return id;
}

/* Made in a bracket that is still open, of this function. */
static bool in_scope(const mk *k, const mk_def *d)
{
    if (d->code_of < 0) return true;
    if (d->code_of != k->current) return false;
    if (!d->region) return true;
    for (int i = 0; i < k->n_open; i++)
        if (k->open[i].region == d->region) return true;
    return false;
}

static int use(mk *k, const char *op, int id, bool is_ref)
{
    if (!mk_ok(k)) return 0;
    if (id <= 0 || id >= k->n_defs || k->def[id].is_ref != is_ref) mk_fail_op(k, op, "an operand that does not exist");
    else if (!in_scope(k, &k->def[id])) mk_fail_op(k, op, "an operand from inside another loop, branch or index map");
    return mk_ok(k) ? id : 0;
}

int mk_use(mk *k, const char *op, mk_val v)
{
    if (!mk_ok(k)) return 0;
    if (v.id == -1 && (v.type == DT_I32 || v.type == DT_F32 || v.type == DT_BOOL)) return constant(k, v.type, 0, NULL, v.imm);
    return use(k, op, v.id, false);
}

int mk_use_ref(mk *k, const char *op, mk_ref r) { return use(k, op, r.id, true); }

bool mk_constant(const mk *k, mk_val v, double *out)
{
    *out = v.imm;
    return v.id == -1 || (v.id > 0 && v.id < k->n_defs && k->def[v.id].origin == MKV_CONST);
}

mk_val mk_full(mk *k, mk_val scalar, mk_dims dims)
{
    double imm;
    if (!mk_begin(k, "full") || !dims_ok(k, "full", dims, MK_MAX_VECTOR)) return (mk_val){ 0 };
    if (scalar.rank) mk_fail_op(k, "full", "rank %d, expected a scalar", scalar.rank);
    if (!mk_ok(k)) return (mk_val){ 0 };
    if (mk_constant(k, scalar, &imm)) return mk_val_of(k, constant(k, scalar.type, dims.n, dims.v, imm));
    return mk_broadcast(k, scalar, dims);
}

/* ---- life ---- */

static bool good_name(const char *s)
{
    size_t n = s ? strlen(s) : 0;
    if (n == 0 || n >= MK_NAME || s[0] == '_' || (s[0] >= '0' && s[0] <= '9')) return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == n;
}

mk *mk_new(const char *name)
{
    mk *k = mem_calloc(1, sizeof *k);
    if (!k) return &no_memory;
    snprintf(k->name, sizeof k->name, "%s", name ? name : "");
    if (!good_name(name)) mk_fail(k, "a name is up to %d letters, digits and _, and begins with a letter", MK_NAME - 1);
    return k;
}

void mk_free(mk *k)
{
    if (!k || k == &no_memory || k->kept-- > 0) return;
    for (int i = 0; i < k->n_args; i++) mem_free(k->arg[i].map.v);
    mem_free(k->def);
    mem_free(k->ids);
    mem_free(k->attrs);
    mem_free(k->consts);
    mem_free(k->body.v);
    mem_free(k);
}

mk *mk_keep(const mk *k)
{
    mk *own = (mk *)(uintptr_t)k;
    if (own != &no_memory) own->kept++;
    return own;
}

const char *mk_name(const mk *k) { return k->name; }

status mk_finish(mk *k)
{
    if (k->st == ST_OK && k->n_open) mk_fail(k, "%d loops and branches have no end", k->n_open);
    if (k->st == ST_OK && k->barrier && !k->options.collective_id) mk_fail(k, "mk_barrier needs a collective_id that is not 0 (mk_set_options)");
    if (k->st == ST_OK && !mk_n_results(k)) mk_fail(k, "it has no outputs");
    if (k->st == ST_OK) k->finished = true;
    if (k->st == ST_NOMEM) return err_nomem();
    return k->st == ST_OK ? ST_OK : err_set(k->st, "kernel %s: %s", k->name, k->error);
}

/* ---- signature ---- */

mk_val mk_grid(mk *k, int64_t bound, bool parallel)
{
    if (!mk_begin(k, "grid")) return (mk_val){ 0 };
    if (k->n_args) mk_fail_op(k, "grid", "the grid comes before all arguments");
    if (k->n_grid == MK_GRID) mk_fail_op(k, "grid", "more than %d dimensions", MK_GRID);
    if (bound < 1 || bound > INT32_MAX) mk_fail_op(k, "grid", "bound %lld, expected 1 to 2^31 - 1", (long long)bound);
    int id = mk_define(k, &(mk_def){ .origin = MKV_GRID, .type = DT_I32, .index = k->n_grid, .code_of = -1 });
    if (!id) return (mk_val){ 0 };
    k->grid[k->n_grid] = bound;
    k->parallel[k->n_grid] = parallel;
    k->grid_id[k->n_grid++] = id;
    return mk_val_of(k, id);
}

/* One more argument; its reference has the dimensions `seen`. */
static mk_arg *add_arg(mk *k, const char *op, const char *name, const mk_arg *a, mk_dims seen)
{
    if (!mk_begin(k, op)) return NULL;
    if (k->n_args == MK_ARGS) mk_fail_op(k, op, "more than %d arguments", MK_ARGS);
    if (k->body.n || k->current) mk_fail_op(k, op, "arguments come before the first operation of the body");
    if (!good_name(name)) mk_fail_op(k, op, "a name is up to %d letters, digits and _, and begins with a letter", MK_NAME - 1);
    for (int i = 0; i < k->n_args; i++)
        if (mk_ok(k) && strcmp(k->arg[i].name, name) == 0) mk_fail_op(k, op, "there is an argument %s already", name);
    if (mk_ok(k) && a->kind == MK_ARRAY && !mk_is_type(a->type)) mk_fail_op(k, op, "%s: kernels do not know the type %s", name, a->type < DT_COUNT ? dtype_name(a->type) : "?");
    if (!mk_ok(k) || !dims_ok(k, op, a->dims, MK_MAX_ELEMENTS)) return NULL;
    mk_def d = { .origin = MKV_ARG, .is_ref = true, .type = a->type, .rank = seen.n, .kind = a->kind, .space = a->space, .code_of = -1, .index = k->n_args };
    memcpy(d.dim, seen.v, sizeof d.dim);
    int id = mk_define(k, &d);
    if (!id) return NULL;
    mk_arg *out = &k->arg[k->n_args++];
    *out = *a;
    snprintf(out->name, sizeof out->name, "%s", name);
    out->id = id;
    out->alias = -1;
    return out;
}

mk_ref mk_prefetch(mk *k, const char *name, dtype type, int64_t n)
{
    mk_dims d = MK_DIMS(n);
    for (int i = 0; i < k->n_args; i++)
        if (k->arg[i].role != MK_PREFETCH) mk_fail_op(k, "prefetch", "prefetched scalars come before all other arguments");
    if (type != DT_I32 && type != DT_F32) mk_fail_op(k, "prefetch", "%s: expected i32 or f32", name);
    mk_arg *a = add_arg(k, "prefetch", name, &(mk_arg){ .role = MK_PREFETCH, .type = type, .space = MK_SMEM, .dims = d }, d);
    return a ? mk_ref_of(k, a->id) : (mk_ref){ 0 };
}

static mk_ref whole(mk *k, const char *op, mk_role role, const char *name, dtype type, mk_dims dims)
{
    mk_arg *a = add_arg(k, op, name, &(mk_arg){ .role = role, .type = type, .space = MK_HBM, .dims = dims }, dims);
    return a ? mk_ref_of(k, a->id) : (mk_ref){ 0 };
}

mk_ref mk_in(mk *k, const char *name, dtype type, mk_dims dims) { return whole(k, "in", MK_IN, name, type, dims); }
mk_ref mk_out(mk *k, const char *name, dtype type, mk_dims dims) { return whole(k, "out", MK_OUT, name, type, dims); }

/* Records the map's operations in a list of their own. */
static void record_map(mk *k, const char *op, int at, mk_map *map, const void *ctx)
{
    mk_val grid[MK_GRID], index[MK_RANK] = { 0 };
    mk_ref prefetched[MK_ARGS];
    int n = 0;
    for (int i = 0; i < k->n_grid; i++) grid[i] = mk_val_of(k, k->grid_id[i]);
    for (int i = 0; i < k->n_args; i++)
        if (k->arg[i].role == MK_PREFETCH) prefetched[n++] = mk_ref_of(k, k->arg[i].id);
    k->current = at + 1;
    map(k, grid, prefetched, ctx, index);
    for (int i = 0; mk_ok(k) && i < k->arg[at].dims.n; i++) {
        if (mk_is(index[i]) && (index[i].type != DT_I32 || index[i].rank)) mk_fail_op(k, op, "%s: the map's index %d is no i32 scalar", k->arg[at].name, i);
        k->arg[at].map_out[i] = mk_use(k, op, mk_is(index[i]) ? index[i] : mk_i32(0));
    }
    for (int i = 0; mk_ok(k) && i < k->arg[at].map.n; i++) {
        mk_code c = k->arg[at].map.v[i].code;
        if (mk_op_infos[c].n_in == 0 && c != MKO_GET && c != MKO_CMP && c != MKO_SELECT && c != MKO_VIEW) mk_fail_op(k, op, "%s: %s in an index map", k->arg[at].name, mk_op_infos[c].name);
    }
    k->current = 0;
}

/* Rows of a tile, whatever the chip: blocks and offsets are multiples of it. */
static int64_t tile_rows(dtype t) { return t == DT_BOOL ? 8 : 8 * 32 / (int64_t)dtype_bits(t); }

static void check_block(mk *k, const char *op, const char *name, dtype type, mk_dims dims, mk_dims block)
{
    if (block.n != dims.n || dims.n < 1) mk_fail_op(k, op, "%s: the block has rank %d, the array %d", name, block.n, dims.n);
    int last = dims.n - 1;
    /* Mosaic's rule (E2002) is for 8 rows and 128 lanes whatever the type; less than a tile of a narrow type costs relayouts. */
    if (mk_ok(k) && block.v[last] != dims.v[last] && block.v[last] % 128) mk_fail_op(k, op, "%s: the block's last dimension is %lld, expected a multiple of 128 or the array's %lld", name, (long long)block.v[last], (long long)dims.v[last]);
    if (mk_ok(k) && last > 0 && block.v[last - 1] != dims.v[last - 1] && block.v[last - 1] % 8) mk_fail_op(k, op, "%s: the block's second-last dimension is %lld, expected a multiple of 8 or the array's %lld", name, (long long)block.v[last - 1], (long long)dims.v[last - 1]);
    (void)type;
}

static mk_ref window(mk *k, const char *op, mk_role role, const char *name, dtype type, mk_dims dims, mk_dims block, mk_map *map, const void *ctx)
{
    if (!mk_begin(k, op)) return (mk_ref){ 0 };
    check_block(k, op, name, type, dims, block);
    for (int i = 0; mk_ok(k) && i < block.n; i++)
        if (block.v[i] < 1 || block.v[i] > dims.v[i] + 2 * tile_rows(type) + 128) mk_fail_op(k, op, "%s: the block's dimension %d is %lld of %lld", name, i, (long long)block.v[i], (long long)dims.v[i]);
    mk_arg *a = mk_ok(k) ? add_arg(k, op, name, &(mk_arg){ .role = role, .type = type, .space = MK_VMEM, .dims = dims, .windowed = true, .block = block, .mapped = map != NULL }, block) : NULL;
    if (a && map) record_map(k, op, k->n_args - 1, map, ctx);
    return a && mk_ok(k) ? mk_ref_of(k, a->id) : (mk_ref){ 0 };
}

mk_ref mk_in_block(mk *k, const char *name, dtype type, mk_dims dims, mk_dims block, mk_map *map, const void *arg)
{
    return window(k, "in_block", MK_IN, name, type, dims, block, map, arg);
}

mk_ref mk_out_block(mk *k, const char *name, dtype type, mk_dims dims, mk_dims block, mk_map *map, const void *arg)
{
    return window(k, "out_block", MK_OUT, name, type, dims, block, map, arg);
}

static mk_arg *arg_of(mk *k, mk_ref r, mk_role role)
{
    if (r.id <= 0 || r.id >= k->n_defs || k->def[r.id].origin != MKV_ARG) return NULL;
    mk_arg *a = &k->arg[k->def[r.id].index];
    return a->role == role ? a : NULL;
}

void mk_alias(mk *k, mk_ref out, mk_ref in)
{
    if (!mk_begin(k, "alias")) return;
    mk_arg *o = arg_of(k, out, MK_OUT), *i = arg_of(k, in, MK_IN);
    if (!o || !i) mk_fail_op(k, "alias", "expected an output and an input");
    else if (o->type != i->type || !mk_same_dims(o->dims.n, o->dims.v, i->dims.n, i->dims.v) || o->windowed != i->windowed) mk_fail_op(k, "alias", "%s and %s differ in type or shape, or in being windowed", o->name, i->name);
    else if (o->alias >= 0) mk_fail_op(k, "alias", "%s has an input already", o->name);
    int at = i ? (int)(i - k->arg) : -1;
    for (int j = 0; mk_ok(k) && j < k->n_args; j++)
        if (k->arg[j].alias == at && k->arg[j].role == MK_OUT) mk_fail_op(k, "alias", "%s is taken over by %s already", i->name, k->arg[j].name);
    if (mk_ok(k)) o->alias = at;
}

mk_ref mk_scratch(mk *k, const char *name, mk_space space, dtype type, mk_dims dims)
{
    if (space != MK_VMEM && space != MK_SMEM) mk_fail_op(k, "scratch", "%s: expected MK_VMEM or MK_SMEM", name);
    if (space == MK_SMEM && type != DT_I32 && type != DT_F32) mk_fail_op(k, "scratch", "%s: SMEM holds i32 and f32", name);
    mk_arg *a = add_arg(k, "scratch", name, &(mk_arg){ .role = MK_SCRATCH, .type = type, .space = space, .dims = dims }, dims);
    return a ? mk_ref_of(k, a->id) : (mk_ref){ 0 };
}

static mk_ref semaphores(mk *k, const char *op, mk_kind kind, const char *name, mk_dims dims)
{
    mk_arg *a = add_arg(k, op, name, &(mk_arg){ .role = MK_SCRATCH, .kind = kind, .type = DT_I32, .space = MK_SEMAPHORE, .dims = dims }, dims);
    if (a && mk_count(dims.n, dims.v) > 4096) mk_fail_op(k, op, "%s: more than 4096 semaphores", name);
    return a ? mk_ref_of(k, a->id) : (mk_ref){ 0 };
}

mk_ref mk_dma_sems(mk *k, const char *name, mk_dims dims) { return semaphores(k, "dma_sems", MK_DMA_SEM, name, dims); }
mk_ref mk_sems(mk *k, const char *name, mk_dims dims) { return semaphores(k, "sems", MK_COUNT_SEM, name, dims); }

void mk_set_options(mk *k, const mk_options *o)
{
    if (mk_begin(k, "options")) k->options = *o;
}

status mk_bake(mk *k, const char *name, int32_t first, int32_t step)
{
    for (int i = 0; i < k->n_args; i++) {
        mk_arg *a = &k->arg[i];
        if (strcmp(a->name, name) != 0 || a->role != MK_PREFETCH || a->type != DT_I32) continue;
        a->baked = true;
        a->first = first;
        a->step = step;
        return ST_OK;
    }
    return err_set(ST_INVALID, "kernel %s: there are no prefetched integers %s", k->name, name);
}

/* ---- what is known of a kernel ---- */

const mk_list *mk_code_of(const mk *k, int current) { return current ? &k->arg[current - 1].map : &k->body; }

int mk_arg_order(const mk *k, int order[MK_ARGS])
{
    int n = 0;
    for (int role = MK_PREFETCH; role <= MK_SCRATCH; role++)
        for (int i = 0; i < k->n_args; i++)
            if ((int)k->arg[i].role == role) order[n++] = i;
    return n;
}

static int count_roles(const mk *k, mk_role a, mk_role b)
{
    int n = 0;
    for (int i = 0; i < k->n_args; i++) n += k->arg[i].role == a || k->arg[i].role == b;
    return n;
}

int mk_n_operands(const mk *k) { return count_roles(k, MK_PREFETCH, MK_IN); }
int mk_n_results(const mk *k) { return count_roles(k, MK_OUT, MK_OUT); }
const mk_options *mk_options_of(const mk *k) { return &k->options; }

static mk_operand operand(const mk *k, int i)
{
    int order[MK_ARGS], n = mk_arg_order(k, order);
    mk_operand o = { .name = "?", .alias = -1 };
    if (i < 0 || i >= n) return o;
    const mk_arg *a = &k->arg[order[i]];
    o = (mk_operand){ .name = a->name, .type = a->type, .rank = a->dims.n, .windowed = a->windowed, .alias = -1 };
    memcpy(o.dim, a->dims.v, sizeof o.dim);
    for (int j = 0; a->role == MK_OUT && a->alias >= 0 && j < n; j++)
        if (order[j] == a->alias) o.alias = j;
    return o;
}

mk_operand mk_operand_at(const mk *k, int i) { return operand(k, i < mk_n_operands(k) ? i : -1); }
mk_operand mk_result_at(const mk *k, int i) { return operand(k, i < 0 || i >= mk_n_results(k) ? -1 : mk_n_operands(k) + i); }

int64_t mk_vmem_bytes(const mk *k)
{
    int64_t bytes = 0;
    for (int i = 0; i < k->n_args; i++) {
        const mk_arg *a = &k->arg[i];
        if (a->space != MK_VMEM) continue;
        mk_dims d = a->windowed ? a->block : a->dims;
        bytes += (a->windowed ? 2 : 1) * (int64_t)dtype_bytes(a->type == DT_BOOL ? DT_I8 : a->type, (size_t)mk_count(d.n, d.v));
    }
    return bytes;
}
