/* The interpreter's memory: references, loads and stores, copies and semaphores. */
#include <string.h>

#include "base/mem.h"
#include "mosaic/interp_internal.h"

enum { BOX_RANK = MK_RANK + 1 };

/* A box as rows that lie together in memory: the last dimension has stride 1. */
typedef struct box { int rank; int64_t size[BOX_RANK], stride[BOX_RANK], off, n; } box;

static box box_of(int rank, const int64_t *size, const int64_t *stride, int64_t off)
{
    box b = { .off = off, .n = mk_count(rank, size) };
    for (int i = 0; i < rank; i++) {
        if (b.rank && b.stride[b.rank - 1] == size[i] * stride[i]) {
            b.size[b.rank - 1] *= size[i];
            b.stride[b.rank - 1] = stride[i];
        } else {
            b.size[b.rank] = size[i];
            b.stride[b.rank++] = stride[i];
        }
    }
    if (!b.rank || b.stride[b.rank - 1] != 1) {
        b.size[b.rank] = 1;
        b.stride[b.rank++] = 1;
    }
    return b;
}

static box box_of_region(const mk_region *r) { return box_of(r->rank, r->size, r->stride, r->off); }

/* Goes on to the next row; at[] and *from are the caller's, zero and b->off before the first one. False after the last. */
static bool next_row(const box *b, int64_t *at, int64_t *from)
{
    for (int i = b->rank - 2; i >= 0; i--) {
        *from += b->stride[i];
        if (++at[i] < b->size[i]) return true;
        *from -= b->stride[i] * b->size[i];
        at[i] = 0;
    }
    return false;
}

/* Between the box and storage that lies together. */
static void copy_box(const mk_mem *mem, const box *b, char *flat, bool out)
{
    int64_t at[BOX_RANK] = { 0 }, from = b->off;
    size_t row = (size_t)b->size[b->rank - 1] * mem->size;
    if (!b->n) return;
    do {
        char *p = mem->data + (size_t)from * mem->size;
        if (out) memcpy(flat, p, row);
        else memcpy(p, flat, row);
        flat += row;
    } while (next_row(b, at, &from));
}

/* ---- outstanding copies ---- */

static bool shadow_has(const mk_mem *mem, const box *b, uint16_t bits)
{
    int64_t at[BOX_RANK] = { 0 }, from = b->off;
    if (!mem->shadow || !b->n) return false;
    do {
        uint16_t any = 0;
        for (int64_t i = 0; i < b->size[b->rank - 1]; i++) any |= mem->shadow[from + i];
        if (any & bits) return true;
    } while (next_row(b, at, &from));
    return false;
}

static void shadow_add(mk_mem *mem, const box *b, int by)
{
    int64_t at[BOX_RANK] = { 0 }, from = b->off;
    if (!b->n) return;
    do {
        for (int64_t i = 0; i < b->size[b->rank - 1]; i++) mem->shadow[from + i] = (uint16_t)(mem->shadow[from + i] + by);
    } while (next_row(b, at, &from));
}

static bool shadow_make(mk_machine *m, mk_mem *mem)
{
    if (mem->shadow) return true;
    mem->shadow = mem_calloc((size_t)mem->n, sizeof *mem->shadow);
    if (!mem->shadow) mk_no_memory(m);
    return mem->shadow != NULL;
}

static const char *name_of(const mk_machine *m, int mem) { return mem < 0 ? "the barrier" : m->k->arg[mem].name; }

/* The operation that started a copy to (or from) this memory. */
static int culprit(const mk_machine *m, const mk_device *d, int mem, bool writes)
{
    for (int i = 0; i < m->n_dmas; i++) {
        const mk_dma *c = &m->dma[i];
        if (c->received && c->to == d->id && c->dst.mem == mem) return c->op;
        if (writes && c->from == d->id && c->src.mem == mem) return c->op;
    }
    return -1;
}

static mk_next check_race(mk_machine *m, const mk_device *d, int mem, const box *b, bool writes)
{
    if (shadow_has(&d->mem[mem], b, SHADOW_DST)) return mk_trap(m, d, "%s: the copy of operation %d that writes there has not been waited for (or not all copies on its semaphore)", name_of(m, mem), culprit(m, d, mem, false));
    if (writes && shadow_has(&d->mem[mem], b, SHADOW_READERS)) return mk_trap(m, d, "%s: writes what the copy of operation %d still reads", name_of(m, mem), culprit(m, d, mem, true));
    return MK_GO_ON;
}

/* ---- references ---- */

static mk_next check_index(mk_machine *m, const mk_device *d, int mem, int dim, int64_t at, int64_t n, int64_t of)
{
    if (at >= 0 && n >= 0 && at <= of - n) return MK_GO_ON;
    return mk_trap(m, d, "%s: %lld elements from %lld on in dimension %d, which has %lld", name_of(m, mem), (long long)n, (long long)at, dim, (long long)of);
}

/* Rows of the memory that `rows` rows from `at` on of what is seen are; false: not whole ones. */
static bool memory_rows(const mk_device *d, const mk_region *r, int64_t *at, int64_t *rows)
{
    if (r->mem < 0 || !d->mem[r->mem].data || r->type == d->mem[r->mem].type) return true;
    int64_t seen = (int64_t)dtype_bits(r->type), own = (int64_t)dtype_bits(d->mem[r->mem].type);
    if (*at * seen % own || *rows * seen % own) return false;
    *at = *at * seen / own;
    *rows = *rows * seen / own;
    return true;
}

static mk_next run_view(mk_machine *m, mk_device *d, const mk_op *op, const int *in, const int64_t *attr)
{
    const mk_region *r = &d->region[in[0]];
    mk_region v = { .mem = r->mem, .type = r->type, .off = r->off };
    const int *sizes = in + 1 + r->rank;
    bool cast = m->k->def[in[0]].kind == MK_ARRAY && r->type != d->mem[r->mem].type;
    for (int i = 0; i < r->rank; i++) {
        int64_t at = mk_int(d, in[1 + i]), n = attr[i] < 0 ? mk_int(d, *sizes++) : attr[i], rows = n;
        if (check_index(m, d, r->mem, i, at, n, r->size[i]) != MK_GO_ON) return MK_FAILED;
        if (cast && i >= r->rank - 2 && attr[r->rank] >> i & 1) return mk_trap(m, d, "%s: leaves out rows or lanes of a bitcast reference", name_of(m, r->mem));
        if (cast && i == r->rank - 2 && !memory_rows(d, r, &at, &rows)) return mk_trap(m, d, "%s: rows %lld to %lld of a bitcast reference are not whole ones", name_of(m, r->mem), (long long)at, (long long)(at + n - 1));
        v.off += at * r->stride[i];
        if (attr[r->rank] >> i & 1) continue;
        v.size[v.rank] = n;
        v.stride[v.rank++] = r->stride[i];
    }
    d->region[m->k->ids[op->out]] = v;
    return MK_GO_ON;
}

static mk_next run_ref_cast(mk_machine *m, mk_device *d, const mk_op *op, const int *in)
{
    int out = m->k->ids[op->out];
    const mk_def *o = &m->k->def[out];
    mk_region r = d->region[in[0]];
    if (op->code == MKO_REF_BITCAST) {
        r.type = o->type;
        r.size[r.rank - 2] = o->dim[o->rank - 2];
    } else {
        box b = box_of_region(&r);
        if (r.type != d->mem[r.mem].type || b.rank != 1) return mk_trap(m, d, "%s: what is reshaped does not lie together, or is bitcast", name_of(m, r.mem));
        int64_t stride = 1;
        r.rank = o->rank;
        for (int i = o->rank - 1; i >= 0; i--) {
            r.size[i] = o->dim[i];
            r.stride[i] = stride;
            stride *= o->dim[i];
        }
    }
    d->region[out] = r;
    return MK_GO_ON;
}

/* ---- loads and stores ---- */

/* The box that an access of `dim` elements at the indices ids[] means, in rows of the memory. */
static mk_next access_box(mk_machine *m, const mk_device *d, const mk_region *r, const int *ids, const int64_t *dim, bool writes, box *out)
{
    int64_t off = r->off, size[MK_RANK];
    for (int i = 0; i < r->rank; i++) {
        int64_t at = mk_int(d, ids[i]);
        size[i] = dim ? dim[i] : 1;
        if (check_index(m, d, r->mem, i, at, size[i], r->size[i]) != MK_GO_ON) return MK_FAILED;
        if (i == r->rank - 2 && !memory_rows(d, r, &at, &size[i])) return mk_trap(m, d, "%s: not whole rows of a bitcast reference", name_of(m, r->mem));
        off += at * r->stride[i];
    }
    *out = box_of(r->rank, size, r->stride, off);
    return check_race(m, d, r->mem, out, writes);
}

/* Rows first, first + stride, ... of a matrix. */
static mk_next strided_box(mk_machine *m, const mk_device *d, const mk_region *r, int64_t first, int64_t n, int64_t stride, bool writes, box *out)
{
    int64_t one = 1, zero = 0;
    if (check_index(m, d, r->mem, 0, first, (n - 1) * stride + 1, r->size[0]) != MK_GO_ON) return MK_FAILED;
    if (!memory_rows(d, r, &zero, &one)) return mk_trap(m, d, "%s: rows of a narrower type than the memory's", name_of(m, r->mem));
    *out = box_of(3, (int64_t[]){ n, one, r->size[1] }, (int64_t[]){ stride * one * r->stride[0], r->stride[0], r->stride[1] }, r->off + first * one * r->stride[0]);
    return check_race(m, d, r->mem, out, writes);
}

/* Where op reads or writes what has the shape of v; ids: its indices. */
static mk_next find_box(mk_machine *m, const mk_device *d, const mk_op *op, const mk_region *r, const int *ids, const mk_def *v, bool writes, box *out)
{
    if (op->n_attr) return strided_box(m, d, r, mk_int(d, ids[0]), v->dim[0], m->k->attrs[op->attr], writes, out);
    return access_box(m, d, r, ids, v->rank ? v->dim : NULL, writes, out);
}

/* Between slots of the type that is seen, of the shape of v, and slots of the memory's. Strided rows are taken one by one. */
static void cast_slots(const mk_op *op, const mk_def *v, dtype seen, dtype own, const void *src, void *dst, bool load)
{
    int64_t lanes = v->dim[v->rank - 1], rows = op->n_attr ? 1 : v->dim[v->rank - 2], outer = mk_count(v->rank, v->dim) / (rows * lanes);
    int64_t own_rows = rows * (int64_t)dtype_bits(seen) / (int64_t)dtype_bits(own);
    if (load) mk_bitcast_slots(own, src, seen, dst, outer, own_rows, lanes);
    else mk_bitcast_slots(seen, src, own, dst, outer, rows, lanes);
}

static mk_next run_load(mk_machine *m, mk_device *d, const mk_op *op, const int *in)
{
    int out = m->k->ids[op->out];
    const mk_region *r = &d->region[in[0]];
    const mk_mem *mem = &d->mem[r->mem];
    const mk_def *v = &m->k->def[out];
    box b;
    if (find_box(m, d, op, r, in + 1, v, false, &b) != MK_GO_ON) return MK_FAILED;
    int64_t at[BOX_RANK] = { 0 }, from = b.off, row = b.size[b.rank - 1];
    char *cast = r->type == mem->type ? NULL : mem_array((size_t)b.n, 4), *dst = cast ? cast : d->slot[out];
    if (r->type != mem->type && !cast) return mk_no_memory(m);
    do {
        mk_unpack(mem->type, mem->data + (size_t)from * mem->size, dst, row);
        dst += row * 4;
    } while (next_row(&b, at, &from));
    if (cast) cast_slots(op, v, r->type, mem->type, cast, d->slot[out], true);
    mem_free(cast);
    return MK_GO_ON;
}

static void store_rows(const mk_mem *mem, const box *b, const char *src, const int32_t *mask)
{
    int64_t at[BOX_RANK] = { 0 }, from = b->off, row = b->size[b->rank - 1];
    do {
        char *to = mem->data + (size_t)from * mem->size;
        if (!mask) mk_pack(mem->type, src, to, row);
        for (int64_t e = 0; mask && e < row; e++)
            if (mask[e]) mk_pack(mem->type, src + 4 * e, to + (size_t)e * mem->size, 1);
        src += row * 4;
        if (mask) mask += row;
    } while (next_row(b, at, &from));
}

static mk_next run_store(mk_machine *m, mk_device *d, const mk_op *op, const int *in)
{
    const mk_region *r = &d->region[in[0]];
    const mk_mem *mem = &d->mem[r->mem];
    int v = in[1 + r->rank], mask = op->n_in > 2 + r->rank ? in[2 + r->rank] : 0;
    const mk_def *def = &m->k->def[v];
    box b;
    if (find_box(m, d, op, r, in + 1, def, true, &b) != MK_GO_ON) return MK_FAILED;
    if (r->type == mem->type) {
        store_rows(mem, &b, d->slot[v], mask ? d->slot[mask] : NULL);
        return MK_GO_ON;
    }
    if (mask) return mk_trap(m, d, "%s: masked, through a bitcast reference", name_of(m, r->mem));
    char *cast = mem_array((size_t)b.n, 4);
    if (!cast) return mk_no_memory(m);
    cast_slots(op, def, r->type, mem->type, d->slot[v], cast, false);
    store_rows(mem, &b, cast, NULL);
    mem_free(cast);
    return MK_GO_ON;
}

/* ---- copies ---- */

static mk_sem *sem_of(mk_machine *m, int device, const mk_region *r)
{
    mk_device *d = &m->dev[device];
    return r->mem < 0 ? &d->barrier : &d->sems[r->mem][r->off];
}

static int64_t bytes_of(const mk_region *r) { return (int64_t)dtype_bytes(r->type == DT_BOOL ? DT_I8 : r->type, (size_t)mk_count(r->rank, r->size)); }

static mk_next check_device(mk_machine *m, const mk_device *d, int32_t to, bool barrier)
{
    if (to < 0 || to >= m->n_devices) return mk_trap(m, d, "there is no device %d", to);
    if (!barrier && !m->dev[to].started) return mk_trap(m, d, "device %d may not have started: wait for its signal through mk_barrier first", to);
    return MK_GO_ON;
}

static mk_next start_copy(mk_machine *m, mk_device *d, const mk_dma *c)
{
    mk_mem *src = &d->mem[c->src.mem], *dst = &m->dev[c->to].mem[c->dst.mem];
    box from = box_of_region(&c->src), to = box_of_region(&c->dst);
    if (c->src.rank != c->dst.rank || memcmp(c->src.size, c->dst.size, (size_t)c->src.rank * sizeof *c->src.size) != 0) return mk_trap(m, d, "%s to %s: the shapes differ", name_of(m, c->src.mem), name_of(m, c->dst.mem));
    if (c->src.type != src->type || c->dst.type != dst->type) return mk_trap(m, d, "%s to %s: through a bitcast reference", name_of(m, c->src.mem), name_of(m, c->dst.mem));
    if (!shadow_make(m, src) || !shadow_make(m, dst)) return MK_FAILED;
    if (check_race(m, d, c->src.mem, &from, false) != MK_GO_ON || check_race(m, &m->dev[c->to], c->dst.mem, &to, true) != MK_GO_ON) return MK_FAILED;
    if (m->n_dmas == m->cap_dmas) {
        int cap = m->cap_dmas ? 2 * m->cap_dmas : 64;
        mk_dma *more = mem_realloc_array(m->dma, (size_t)cap, sizeof *more);
        if (!more) return mk_no_memory(m);
        m->dma = more;
        m->cap_dmas = cap;
    }
    if (m->n_dmas >= SHADOW_READERS - 1) return mk_trap(m, d, "too many copies");
    shadow_add(src, &from, 1);
    if (shadow_has(dst, &to, SHADOW_READERS)) {     /* dst overlaps its own source */
        shadow_add(src, &from, -1);
        return mk_trap(m, d, "%s: the copy overlaps itself", name_of(m, c->src.mem));
    }
    shadow_add(dst, &to, SHADOW_DST);
    m->dma[m->n_dmas++] = *c;
    int64_t bytes = bytes_of(&c->dst);
    c->received->value += bytes;
    if (c->sent) c->sent->value += bytes;
    m->report.copies++;
    if (c->sent) m->report.remote_bytes += bytes;
    if (m->k->arg[c->src.mem].space == MK_HBM) m->report.hbm_bytes += bytes;
    if (m->k->arg[c->dst.mem].space == MK_HBM) m->report.hbm_bytes += bytes;
    return MK_GO_ON;
}

static mk_next run_copy(mk_machine *m, mk_device *d, const mk_op *op, const int *in)
{
    mk_dma c = { .from = d->id, .to = d->id, .src = d->region[in[0]], .dst = d->region[in[1]], .op = m->at };
    if (op->code == MKO_SEND) {
        c.to = mk_int(d, in[4]);
        if (check_device(m, d, c.to, false) != MK_GO_ON) return MK_FAILED;
        c.sent = sem_of(m, d->id, &d->region[in[2]]);
        c.remote = true;
    }
    c.received = sem_of(m, c.to, &d->region[in[op->code == MKO_SEND ? 3 : 2]]);
    return start_copy(m, d, &c);
}

/* The data leaves: kept until the receiver waits, so that the sender may write again. */
static bool stage(mk_machine *m, mk_dma *c)
{
    mk_mem *src = &m->dev[c->from].mem[c->src.mem];
    box from = box_of_region(&c->src);
    if (!c->staged) {
        c->staged = mem_array((size_t)from.n + 1, src->size);
        if (!c->staged) return false;
        copy_box(src, &from, c->staged, true);
    }
    return true;
}

static bool arrive(mk_machine *m, mk_dma *c)
{
    mk_mem *dst = &m->dev[c->to].mem[c->dst.mem];
    box to = box_of_region(&c->dst);
    if (!stage(m, c)) return false;
    copy_box(dst, &to, c->staged, false);
    shadow_add(dst, &to, -SHADOW_DST);
    return true;
}

static void release_source(mk_machine *m, mk_dma *c)
{
    box from = box_of_region(&c->src);
    shadow_add(&m->dev[c->from].mem[c->src.mem], &from, -1);
}

/* All copies that count on this semaphore happen, in the order they were started. */
static mk_next complete(mk_machine *m, const mk_sem *sem)
{
    int kept = 0;
    for (int i = 0; i < m->n_dmas; i++) {
        mk_dma *c = &m->dma[i];
        if (c->sent == sem) {
            if (c->received && !stage(m, c)) return mk_no_memory(m);
            release_source(m, c);
            c->sent = NULL;
        }
        if (c->received == sem) {
            if (!arrive(m, c)) return mk_no_memory(m);
            if (!c->remote) release_source(m, c);
            c->received = NULL;
        }
        if (c->sent || c->received) m->dma[kept++] = *c;
        else mem_free(c->staged);
    }
    m->n_dmas = kept;
    return MK_GO_ON;
}

static mk_next run_wait(mk_machine *m, mk_device *d, const int *in)
{
    mk_sem *sem = sem_of(m, d->id, &d->region[in[2]]);
    int64_t bytes = bytes_of(&d->region[in[1]]);
    if (sem->value < bytes) {
        d->blocked = name_of(m, d->region[in[2]].mem);
        return MK_BLOCKED;
    }
    sem->value -= bytes;
    return sem->value ? MK_GO_ON : complete(m, sem);
}

/* ---- signals ---- */

static mk_next run_signal(mk_machine *m, mk_device *d, const mk_op *op, const int *in)
{
    const mk_region *r = &d->region[in[0]];
    int32_t n = mk_int(d, in[1]), to = op->n_in > 2 ? mk_int(d, in[2]) : d->id;
    if (check_device(m, d, to, r->mem < 0) != MK_GO_ON) return MK_FAILED;
    if (n < 0) return mk_trap(m, d, "%s: by %d", name_of(m, r->mem), n);
    sem_of(m, to, r)->value += n;
    return MK_GO_ON;
}

static mk_next run_await(mk_machine *m, mk_device *d, const int *in)
{
    const mk_region *r = &d->region[in[0]];
    mk_sem *sem = sem_of(m, d->id, r);
    int32_t n = mk_int(d, in[1]);
    if (n < 0) return mk_trap(m, d, "%s: for %d", name_of(m, r->mem), n);
    if (sem->value < n) {
        d->blocked = name_of(m, r->mem);
        return MK_BLOCKED;
    }
    sem->value -= n;
    return MK_GO_ON;
}

mk_next mk_run_memory(mk_machine *m, mk_device *d, const mk_op *op)
{
    const int *in = m->k->ids + op->in;
    switch (op->code) {
    case MKO_LOAD: case MKO_GET: return run_load(m, d, op, in);
    case MKO_STORE: case MKO_PUT: return run_store(m, d, op, in);
    case MKO_VIEW: return run_view(m, d, op, in, m->k->attrs + op->attr);
    case MKO_REF_BITCAST: case MKO_REF_RESHAPE: return run_ref_cast(m, d, op, in);
    case MKO_COPY: case MKO_SEND: return run_copy(m, d, op, in);
    case MKO_WAIT: return run_wait(m, d, in);
    case MKO_SIGNAL: return run_signal(m, d, op, in);
    case MKO_AWAIT: return run_await(m, d, in);
    case MKO_BARRIER: d->region[m->k->ids[op->out]] = (mk_region){ .mem = -1 }; return MK_GO_ON;
    default: return mk_trap(m, d, "is not known");
    }
}

/* ---- the end ---- */

mk_next mk_check_windows(mk_machine *m, const mk_device *d)
{
    for (int i = 0; i < m->n_dmas; i++) {
        const mk_dma *c = &m->dma[i];
        bool to = c->received && c->to == d->id && m->k->arg[c->dst.mem].windowed, from = c->from == d->id && m->k->arg[c->src.mem].windowed;
        if (to || from) return mk_trap(m, d, "the step ends while the copy of operation %d %s the block %s", c->op, to ? "writes" : "reads", name_of(m, to ? c->dst.mem : c->src.mem));
    }
    return MK_GO_ON;
}

mk_next mk_check_end(mk_machine *m)
{
    if (m->n_dmas) return mk_trap(m, NULL, "ends while the copy of operation %d from device %d has not been waited for", m->dma[0].op, m->dma[0].from);
    for (int n = 0; n < m->n_devices; n++) {
        const mk_device *d = &m->dev[n];
        if (d->barrier.value) return mk_trap(m, NULL, "ends with %lld in the barrier of device %d", (long long)d->barrier.value, n);
        for (int a = 0; a < m->k->n_args; a++) {
            const mk_arg *arg = &m->k->arg[a];
            for (int64_t i = 0; arg->kind != MK_ARRAY && i < mk_count(arg->dims.n, arg->dims.v); i++)
                if (d->sems[a][i].value) return mk_trap(m, NULL, "ends with %lld in semaphore %s[%lld] of device %d", (long long)d->sems[a][i].value, arg->name, (long long)i, n);
        }
    }
    return MK_GO_ON;
}

void mk_free_copies(mk_machine *m)
{
    for (int i = 0; i < m->n_dmas; i++) mem_free(m->dma[i].staged);
    mem_free(m->dma);
}
