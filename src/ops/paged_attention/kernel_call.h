/* What the files that call kernels of attention share. */
#ifndef SYSTOLIC_OPS_PAGED_ATTENTION_KERNEL_CALL_H
#define SYSTOLIC_OPS_PAGED_ATTENTION_KERNEL_CALL_H

#include "ops/hlo.h"

/* The call of a kernel, which is finished and freed. results may be NULL if there is one; it is returned. */
static inline hlo_val kernel_call_results(hlo *h, mk *k, const hlo_val *operands, int n, hlo_val *results)
{
    hlo_val out = { 0 };
    status st = mk_finish(k);
    if (st != ST_OK) hlo_fail_as(h, st);
    else out = hlo_custom_call(h, k, operands, n, results);
    mk_free(k);
    return out;
}

static inline hlo_val kernel_call(hlo *h, mk *k, const hlo_val *operands, int n) { return kernel_call_results(h, k, operands, n, NULL); }

static inline hlo_val kernel_scalar(hlo *h, hlo_val scalar) { return hlo_reshape(h, scalar, 1, (int64_t[]){ 1 }); }

/* y [T, ...] where valid (i32 [T]) is above `than`, else no. */
static inline hlo_val kernel_where(hlo *h, hlo_val valid, double than, hlo_val y, hlo_val no)
{
    return hlo_select(h, hlo_broadcast(h, hlo_cmp_scalar(h, "GT", valid, than), (int[]){ 0 }, y.rank, y.dim), y, no);
}

/* Mosaic is for the generations from v4 on. */
static inline bool kernel_wanted(const attention_choice *a) { return a->chip && a->chip->version >= 4 && a->backend != ATTENTION_BACKEND_STABLEHLO; }

#endif
