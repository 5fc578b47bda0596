/* Two small kernels for the tests of the builder and the interpreter. */
#ifndef SYSTOLIC_TESTS_MOSAIC_KERNELS_H
#define SYSTOLIC_TESTS_MOSAIC_KERNELS_H

#include "mosaic/kernel.h"

/* Block i of the output is that of grid step i. */
static void rows_of_step(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    (void)k, (void)prefetched, (void)arg;
    index[0] = grid[0];
}

/* o[i] = kv[table[i]], page by page: the smallest complete kernel. */
static inline mk *kernel_gather(void)
{
    mk *k = mk_new("gather");
    mk_val i = mk_grid(k, 8, false);
    mk_ref table = mk_prefetch(k, "table", DT_I32, 8);
    mk_ref kv = mk_in(k, "kv", DT_BF16, MK_DIMS(64, 16, 128));
    mk_ref o = mk_out_block(k, "o", DT_BF16, MK_DIMS(128, 128), MK_DIMS(16, 128), rows_of_step, NULL);
    mk_ref page = mk_scratch(k, "page", MK_VMEM, DT_BF16, MK_DIMS(16, 128));
    mk_ref sem = mk_dma_sems(k, "sem", MK_DIMS());
    mk_ref from = mk_pick(k, kv, MK_AT(mk_get(k, table, MK_AT(i))));
    mk_copy(k, from, page, sem);
    mk_wait(k, sem, from, page);
    mk_store(k, mk_load(k, page, MK_ZERO, MK_DIMS(16, 128)), o, MK_ZERO);
    return k;
}

/* Flash decoding of one sequence of len[0] tokens in pages of 128: o = softmax(q k^T) v, by a running maximum m, sum l and result acc. */
static inline mk *kernel_flash_decode(void)
{
    enum { G = 8, D = 128, PAGE = 128, PAGES = 64, SLOTS = 16 };
    mk *k = mk_new("fd");
    mk_ref len = mk_prefetch(k, "len", DT_I32, 1), table = mk_prefetch(k, "table", DT_I32, SLOTS);
    mk_ref q = mk_in_block(k, "q", DT_BF16, MK_DIMS(G, D), MK_DIMS(G, D), NULL, NULL);
    mk_ref kc = mk_in(k, "kc", DT_BF16, MK_DIMS(PAGES, PAGE, D)), vc = mk_in(k, "vc", DT_BF16, MK_DIMS(PAGES, PAGE, D));
    mk_ref o = mk_out_block(k, "o", DT_BF16, MK_DIMS(G, D), MK_DIMS(G, D), NULL, NULL);
    mk_ref kb = mk_scratch(k, "kb", MK_VMEM, DT_BF16, MK_DIMS(PAGE, D)), vb = mk_scratch(k, "vb", MK_VMEM, DT_BF16, MK_DIMS(PAGE, D));
    mk_ref sem = mk_dma_sems(k, "sem", MK_DIMS());

    mk_val n = mk_get(k, len, MK_ZERO), none = { 0 };
    mk_val pages = mk_div(k, mk_add(k, n, mk_i32(PAGE - 1)), mk_i32(PAGE));
    mk_val qv = mk_load(k, q, MK_ZERO, MK_DIMS(G, D));
    mk_val init[3] = { mk_full(k, mk_f32(-1e30f), MK_DIMS(G, 1)), mk_full(k, mk_f32(0), MK_DIMS(G, 1)), mk_full(k, mk_f32(0), MK_DIMS(G, D)) }, at[3];
    mk_val i = mk_for(k, mk_i32(0), pages, init, 3, at);
    mk_val m = at[0], l = at[1], acc = at[2], p = mk_get(k, table, MK_AT(i));
    mk_ref kp = mk_pick(k, kc, MK_AT(p)), vp = mk_pick(k, vc, MK_AT(p));
    mk_copy(k, kp, kb, sem);
    mk_copy(k, vp, vb, sem);
    mk_wait(k, sem, kp, kb);
    mk_wait(k, sem, vp, vb);
    mk_val s = mk_matmul(k, qv, mk_load(k, kb, MK_ZERO, MK_DIMS(PAGE, D)), true, DT_F32, none);
    mk_val seen = mk_cmp(k, MK_LT, mk_iota(k, 1, MK_DIMS(G, PAGE)), mk_sub(k, n, mk_mul(k, i, mk_i32(PAGE))));
    s = mk_select(k, seen, s, mk_f32(-1e30f));
    mk_val top = mk_max(k, m, mk_reduce(k, MK_MAX, s, 1));
    mk_val e = mk_exp(k, mk_sub(k, s, top)), scale = mk_exp(k, mk_sub(k, m, top));
    mk_val sum = mk_add(k, mk_mul(k, l, scale), mk_reduce(k, MK_SUM, e, 1));
    mk_val pv = mk_matmul(k, mk_convert(k, e, DT_BF16), mk_load(k, vb, MK_ZERO, MK_DIMS(PAGE, D)), false, DT_F32, none);
    mk_end_for(k, (mk_val[]){ top, sum, mk_add(k, mk_mul(k, acc, scale), pv) }, at);
    mk_store(k, mk_convert(k, mk_div(k, at[2], at[1]), DT_BF16), o, MK_ZERO);
    return k;
}

/* Every operation at least once, so that a compiler and a second interpreter see the text of each. Results of one kind each. */
static inline mk *kernel_operations(void)
{
    enum { R = 16, L = 128 };
    mk *k = mk_new("ops");
    mk_ref n = mk_prefetch(k, "n", DT_I32, 2), scale = mk_prefetch(k, "scale", DT_F32, 1);
    mk_ref x = mk_in_block(k, "x", DT_F32, MK_DIMS(R, L), MK_DIMS(R, L), NULL, NULL), w = mk_in_block(k, "w", DT_I8, MK_DIMS(L, L), MK_DIMS(L, L), NULL, NULL);
    mk_ref pool = mk_in(k, "pool", DT_F32, MK_DIMS(64, 8, L));
    mk_ref reals = mk_out_block(k, "floats", DT_F32, MK_DIMS(6, R, L), MK_DIMS(6, R, L), NULL, NULL), ints = mk_out_block(k, "ints", DT_I32, MK_DIMS(2, R, L), MK_DIMS(2, R, L), NULL, NULL);
    mk_ref b = mk_scratch(k, "b", MK_VMEM, DT_BF16, MK_DIMS(R, L)), pages = mk_scratch(k, "buf", MK_VMEM, DT_F32, MK_DIMS(4, 8, L)), f = mk_scratch(k, "f", MK_VMEM, DT_F32, MK_DIMS(2 * R, L));
    mk_ref counts = mk_scratch(k, "counts", MK_SMEM, DT_I32, MK_DIMS(2)), sem = mk_dma_sems(k, "sem", MK_DIMS());
    mk_dims all = MK_DIMS(R, L);
    mk_val v = mk_load(k, x, MK_ZERO, all), none = { 0 }, half[2], y;

    /* element by element */
    mk_val p = mk_add(k, mk_abs(k, v), mk_f32(1));
    y = mk_add(k, mk_log(k, p), mk_add(k, mk_sqrt(k, p), mk_rsqrt(k, p)));
    y = mk_add(k, y, mk_add(k, mk_tanh(k, v), mk_exp(k, mk_neg(k, p))));
    y = mk_add(k, y, mk_add(k, mk_round(k, v), mk_sub(k, mk_floor(k, v), mk_ceil(k, v))));
    y = mk_add(k, y, mk_mul(k, mk_recip(k, p, false), mk_get(k, scale, MK_ZERO)));
    y = mk_min(k, mk_max(k, y, mk_div(k, v, p)), mk_f32(5));
    mk_store(k, y, reals, MK_AT(mk_i32(0), mk_i32(0), mk_i32(0)));
    /* integers */
    mk_val i = mk_iota(k, 1, all), j = mk_iota(k, 0, all);
    mk_val u = mk_add(k, mk_rem(k, i, mk_i32(7)), mk_mul(k, mk_div(k, j, mk_i32(3)), mk_i32(5)));
    u = mk_xor(k, mk_or(k, u, mk_shl(k, j, mk_i32(4))), mk_and(k, i, mk_i32(9)));
    u = mk_sub(k, mk_max(k, u, j), mk_min(k, i, mk_shr(k, mk_neg(k, i), mk_i32(1))));
    u = mk_add(k, u, mk_add(k, mk_abs(k, mk_sub(k, i, mk_i32(64))), mk_shr_logical(k, u, mk_i32(2))));
    u = mk_select(k, mk_not(k, mk_cmp(k, MK_EQ, mk_and(k, i, mk_i32(1)), mk_i32(0))), u, mk_convert(k, mk_cmp(k, MK_GE, v, mk_f32(0)), DT_I32));
    mk_store(k, u, ints, MK_AT(mk_i32(0), mk_i32(0), mk_i32(0)));
    mk_store(k, mk_bitcast(k, v, DT_I32), ints, MK_AT(mk_i32(1), mk_i32(0), mk_i32(0)));
    /* shapes */
    for (int h = 0; h < 2; h++) half[h] = mk_slice(k, v, MK_DIMS(0, 64 * h), MK_DIMS(R, 64));
    y = mk_rotate(k, mk_concat(k, (mk_val[]){ half[1], half[0] }, 2, 1), mk_get(k, n, MK_AT(mk_i32(0))), 1);
    y = mk_add(k, y, mk_reshape(k, mk_reshape(k, v, MK_DIMS(2, 8, L)), all));
    mk_store(k, mk_add(k, y, mk_reduce(k, MK_SUM, v, 0)), reals, MK_AT(mk_i32(1), mk_i32(0), mk_i32(0)));
    y = mk_transpose(k, mk_concat(k, (mk_val[]){ v, v, v, v, v, v, v, v }, 8, 0), (int[]){ 1, 0 });
    y = mk_slice(k, y, MK_DIMS(0, 0), MK_DIMS(R, L));
    y = mk_add(k, y, mk_sub(k, mk_reduce(k, MK_MAX, v, 1), mk_reduce(k, MK_MIN, v, 1)));
    mk_store_masked(k, y, reals, MK_AT(mk_i32(2), mk_i32(0), mk_i32(0)), mk_cmp(k, MK_LT, i, mk_i32(100)));
    /* products */
    mk_store(k, mk_convert(k, v, DT_BF16), b, MK_ZERO);
    mk_val bv = mk_load(k, b, MK_ZERO, all), wv = mk_load(k, w, MK_ZERO, MK_DIMS(L, L));
    mk_val wf = mk_convert(k, wv, DT_F32), q = mk_convert(k, mk_convert(k, mk_mul(k, v, mk_f32(50)), DT_I32), DT_F32);
    y = mk_matmul(k, bv, mk_convert(k, wf, DT_BF16), true, DT_F32, none);
    y = mk_matmul(k, q, wf, false, DT_F32, y);
    mk_store(k, y, reals, MK_AT(mk_i32(3), mk_i32(0), mk_i32(0)));
    /* references of another type; every second row */
    mk_val pairs = mk_load(k, mk_ref_bitcast(k, b, DT_I32), MK_ZERO, MK_DIMS(R / 2, L));
    mk_store_strided(k, mk_bitcast(k, mk_shl(k, pairs, mk_i32(16)), DT_F32), f, mk_i32(0), 2);
    mk_store_strided(k, mk_bitcast(k, mk_shl(k, mk_shr(k, pairs, mk_i32(16)), mk_i32(16)), DT_F32), f, mk_i32(1), 2);
    mk_store(k, mk_load_strided(k, x, mk_i32(1), 8, 2), f, MK_AT(mk_i32(R), mk_i32(0)));
    mk_store(k, mk_load(k, x, MK_ZERO, MK_DIMS(8, L)), f, MK_AT(mk_i32(R + 8), mk_i32(0)));
    mk_store(k, mk_load(k, mk_ref_reshape(k, f, MK_DIMS(2, R, L)), MK_ZERO, MK_DIMS(2, R, L)), reals, MK_AT(mk_i32(4), mk_i32(0), mk_i32(0)));
    /* a copy of as many pages as n[1] says, then as many steps; branches */
    mk_val many = mk_get(k, n, MK_AT(mk_i32(1))), out[2] = { mk_i32(0), mk_full(k, mk_f32(0), MK_DIMS(8, L)) };
    mk_ref from = mk_view_sized(k, pool, MK_AT(mk_get(k, n, MK_AT(mk_i32(0))), mk_i32(0), mk_i32(0)), MK_DIMS(MK_DYNAMIC, 8, L), &many, 0);
    mk_ref to = mk_view_sized(k, pages, MK_ZERO, MK_DIMS(MK_DYNAMIC, 8, L), &many, 0);
    mk_copy(k, from, to, sem);
    mk_wait(k, sem, from, to);
    mk_val t = mk_for(k, mk_i32(0), many, out, 2, out), odd = mk_cmp(k, MK_NE, mk_rem(k, t, mk_i32(2)), mk_i32(0));
    mk_if(k, odd);
    mk_put(k, mk_mul(k, mk_multiple(k, mk_mul(k, t, mk_i32(8)), 8), mk_i32(2)), counts, MK_AT(mk_i32(0)));
    mk_val yes = mk_add(k, out[0], mk_get(k, counts, MK_AT(mk_i32(0)))), sum;
    mk_else(k, &yes, 1);
    mk_end_if(k, &out[0], &sum);
    mk_end_for(k, (mk_val[]){ sum, mk_add(k, out[1], mk_load(k, pages, MK_AT(t, mk_i32(0), mk_i32(0)), MK_DIMS(8, L))) }, out);
    mk_store(k, mk_add(k, out[1], mk_convert(k, out[0], DT_F32)), reals, MK_AT(mk_i32(5), mk_i32(8), mk_i32(0)));
    return k;
}

/* All-gather around a ring of n devices: in step s everyone passes on the rows that came in step s - 1. */
static inline mk *kernel_ring(int n)
{
    mk *k = mk_new("ring");
    mk_set_options(k, &(mk_options){ .collective_id = 7, .side_effect = true });
    mk_ref x = mk_in(k, "x", DT_F32, MK_DIMS(8, 128)), o = mk_out(k, "o", DT_F32, MK_DIMS(n, 8, 128));
    mk_ref local = mk_dma_sems(k, "local", MK_DIMS()), sent = mk_dma_sems(k, "sent", MK_DIMS()), got = mk_dma_sems(k, "got", MK_DIMS(n)), ready = mk_sems(k, "ready", MK_DIMS());
    mk_val me = mk_device_id(k), one = mk_i32(1), all = mk_i32(n);
    mk_val right = mk_rem(k, mk_add(k, me, one), all), left = mk_rem(k, mk_add(k, me, mk_i32(n - 1)), all);
    mk_ref barrier = mk_barrier(k);
    mk_signal(k, barrier, one, left);
    mk_signal(k, barrier, one, right);
    mk_await(k, barrier, mk_i32(2));
    mk_ref mine = mk_pick(k, o, MK_AT(me));
    mk_copy(k, x, mine, local);
    mk_wait(k, local, x, mine);
    mk_val s = mk_for(k, mk_i32(0), mk_i32(n - 1), NULL, 0, NULL);
    mk_ref row = mk_pick(k, o, MK_AT(mk_rem(k, mk_add(k, me, mk_sub(k, all, s)), all))), sem = mk_pick(k, got, MK_AT(s));
    mk_send(k, row, row, sent, sem, right);
    mk_wait(k, sent, row, row);
    mk_wait(k, sem, row, row);
    mk_end_for(k, NULL, NULL);
    mk_signal(k, ready, one, right);       /* nobody leaves while its neighbour may still send to it */
    mk_await(k, ready, one);
    return k;
}

#endif
