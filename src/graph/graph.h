/* The IR: a straight line of operations that an LLM engineer thinks in, in single assignment form.
 *
 * A tensor is a 32-bit handle to the node that makes it. Shapes are known when a node is added; a dimension is a number or
 * one of the step's symbols (tokens, sequences, sampled rows). Every dimension carries a logical axis, from which the
 * partition pass derives what each device of a mesh holds. Nodes know the layer they belong to, so that equal layers can be
 * found again and emitted as one loop.
 *
 * Errors of the builder stick: a failed call returns the null tensor, calls on null tensors return null, and graph_finish
 * reports the first error. A finished graph never changes: passes make a new one. Not thread-safe while it is built. */
#ifndef SYSTOLIC_GRAPH_GRAPH_H
#define SYSTOLIC_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "graph/dtype.h"
#include "graph/quant.h"

typedef struct tensor { int32_t id; } tensor;   /* 0 = null */
#define NO_TENSOR ((tensor){ 0 })

enum { GRAPH_MAX_RANK = 4, GRAPH_MAX_INPUTS = 6, GRAPH_MAX_PARTS = 16 };

/* Symbols of a step, as dimensions. */
enum {
    DIM_T = -1, DIM_S = -2, DIM_R = -3,        /* tokens, sequences, rows whose logits are wanted */
    DIM_TS = -4                                /* tokens of one device under sequence parallelism: T / tp, T being a multiple of tp */
};

/* What a partitioned graph is for: every device of a dp x tp mesh runs it with its own weights and inputs (single program,
 * multiple data). Device d has tensor rank d % tp and data rank d / tp. */
typedef struct mesh {
    int dp, tp;
    bool sp;        /* norms and residuals hold T / tp tokens each */
    bool ep;        /* the tensor ranks share out experts whole, instead of a part of each expert */
} mesh;

#define GRAPH_AXES(X) X(NONE, none) X(TOKENS, tokens) X(ROWS, rows) X(EMBED, embed) X(HEADS, heads) X(KV_HEADS, kv_heads) \
    X(HEAD_DIM, head_dim) X(MLP, mlp) X(VOCAB, vocab) X(ROPE, rope) X(LATENT, latent) X(MIXED, mixed) X(EXPERTS, experts)
typedef enum axis {
#define GRAPH_AXIS(up, low) AX_##up,
    GRAPH_AXES(GRAPH_AXIS)
#undef GRAPH_AXIS
    AX_COUNT
} axis;
const char *axis_name(axis a);

typedef struct shape {
    dtype type;
    int rank;
    int64_t dim[GRAPH_MAX_RANK];   /* >= 0, or DIM_* */
    axis axes[GRAPH_MAX_RANK];
} shape;
bool shape_equal(const shape *a, const shape *b);
/* "f32[T, 64]" for messages. Returns dst. */
char *shape_format(const shape *s, char *dst, size_t cap);

typedef enum op {
    OP_NULL,
#define OP(up, low, lo, hi, flags, fields) OP_##up,
#include "graph/ops.def"
#undef OP
    OP_COUNT
} op;

enum {
    OPF_LEAF = 1,     /* no inputs, nothing to run */
    OPF_VIEW = 2,     /* no data of its own: another look at its input's rows */
    OPF_EFFECT = 4,   /* writes the KV cache that attrs.kv.cache numbers */
    OPF_COLLECTIVE = 8 /* talks to the other tensor ranks of the mesh */
};

/* What a step feeds the graph. IN_ACTIVATION is a float tensor: what encoders start from, what they left for a language model, or the
 * input of a single operation under test. */
typedef enum input_kind { IN_TOKENS, IN_POSITIONS, IN_ROWS, IN_ACTIVATION, IN_COUNT } input_kind;

/* How a weight is laid over a mesh: by output rows (COL: column parallel, as the papers call it), by input columns (ROW),
 * not at all, or by vocabulary. */
#define WEIGHT_ROLES(X) X(REPL, repl) X(COL, col) X(ROW, row) X(VOCAB, vocab)
typedef enum weight_role {
#define WEIGHT_ROLE(up, low) ROLE_##up,
    WEIGHT_ROLES(WEIGHT_ROLE)
#undef WEIGHT_ROLE
    ROLE_COUNT
} weight_role;

/* How router logits become the weights of the chosen experts (ops/route). */
typedef enum route_kind {
    ROUTE_SOFTMAX_TOPK,    /* softmax over all experts, then the top k of it */
    ROUTE_TOPK_SOFTMAX,    /* the top k logits, then softmax over these */
    ROUTE_SIGMOID,         /* each its own sigmoid */
    ROUTE_SIGMOID_BIAS,    /* the same; the choice is made by sigmoid + correction bias */
    ROUTE_KINDS
} route_kind;

/* Rows from, from + step, ... below `to` of one checkpoint tensor that has `total` rows; step 0 is 1. A weight is its parts, one
 * below the other.
 * A `*` in the name stands for an expert's number: the weight is then one such matrix (or vector) per expert, [experts, rows, cols]
 * or [experts, rows], and the part is of each expert's own tensor ("...experts.*.up_proj.weight"), or of its slice where a checkpoint
 * stores all as one tensor ("...experts.gate_up_proj[*]", with a T at the end if slices are stored transposed).
 * In a partitioned graph a part is cut into `shards` equal runs of rows (the last padded with zero rows where they do not come
 * out even), of which tensor rank r holds number r * shards / tp: fewer shards than ranks are copies. 0 and 1: not cut. */
typedef struct weight_part { const char *name; int64_t from, to, total; axis out_axis; int shards, step; } weight_part;
static inline int64_t weight_part_step(const weight_part *p) { return p->step > 1 ? p->step : 1; }
/* Rows of it, uncut. */
static inline int64_t weight_part_count(const weight_part *p) { return (p->to - p->from + weight_part_step(p) - 1) / weight_part_step(p); }
/* Rows of it that each device holds, padding included. */
static inline int64_t weight_part_rows(const weight_part *p)
{
    int64_t rows = weight_part_count(p);
    return p->shards > 1 && rows > 0 ? (rows - 1) / p->shards + 1 : rows;
}

/* col_shards: columns are cut likewise; expert_shards: experts are. scheme: a quant_scheme; such a weight is read by linears and
 * experts alone, and s.type stays the type that the model computes in. */
typedef struct weight_attrs { int64_t role, n_parts; const weight_part *parts; int64_t col_shards, scheme, expert_shards; } weight_attrs;

/* Functions between the matrices of an MLP: ops/glu has them. */
typedef enum activation { ACT_SILU, ACT_GELU_TANH, ACT_GELU, ACT_SWIGLU_OAI, ACT_COUNT } activation;

typedef struct floats { int64_t n; const float *v; } floats;

typedef union op_attrs {
    struct { int64_t cache; } kv;                           /* the first attribute of every operation with OPF_EFFECT: its cache's number */
    struct { int64_t kind, number; } input;                 /* number: which of batch.activations, for IN_ACTIVATION */
    weight_attrs weight;
    struct { int64_t shards; } embed;                       /* > 1: of the table's rows; ids of other ranks' rows give zeros */
    struct { double eps; int64_t plus_one; } rms_norm;      /* plus_one: the factor is 1 + w */
    struct { double eps; } layer_norm;
    struct { int64_t from, to; } slice;                     /* of the last dimension */
    struct { int64_t head_dim; } split_heads;
    /* per variant: what cos and sin are multiplied by; [variants][half]. height, width: how many of the frequencies follow the
     * position's second and third number, from the end on or, interleaved, every third one */
    struct { floats scale, inv_freq; int64_t height, width, interleaved; } rope_table;
    /* window: keys a query sees with itself; chunk: it sees those of its own chunk of so many positions; 0 = all. softcap c: scores
     * are c tanh(s / c); 0 = as they are. */
    /* latent > 0: there is no V; values are the first so many numbers of K. */
    struct { int64_t cache; double scale; int64_t window, chunk; double softcap; int64_t latent; } paged_attention;
    struct { int64_t dim, size; } all_gather;               /* size > 0: the result's `dim` is cut to it (padding dropped) */
    struct { int64_t dim; } reduce_scatter;
    struct { int64_t act; double alpha, limit; } glu;       /* an activation; the other two are ACT_SWIGLU_OAI's */
    struct { int64_t kind; } act;                           /* an activation of one input */
    struct { double factor; } scale;
    struct { double scale; } segment_attention;
    struct { double floor, scale; } scale_by_position;
    struct { int64_t interleaved; } rope;                   /* pairs are elements 2i and 2i + 1, not i and half + i */
    struct { int64_t top_k, kind, norm; double scale; int64_t groups, groups_kept; } route;   /* kind: a route_kind */
    /* top_k: experts of a token at most; act: an activation; scale_input: an expert's input is multiplied by its weight instead of its
     * output; shards > 1: tensor rank r has experts r * n / shards and on; cut: each expert's inner width lies over the ranks, of
     * which the first adds the output's bias */
    struct { int64_t top_k, act; double alpha, limit; int64_t scale_input, shards, cut; } experts;
} op_attrs;

typedef struct node {
    op op;
    int layer;                      /* -1 = outside the layers */
    int n_in;
    tensor in[GRAPH_MAX_INPUTS];    /* NO_TENSOR for an absent optional input */
    shape s;
    op_attrs a;
} node;

typedef struct graph graph;

/* Shape rules of the operations, from above (ops/ops.h has them): fills out, or fails naming what was expected. */
typedef status graph_infer_fn(const graph *g, const node *n, shape *out);
typedef struct graph_rules { graph_infer_fn *infer[OP_COUNT]; } graph_rules;

/* ---- building ---- */
status graph_new(const graph_rules *rules, graph **out) FALLIBLE;
void graph_free(graph *g);
/* ---- weights of experts ---- */
/* Does a weight node hold one tensor per expert? */
bool weight_has_experts(const node *w);
/* Which dimension of it its parts make up, and what its experts (1 if it has none) have each: rows, columns (1: a vector). */
static inline int weight_rows_dim(const node *w) { return weight_has_experts(w) ? 1 : 0; }
int64_t weight_experts(const node *w);
int64_t weight_rows(const node *w);
int64_t weight_cols(const node *w);
/* A part's name with the expert's number filled in; the name itself if there is no place for it. dst is used where needed; NULL if
 * it is too small. */
const char *weight_expert_name(const char *name, int64_t expert, char *dst, size_t cap);
enum { WEIGHT_NAME_MAX = 512 };

/* What the graph is partitioned for; before the first node, whose shape may depend on it. */
void graph_set_mesh(graph *g, mesh m);
/* Nodes added from now on belong to this layer (-1: none). */
void graph_set_layer(graph *g, int layer);
tensor graph_input(graph *g, input_kind kind, const shape *s);
/* IN_ACTIVATION number n. */
tensor graph_activation(graph *g, int number, const shape *s);
/* `s` is what one device holds: its rows (weight_rows_dim) must be the sum of the parts' (weight_part_rows). Names and parts are copied. A
 * weight with the same parts is returned again. */
tensor graph_weight(graph *g, weight_role role, const shape *s, const weight_part *parts, int n_parts);
/* The same, its columns cut into col_shards; s->dim[1] is one shard's. */
tensor graph_weight_cut(graph *g, weight_role role, const shape *s, const weight_part *parts, int n_parts, int64_t col_shards);
/* The same with every attribute. */
tensor graph_weight_of(graph *g, const shape *s, const weight_attrs *a);
/* Attributes are copied, arrays included; NULL = none. Inputs may hold NO_TENSOR where optional. */
tensor graph_add(graph *g, op o, const tensor *in, int n_in, const op_attrs *a);
/* A node like n of another graph (its layer too), with inputs of this one; leaves have none. */
tensor graph_add_like(graph *g, const node *n, const tensor *in, int n_in);
/* Makes the graph fail with this message, unless it has failed already. */
void graph_fail(graph *g, status s, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Ends building: the first error, or the result of graph_verify. */
status graph_finish(graph *g, tensor output) FALLIBLE;

/* ---- reading ---- */
int graph_n_nodes(const graph *g);                      /* ids are 1..n */
const node *graph_at(const graph *g, int id);
/* What a model computes in: the type of its weights, before any quantisation. */
dtype graph_activation_type(const graph *g);
static inline const node *graph_node(const graph *g, tensor t) { return graph_at(g, t.id); }
tensor graph_output(const graph *g);
mesh graph_mesh(const graph *g);                        /* 1 x 1 unless it was partitioned */
const graph_rules *graph_rules_of(const graph *g);
int graph_n_caches(const graph *g);                     /* attention nodes: cache ids are 0..n-1 */
int graph_n_uses(const graph *g, int id);

/* ---- the grammar ---- */
/* Checks every rule of the IR: order, arity, shapes as inferred, parts, caches, one output. */
status graph_verify(const graph *g) FALLIBLE;
/* One node per line; graph_parse reads it back. */
status graph_print(const graph *g, buf *out) FALLIBLE;
status graph_parse(const graph_rules *rules, const char *text, size_t len, graph **out) FALLIBLE;

/* What an operation looks like: from ops.def. */
typedef enum field_kind { FIELD_I64, FIELD_OPT, FIELD_F64, FIELD_OPT_F64, FIELD_FLOATS } field_kind;   /* OPT: printed unless 0 */
typedef struct op_field { const char *name; field_kind kind; size_t offset; } op_field;
enum { OP_MAX_FIELDS = 8 };
typedef struct op_schema { const char *name; int min_in, max_in, flags; op_field fields[OP_MAX_FIELDS + 1]; } op_schema;
const op_schema *op_schema_of(op o);
static inline const char *op_name(op o) { return op_schema_of(o)->name; }
static inline bool op_is(op o, int flag) { return (op_schema_of(o)->flags & flag) != 0; }
/* Same operation, inputs, attributes and shape. */
bool node_equal(const node *a, const node *b);

#endif
