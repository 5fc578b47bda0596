// layer: mosaic
/* Random small kernels: a step that is refused is left out and the kernel made again without it. Whatever an author writes is a kernel or a message, and whatever a kernel does ends as results or a message. */
#include <stdlib.h>

#include "base/mem.h"
#include "mosaic/interp.h"
#include "mosaic/ir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 64, STEPS = 120, STEP_BYTES = 24 };
typedef struct author {
    const uint8_t *at, *end;
    mk *k;
    mk_val v[MOST], grid[MK_GRID];
    mk_ref r[MOST];
    int n_v, n_r, depth;
    bool loop[MK_DEPTH];
} author;

static unsigned next(author *a, unsigned below)
{
    unsigned b = a->at < a->end ? *a->at++ : 0;
    return below ? b % below : b;
}

static const dtype types[] = { DT_F32, DT_BF16, DT_I32, DT_I8, DT_I4, DT_F8E4M3, DT_F8E5M2, DT_BOOL, DT_I16, DT_F64 };
static dtype any_type(author *a) { return types[next(a, 10)]; }
static int64_t any_dim(author *a)
{
    static const int64_t dims[] = { 1, 2, 3, 4, 8, 16, 5, 0, -1 };
    return dims[next(a, 9)];
}
static mk_dims any_dims(author *a)
{
    mk_dims d = { .n = (int)next(a, 4) };
    for (int i = 0; i < d.n; i++) d.v[i] = any_dim(a);
    return d;
}
static mk_val any(author *a)
{
    unsigned i = next(a, 0);
    if (i >= 240) return i % 3 == 0 ? mk_f32((float)i - 247) : i % 3 == 1 ? mk_bool(i & 4) : (mk_val){ .id = (int)next(a, 0) * 3 - 20 };
    if (i >= 200 || !a->n_v) return mk_i32((int32_t)(i % 40) - 3);
    return a->v[i % (unsigned)a->n_v];
}
static mk_ref any_ref(author *a) { return a->n_r ? a->r[next(a, (unsigned)a->n_r)] : (mk_ref){ .id = (int)next(a, 0) }; }
static mk_at any_at(author *a)
{
    mk_at at = { .n = (int)next(a, 4) };
    for (int i = 0; i < at.n; i++) at.v[i] = any(a);
    return at;
}
/* At 0 of all of it, mostly. */
static mk_at fitting_at(author *a) { return next(a, 4) ? MK_ZERO : any_at(a); }
static mk_dims fitting_dims(author *a, mk_ref r)
{
    mk_dims d = { .n = r.rank };
    if (!next(a, 6)) return any_dims(a);
    for (int i = 0; i < r.rank; i++) d.v[i] = r.dim[i];
    return d;
}

/* One of that kind and, for arrays, of the type and shape of `like`, if there is one. */
static mk_ref fitting_ref(author *a, mk_kind kind, const mk_ref *like)
{
    unsigned from = next(a, 0);
    for (int i = 0; from < 240 && i < a->n_r; i++) {
        mk_ref r = a->r[(from + (unsigned)i) % (unsigned)a->n_r];
        if (r.kind == kind && (kind == MK_ARRAY || r.rank == 0) && (!like || (r.type == like->type && mk_same_dims(r.rank, r.dim, like->rank, like->dim)))) return r;
    }
    return any_ref(a);
}
static mk_val fitting_value(author *a, mk_ref r)
{
    unsigned from = next(a, 0);
    for (int i = 0; from < 240 && i < a->n_v; i++) {
        mk_val v = a->v[(from + (unsigned)i) % (unsigned)a->n_v];
        if (v.type == r.type && mk_same_dims(v.rank, v.dim, r.rank, r.dim)) return v;
    }
    return any(a);
}

static void keep(author *a, mk_val v)
{
    if (mk_is(v)) a->v[a->n_v < MOST ? a->n_v++ : (int)next(a, MOST)] = v;
}
static void keep_ref(author *a, mk_ref r)
{
    if (r.id) a->r[a->n_r < MOST ? a->n_r++ : (int)next(a, MOST)] = r;
}

static void any_map(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    unsigned how = *(const unsigned *)arg;
    index[0] = how & 1 ? grid[0] : how & 2 ? mk_get(k, prefetched[0], MK_ZERO) : mk_add(k, mk_i32((int)(how >> 2)), mk_i32(0));
}

static void signature(author *a)
{
    static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j" };
    unsigned grids = next(a, 3), n = 2 + next(a, 7);
    for (unsigned i = 0; i < grids; i++) keep(a, mk_grid(a->k, 1 + next(a, 3), false));
    if (next(a, 2)) keep_ref(a, mk_prefetch(a->k, "p", next(a, 2) ? DT_I32 : DT_F32, 1 + next(a, 4)));
    /* always there, and fitting each other: most steps use them */
    keep_ref(a, mk_in(a->k, "in", DT_F32, MK_DIMS(4, 8)));
    keep_ref(a, mk_out(a->k, "out", DT_F32, MK_DIMS(4, 8)));
    keep_ref(a, mk_scratch(a->k, "one", MK_VMEM, DT_F32, MK_DIMS(4, 8)));
    keep_ref(a, mk_scratch(a->k, "two", MK_VMEM, DT_F32, MK_DIMS(2, 4, 8)));
    keep_ref(a, mk_scratch(a->k, "narrow", MK_VMEM, types[1 + next(a, 6)], MK_DIMS(8, 8)));
    keep_ref(a, mk_dma_sems(a->k, "copies", MK_DIMS()));
    keep_ref(a, mk_sems(a->k, "signals", MK_DIMS()));
    for (unsigned i = 0; i < n; i++) {
        unsigned what = next(a, 7), how = next(a, 0);
        mk_dims d = any_dims(a);
        if (what == 0) keep_ref(a, mk_in(a->k, names[i], any_type(a), d));
        else if (what == 1) keep_ref(a, mk_out(a->k, names[i], any_type(a), d));
        else if (what == 2) keep_ref(a, mk_scratch(a->k, names[i], next(a, 4) ? MK_VMEM : MK_SMEM, any_type(a), d));
        else if (what == 3) keep_ref(a, mk_dma_sems(a->k, names[i], d.n < 2 ? d : MK_DIMS()));
        else if (what == 4) keep_ref(a, mk_sems(a->k, names[i], MK_DIMS()));
        else if (what == 5 && grids) keep_ref(a, mk_in_block(a->k, names[i], DT_F32, MK_DIMS(20, 8), MK_DIMS(8, 8), a->n_r && a->r[0].space == MK_SMEM ? any_map : NULL, &how));
        else if (what == 6) keep_ref(a, mk_out_block(a->k, names[i], DT_F32, MK_DIMS(16, 8), MK_DIMS(8, 8), NULL, NULL));
    }
    if (!next(a, 4)) mk_alias(a->k, any_ref(a), any_ref(a));
    mk_set_options(a->k, &(mk_options){ .collective_id = (int)next(a, 2), .vmem_limit_bytes = next(a, 3) });
}

static void value(author *a, unsigned what)
{
    mk *k = a->k;
    mk_val x = any(a);
    int perm[MK_RANK] = { (int)next(a, 4), (int)next(a, 3), (int)next(a, 3) };
    switch (what) {
#define UN(up, low, ft, it, fe, ie) case __COUNTER__: keep(a, mk_##low(k, x)); break;
#define BIN(up, low, ft, it, fe, ie) case __COUNTER__: keep(a, mk_##low(k, x, any(a))); break;
#include "mosaic/ops.def"
    case 30: keep(a, mk_full(k, x, any_dims(a))); break;
    case 31: keep(a, mk_iota(k, (int)next(a, 4) - 1, any_dims(a))); break;
    case 32: keep(a, mk_recip(k, x, next(a, 2))); break;
    case 33: keep(a, mk_cmp(k, (mk_pred)next(a, 7), x, any(a))); break;
    case 34: keep(a, mk_select(k, x, any(a), any(a))); break;
    case 35: case 36: keep(a, mk_convert(k, x, any_type(a))); break;
    case 37: keep(a, mk_bitcast(k, x, any_type(a))); break;
    case 38: keep(a, mk_broadcast(k, x, any_dims(a))); break;
    case 39: keep(a, mk_reshape(k, x, any_dims(a))); break;
    case 40: keep(a, mk_transpose(k, x, perm)); break;
    case 41: keep(a, mk_slice(k, x, any_dims(a), any_dims(a))); break;
    case 42: keep(a, mk_concat(k, (mk_val[]){ x, any(a), x }, 1 + (int)next(a, 3), (int)next(a, 3))); break;
    case 43: keep(a, mk_rotate(k, x, any(a), (int)next(a, 3))); break;
    case 44: keep(a, mk_extract(k, x)); break;
    case 45: keep(a, mk_reduce(k, (mk_reduction)next(a, 4), x, (int)next(a, 3))); break;
    case 46: keep(a, mk_matmul(k, x, any(a), next(a, 2), any_type(a), next(a, 2) ? any(a) : (mk_val){ 0 })); break;
    default: keep(a, mk_multiple(k, x, (int)next(a, 9))); break;
    }
}

static void memory(author *a, unsigned what)
{
    mk *k = a->k;
    mk_ref r = any_ref(a);
    mk_val sizes[MK_RANK] = { any(a), any(a), any(a) };
    switch (what) {
    case 0: case 1: keep(a, mk_load(k, r, fitting_at(a), fitting_dims(a, r))); break;
    case 2: mk_store(k, fitting_value(a, r), r, fitting_at(a)); break;
    case 3: mk_store_masked(k, fitting_value(a, r), r, MK_ZERO, mk_cmp(k, MK_GT, fitting_value(a, r), mk_f32(1))); break;
    case 4: keep(a, mk_get(k, r, any_at(a))); break;
    case 5: mk_put(k, any(a), r, any_at(a)); break;
    case 6: keep_ref(a, mk_pick(k, r, any_at(a))); break;
    case 7: keep_ref(a, mk_view(k, r, fitting_at(a), fitting_dims(a, r), next(a, 8))); break;
    case 8: keep_ref(a, mk_view_sized(k, r, fitting_at(a), any_dims(a), sizes, next(a, 8))); break;
    case 9: keep_ref(a, mk_ref_bitcast(k, r, any_type(a))); break;
    case 10: keep_ref(a, mk_ref_reshape(k, r, any_dims(a))); break;
    case 11: case 19: mk_copy(k, r, fitting_ref(a, MK_ARRAY, &r), fitting_ref(a, MK_DMA_SEM, NULL)); break;
    case 12: case 20: mk_wait(k, fitting_ref(a, MK_DMA_SEM, NULL), r, r); break;
    case 13: mk_send(k, r, fitting_ref(a, MK_ARRAY, &r), fitting_ref(a, MK_DMA_SEM, NULL), fitting_ref(a, MK_DMA_SEM, NULL), mk_i32((int)next(a, 3))); break;
    case 14: mk_signal(k, fitting_ref(a, MK_COUNT_SEM, NULL), mk_i32((int)next(a, 3)), next(a, 2) ? any(a) : (mk_val){ 0 }); break;
    case 15: mk_await(k, fitting_ref(a, MK_COUNT_SEM, NULL), mk_i32((int)next(a, 3))); break;
    case 16: keep_ref(a, mk_barrier(k)); break;
    case 17: keep(a, mk_load_strided(k, r, any(a), any_dim(a), any_dim(a))); break;
    case 18: mk_store_strided(k, fitting_value(a, r), r, any(a), any_dim(a)); break;
    default: keep(a, mk_device_id(k)); break;
    }
}

static void close_one(author *a)
{
    mk_val out[2] = { { 0 } };
    if (!a->depth) return;
    if (a->loop[--a->depth]) mk_end_for(a->k, (mk_val[]){ any(a) }, out);
    else mk_end_if(a->k, NULL, NULL);
    keep(a, out[0]);
}

static void control(author *a, unsigned what)
{
    mk_val carried = any(a), init = carried, else_of = { 0 };
    if (what == 0 && a->depth < 4) {
        keep(a, mk_for(a->k, mk_i32((int)next(a, 3)), mk_i32((int)next(a, 5)), &init, 1, &carried));
        keep(a, carried);
        a->loop[a->depth++] = true;
    } else if (what == 1 && a->depth < 4) {
        mk_if(a->k, mk_cmp(a->k, MK_LT, init, mk_i32(2)));
        a->loop[a->depth++] = false;
    } else if (what == 2 && a->depth && !a->loop[a->depth - 1]) {
        mk_else(a->k, &else_of, 0);
    } else {
        close_one(a);
    }
}

static void run(const mk *k, int devices)
{
    enum { ALL = 2 * MK_ARGS };
    void *in[ALL] = { NULL }, *out[ALL] = { NULL };
    int n = mk_n_operands(k), n_out = mk_n_results(k);
    bool fits = mk_vmem_bytes(k) < 1 << 20;
    for (int i = 0; i < n * devices; i++) {
        mk_operand o = mk_operand_at(k, i % n);
        in[i] = mem_calloc(mk_array_bytes(o.type, o.rank, o.dim) + 1, 1);
    }
    for (int i = 0; i < n_out * devices; i++) {
        mk_operand o = mk_result_at(k, i % n_out);
        out[i] = mem_calloc(mk_array_bytes(o.type, o.rank, o.dim) + 1, 1);
    }
    if (fits && mk_run(k, in, out, &(mk_run_options){ .n_devices = devices, .max_operations = 2000, .max_bytes = 4 << 20 }, NULL) != ST_OK) err_clear();
    for (int i = 0; i < n * devices; i++) mem_free(in[i]);
    for (int i = 0; i < n_out * devices; i++) mem_free(out[i]);
}

/* Step i reads bytes of its own, so that leaving one out changes no other. Returns the step that was refused, or -1. */
static int make(author *a, const uint8_t *data, size_t size, const bool *left_out)
{
    *a = (author){ .at = data, .end = data + (size < 64 ? size : 64), .k = mk_new("fuzz") };
    signature(a);
    for (int i = 0; i < STEPS && 64 + (size_t)i * STEP_BYTES < size && mk_ok(a->k); i++) {
        const uint8_t *at = data + 64 + (size_t)i * STEP_BYTES;
        if (left_out[i]) continue;
        a->at = at;
        a->end = at + STEP_BYTES < data + size ? at + STEP_BYTES : data + size;
        unsigned what = next(a, 10);
        if (what < 5) value(a, next(a, 48));
        else if (what < 9) memory(a, next(a, 22));
        else control(a, next(a, 4));
        if (!mk_ok(a->k)) return i;
    }
    while (a->depth && mk_ok(a->k)) close_one(a);
    return -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    author a;
    buf text = { 0 };
    bool left_out[STEPS] = { false };
    for (int refused; (refused = make(&a, data, size, left_out)) >= 0; mk_free(a.k)) left_out[refused] = true;
    if (mk_finish(a.k) == ST_OK) {
        if (mk_print(a.k, &text) != ST_OK || mk_config(a.k, &text) != ST_OK) abort();
        run(a.k, 1 + (size > 2 && data[2] & 1));
    } else {
        err_clear();
    }
    buf_free(&text);
    mk_free(a.k);
    return 0;
}
