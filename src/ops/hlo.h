/* StableHLO text, written operation by operation (openxla.org/stablehlo/spec). A value knows its type, so callers name
 * operands and the text comes out with all its types in place. Nothing is evaluated or simplified here: compilers do that.
 *
 * Errors stick: a failed append or a caller's mistake in shapes (a message says which) shows in hlo_finish, so emitters hold
 * no error branches. One thread. */
#ifndef SYSTOLIC_OPS_HLO_H
#define SYSTOLIC_OPS_HLO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "graph/dtype.h"
#include "graph/graph.h"
#include "graph/quant.h"
#include "mosaic/kernel.h"
#include "tpu/attention_config.h"
#include "tpu/kv_scale_shape.h"

enum { HLO_RANK = 6, HLO_WHILES = 4, HLO_CARRIED = 16 };

/* A value: printed as %id, or %id#sub for the results of a loop (sub < 0: not one of these). id 0 = none. DT_BOOL is i1. */
typedef struct hlo_val { int id, sub; dtype type; int rank; int64_t dim[HLO_RANK]; } hlo_val;
static inline bool hlo_is(hlo_val v) { return v.id != 0; }
int64_t hlo_count(hlo_val v);       /* elements */

typedef struct hlo {
    buf text;
    int next_id, depth;
    status st;
    char error[256];
    struct { int id, n; hlo_val init[HLO_CARRIED]; } loop[HLO_WHILES];
    hlo_val counter[HLO_WHILES];    /* of those that hlo_for began */
    int n_loops;
    size_t head_len;                /* text up to main's arguments */
    mesh mesh;                      /* of collectives: dp x tp devices */
    int next_channel;
    hlo_val rank;                   /* i32 scalar: this device's tensor rank, an argument of the program; set by whoever begins it */
} hlo;

void hlo_fail(hlo *h, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* What a function that returned st says (err_msg); nothing for ST_OK. */
void hlo_fail_as(hlo *h, status st);
/* A line of its own: what the next lines are. */
void hlo_comment(hlo *h, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- the module ---- */
typedef struct hlo_arg { const char *name; dtype type; int rank; int64_t dim[HLO_RANK]; int alias; /* result it is donated to; -1 = kept */ } hlo_arg;
/* module @name, func @main(args) -> result types; values of the arguments go to args_out. The types of the results come with
 * hlo_finish, so the body is collected first. */
void hlo_begin(hlo *h, const char *name, mesh m, const hlo_arg *args, int n, hlo_val *args_out);
/* Ends main and appends the whole module to `out`. Frees h's memory in any case. */
status hlo_finish(hlo *h, const hlo_val *results, int n, buf *out) FALLIBLE;
void hlo_free(hlo *h);              /* gives up in the middle */

/* ---- constants ---- */
hlo_val hlo_float(hlo *h, dtype t, double v);                 /* scalar; infinities too */
hlo_val hlo_int(hlo *h, dtype t, int64_t v);                  /* scalar */
hlo_val hlo_full(hlo *h, hlo_val scalar, int rank, const int64_t *dim);   /* a scalar everywhere */
hlo_val hlo_full_like(hlo *h, hlo_val scalar, hlo_val like);
hlo_val hlo_floats(hlo *h, const float *v, int rank, const int64_t *dim); /* f32, row-major */
hlo_val hlo_ints(hlo *h, const int32_t *v, int64_t n);         /* i32 [n] */
hlo_val hlo_iota(hlo *h, dtype t, int along, int rank, const int64_t *dim);

/* ---- element by element; both operands of one type and shape ---- */
hlo_val hlo_un(hlo *h, const char *op, hlo_val x);            /* "exponential", "negate", "rsqrt", "cosine", "not", ... */
hlo_val hlo_bin(hlo *h, const char *op, hlo_val x, hlo_val y);/* "add", "multiply", "maximum", "and", "shift_right_logical", ... */
hlo_val hlo_bin_scalar(hlo *h, const char *op, hlo_val x, double y);      /* y as a constant of x's type everywhere */
/* op: "EQ", "NE", "LT", "LE", "GT", "GE"; the order (signed, unsigned, float) follows from the type. */
hlo_val hlo_cmp(hlo *h, const char *op, hlo_val x, hlo_val y);
hlo_val hlo_cmp_scalar(hlo *h, const char *op, hlo_val x, double y);
hlo_val hlo_select(hlo *h, hlo_val pred, hlo_val yes, hlo_val no);
hlo_val hlo_convert(hlo *h, hlo_val x, dtype t);              /* x itself if it has that type */
/* Bits as they are. Of a narrower type they are one more dimension, the last; to a wider one that dimension goes. */
hlo_val hlo_bitcast(hlo *h, hlo_val x, dtype t);

/* ---- shapes ---- */
hlo_val hlo_reshape(hlo *h, hlo_val x, int rank, const int64_t *dim);
hlo_val hlo_transpose(hlo *h, hlo_val x, const int *perm);
/* x's dimension i becomes dimension map[i] of the result; the others repeat it. */
hlo_val hlo_broadcast(hlo *h, hlo_val x, const int *map, int rank, const int64_t *dim);
/* x broadcast against `like`: x's dimensions are like's from dimension `first` on. */
hlo_val hlo_broadcast_at(hlo *h, hlo_val x, int first, hlo_val like);
hlo_val hlo_slice(hlo *h, hlo_val x, int along, int64_t from, int64_t to);
hlo_val hlo_concat(hlo *h, const hlo_val *x, int n, int along);
hlo_val hlo_pad(hlo *h, hlo_val x, int along, int64_t before, int64_t after, hlo_val scalar);
/* starts: i32 scalars, one per dimension (id 0 = 0). Out of range they are clamped. */
hlo_val hlo_dynamic_slice(hlo *h, hlo_val x, const hlo_val *starts, const int64_t *sizes);
hlo_val hlo_dynamic_update(hlo *h, hlo_val x, hlo_val update, const hlo_val *starts);
/* Row `at` (i32 scalar) of x's first dimension: [n, ...] -> [...]. Fuses into what reads it. */
hlo_val hlo_row(hlo *h, hlo_val x, hlo_val at);

/* ---- reductions, products ---- */
hlo_val hlo_reduce(hlo *h, const char *op, hlo_val x, int along);         /* "add", "maximum", "minimum", "or", "and" */
hlo_val hlo_argmax(hlo *h, hlo_val x, int along);                         /* i32: of equals the first; x has no NaN */
/* Softmax of scores that come in blocks (f32; the last dimension is summed over): weights of block s where `seen`, i1, counts. The greatest
 * score and the sum of weights so far, [...] each, begin as HLO_NO_SCORE and 0; fade [...] is what earlier weighted sums are multiplied by. */
#define HLO_NO_SCORE (-1e30)
hlo_val hlo_softmax_block(hlo *h, hlo_val s, hlo_val seen, hlo_val *greatest, hlo_val *sum, hlo_val *fade);
/* Batch dimensions first, then a's rest, then b's. f32 operands are multiplied in full precision; the sum has type `out`. */
typedef struct hlo_dims { int n; int v[HLO_RANK]; } hlo_dims;
#define HLO_DIMS(...) ((hlo_dims){ (int)(sizeof((int[]){ __VA_ARGS__ }) / sizeof(int)), { __VA_ARGS__ } })
hlo_val hlo_dot(hlo *h, hlo_val a, hlo_val b, hlo_dims batch_a, hlo_dims batch_b, hlo_dims over_a, hlo_dims over_b, dtype out);

/* ---- gather, scatter over leading dimensions ---- */
/* x [N, ...], at i32 [I...] -> [I..., ...]: rows of x. Indices out of range are clamped. */
hlo_val hlo_take(hlo *h, hlo_val x, hlo_val at);
/* x [N, M, ...], at i32 [n, 2] (row, column), y [n, ...]: x with those rows replaced (which of two equal indices wins is open).
 * With at [n, 1] and x [N, ...] likewise. Out of range = dropped. */
hlo_val hlo_put(hlo *h, hlo_val x, hlo_val at, hlo_val y);
/* x [N...], at [n, k], y [n, rest]: the same, adding; equal indices add up. */
hlo_val hlo_put_add(hlo *h, hlo_val x, hlo_val at, hlo_val y);

/* ---- loops ---- */
/* while: begin hands out the carried values as the condition and the body see them; everything defined before may be read too.
 *     hlo_while(h, init, n, c);  ... condition over c ...  hlo_do(h, pred);  ... body over c ...  hlo_end(h, next, out); */
void hlo_while(hlo *h, const hlo_val *init, int n, hlo_val *carried);
void hlo_do(hlo *h, hlo_val pred);
void hlo_end(hlo *h, const hlo_val *next, hlo_val *out);
/* for i = from; i < to; i++ (i32 scalars) over n more carried values: hlo_for gives i and the values, hlo_end_for takes the next ones. */
hlo_val hlo_for(hlo *h, hlo_val from, hlo_val to, const hlo_val *init, int n, hlo_val *carried);
void hlo_end_for(hlo *h, const hlo_val *next, hlo_val *out);

/* ---- collectives over the tensor ranks of the mesh ---- */
/* i32 scalar: h->rank; 0 on a mesh of one. (stablehlo.partition_id is no way to know it: compilers refuse it when they may partition.) */
hlo_val hlo_tensor_rank(hlo *h);
hlo_val hlo_all_reduce(hlo *h, hlo_val x);                                /* sum */
hlo_val hlo_all_gather(hlo *h, hlo_val x, int along);
hlo_val hlo_reduce_scatter(hlo *h, hlo_val x, int along);

/* ---- kernels ---- */
/* A call of a finished kernel (mosaic/kernel.h), which may be freed afterwards. operands: prefetched scalars and inputs as declared
 * (single scalars may be of rank 0); results gets its outputs, in their order, and may be NULL if there is one only. An output that
 * takes over an operand's memory does so without a copy if nothing else reads that operand later. Returns the first output. */
hlo_val hlo_custom_call(hlo *h, const mk *kernel, const hlo_val *operands, int n, hlo_val *results);
/* For tests, which run a program's kernels by the interpreter: told of every kernel that is called, with the configuration that the call has.
 * NULL: nobody is. Set it before programs are made. */
typedef void hlo_kernel_seen(const mk *kernel, const char *config, size_t n);
extern hlo_kernel_seen *hlo_on_kernel;
/* A program that is the kernel and nothing else, donating it the operands that it takes over: for compilers' opinion of it. */
status hlo_kernel_program(const mk *kernel, int devices, buf *out) FALLIBLE;

/* ---- for files that write lines of their own ---- */
void hlo_put_type(hlo *h, hlo_val v);
void hlo_put_val(hlo *h, hlo_val v);

/* ---- what an operation's hlo function gets ---- */

/* Shapes of a bucket, and the step's inputs as values. */
typedef struct hlo_step {
    int64_t T, S, R;                /* padded tokens, sequences, rows; decode: T == S and token s is sequence s's only one */
    bool decode;
    dtype act;                      /* of activations between operations; norms, sums and softmax are f32 */
    int64_t page, max_pages;        /* tokens per KV page, pages per sequence */
    int64_t q_tile, n_tiles;        /* not decode: queries per tile, most tiles */
    attention_choice attention;     /* of TPUs; its head_multiple is the caches' */
    int64_t kv_block;               /* bytes of the cache that attention reads at once; 0 = 32 MB, for TPUs; a CPU wants 1 MB */
    hlo_val tokens, positions;      /* i32 [T] */
    hlo_val positions3;             /* i32 [T, 3]; none = all three are the position */
    hlo_val rows;                   /* i32 [R] */
    hlo_val rope_variant;           /* i32 [T], 0 where there is but one */
    hlo_val write_page, write_slot; /* i32 [T] where a token's K and V go; padding goes to page 0 */
    hlo_val page_table;             /* i32 [S, max_pages] from the first page on that the step's queries see */
    hlo_val kv_lens;                /* i32 [S] tokens in the row's pages; 0 for padding and, unless decode, for sequences with more than one token */
    /* not decode only: */
    hlo_val seq_token;              /* i32 [S] the token of a sequence with one token, else 0 */
    hlo_val token_seq;              /* i32 [T] its sequence if that has one token, else -1 */
    hlo_val tile_seq, tile_token, tile_pos, tile_len;  /* i32 [n_tiles] sequence, first token, its position in the row's pages, tokens (in token order) */
    hlo_val tiles;                  /* i32 scalar: how many tiles there are */
    hlo_val see;                    /* i32 [T] how many keys behind its own a token sees (batch.see); none = no token does */
} hlo_step;

/* How a layer's K and V lie in the cache: [layers * pages, page, rows, lanes]; no chip copies such an array (rows 1, 8 or a
 * multiple of 16; lanes a multiple of 128). V is `v_row` rows and `v_lane` lanes after K: narrow heads share 128 lanes. Heads are
 * rows (head_lanes 0), or, where they are few, lie side by side in one row: head i from lane i * head_lanes on. */
typedef struct hlo_kv {
    dtype type;
    int64_t heads, dim, rows, lanes, v_row, v_lane, head_lanes;
    int64_t width;                  /* lanes of one head's K, with what pads it; narrow heads: with its V */
    bool narrow, latent;            /* latent: K alone */
} hlo_kv;
hlo_kv hlo_kv_of(dtype type, int64_t kv_heads, int64_t head_dim);
/* With heads padded to a multiple of 128 or 256 lanes (attention_choice.head_multiple); 0 and 64: as few as the layout takes. */
hlo_kv hlo_kv_padded(dtype type, int64_t kv_heads, int64_t head_dim, int multiple);
/* Beside a cache of DT_I8 there is one of its numbers' scales, f32 [layers * pages, rows, 1, lanes] of this shape. */
static inline kv_scale_shape hlo_kv_scales(const hlo_kv *kv, int64_t page) { return kv_scale_shape_of(kv->heads, kv->narrow, kv->latent, page); }
/* Of an attention node. */
hlo_kv hlo_kv_for(const graph *g, const node *attention, dtype type, int multiple);

/* A weight as its arguments: hlo_weight.h. */
typedef enum weight_piece { PIECE_VALUES, PIECE_SCALES, PIECE_ZEROS, PIECE_ORDER, PIECE_INPUT_SCALE, WEIGHT_PIECES } weight_piece;
typedef struct hlo_weight { quant_scheme scheme; int64_t group; hlo_val piece[WEIGHT_PIECES]; } hlo_weight;

typedef struct hlo_call {
    hlo *h;
    const graph *g;
    const node *n;
    hlo_val in[GRAPH_MAX_INPUTS];   /* weights of experts in a loop over layers are all layers' [layers, ...]: */
    hlo_val layer;                  /* then the i32 scalar that says which; else none */
    hlo_weight w[GRAPH_MAX_INPUTS]; /* of inputs that are weights: in[i] and what else there is of it */
    hlo_weight all[GRAPH_MAX_INPUTS];       /* the same, all layers' where `place` is not none, for kernels: what slices them is a copy */
    hlo_val place;                  /* i32 scalar: which of the layers in `all` */
    bool gather, scatter;           /* linear: in[0] is this rank's rows of what it multiplies; of the result each rank keeps its rows of the ranks' sum */
    const hlo_step *step;
    hlo_val cache;                  /* attention: in and, updated, out */
    hlo_val cache_scales;           /* the same of caches of DT_I8 (hlo_kv_scales); else none */
    hlo_val first_page;             /* i32 scalar: page 0 of this layer */
} hlo_call;
typedef hlo_val op_hlo_fn(hlo_call *c);
/* NAME_hlo of every operation NAME, in <op>_hlo.c; inputs and weights have none. */
#define OP(up, low, lo, hi, fl, ...) op_hlo_fn low##_hlo;
#include "graph/ops.def"
#undef OP

/* A dimension of a bucket. */
int64_t hlo_dim(const hlo_step *s, mesh m, int64_t dim);

#endif
