/* The words model files are written in. A model file describes one decoder layer; decoder_lm puts embedding, final norm and
 * head around a stack of them. No function fails: errors stick in the graph. */
#ifndef SYSTOLIC_MODEL_DSL_H
#define SYSTOLIC_MODEL_DSL_H

#include "graph/graph.h"
#include "model/config.h"
#include "model/quantization.h"

typedef struct net {
    graph *g;
    const model_config *c;
    dtype type;         /* of the weights */
    quant_scheme quant; /* of the linears' weights, made while they load */
    const quantization *stored;   /* or how the checkpoint has them; NULL = unquantised */
    int media;          /* model_options.media */
    bool kv_scales;     /* model_options.kv_scales */
    int layer;          /* -1 = outside the layers */
    tensor positions;
    tensor rope_tables[CONFIG_MAX_ROPES];   /* made once, shared by the layers */
} net;

/* Rows [from, to) of a checkpoint tensor with `total` rows; "NAME" is completed to model.layers.<layer>.NAME.weight (or .bias). */
typedef struct weight_ref { weight_role role; axis out; const char *name; int64_t from, to, total; } weight_ref;
#define W(role, axis, name, rows) ((weight_ref){ ROLE_##role, AX_##axis, (name), 0, (rows), (rows) })
#define W_ROWS(role, axis, name, from, to, total) ((weight_ref){ ROLE_##role, AX_##axis, (name), (from), (to), (total) })

/* The scheme of a linear weight with this name: the checkpoint's own, or what it becomes. */
quant_scheme weight_scheme(const net *n, const char *name);
tensor linear(net *n, tensor x, weight_ref w, bool bias);
tensor rms_norm(net *n, tensor x, const char *name);           /* over the last dimension */
tensor rms_norm_eps(net *n, tensor x, const char *name, double eps);   /* with an eps of its own */
tensor rms_norm_plain(net *n, tensor x);                       /* without a weight */
tensor split_heads(net *n, tensor x, int head_dim);            /* [T, h*d] -> [T, h, d] */
tensor merge_heads(net *n, tensor x);
tensor rope(net *n, tensor x);                                 /* by the layer's rope; x itself where it has none */
tensor paged_attention(net *n, tensor q, tensor k, tensor v);  /* the model's scale, the layer's window or chunk */
/* The same with one logit per query head, the tensor model.layers.<layer>.NAME, that takes its share of the softmax for no value. */
tensor attention_with_sinks(net *n, tensor q, tensor k, tensor v, const char *name);
/* Attention to keys [T, 1, d] whose first `latent` numbers are the values: [T, heads, latent]. */
tensor latent_attention(net *n, tensor q, tensor k, int latent);
tensor slice(net *n, tensor x, int64_t from, int64_t to);              /* columns of [T, n] */
tensor head_slice(net *n, tensor x, int64_t from, int64_t to);         /* elements of each head */
tensor concat(net *n, tensor x, tensor y);                             /* element after element of each head */
/* Each head of x [T, heads, a] by rows [from, to) of its share of the rows of the matrix NAME, which has `cols` columns;
 * `transposed`: by these rows' transpose. */
tensor head_linear(net *n, tensor x, const char *name, int64_t from, int64_t to, int64_t cols, bool transposed);
tensor scale(net *n, tensor x, double factor);
tensor scale_by_position(net *n, tensor x, double floor, double factor);
tensor add(net *n, tensor x, tensor y);
tensor glu(net *n, tensor gate, tensor up);                    /* by the model's activation */
tensor embed(net *n, tensor ids, const char *name, int rows, int width);

/* Runs of rows of one expert's tensors, one beside the other for gate and up: every `step`th from `from` on. A name is completed to
 * model.layers.<layer>.NAME and has its expert's number at `*` (graph/graph.h). */
typedef struct expert_rows { const char *name; int64_t from, to, total; int step; } expert_rows;
typedef struct expert_names { expert_rows gate, up, gate_bias, up_bias; const char *down, *down_bias; /* biases: no name = none */ } expert_names;
/* Which experts each token goes to, and with what weight: [T, experts]. correction: the name of DeepSeek's bias, else NULL. */
tensor route(net *n, tensor logits, route_kind kind, const char *correction);
/* What the chosen experts make of x, summed; by config's moe and activation. scale_input: their input is weighted, not their output. */
tensor experts(net *n, tensor x, tensor combine, const expert_names *names, bool scale_input);

/* One layer: residual stream [T, hidden] in and out. */
typedef tensor layer_fn(net *n, tensor x);
/* Embedding, layers, norm and head over the rows that are wanted: logits [R, vocab]. */
tensor decoder_lm(net *n, layer_fn *layer);

/* The pre-norm block that these families share: x + attention(norm(x)), then x + mlp(norm(x)). */
tensor prenorm_block(net *n, tensor x, layer_fn *attention, layer_fn *mlp);
/* down(silu(gate(x)) * up(x)) with the usual names and config.json's mlp_bias. */
tensor gated_mlp(net *n, tensor x);
/* The same of a module by another name, `width` wide. */
tensor gated_mlp_of(net *n, tensor x, const char *module, int width);

/* An architecture: what the registry (model.c) lists. */
typedef struct model_family { const char *architecture; config_defaults defaults; layer_fn *layer; } model_family;
extern const model_family deepseek_family;
extern const model_family llama_family, qwen2_family, qwen3_family, qwen3_moe_family, mistral_family, phi3_family;
extern const model_family gemma3_family, gemma3_mm_family, gpt_oss_family, llama4_family, llama4_mm_family, qwen2_5_vl_family,
    qwen3_omni_family;
/* Layers that several families have. */
layer_fn qwen2_layer, qwen3_attention, qwen3_moe_layer;
config_read_fn qwen3_moe_read;

#endif
