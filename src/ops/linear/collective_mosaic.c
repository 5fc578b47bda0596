#include "ops/linear/collective_mosaic.h"

enum { RIGHT, LEFT, MIB = 1 << 20, RUN_ID = 1 };

typedef struct ring {
    mk *k;
    const collective_matmul *q;
    int64_t block, blocks, half, part;  /* rows of w, and how many of them; rows that travel in a direction; those of a piece */
    int64_t pieces;
    mk_val step, piece, at, turn;   /* of the grid: step of the ring, piece of its rows, block of w; how many have been */
    mk_val me, to[2];               /* this device and its neighbours */
    mk_ref place, x, w, y, there;          /* there: the second result */
    mk_ref xv, yv, rv;              /* VMEM: x of this piece; two blocks of results; what arrived for one */
    mk_ref load, send, arrive, store;   /* semaphores */
} ring;

status collective_matmul_configure(const chip *c, const collective_matmul *q, bool scatter, collective_blocks *out)
{
    if (c->version < 4) return err_set(ST_UNSUPPORTED, "Mosaic has no kernels for %s", c->name);
    if (q->type != DT_BF16) return err_set(ST_UNSUPPORTED, "operands are %s, kernels take bf16", dtype_name(q->type));
    if (q->devices < 2) return err_set(ST_UNSUPPORTED, "there is one device");
    if (q->m % 64 || q->n % 128 || q->k % 128)
        return err_set(ST_UNSUPPORTED, "%lld rows of a device by %lld x %lld: expected multiples of 64, 128 and 128", (long long)q->m, (long long)q->n, (long long)q->k);
    int64_t vmem = c->vmem_bytes / 4 * 3;
    for (int64_t pieces = 1; q->m / 2 % (pieces * COLLECTIVE_ROWS) == 0; pieces *= 2)
        for (int64_t by = q->n; by >= 128; by -= 128) {
            int64_t rows = q->m / pieces, need = rows * q->k * 2 + 2 * by * q->k * 2 + rows * by * (4 + (scatter ? 3 : 2) * (int64_t)dtype_bytes(q->out, 1));
            if (q->n % by || need > vmem) continue;
            *out = (collective_blocks){ by, pieces, c->vmem_bytes / 8 * 7 };    /* what the estimate misses */
            return ST_OK;
        }
    return err_set(ST_UNSUPPORTED, "%lld rows of %lld need more than %.0f MiB of VMEM", (long long)q->m, (long long)q->k, (double)vmem / MIB);
}

static void map_w(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    (void)arg;
    index[0] = mk_get(k, prefetched[0], MK_AT(mk_i32(0)));
    index[1] = grid[2];
}

/* ---- around the ring ---- */

/* (i + by) mod devices; by > -devices */
static mk_val around(const ring *r, mk_val i, mk_val by)
{
    mk_val n = mk_i32(r->q->devices);
    return mk_rem(r->k, mk_add(r->k, mk_add(r->k, i, by), n), n);
}

static mk_val is_step(const ring *r, mk_pred p, int step) { return mk_cmp(r->k, p, r->step, mk_i32(step)); }
static mk_val scaled(const ring *r, mk_val i, int64_t by) { return mk_multiple(r->k, mk_mul(r->k, i, mk_i32((int32_t)by)), (int)(by % 128 ? 64 : 128)); }

/* The half that travels in a direction: rows 0..half to the right, half..m to the left. */
static mk_ref half_of(const ring *r, mk_ref array, mk_val of, int way)
{
    return mk_view(r->k, array, MK_AT(of, mk_i32((int32_t)(way * r->half)), mk_i32(0)), MK_DIMS(1, r->half, array.dim[2]), 1);
}

/* The first row of this piece of a direction's half, among a device's rows. */
static mk_val row_of(const ring *r, int way)
{
    mk *k = r->k;
    return mk_multiple(k, mk_add(k, mk_mul(k, r->piece, mk_i32((int32_t)r->part)), mk_i32((int32_t)(way * r->half))), COLLECTIVE_ROWS);
}

/* Columns of a piece's rows of one direction, in an array [devices or steps, m, ...] and in VMEM. */
static mk_ref part_of(const ring *r, mk_ref array, mk_val of, mk_val column, int64_t columns, int way)
{
    return mk_view(r->k, array, MK_AT(of, row_of(r, way), column), MK_DIMS(1, r->part, columns), 1);
}

static mk_ref in_vmem(const ring *r, mk_ref v, int64_t columns, int way)
{
    return mk_view(r->k, v, MK_AT(mk_i32((int32_t)(way * r->part)), mk_i32(0)), MK_DIMS(r->part, columns), 0);
}

static mk_ref sem(const ring *r, mk_ref sems, mk_val i, int way) { return mk_pick(r->k, sems, MK_AT(i, mk_i32(way))); }

/* Nobody writes to a device whose kernel has not begun. */
static void meet(const ring *r)
{
    mk_ref barrier = mk_barrier(r->k);
    for (int way = 0; way < 2; way++) mk_signal(r->k, barrier, mk_i32(1), r->to[way]);
    mk_await(r->k, barrier, mk_i32(2));
}

/* Rows and columns that are multiplied at once: enough for the matrix unit, few enough to compile in a second. */
static int64_t tile_of(int64_t n, int64_t most)
{
    int64_t by = most;
    while (by > 64 && n % by) by -= 64;
    return by;
}

/* The step's x by this block of w, a tile at a time: begins the loops and gives a tile's f32 sums. */
typedef struct tile { mk_val row, column, y; int64_t rows, columns; } tile;

static tile begin_tiles(const ring *r)
{
    mk *k = r->k;
    const int64_t rows = 2 * r->part;
    tile t = { .rows = tile_of(rows, 256), .columns = tile_of(r->block, 256) };
    mk_val i = mk_for(k, mk_i32(0), mk_i32((int32_t)(r->block / t.columns)), NULL, 0, NULL);
    mk_val j = mk_for(k, mk_i32(0), mk_i32((int32_t)(rows / t.rows)), NULL, 0, NULL);
    t.column = mk_multiple(k, mk_mul(k, i, mk_i32((int32_t)t.columns)), 128);
    t.row = mk_multiple(k, mk_mul(k, j, mk_i32((int32_t)t.rows)), 64);
    mk_val x = mk_load(k, r->xv, MK_AT(t.row, mk_i32(0)), MK_DIMS(t.rows, r->q->k)), w = mk_load(k, r->w, MK_AT(mk_i32(0), t.column, mk_i32(0)), MK_DIMS(t.columns, r->q->k));
    t.y = mk_matmul(k, x, w, true, DT_F32, (mk_val){ 0 });
    return t;
}

static void end_tiles(const ring *r)
{
    for (int i = 0; i < 2; i++) mk_end_for(r->k, NULL, NULL);
}

/* A tile's results to where they are sent or stored from. */
static void stage(const ring *r, const tile *t, mk_val slot, mk_val y)
{
    mk_store(r->k, mk_reshape(r->k, y, MK_DIMS(1, t->rows, t->columns)), r->yv, MK_AT(slot, t->row, t->column));
}

static void begin(ring *r, const char *name, const collective_blocks *b)
{
    mk *k = r->k = mk_new(name);
    r->block = b->n;
    r->blocks = r->q->n / r->block;
    r->half = r->q->m / 2;
    r->pieces = b->pieces;
    r->part = r->half / r->pieces;
    r->step = mk_grid(k, r->q->devices, false);
    r->piece = mk_grid(k, r->pieces, false);
    r->at = mk_grid(k, r->blocks, false);
    r->place = mk_prefetch(k, "place", DT_I32, 1);
}

static void begin_step(ring *r)
{
    mk *k = r->k;
    mk_val before = mk_add(k, mk_mul(k, r->step, mk_i32((int32_t)r->pieces)), r->piece);
    r->turn = mk_add(k, mk_mul(k, before, mk_i32((int32_t)r->blocks)), r->at);
    r->me = mk_device_id(k);
    r->to[RIGHT] = around(r, r->me, mk_i32(1));
    r->to[LEFT] = around(r, r->me, mk_i32(-1));
}

static void finish(const ring *r, int64_t vmem_bytes, double remote_bytes)
{
    const collective_matmul *q = r->q;
    double rows = (double)q->m * q->devices;
    mk_set_options(r->k, &(mk_options){ .flops = 2 * rows * (double)q->n * (double)q->k, .bytes = (double)q->n * (double)q->k * 2 * (r->blocks > 1 ? q->devices * (double)r->pieces : 1) + rows * (double)(q->n + 2 * q->k) * 2,
                                        .remote_bytes = remote_bytes, .vmem_limit_bytes = vmem_bytes, .collective_id = RUN_ID });
}

/* ---- gather: at step s the halves of the devices s to the left and s to the right are here ---- */

/* The device whose half is multiplied now. */
static mk_val owner(const ring *r, int way) { return around(r, r->me, way == RIGHT ? mk_neg(r->k, r->step) : r->step); }

/* Passes on what came with the last step. */
static void gather_exchange(const ring *r)
{
    mk *k = r->k;
    int last = r->q->devices - 1;
    mk_if(k, is_step(r, MK_EQ, 0));
    meet(r);
    mk_ref mine = mk_pick(k, r->there, MK_AT(r->me));
    mk_copy(k, r->x, mine, mk_pick(k, r->load, MK_AT(mk_i32(0))));
    mk_wait(k, mk_pick(k, r->load, MK_AT(mk_i32(0))), r->x, mine);
    mk_else(k, NULL, 0);
    mk_val before = mk_sub(k, r->step, mk_i32(1));
    for (int way = 0; way < 2; way++) {
        mk_ref half = half_of(r, r->there, owner(r, way), way);
        mk_wait(k, sem(r, r->arrive, before, way), half, half);
        mk_wait(k, sem(r, r->send, before, way), half, half);
    }
    mk_end_if(k, NULL, NULL);
    mk_if(k, is_step(r, MK_LT, last));
    for (int way = 0; way < 2; way++) {
        mk_ref half = half_of(r, r->there, owner(r, way), way);
        mk_send(k, half, half, sem(r, r->send, r->step, way), sem(r, r->arrive, r->step, way), r->to[way]);
    }
    mk_end_if(k, NULL, NULL);
}

/* Both directions' rows to VMEM. */
static void load_both(const ring *r, const mk_ref from[2], mk_ref to, int64_t columns)
{
    for (int pass = 0; pass < 2; pass++)
        for (int way = 0; way < 2; way++) {
            mk_ref v = in_vmem(r, to, columns, way), s = mk_pick(r->k, r->load, MK_AT(mk_i32(way)));
            if (pass) mk_wait(r->k, s, from[way], v);
            else mk_copy(r->k, from[way], v, s);
        }
}

static mk_ref staged(const ring *r, mk_val slot, int way)
{
    return mk_view(r->k, r->yv, MK_AT(slot, mk_i32((int32_t)(way * r->part)), mk_i32(0)), MK_DIMS(1, r->part, r->block), 1);
}

static void wait_staged(const ring *r, mk_ref sems, mk_val slot)
{
    for (int way = 0; way < 2; way++) mk_wait(r->k, sem(r, sems, slot, way), staged(r, slot, way), staged(r, slot, way));
}

/* One of the two places for results; what was sent or stored from it before is out. */
static mk_val free_slot(const ring *r, mk_ref sems)
{
    mk *k = r->k;
    mk_val slot = mk_rem(k, r->turn, mk_i32(2));
    mk_if(k, mk_cmp(k, MK_GE, r->turn, mk_i32(2)));
    wait_staged(r, sems, slot);
    mk_end_if(k, NULL, NULL);
    return slot;
}

/* At the first turn of a step, and of a piece. */
static void when_first(const ring *r, bool of_step)
{
    mk_val first = mk_cmp(r->k, MK_EQ, r->at, mk_i32(0));
    mk_if(r->k, of_step && r->pieces > 1 ? mk_and(r->k, first, mk_cmp(r->k, MK_EQ, r->piece, mk_i32(0))) : first);
}

/* The last turn waits for what is still on its way; at least two turns have been. */
static void wait_for_all(const ring *r, mk_ref sems)
{
    mk_if(r->k, mk_cmp(r->k, MK_EQ, r->turn, mk_i32((int32_t)(r->q->devices * r->pieces * r->blocks - 1))));
    for (int i = 0; i < 2; i++) wait_staged(r, sems, mk_i32(i));
    mk_end_if(r->k, NULL, NULL);
}

mk *collective_gather_kernel(const collective_matmul *q, const collective_blocks *b)
{
    ring r = { .q = q };
    begin(&r, "gather_matmul", b);
    mk *k = r.k;
    int n = q->devices;
    r.x = mk_in(k, "x", q->type, MK_DIMS(q->m, q->k));
    r.w = mk_in_block(k, "w", q->type, MK_DIMS(q->layers, q->n, q->k), MK_DIMS(1, r.block, q->k), map_w, NULL);
    r.y = mk_out(k, "y", q->out, MK_DIMS(n * q->m, q->n));
    r.there = mk_out(k, "gathered", q->type, MK_DIMS(n, q->m, q->k));
    r.xv = mk_scratch(k, "xv", MK_VMEM, q->type, MK_DIMS(2 * r.part, q->k));
    r.yv = mk_scratch(k, "yv", MK_VMEM, q->out, MK_DIMS(2, 2 * r.part, r.block));
    r.load = mk_dma_sems(k, "load", MK_DIMS(2));
    r.send = mk_dma_sems(k, "send", MK_DIMS(n, 2));
    r.arrive = mk_dma_sems(k, "arrive", MK_DIMS(n, 2));
    r.store = mk_dma_sems(k, "store", MK_DIMS(2, 2));
    begin_step(&r);
    when_first(&r, true);
    gather_exchange(&r);
    mk_end_if(k, NULL, NULL);
    when_first(&r, false);
    load_both(&r, (mk_ref[]){ part_of(&r, r.there, owner(&r, RIGHT), mk_i32(0), q->k, RIGHT), part_of(&r, r.there, owner(&r, LEFT), mk_i32(0), q->k, LEFT) }, r.xv, q->k);
    mk_end_if(k, NULL, NULL);
    mk_val slot = free_slot(&r, r.store);
    tile t = begin_tiles(&r);
    stage(&r, &t, slot, mk_convert(k, t.y, q->out));
    end_tiles(&r);
    for (int way = 0; way < 2; way++) {
        mk_val row = mk_multiple(k, mk_add(k, scaled(&r, owner(&r, way), q->m), row_of(&r, way)), COLLECTIVE_ROWS);
        mk_copy(k, staged(&r, slot, way), mk_view(k, r.y, MK_AT(row, scaled(&r, r.at, r.block)), MK_DIMS(r.part, r.block), 0), sem(&r, r.store, slot, way));
    }
    wait_for_all(&r, r.store);
    finish(&r, b->vmem_bytes, (double)(n - 1) * (double)q->m * (double)q->k * 2);
    return k;
}

/* ---- scatter: a chunk's sum goes around and ends where it belongs, each device adding its own part ---- */

/* Whose rows are summed now: those that go right start one to the left of their owner's right neighbour, and so on. */
static mk_val chunk_now(const ring *r, int way)
{
    mk *k = r->k;
    mk_val on = mk_add(k, r->step, mk_i32(1));
    return around(r, r->me, way == RIGHT ? mk_neg(k, on) : mk_sub(k, on, mk_i32(r->q->devices)));
}

static void scatter_meet(const ring *r)
{
    mk *k = r->k;
    mk_if(k, is_step(r, MK_EQ, 0));
    meet(r);
    mk_else(k, NULL, 0);
    mk_val before = mk_sub(k, r->step, mk_i32(1));
    for (int way = 0; way < 2; way++) mk_wait(k, sem(r, r->arrive, before, way), half_of(r, r->there, before, way), half_of(r, r->there, before, way));
    mk_end_if(k, NULL, NULL);
}

/* This piece of the rows of x that are summed now. */
static void scatter_load(const ring *r)
{
    mk *k = r->k;
    mk_ref from[2];
    for (int way = 0; way < 2; way++) {
        mk_val row = mk_multiple(k, mk_add(k, scaled(r, chunk_now(r, way), r->q->m), row_of(r, way)), COLLECTIVE_ROWS);
        from[way] = mk_view(k, r->x, MK_AT(row, mk_i32(0)), MK_DIMS(r->part, r->q->k), 0);
    }
    load_both(r, from, r->xv, r->q->k);
}

/* Brings this block of what came with the last step to VMEM. */
static void load_so_far(const ring *r)
{
    mk *k = r->k;
    mk_if(k, is_step(r, MK_GT, 0));
    mk_val before = mk_sub(k, r->step, mk_i32(1)), column = scaled(r, r->at, r->block);
    load_both(r, (mk_ref[]){ part_of(r, r->there, before, column, r->block, RIGHT), part_of(r, r->there, before, column, r->block, LEFT) }, r->rv, r->block);
    mk_else(k, NULL, 0);
    mk_store(k, mk_convert(k, mk_full(k, mk_f32(0), MK_DIMS(2 * r->part, r->block)), r->q->out), r->rv, MK_ZERO);
    mk_end_if(k, NULL, NULL);
}

/* This device's part and what came. */
static void add_and_stage(const ring *r, mk_val slot)
{
    mk *k = r->k;
    load_so_far(r);
    tile t = begin_tiles(r);
    mk_val came = mk_convert(k, mk_load(k, r->rv, MK_AT(t.row, t.column), MK_DIMS(t.rows, t.columns)), DT_F32);
    stage(r, &t, slot, mk_convert(k, mk_add(k, t.y, came), r->q->out));
    end_tiles(r);
}

mk *collective_scatter_kernel(const collective_matmul *q, const collective_blocks *b)
{
    ring r = { .q = q };
    begin(&r, "matmul_scatter", b);
    mk *k = r.k;
    int n = q->devices, last = n - 1;
    r.x = mk_in(k, "x", q->type, MK_DIMS(n * q->m, q->k));
    r.w = mk_in_block(k, "w", q->type, MK_DIMS(q->layers, q->n, q->k), MK_DIMS(1, r.block, q->k), map_w, NULL);
    r.y = mk_out(k, "y", q->out, MK_DIMS(q->m, q->n));
    r.there = mk_out(k, "arrived", q->out, MK_DIMS(n, q->m, q->n));
    r.xv = mk_scratch(k, "xv", MK_VMEM, q->type, MK_DIMS(2 * r.part, q->k));
    r.yv = mk_scratch(k, "yv", MK_VMEM, q->out, MK_DIMS(2, 2 * r.part, r.block));
    r.rv = mk_scratch(k, "rv", MK_VMEM, q->out, MK_DIMS(2 * r.part, r.block));
    r.load = mk_dma_sems(k, "load", MK_DIMS(2));
    r.send = mk_dma_sems(k, "send", MK_DIMS(2, 2));
    r.arrive = mk_dma_sems(k, "arrive", MK_DIMS(n, 2));
    begin_step(&r);
    when_first(&r, true);
    scatter_meet(&r);
    mk_end_if(k, NULL, NULL);
    when_first(&r, false);
    scatter_load(&r);
    mk_end_if(k, NULL, NULL);
    mk_val slot = free_slot(&r, r.send), column = scaled(&r, r.at, r.block);
    add_and_stage(&r, slot);
    mk_if(k, is_step(&r, MK_LT, last));     /* passed on, or, at the end, the result */
    for (int way = 0; way < 2; way++) mk_send(k, staged(&r, slot, way), part_of(&r, r.there, r.step, column, r.block, way), sem(&r, r.send, slot, way), sem(&r, r.arrive, r.step, way), r.to[way]);
    mk_else(k, NULL, 0);
    for (int way = 0; way < 2; way++) mk_copy(k, staged(&r, slot, way), mk_view(k, r.y, MK_AT(row_of(&r, way), column), MK_DIMS(r.part, r.block), 0), sem(&r, r.send, slot, way));
    mk_end_if(k, NULL, NULL);
    wait_for_all(&r, r.send);
    finish(&r, b->vmem_bytes, (double)last * (double)q->m * (double)q->n * (double)dtype_bytes(q->out, 1));
    return k;
}
