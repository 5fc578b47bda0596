/* Which encoder a configuration names, the words of their graphs, and their weights. */
#include "model/encoder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "graph/passes.h"
#include "load/safetensors.h"
#include "model/encoder_int.h"
#include "ops/op.h"

static const encoder_family *const families[] = { &encoder_qwen2_5_vl, &encoder_qwen3_omni, &encoder_gemma3, &encoder_llama4, &encoder_qwen3_omni_audio };

status encoder_new(const jv *config, encoder_kind kind, dtype type, encoder **out)
{
    const char *model = jv_get_str(config, "model_type", "");
    const encoder_family *f = NULL;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (families[i]->kind == kind && strcmp(families[i]->model_type, model) == 0) f = families[i];
    *out = NULL;
    if (!f) return ST_OK;
    encoder *e = mem_calloc(1, sizeof *e);
    if (!e) return err_nomem();
    e->family = f;
    e->type = type;
    const status st = f->build(e, config);
    if (st != ST_OK) {
        encoder_free(e);
        return err_wrap(st, "%s encoder", kind == ENCODER_IMAGE ? "vision" : "audio");
    }
    *out = e;
    return ST_OK;
}

void encoder_free(encoder *e)
{
    if (!e) return;
    for (int i = 0; i < ENCODER_STAGES; i++) graph_free(e->g[i]);
    mem_free(e->table);
    arena_free(&e->mem);
    mem_free(e);
}

int64_t encoder_table_params(const encoder *e) { return (e->table_rows + (e->class_name ? 1 : 0)) * e->hidden; }
int encoder_n_stages(const encoder *e) { return e->n_stages; }
const graph *encoder_graph(const encoder *e, int stage) { return e->g[stage]; }
int encoder_levels(const encoder *e) { return e->levels; }
int64_t encoder_width(const encoder *e) { return (int64_t)e->text_hidden * (1 + e->levels); }
int64_t enc_cols(const encoder *e, int stage) { return shape_cols(&graph_node(e->g[stage], graph_output(e->g[stage]))->s); }
status encoder_n_tokens(const encoder *e, const encoder_input *in, int64_t *out) { return e->family->n_tokens(e, in, out); }
int64_t encoder_most_rows(const encoder *e, int stage, int64_t tokens) { return e->family->most_rows(e, stage, tokens); }

status encoder_run(const encoder *e, const encoder_input *in, encoder_step *step, void *arg, float **out, int64_t *n_tokens)
{
    int64_t n;
    TRY(e->family->n_tokens(e, in, &n));
    float *rows = mem_array((size_t)n, (size_t)encoder_width(e) * sizeof *rows);
    if (!rows) return err_nomem();
    const status st = e->family->run(e, in, step, arg, rows);
    if (st != ST_OK) {
        mem_free(rows);
        return st;
    }
    *out = rows;
    *n_tokens = n;
    return ST_OK;
}

/* ---- words ---- */

status enc_begin(encoder *e, enc *n)
{
    if (e->n_stages >= ENCODER_STAGES) return err_set(ST_INTERNAL, "more than %d stages", ENCODER_STAGES);
    *n = (enc){ .e = e, .prefix = "", .layer = -1 };
    return graph_new(ops_rules(), &n->g);
}

status enc_end(enc *n, tensor out)
{
    graph *g = NULL;
    status st = graph_finish(n->g, out);
    if (st == ST_OK) st = graph_optimize(n->g, &g);
    graph_free(n->g);
    if (st == ST_OK) n->e->g[n->e->n_stages++] = g;
    return st;
}

void enc_layer(enc *n, int layer)
{
    n->layer = layer;
    graph_set_layer(n->g, layer);
}

const char *enc_name(enc *n, const char *name, char *dst, size_t cap)
{
    const char *mark = strstr(n->prefix, "%d");
    if (mark) snprintf(dst, cap, "%.*s%d%s%s", (int)(mark - n->prefix), n->prefix, n->layer, mark + 2, name);
    else snprintf(dst, cap, "%s%s", n->prefix, name);
    return dst;
}

tensor enc_input(enc *n, int64_t cols) { return graph_activation(n->g, n->n_inputs++, &(shape){ DT_F32, 2, { DIM_T, cols }, { AX_TOKENS, AX_NONE } }); }
tensor enc_positions(enc *n) { return graph_input(n->g, IN_POSITIONS, &(shape){ DT_I32, 1, { DIM_T }, { AX_TOKENS } }); }

static tensor weight(enc *n, const char *name, const char *suffix, int64_t from, int64_t to, int64_t total, int64_t cols)
{
    char stem[256], full[320];
    /* a name ending in "^T" is stored the other way round; one ending in "=" is the whole name */
    enc_name(n, name, stem, sizeof stem);
    const size_t len = strlen(stem);
    if (len > 0 && stem[len - 1] == '=') snprintf(full, sizeof full, "%.*s", (int)len - 1, stem);
    else snprintf(full, sizeof full, "%s.%s", stem, suffix);
    shape s = { n->e->type, cols ? 2 : 1, { to - from, cols }, { AX_NONE, AX_NONE } };
    return graph_weight(n->g, ROLE_REPL, &s, &(weight_part){ full, from, to, total, AX_NONE, 0, 0 }, 1);
}

tensor enc_linear_rows(enc *n, tensor x, const char *name, int64_t from, int64_t to, int64_t total, bool bias)
{
    tensor in[3] = { x, weight(n, name, "weight", from, to, total, graph_node(n->g, x)->s.dim[1]) };
    if (bias) in[2] = weight(n, name, "bias", from, to, total, 0);
    return graph_add(n->g, OP_LINEAR, in, 3, NULL);
}

tensor enc_linear(enc *n, tensor x, const char *name, int64_t rows, bool bias) { return enc_linear_rows(n, x, name, 0, rows, rows, bias); }

tensor enc_layer_norm(enc *n, tensor x, const char *name, double eps)
{
    const int64_t d = graph_node(n->g, x)->s.dim[1];
    tensor in[] = { x, weight(n, name, "weight", 0, d, d, 0), weight(n, name, "bias", 0, d, d, 0) };
    return graph_add(n->g, OP_LAYER_NORM, in, 3, &(op_attrs){ .layer_norm = { eps } });
}

tensor enc_rms_norm(enc *n, tensor x, const char *name, double eps, bool plus_one)
{
    const int64_t d = graph_node(n->g, x)->s.dim[1];
    tensor in[] = { x, weight(n, name, "weight", 0, d, d, 0) };
    return graph_add(n->g, OP_RMS_NORM, in, 2, &(op_attrs){ .rms_norm = { eps, plus_one } });
}

tensor enc_add(enc *n, tensor x, tensor y) { return graph_add(n->g, OP_ADD, (tensor[]){ x, y }, 2, NULL); }
tensor enc_act(enc *n, tensor x, activation kind) { return graph_add(n->g, OP_ACT, &x, 1, &(op_attrs){ .act = { kind } }); }

tensor enc_attention(enc *n, tensor q, tensor k, tensor v, tensor table, bool interleaved, tensor segments)
{
    tensor in[4] = { q, k, v, segments };
    for (int i = 0; i < 3; i++) {
        in[i] = graph_add(n->g, OP_SPLIT_HEADS, &in[i], 1, &(op_attrs){ .split_heads = { n->e->head_dim } });
        if (i < 2 && table.id) in[i] = graph_add(n->g, OP_ROPE, (tensor[]){ in[i], table }, 2, &(op_attrs){ .rope = { interleaved } });
    }
    tensor y = graph_add(n->g, OP_SEGMENT_ATTENTION, in, 4, &(op_attrs){ .segment_attention = { 1 / sqrt((double)n->e->head_dim) } });
    return graph_add(n->g, OP_MERGE_HEADS, &y, 1, NULL);
}

tensor enc_vit_block(enc *n, tensor x, const char *norm1, const char *norm2, const char *out_proj, double eps, activation act, tensor table, tensor segments)
{
    const int64_t d = n->e->hidden;
    tensor y = enc_layer_norm(n, x, norm1, eps);
    y = enc_attention(n, enc_linear(n, y, "self_attn.q_proj", d, true), enc_linear(n, y, "self_attn.k_proj", d, true), enc_linear(n, y, "self_attn.v_proj", d, true), table, true, segments);
    x = enc_add(n, x, enc_linear(n, y, out_proj, d, true));
    y = enc_linear(n, enc_layer_norm(n, x, norm2, eps), "mlp.fc1", n->e->mlp, true);
    return enc_add(n, x, enc_linear(n, enc_act(n, y, act), "mlp.fc2", d, true));
}

tensor enc_rope_table(enc *n, double theta)
{
    enum { MOST = 256 };
    static const float one = 1;
    float freq[2 * MOST];
    const int quarter = n->e->head_dim / 4;
    if (quarter < 1 || quarter > MOST) return NO_TENSOR;
    for (int i = 0; i < quarter; i++) freq[i] = freq[quarter + i] = 1.0f / powf((float)theta, (float)(2 * i) / (float)(2 * quarter));
    tensor pos = enc_positions(n);
    return graph_add(n->g, OP_ROPE_TABLE, &pos, 1, &(op_attrs){ .rope_table = { { 1, &one }, { 2 * quarter, freq }, quarter, quarter, 0 } });
}

/* ---- running ---- */

status enc_stage(const enc_work *w, int stage, int64_t n, const float *const *activations, const int32_t *positions3, float *out)
{
    int32_t *positions = mem_calloc((size_t)n, sizeof *positions);
    if (!positions) return err_nomem();
    const int32_t cu[] = { 0, (int32_t)n };
    const batch b = { .n_tokens = (int)n, .n_seqs = 1, .positions = positions, .cu_q_lens = cu, .logits = out, .activations = activations, .positions3 = positions3 };
    const status st = w->step(w->arg, stage, &b);
    mem_free(positions);
    return st;
}

status enc_int(const jv *j, const char *what, const char *name, int64_t most, int64_t def, int *out)
{
    const jv *v = jv_get(j, name);
    int64_t got = jv_type(v) <= JV_NULL && def >= 0 ? def : jv_i64(v, -1);
    if (got < (def == 0 ? 0 : 1) || got > most) return err_set(ST_INVALID, "config.json: %s.%s must be an integer from 1 to %lld", what, name, (long long)most);
    *out = (int)got;
    return ST_OK;
}

status enc_check_squares(const encoder *e, const encoder_input *in, const char *what)
{
    if (in->cols == (int64_t)3 * e->image_side * e->image_side && in->rows >= 1) return ST_OK;
    return err_set(ST_INVALID, "%s of %lld values does not fit the vision encoder (%d x %d pixels): preprocessor_config.json and config.json disagree", what, (long long)in->cols, e->image_side,
                   e->image_side);
}

void enc_unfold(const float *picture, int side, int patch, float *out)
{
    for (int y = 0; y + patch <= side; y += patch)
        for (int x = 0; x + patch <= side; x += patch)
            for (int c = 0; c < 3; c++)
                for (int r = 0; r < patch; r++, out += patch) memcpy(out, picture + ((ptrdiff_t)c * side + y + r) * side + x, (size_t)patch * sizeof *out);
}
