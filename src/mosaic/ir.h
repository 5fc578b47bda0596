/* A kernel as its files see it. Operations are kept in the order they were written, with loops and branches as brackets (FOR ..
 * END_FOR, IF .. ELSE .. END_IF): the printer indents them, the interpreter jumps between them. */
#ifndef SYSTOLIC_MOSAIC_IR_H
#define SYSTOLIC_MOSAIC_IR_H

#include "mosaic/kernel.h"

typedef enum mk_code {
#define UN(up, low, ft, it, fe, ie) MKO_##up,
#define BIN(up, low, ft, it, fe, ie) MKO_##up,
#define OP(up, low) MKO_##up,
#include "mosaic/ops.def"
    MKO_COUNT
} mk_code;

typedef struct mk_op_info { const char *name, *f_text, *i_text; int n_in; /* element by element: 1 or 2; else 0 */ } mk_op_info;
extern const mk_op_info mk_op_infos[MKO_COUNT];

/* Limits: a kernel beyond them is a mistake. */
enum { MK_MAX_OPS = 1 << 18, MK_NAME = 32 };
#define MK_MAX_ELEMENTS ((int64_t)1 << 40)      /* of an array */
#define MK_MAX_VECTOR ((int64_t)1 << 26)        /* elements of a vector */

/* An operation: operands and results are ids, k->ids[in ..] and k->ids[out ..]; what else it needs is in k->attrs[attr ..]. */
typedef struct mk_op { mk_code code; int in, n_in, out, n_out, attr, n_attr; } mk_op;
typedef struct mk_list { mk_op *v; int n, cap; } mk_list;

typedef enum mk_origin { MKV_ARG, MKV_GRID, MKV_CONST, MKV_OP } mk_origin;
/* What an id stands for: a value or a reference. */
typedef struct mk_def {
    mk_origin origin;
    bool is_ref;
    dtype type;
    int rank;
    int64_t dim[MK_RANK];
    double imm;                     /* MKV_CONST: everywhere */
    mk_kind kind;                   /* references */
    mk_space space;
    int region;                     /* the bracket in which it was made; 0 = the function */
    int code_of;                    /* the function in which it was made: 0 body, i + 1 map of argument i; arguments and constants -1 */
    int index;                      /* MKV_ARG: of the argument; MKV_GRID: dimension; references: argument they are part of, -1 = the barrier */
} mk_def;

typedef enum mk_role { MK_PREFETCH, MK_IN, MK_OUT, MK_SCRATCH } mk_role;
typedef struct mk_arg {
    char name[MK_NAME];
    mk_role role;
    int id;                         /* the reference */
    dtype type;
    mk_kind kind;
    mk_space space;
    mk_dims dims;                   /* of the whole array */
    bool windowed;
    mk_dims block;
    bool mapped;                    /* by `map`; else every index is 0 */
    mk_list map;
    int map_out[MK_RANK];           /* ids */
    int alias;                      /* outputs: the argument whose memory it takes over; -1 */
    bool baked;                     /* prefetched scalars: printed as first + step * index */
    int32_t first, step;
} mk_arg;

/* An open bracket. */
typedef struct mk_bracket { int region; bool is_for, has_else; int op, n; int ids; /* k->ids[ids ..]: carried or results */ } mk_bracket;

struct mk {
    status st;
    char error[256], name[MK_NAME];
    bool finished;
    int kept;                       /* owners besides the first */
    int n_grid;
    int64_t grid[MK_GRID];
    bool parallel[MK_GRID];
    int grid_id[MK_GRID];
    mk_arg arg[MK_ARGS];
    int n_args;
    mk_def *def;                    /* [n_defs], by id; 0 is none */
    int n_defs, cap_defs;
    int *ids;
    int n_ids, cap_ids;
    int64_t *attrs;
    int n_attrs, cap_attrs;
    int *consts;                    /* ids of constants, in order */
    int n_consts, cap_consts;
    mk_list body;
    int current;                    /* where operations go: 0 body, i + 1 map of argument i */
    mk_bracket open[MK_DEPTH];
    int n_open, n_regions;
    int barrier;                    /* its reference, or 0 */
    bool communicates;
    mk_options options;
};

/* ---- for build_*.c ---- */
static inline bool mk_ok(const mk *k) { return k->st == ST_OK; }
/* False, and the kernel has failed, if operation `op` may not be added now (also after an earlier failure). */
bool mk_begin(mk *k, const char *op);
/* "kernel fd: operation 12, matmul: ..." */
void mk_fail_op(mk *k, const char *op, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The id of an operand, constants being made as needed; checks that it may be used here. 0 after a failure. */
int mk_use(mk *k, const char *op, mk_val v);
int mk_use_ref(mk *k, const char *op, mk_ref r);
/* A new id; 0 without memory. */
int mk_define(mk *k, const mk_def *d);
mk_val mk_val_of(const mk *k, int id);
mk_ref mk_ref_of(const mk *k, int id);
/* Appends the operation; its result has the type of `out` (NULL: none). Ids of 0 among `in` fail. */
int mk_emit(mk *k, mk_code code, const int *in, int n_in, const int64_t *attr, int n_attr, const mk_def *out);
int mk_push_id(mk *k, int id);      /* index, or -1 */
mk_op *mk_push_op(mk *k, mk_op op);
mk_def mk_def_val(dtype t, int rank, const int64_t *dim);
bool mk_constant(const mk *k, mk_val v, double *out);           /* known now */
int64_t mk_count(int rank, const int64_t *dim);
bool mk_same_dims(int rank, const int64_t *a, int rank_b, const int64_t *b);
/* "bf16[8,128]" */
const char *mk_describe(char *dst, size_t cap, dtype t, int rank, const int64_t *dim);
bool mk_is_float(dtype t);
bool mk_is_type(dtype t);           /* one that kernels know */

const mk_list *mk_code_of(const mk *k, int current);
/* Arguments in the order of the function: prefetched, inputs, outputs, scratch; returns how many. */
int mk_arg_order(const mk *k, int order[MK_ARGS]);

#endif
