/* Kernels: loads, stores, references, copies, semaphores. */
#include <stdio.h>
#include <string.h>

#include "mosaic/ir.h"

#define NONE ((mk_val){ 0 })
#define NO_REF ((mk_ref){ 0 })

static const char *say(char dst[96], mk_val v) { return mk_describe(dst, 96, v.type, v.rank, v.dim); }
static const char *say_ref(char dst[96], mk_ref r) { return mk_describe(dst, 96, r.type, r.rank, r.dim); }

static mk_ref ref_operand(mk *k, const char *op, mk_ref r) { return mk_ref_of(k, mk_use_ref(k, op, r)); }

/* The id of an i32 scalar. */
static int scalar_i32(mk *k, const char *op, mk_val v)
{
    int id = mk_use(k, op, v);
    if (mk_ok(k) && (k->def[id].type != DT_I32 || k->def[id].rank)) mk_fail_op(k, op, "expected i32 scalars as indices and counts");
    return mk_ok(k) ? id : 0;
}

/* ids[0] = the reference, then one index per dimension; with constants checked against the box they begin. size: NULL, or the box's. */
static int with_indices(mk *k, const char *op, mk_ref r, mk_at at, const int64_t *size, int ids[1 + MK_RANK])
{
    char s[96];
    ids[0] = r.id;
    if (mk_ok(k) && at.n && at.n != r.rank) mk_fail_op(k, op, "%d indices into %s", at.n, say_ref(s, r));
    for (int i = 0; mk_ok(k) && i < r.rank; i++) {
        double c;
        mk_val v = at.n ? at.v[i] : mk_i32(0);
        ids[1 + i] = scalar_i32(k, op, v);
        int64_t n = size ? size[i] : 1;
        if (mk_ok(k) && r.dim[i] >= 0 && n >= 0 && mk_constant(k, v, &c) && (c < 0 || c + (double)n > (double)r.dim[i]))
            mk_fail_op(k, op, "%lld elements from %lld on in dimension %d of %s", (long long)n, (long long)c, i, say_ref(s, r));
    }
    return 1 + r.rank;
}

static void need_array(mk *k, const char *op, mk_ref r, mk_space space, const char *where)
{
    char s[96];
    if (!mk_ok(k)) return;
    if (r.kind != MK_ARRAY || r.space != space) mk_fail_op(k, op, "of %s, which is not in %s", r.kind == MK_ARRAY ? say_ref(s, r) : "a semaphore", where);
    for (int i = 0; mk_ok(k) && i < r.rank; i++)
        if (r.dim[i] < 0) mk_fail_op(k, op, "of %s: boxes of sizes known at run time are for copies", say_ref(s, r));
}

/* Where stores and copies go: not into what the kernel may not write. */
static void need_writable(mk *k, const char *op, mk_ref r)
{
    if (!mk_ok(k) || k->def[r.id].index < 0) return;
    const mk_arg *a = &k->arg[k->def[r.id].index];
    if (a->role == MK_IN) mk_fail_op(k, op, "into the input %s (mk_alias, and write the output)", a->name);
    if (a->role == MK_PREFETCH) mk_fail_op(k, op, "into the prefetched scalars %s", a->name);
}

/* ---- vectors ---- */

mk_val mk_load(mk *k, mk_ref r, mk_at at, mk_dims dims)
{
    char s[96];
    int ids[1 + MK_RANK];
    int64_t size[MK_RANK] = { 0 };
    if (!mk_begin(k, "load")) return NONE;
    r = ref_operand(k, "load", r);
    need_array(k, "load", r, MK_VMEM, "VMEM");
    if (mk_ok(k) && (dims.n > r.rank || dims.n < 1)) mk_fail_op(k, "load", "rank %d of %s", dims.n, say_ref(s, r));
    if (!mk_ok(k)) return NONE;
    int lead = r.rank - dims.n;
    for (int i = 0; i < r.rank; i++) {
        size[i] = i < lead ? 1 : dims.v[i - lead];
        if (size[i] < 1 || size[i] > r.dim[i]) mk_fail_op(k, "load", "%lld elements of dimension %d of %s", (long long)size[i], i, say_ref(s, r));
    }
    int n = with_indices(k, "load", r, at, size, ids);
    if (mk_ok(k) && mk_count(r.rank, size) > MK_MAX_VECTOR) mk_fail_op(k, "load", "more than %lld elements", (long long)MK_MAX_VECTOR);
    if (!mk_ok(k)) return NONE;
    mk_def d = mk_def_val(r.type, r.rank, size);
    mk_val v = mk_val_of(k, mk_emit(k, MKO_LOAD, ids, n, NULL, 0, &d));
    return lead ? mk_reshape(k, v, dims) : v;
}

static void store(mk *k, mk_val v, mk_ref r, mk_at at, mk_val mask)
{
    char s[96], t[96];
    int ids[3 + MK_RANK];
    if (!mk_begin(k, "store")) return;
    r = ref_operand(k, "store", r);
    need_array(k, "store", r, MK_VMEM, "VMEM");
    need_writable(k, "store", r);
    int id = mk_use(k, "store", v);
    v = mk_val_of(k, id);
    if (mk_ok(k) && (v.type != r.type || v.rank > r.rank || !v.rank)) mk_fail_op(k, "store", "%s into %s", say(s, v), say_ref(t, r));
    if (!mk_ok(k)) return;
    mk_dims d = { .n = r.rank };
    int lead = r.rank - v.rank;
    for (int i = 0; i < r.rank; i++) d.v[i] = i < lead ? 1 : v.dim[i - lead];
    for (int i = 0; i < r.rank; i++)
        if (d.v[i] > r.dim[i]) mk_fail_op(k, "store", "%s into %s", say(s, v), say_ref(t, r));
    if (mk_is(mask)) {
        mask = mk_val_of(k, mk_use(k, "store", mask));
        if (mk_ok(k) && (mask.type != DT_BOOL || !mk_same_dims(mask.rank, mask.dim, v.rank, v.dim))) mk_fail_op(k, "store", "%s by the mask %s", say(s, v), say(t, mask));
        if (lead) mask = mk_reshape(k, mask, d);
    }
    if (lead) v = mk_reshape(k, v, d);
    int n = with_indices(k, "store", r, at, d.v, ids);
    ids[n++] = v.id;
    if (mk_is(mask)) ids[n++] = mask.id;
    if (mk_ok(k)) mk_emit(k, MKO_STORE, ids, n, NULL, 0, NULL);
}

void mk_store(mk *k, mk_val v, mk_ref r, mk_at at) { store(k, v, r, at, NONE); }

void mk_store_masked(mk *k, mk_val v, mk_ref r, mk_at at, mk_val mask)
{
    if (mk_begin(k, "store") && !mk_is(mask)) mk_fail_op(k, "store", "the mask does not exist");
    store(k, v, r, at, mask);
}

/* Rows first, first + stride, ... of a matrix of 32-bit numbers: a load or store whose attribute is the stride. n: rows. */
static bool strided(mk *k, const char *op, mk_ref r, int first, int64_t n, int64_t stride, int ids[3])
{
    char s[96];
    double c;
    need_array(k, op, r, MK_VMEM, "VMEM");
    if (mk_ok(k) && (r.rank != 2 || dtype_bits(r.type) != 32)) mk_fail_op(k, op, "rows of %s, expected a matrix of 32-bit numbers", say_ref(s, r));
    else if (mk_ok(k) && (stride < 1 || n < 1 || (n - 1) * stride >= r.dim[0])) mk_fail_op(k, op, "%lld rows, every %lld of %s", (long long)n, (long long)stride, say_ref(s, r));
    else if (mk_ok(k) && mk_constant(k, mk_val_of(k, first), &c) && (c < 0 || c + (double)((n - 1) * stride) >= (double)r.dim[0]))
        mk_fail_op(k, op, "%lld rows, every %lld from %lld on, of %s", (long long)n, (long long)stride, (long long)c, say_ref(s, r));
    ids[0] = r.id;
    ids[1] = first;
    ids[2] = scalar_i32(k, op, mk_i32(0));
    return mk_ok(k);
}

mk_val mk_load_strided(mk *k, mk_ref r, mk_val first, int64_t n, int64_t stride)
{
    int ids[3];
    if (!mk_begin(k, "load")) return NONE;
    r = ref_operand(k, "load", r);
    if (!mk_ok(k) || !strided(k, "load", r, scalar_i32(k, "load", first), n, stride, ids)) return NONE;
    mk_def d = mk_def_val(r.type, 2, (int64_t[]){ n, r.dim[1] });
    return mk_val_of(k, mk_emit(k, MKO_LOAD, ids, 3, &stride, 1, &d));
}

void mk_store_strided(mk *k, mk_val v, mk_ref r, mk_val first, int64_t stride)
{
    char s[96], t[96];
    int ids[4];
    if (!mk_begin(k, "store")) return;
    r = ref_operand(k, "store", r);
    v = mk_val_of(k, mk_use(k, "store", v));
    if (mk_ok(k) && (v.type != r.type || v.rank != 2 || r.rank != 2 || v.dim[1] != r.dim[1])) mk_fail_op(k, "store", "%s into rows of %s", say(s, v), say_ref(t, r));
    if (!mk_ok(k) || !strided(k, "store", r, scalar_i32(k, "store", first), v.dim[0], stride, ids)) return;
    ids[3] = v.id;
    mk_emit(k, MKO_STORE, ids, 4, &stride, 1, NULL);
}

/* ---- scalars ---- */

mk_val mk_get(mk *k, mk_ref r, mk_at at)
{
    int ids[1 + MK_RANK];
    if (!mk_begin(k, "get")) return NONE;
    r = ref_operand(k, "get", r);
    need_array(k, "get", r, MK_SMEM, "SMEM");
    int n = with_indices(k, "get", r, at, NULL, ids);
    if (!mk_ok(k)) return NONE;
    mk_def d = mk_def_val(r.type, 0, NULL);
    return mk_val_of(k, mk_emit(k, MKO_GET, ids, n, NULL, 0, &d));
}

void mk_put(mk *k, mk_val v, mk_ref r, mk_at at)
{
    char s[96], t[96];
    int ids[2 + MK_RANK];
    if (!mk_begin(k, "put")) return;
    r = ref_operand(k, "put", r);
    need_array(k, "put", r, MK_SMEM, "SMEM");
    v = mk_val_of(k, mk_use(k, "put", v));
    if (mk_ok(k) && (v.type != r.type || v.rank)) mk_fail_op(k, "put", "%s into %s", say(s, v), say_ref(t, r));
    need_writable(k, "put", r);
    int n = with_indices(k, "put", r, at, NULL, ids);
    ids[n++] = v.id;
    if (mk_ok(k)) mk_emit(k, MKO_PUT, ids, n, NULL, 0, NULL);
}

/* ---- references ---- */

static mk_ref derive(mk *k, mk_code code, mk_ref r, const int *in, int n_in, const int64_t *attr, int n_attr, dtype t, int rank, const int64_t *dim)
{
    if (!mk_ok(k)) return NO_REF;
    mk_def d = { .is_ref = true, .type = t, .rank = rank, .kind = r.kind, .space = r.space, .index = k->def[r.id].index };
    for (int i = 0; i < rank; i++) d.dim[i] = dim[i];
    return mk_ref_of(k, mk_emit(k, code, in, n_in, attr, n_attr, &d));
}

/* Of attrs: the box's dimensions (MK_DYNAMIC: the next of the sizes that follow the indices), then the squeezed dimensions' bits. */
static mk_ref view(mk *k, mk_ref r, mk_at at, mk_dims dims, const mk_val *sizes, unsigned squeeze)
{
    char s[96];
    int ids[1 + 2 * MK_RANK];
    int64_t attr[MK_RANK + 1], kept[MK_RANK];
    int rank = 0;
    r = ref_operand(k, "view", r);
    if (mk_ok(k) && dims.n != r.rank) mk_fail_op(k, "view", "rank %d of %s", dims.n, say_ref(s, r));
    if (!mk_ok(k)) return NO_REF;
    int n = with_indices(k, "view", r, at, dims.v, ids);
    for (int i = 0; mk_ok(k) && i < r.rank; i++) {
        bool dynamic = dims.v[i] == MK_DYNAMIC, out = squeeze >> i & 1;
        if (dynamic && (!sizes || r.kind != MK_ARRAY)) mk_fail_op(k, "view", "dimension %d has no size", i);
        else if (!dynamic && (dims.v[i] < 1 || (r.dim[i] >= 0 && dims.v[i] > r.dim[i]))) mk_fail_op(k, "view", "%lld elements of dimension %d of %s", (long long)dims.v[i], i, say_ref(s, r));
        else if (out && dims.v[i] != 1) mk_fail_op(k, "view", "dimension %d is left out and %lld, not 1", i, (long long)dims.v[i]);
        if (dynamic && mk_ok(k)) ids[n++] = scalar_i32(k, "view", *sizes++);
        attr[i] = dims.v[i];
        if (!out) kept[rank++] = dims.v[i];
    }
    attr[r.rank] = squeeze & ((1u << r.rank) - 1);
    return derive(k, MKO_VIEW, r, ids, n, attr, r.rank + 1, r.type, rank, kept);
}

mk_ref mk_view(mk *k, mk_ref r, mk_at at, mk_dims dims, unsigned squeeze) { return mk_begin(k, "view") ? view(k, r, at, dims, NULL, squeeze) : NO_REF; }

mk_ref mk_view_sized(mk *k, mk_ref r, mk_at at, mk_dims dims, const mk_val *sizes, unsigned squeeze)
{
    return mk_begin(k, "view") ? view(k, r, at, dims, sizes, squeeze) : NO_REF;
}

mk_ref mk_pick(mk *k, mk_ref r, mk_at at)
{
    char s[96];
    if (!mk_begin(k, "pick")) return NO_REF;
    r = ref_operand(k, "pick", r);
    if (mk_ok(k) && (at.n < 1 || at.n > r.rank)) mk_fail_op(k, "pick", "%d indices into %s", at.n, say_ref(s, r));
    if (!mk_ok(k)) return NO_REF;
    mk_at full = { .n = r.rank };
    mk_dims d = { .n = r.rank };
    for (int i = 0; i < r.rank; i++) {
        full.v[i] = i < at.n ? at.v[i] : mk_i32(0);
        d.v[i] = i < at.n ? 1 : r.dim[i];
        if (d.v[i] < 0) mk_fail_op(k, "pick", "of %s: mk_view_sized instead", say_ref(s, r));
    }
    return mk_ok(k) ? view(k, r, full, d, NULL, (1u << at.n) - 1) : NO_REF;
}

mk_val mk_multiple(mk *k, mk_val x, int of)
{
    if (!mk_begin(k, "multiple")) return NONE;
    int id = scalar_i32(k, "multiple", x);
    if (of < 1) mk_fail_op(k, "multiple", "of %d", of);
    if (!mk_ok(k)) return NONE;
    mk_def d = mk_def_val(DT_I32, 0, NULL);
    return mk_val_of(k, mk_emit(k, MKO_MULTIPLE, &id, 1, (int64_t[]){ of }, 1, &d));
}

static void need_static(mk *k, const char *op, mk_ref r)
{
    if (mk_ok(k) && (r.kind != MK_ARRAY || r.space != MK_VMEM)) mk_fail_op(k, op, "only of arrays in VMEM");
    for (int i = 0; mk_ok(k) && i < r.rank; i++)
        if (r.dim[i] < 0) mk_fail_op(k, op, "of a box of a size known at run time");
}

mk_ref mk_ref_bitcast(mk *k, mk_ref r, dtype t)
{
    char s[96];
    int64_t dim[MK_RANK];
    if (!mk_begin(k, "ref_bitcast")) return NO_REF;
    r = ref_operand(k, "ref_bitcast", r);
    need_static(k, "ref_bitcast", r);
    if (mk_ok(k) && (!mk_is_type(t) || t == DT_BOOL || r.type == DT_BOOL || r.rank < 2)) mk_fail_op(k, "ref_bitcast", "of %s to that type", say_ref(s, r));
    if (!mk_ok(k)) return NO_REF;
    int64_t from = (int64_t)dtype_bits(r.type), to = (int64_t)dtype_bits(t);
    memcpy(dim, r.dim, sizeof dim);
    if (dim[r.rank - 2] * from % to) mk_fail_op(k, "ref_bitcast", "of %s to %s: the second-last dimension does not divide", say_ref(s, r), dtype_name(t));
    dim[r.rank - 2] = dim[r.rank - 2] * from / to;
    return derive(k, MKO_REF_BITCAST, r, &r.id, 1, NULL, 0, t, r.rank, dim);
}

mk_ref mk_ref_reshape(mk *k, mk_ref r, mk_dims dims)
{
    char s[96];
    if (!mk_begin(k, "ref_reshape")) return NO_REF;
    r = ref_operand(k, "ref_reshape", r);
    need_static(k, "ref_reshape", r);
    if (!mk_ok(k)) return NO_REF;
    int64_t n = 1, have = mk_count(r.rank, r.dim);
    for (int i = 0; i < dims.n && n; i++) n = dims.v[i] < 1 || dims.v[i] > have / n ? 0 : n * dims.v[i];
    if (n != have || dims.n < 1 || r.rank < 1 || dims.v[dims.n - 1] != r.dim[r.rank - 1]) mk_fail_op(k, "ref_reshape", "of %s: the last dimension and the number of elements stay", say_ref(s, r));
    return derive(k, MKO_REF_RESHAPE, r, &r.id, 1, NULL, 0, r.type, dims.n, dims.v);
}

/* ---- copies ---- */

static void need_sem(mk *k, const char *op, mk_ref r, mk_kind kind)
{
    if (!mk_ok(k)) return;
    if (r.kind != kind || r.rank) mk_fail_op(k, op, "expected a single semaphore of %s (mk_pick)", kind == MK_DMA_SEM ? "copies" : "signals");
}

static void need_copyable(mk *k, const char *op, mk_ref src, mk_ref dst)
{
    char s[96], t[96];
    if (!mk_ok(k)) return;
    if (src.kind != MK_ARRAY || dst.kind != MK_ARRAY) mk_fail_op(k, op, "of semaphores");
    else if (src.type != dst.type || src.rank != dst.rank) mk_fail_op(k, op, "%s to %s", say_ref(s, src), say_ref(t, dst));
    for (int i = 0; mk_ok(k) && i < src.rank; i++)
        if (src.dim[i] >= 0 && dst.dim[i] >= 0 && src.dim[i] != dst.dim[i]) mk_fail_op(k, op, "%s to %s", say_ref(s, src), say_ref(t, dst));
}

/* The start or the end of a copy. */
static void copying(mk *k, mk_code kind, const char *op, mk_ref src, mk_ref dst, mk_ref sem)
{
    if (!mk_begin(k, op)) return;
    src = ref_operand(k, op, src);
    dst = ref_operand(k, op, dst);
    sem = ref_operand(k, op, sem);
    need_copyable(k, op, src, dst);
    if (kind == MKO_COPY) need_writable(k, op, dst);
    need_sem(k, op, sem, MK_DMA_SEM);
    if (mk_ok(k)) mk_emit(k, kind, (int[]){ src.id, dst.id, sem.id }, 3, NULL, 0, NULL);
}

void mk_copy(mk *k, mk_ref src, mk_ref dst, mk_ref sem) { copying(k, MKO_COPY, "copy", src, dst, sem); }
void mk_wait(mk *k, mk_ref sem, mk_ref src, mk_ref dst) { copying(k, MKO_WAIT, "wait", src, dst, sem); }

void mk_send(mk *k, mk_ref src, mk_ref dst, mk_ref send_sem, mk_ref recv_sem, mk_val device)
{
    if (!mk_begin(k, "send")) return;
    src = ref_operand(k, "send", src);
    dst = ref_operand(k, "send", dst);
    send_sem = ref_operand(k, "send", send_sem);
    recv_sem = ref_operand(k, "send", recv_sem);
    need_copyable(k, "send", src, dst);
    need_writable(k, "send", dst);
    need_sem(k, "send", send_sem, MK_DMA_SEM);
    need_sem(k, "send", recv_sem, MK_DMA_SEM);
    int to = scalar_i32(k, "send", device);
    if (!mk_ok(k)) return;
    mk_emit(k, MKO_SEND, (int[]){ src.id, dst.id, send_sem.id, recv_sem.id, to }, 5, NULL, 0, NULL);
    k->communicates = true;
}

/* ---- signals, devices ---- */

void mk_signal(mk *k, mk_ref sem, mk_val n, mk_val device)
{
    int ids[3], n_ids = 2;
    if (!mk_begin(k, "signal")) return;
    sem = ref_operand(k, "signal", sem);
    need_sem(k, "signal", sem, MK_COUNT_SEM);
    ids[0] = sem.id;
    ids[1] = scalar_i32(k, "signal", n);
    if (mk_is(device)) ids[n_ids++] = scalar_i32(k, "signal", device);
    if (!mk_ok(k)) return;
    mk_emit(k, MKO_SIGNAL, ids, n_ids, NULL, 0, NULL);
    k->communicates |= n_ids == 3;
}

void mk_await(mk *k, mk_ref sem, mk_val n)
{
    if (!mk_begin(k, "await")) return;
    sem = ref_operand(k, "await", sem);
    need_sem(k, "await", sem, MK_COUNT_SEM);
    int id = scalar_i32(k, "await", n);
    if (mk_ok(k)) mk_emit(k, MKO_AWAIT, (int[]){ sem.id, id }, 2, NULL, 0, NULL);
}

mk_ref mk_barrier(mk *k)
{
    if (!mk_begin(k, "barrier")) return NO_REF;
    mk_def d = { .is_ref = true, .type = DT_I32, .kind = MK_COUNT_SEM, .space = MK_SEMAPHORE, .index = -1 };
    k->barrier = mk_emit(k, MKO_BARRIER, NULL, 0, NULL, 0, &d);
    k->communicates = true;
    return mk_ref_of(k, k->barrier);
}

mk_val mk_device_id(mk *k)
{
    if (!mk_begin(k, "device_id")) return NONE;
    mk_def d = mk_def_val(DT_I32, 0, NULL);
    return mk_val_of(k, mk_emit(k, MKO_DEVICE_ID, NULL, 0, NULL, 0, &d));
}
