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

#endif
