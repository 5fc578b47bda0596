/* Kernels for a TPU's tensor core, built operation by operation. One object, made once, is printed as Mosaic's MLIR text, which
 * libtpu compiles inside a StableHLO program (hlo_custom_call), and is run by an interpreter on the CPU (interp.h), which is how
 * kernels are tested. docs/kernels.md is the guide.
 *
 *     mk *k = mk_new("gather");                                        // o[i] = kv[table[i]], page by page
 *     mk_val i = mk_grid(k, 8, false);
 *     mk_ref table = mk_prefetch(k, "table", DT_I32, 8);
 *     mk_ref kv = mk_in(k, "kv", DT_BF16, MK_DIMS(64, 16, 128));       // stays in HBM
 *     mk_ref o = mk_out_block(k, "o", DT_BF16, MK_DIMS(128, 128), MK_DIMS(16, 128), rows_of_step, NULL);
 *     mk_ref page = mk_scratch(k, "page", MK_VMEM, DT_BF16, MK_DIMS(16, 128));
 *     mk_ref sem = mk_dma_sems(k, "sem", MK_DIMS());
 *     mk_ref from = mk_pick(k, kv, MK_AT(mk_get(k, table, MK_AT(i))));
 *     mk_copy(k, from, page, sem);
 *     mk_wait(k, sem, from, page);
 *     mk_store(k, mk_load(k, page, MK_ZERO, MK_DIMS(16, 128)), o, MK_ZERO);
 *     TRY(mk_finish(k));
 *
 * Values (mk_val) are scalars (rank 0, i32, f32 or i1) and vectors of one type; references (mk_ref) name memory or semaphores.
 * Floats are computed in f32, whatever the chip: narrower types are for memory and matmul operands, so convert after loading.
 *
 * Errors stick, also running out of memory: nothing after the first mistake is recorded and mk_finish says which operation it
 * was and what was expected, so kernels hold no error branches. What Mosaic is known to refuse is refused here, with a sentence.
 * One thread per kernel; a finished kernel may be read by many. */
#ifndef SYSTOLIC_MOSAIC_KERNEL_H
#define SYSTOLIC_MOSAIC_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "graph/dtype.h"

enum { MK_RANK = 6, MK_GRID = 4, MK_ARGS = 32, MK_CARRIED = 64, MK_DEPTH = 16, MK_DYNAMIC = -1 };

typedef struct mk mk;

/* A scalar or a vector. id 0 = none; constants of mk_i32 and mk_f32 have no id of their own. DT_BOOL is i1. */
typedef struct mk_val { int id; dtype type; int rank; int64_t dim[MK_RANK]; double imm; } mk_val;

typedef enum mk_space { MK_HBM, MK_VMEM, MK_SMEM, MK_SEMAPHORE } mk_space;
typedef enum mk_kind { MK_ARRAY, MK_DMA_SEM, MK_COUNT_SEM } mk_kind;
/* Memory, or semaphores (then `type` means nothing). A dimension may be MK_DYNAMIC in what mk_view_sized makes. */
typedef struct mk_ref { int id; mk_kind kind; mk_space space; dtype type; int rank; int64_t dim[MK_RANK]; } mk_ref;

static inline bool mk_is(mk_val v) { return v.id != 0; }

/* Lists by value: MK_DIMS(8, 128), MK_DIMS() for none; MK_AT(page, mk_i32(0)); MK_ZERO = at 0 in every dimension. */
typedef struct mk_dims { int n; int64_t v[MK_RANK]; } mk_dims;
typedef struct mk_at { int n; mk_val v[MK_RANK]; } mk_at;
#define MK_DIMS(...) ((mk_dims){ (int)(sizeof((int64_t[]){ 0, __VA_ARGS__ }) / sizeof(int64_t)) - 1, { __VA_ARGS__ } })
#define MK_AT(...) ((mk_at){ (int)(sizeof((mk_val[]){ { 0 }, __VA_ARGS__ }) / sizeof(mk_val)) - 1, { __VA_ARGS__ } })
#define MK_ZERO ((mk_at){ 0 })

/* ---- life ---- */
/* Never NULL: without memory everything is ignored and mk_finish says so. `name` (letters, digits, _) is copied. */
mk *mk_new(const char *name);
/* The first mistake, or ST_OK. Nothing can be added afterwards. */
status mk_finish(mk *k) FALLIBLE;
void mk_free(mk *k);                 /* NULL is fine */
/* One more owner of a finished kernel: it lives until mk_free has been called for each. By the thread that built it. */
mk *mk_keep(const mk *k);
/* A mistake of the author's own, with the kernel's name before it. */
void mk_fail(mk *k, const char *fmt, ...) PRINTF_LIKE(2, 3);
const char *mk_name(const mk *k);

/* ---- signature, in this order: grid, prefetched scalars, then inputs, outputs and scratch in any order ---- */
/* One more dimension of the grid (the last one runs fastest): this step's index, i32. Without a grid there is one step.
 * parallel: its steps may be shared out among the cores of a megacore chip (v4, v5p), so they carry nothing to each other. */
mk_val mk_grid(mk *k, int64_t bound, bool parallel);
/* n scalars (i32 or f32) that are in SMEM before the first step; index maps may read them. An operand of the call. */
mk_ref mk_prefetch(mk *k, const char *name, dtype type, int64_t n);
/* Whole arrays in HBM, for mk_copy. */
mk_ref mk_in(mk *k, const char *name, dtype type, mk_dims dims);
mk_ref mk_out(mk *k, const char *name, dtype type, mk_dims dims);
/* Windows in VMEM that Mosaic pipelines: step by step the block of the array that the map says, copied in before the step and
 * out after it (an output block is written when the map moves on, so consecutive steps may add to it; it starts undefined).
 * block.n == dims.n. The last two dimensions of a block are multiples of the tile or the array's own. The map fills
 * index[0 .. rank-1], in blocks, i32; NULL = all 0. It sees the grid's indices and the prefetched references, in order.
 * What of a block is outside of the array is undefined when read and dropped when written. */
typedef void mk_map(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index);
mk_ref mk_in_block(mk *k, const char *name, dtype type, mk_dims dims, mk_dims block, mk_map *map, const void *arg);
mk_ref mk_out_block(mk *k, const char *name, dtype type, mk_dims dims, mk_dims block, mk_map *map, const void *arg);
/* The output takes over the input's memory (both un-windowed HBM arrays of one type and shape, or both windowed alike). Read and
 * write the output. The caller of the program must donate the operand. */
void mk_alias(mk *k, mk_ref out, mk_ref in);
/* Memory for the whole call (all steps): MK_VMEM, or MK_SMEM for i32 and f32 scalars. Starts undefined. */
mk_ref mk_scratch(mk *k, const char *name, mk_space space, dtype type, mk_dims dims);
mk_ref mk_dma_sems(mk *k, const char *name, mk_dims dims);     /* count the bytes of copies; MK_DIMS() = a single one */
mk_ref mk_sems(mk *k, const char *name, mk_dims dims);         /* count signals */

/* How the compiler treats the call. Zero-initialised: its own limit of VMEM, no checks at run time. Give what the kernel costs:
 * XLA schedules by it and the program's cost analysis counts it. */
typedef struct mk_options {
    double flops, transcendentals, bytes, remote_bytes;
    int64_t vmem_limit_bytes;        /* 0 = the compiler's (16 MiB on v5e and v4, ...) */
    bool bounds_checks, semaphore_checks;
    bool side_effect;                /* the call stays even if its results are not used */
    int collective_id;               /* needed for mk_barrier; kernels that may run at the same time have different ones */
} mk_options;
void mk_set_options(mk *k, const mk_options *o);

/* ---- constants ---- */
/* Scalars; they need no kernel and adapt to nothing: the other operand is i32 or f32 too. */
static inline mk_val mk_i32(int32_t v) { return (mk_val){ .id = -1, .type = DT_I32, .imm = v }; }
static inline mk_val mk_f32(float v) { return (mk_val){ .id = -1, .type = DT_F32, .imm = v }; }
static inline mk_val mk_bool(bool v) { return (mk_val){ .id = -1, .type = DT_BOOL, .imm = v }; }
mk_val mk_full(mk *k, mk_val scalar, mk_dims dims);            /* a scalar everywhere */
mk_val mk_iota(mk *k, int along, mk_dims dims);                /* i32: 0, 1, 2, ... along that dimension */

/* ---- element by element. Both operands of one type; of one shape, or one is a scalar, or dimensions of 1 are repeated ---- */
mk_val mk_add(mk *k, mk_val x, mk_val y);
mk_val mk_sub(mk *k, mk_val x, mk_val y);
mk_val mk_mul(mk *k, mk_val x, mk_val y);
mk_val mk_div(mk *k, mk_val x, mk_val y);                      /* integers: towards 0 */
mk_val mk_rem(mk *k, mk_val x, mk_val y);                      /* integers, the sign of x */
mk_val mk_max(mk *k, mk_val x, mk_val y);                      /* NaN if either is */
mk_val mk_min(mk *k, mk_val x, mk_val y);
mk_val mk_and(mk *k, mk_val x, mk_val y);                      /* i32, i1 */
mk_val mk_or(mk *k, mk_val x, mk_val y);
mk_val mk_xor(mk *k, mk_val x, mk_val y);
mk_val mk_shl(mk *k, mk_val x, mk_val y);                      /* i32; by 0 to 31 */
mk_val mk_shr(mk *k, mk_val x, mk_val y);                      /* keeps the sign */
mk_val mk_shr_logical(mk *k, mk_val x, mk_val y);
mk_val mk_not(mk *k, mk_val x);                                /* i1 */
mk_val mk_neg(mk *k, mk_val x);
mk_val mk_abs(mk *k, mk_val x);
mk_val mk_exp(mk *k, mk_val x);                                /* f32 vectors, as the next ones */
mk_val mk_log(mk *k, mk_val x);
mk_val mk_tanh(mk *k, mk_val x);
mk_val mk_sqrt(mk *k, mk_val x);
mk_val mk_rsqrt(mk *k, mk_val x);
mk_val mk_recip(mk *k, mk_val x, bool approximate);            /* approximate: the unit's own, about 12 bits; computed exactly here */
mk_val mk_round(mk *k, mk_val x);                              /* to nearest, ties to even */
mk_val mk_floor(mk *k, mk_val x);
mk_val mk_ceil(mk *k, mk_val x);
typedef enum mk_pred { MK_EQ, MK_NE, MK_LT, MK_LE, MK_GT, MK_GE } mk_pred;
mk_val mk_cmp(mk *k, mk_pred p, mk_val x, mk_val y);           /* i1; comparisons with NaN are false but NE */
mk_val mk_select(mk *k, mk_val pred, mk_val yes, mk_val no);   /* pred: i1, scalar or of their shape */
/* To another type: floats to nearest even, beyond the range of 8-bit floats their largest; integers to narrower ones keep their
 * low bits; f32 to integers towards 0, which must fit. x itself if it has that type. */
mk_val mk_convert(mk *k, mk_val x, dtype t);
/* The same bits: equal widths, or, for vectors, the second-last dimension shrinks or grows as the width does: rows 2i and 2i+1
 * of bf16 are the low and high halves of row i of i32. */
mk_val mk_bitcast(mk *k, mk_val x, dtype t);

/* ---- shapes of vectors ---- */
mk_val mk_broadcast(mk *k, mk_val x, mk_dims dims);            /* scalars and dimensions of 1; x's last dimensions are dims' last */
mk_val mk_reshape(mk *k, mk_val x, mk_dims dims);
mk_val mk_transpose(mk *k, mk_val x, const int *perm);         /* dimension i of the result is x's perm[i] */
mk_val mk_slice(mk *k, mk_val x, mk_dims from, mk_dims size);
mk_val mk_concat(mk *k, const mk_val *x, int n, int along);
mk_val mk_rotate(mk *k, mk_val x, mk_val by, int along);       /* element i goes to (i + by) mod n; by: i32 scalar, not negative */
mk_val mk_extract(mk *k, mk_val x);                            /* the scalar of a vector of one element */

/* ---- reductions, products ---- */
typedef enum mk_reduction { MK_SUM, MK_MAX, MK_MIN } mk_reduction;
mk_val mk_reduce(mk *k, mk_reduction r, mk_val x, int along);  /* f32 or i32; the dimension stays, as 1 */
/* a [m, c] times b [c, n], or [n, c] if transpose_b, -> [m, n] in acc (f32, or i32 of int8 and int4). Operands of one type, as
 * they are, or a bf16 and b an 8-bit float or int8, which is then as if it had been converted (not on v4: convert there);
 * acc_in (none = 0) is added to. f32 operands are multiplied in full precision. */
mk_val mk_matmul(mk *k, mk_val a, mk_val b, bool transpose_b, dtype acc, mk_val acc_in);

/* ---- memory ---- */
/* A vector from VMEM. dims.n may be less than the reference's rank: the leading dimensions are 1 and left out. `at` may be
 * MK_ZERO, else one index per dimension of the reference. */
mk_val mk_load(mk *k, mk_ref r, mk_at at, mk_dims dims);
void mk_store(mk *k, mk_val v, mk_ref r, mk_at at);
void mk_store_masked(mk *k, mk_val v, mk_ref r, mk_at at, mk_val mask);     /* only where mask (i1, v's shape) says */
/* Rows first, first + stride, ... (n of them, whole) of a matrix of 32-bit numbers: the cheapest way to one of several rows per
 * token, 16 and 8-bit types by mk_ref_bitcast. `first` is a constant, or a multiple of the tile (mk_multiple). */
mk_val mk_load_strided(mk *k, mk_ref r, mk_val first, int64_t n, int64_t stride);
void mk_store_strided(mk *k, mk_val v, mk_ref r, mk_val first, int64_t stride);
/* Scalars in SMEM. */
mk_val mk_get(mk *k, mk_ref r, mk_at at);
void mk_put(mk *k, mk_val v, mk_ref r, mk_at at);
/* The element of the leading at.n dimensions, which are left out: mk_pick(k, kv, MK_AT(page)) of [pages, page, rows, lanes] is
 * [page, rows, lanes]; of semaphores a single one. */
mk_ref mk_pick(mk *k, mk_ref r, mk_at at);
/* A box of the reference; bit i of `squeeze` leaves out dimension i (of size 1). Offsets in the last two dimensions must be
 * multiples of the tile: constants are checked, others are promised by the author (mk_multiple). */
mk_ref mk_view(mk *k, mk_ref r, mk_at at, mk_dims dims, unsigned squeeze);
/* The same with some dimensions, MK_DYNAMIC in dims, of the sizes (i32, in order) that are known at run time only: for copies. */
mk_ref mk_view_sized(mk *k, mk_ref r, mk_at at, mk_dims dims, const mk_val *sizes, unsigned squeeze);
mk_val mk_multiple(mk *k, mk_val x, int of);                   /* x, promised to be a multiple of `of` (an error in the interpreter if not) */
/* The same memory as another type of the same or another width (second-last dimension, as mk_bitcast), or another shape whose last
 * dimension is the same. */
mk_ref mk_ref_bitcast(mk *k, mk_ref r, dtype t);
mk_ref mk_ref_reshape(mk *k, mk_ref r, mk_dims dims);

/* ---- copies: start, go on with something else, wait ---- */
/* Shapes and types are equal, at most one side is in HBM or both are. Nobody touches dst, nor writes src, before the wait. */
void mk_copy(mk *k, mk_ref src, mk_ref dst, mk_ref sem);
/* Until as many bytes have arrived as dst has; several copies may be waited for as one of all their bytes. What a semaphore counted
 * is certain to be there only when all the copies that were started on it have been waited for. */
void mk_wait(mk *k, mk_ref sem, mk_ref src, mk_ref dst);
/* To dst on another device (i32 logical id; dst and recv_sem name that device's own). Wait here on send_sem before src is written
 * again, there on recv_sem before dst is read. */
void mk_send(mk *k, mk_ref src, mk_ref dst, mk_ref send_sem, mk_ref recv_sem, mk_val device);
void mk_signal(mk *k, mk_ref sem, mk_val n, mk_val device);    /* device: none = this one */
void mk_await(mk *k, mk_ref sem, mk_val n);                    /* until it is n or more, then takes n away */
mk_ref mk_barrier(mk *k);                                      /* a semaphore that is 0 on all devices when the kernel starts; for mk_signal, mk_await */
mk_val mk_device_id(mk *k);                                    /* i32 */

/* ---- control ---- */
/* for (i = lo; i < hi; i++) over n carried values (none: NULL, 0, NULL): returns i; `carried` (which may be `init`) gets
 * them as the body sees them. mk_end_for takes the next ones; `out` (may be NULL if n is 0) gets those of the end. */
mk_val mk_for(mk *k, mk_val lo, mk_val hi, const mk_val *init, int n, mk_val *carried);
void mk_end_for(mk *k, const mk_val *next, mk_val *out);
/* if: `mk_if(k, c); ... mk_end_if(k, NULL, NULL);`, with an else: `mk_if; ... mk_else(k, NULL, 0); ... mk_end_if(k, NULL, NULL);`
 * with results: mk_else takes those of the first branch, mk_end_if those of the second one, and gives what came out. */
void mk_if(mk *k, mk_val cond);
void mk_else(mk *k, const mk_val *yes, int n);
void mk_end_if(mk *k, const mk_val *no, mk_val *out);

/* ---- output, of finished kernels ---- */
/* For libtpu's static profile, which sees no numbers of a run: in what is printed from now on, element i of the prefetched scalars
 * `name` is the constant first + step * i instead of a load. Only a profile is right with it. */
status mk_bake(mk *k, const char *name, int32_t first, int32_t step) FALLIBLE;
status mk_print(const mk *k, buf *out) FALLIBLE;               /* the Mosaic module */
status mk_config(const mk *k, buf *out) FALLIBLE;              /* backend_config of the custom call, JSON */

/* The operands and results of the call: prefetched scalars and inputs, then outputs, as declared. */
typedef struct mk_operand { const char *name; dtype type; int rank; int64_t dim[MK_RANK]; bool windowed; int alias; /* of an output: the operand's index, else -1 */ } mk_operand;
int mk_n_operands(const mk *k);
int mk_n_results(const mk *k);
mk_operand mk_operand_at(const mk *k, int i);
mk_operand mk_result_at(const mk *k, int i);
const mk_options *mk_options_of(const mk *k);
int64_t mk_vmem_bytes(const mk *k);                            /* scratch and windows (twice), unpadded */

#endif
