/* Vision towers of Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923) and Qwen3-Omni (Xu et al. 2025, arXiv:2509.17765):
 *
 *   x = patches W (+ b + interpolated learned positions)             patches in the order of the merged squares
 *   layers: x += attention(norm(x)); x += mlp(norm(x))               2-D rope; 2.5: windows in most layers, RMS norms, gated MLP
 *   features = mlp(merged 2 x 2 of norm(x))                          one row per square
 *   deepstack: the same of some layers' outputs, for the language model's first layers
 *
 * Stage 0 gives x (normed) and, beside it, the outputs of the deepstack layers; stage 1 + k merges the k-th of them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/encoder_int.h"

static bool is_omni(const encoder *e) { return e->family == &encoder_qwen3_omni; }

static tensor block(enc *n, tensor x, tensor table, tensor segments)
{
    const encoder *e = n->e;
    const int64_t d = e->hidden;
    tensor y = is_omni(e) ? enc_layer_norm(n, x, "norm1", 1e-6) : enc_rms_norm(n, x, "norm1", 1e-6, false), qkv[3];
    for (int i = 0; i < 3; i++) qkv[i] = enc_linear_rows(n, y, "attn.qkv", i * d, (i + 1) * d, 3 * d, true);
    y = enc_attention(n, qkv[0], qkv[1], qkv[2], table, false, segments);
    x = enc_add(n, x, enc_linear(n, y, "attn.proj", d, true));
    if (is_omni(e)) {
        y = enc_linear(n, enc_layer_norm(n, x, "norm2", 1e-6), "mlp.linear_fc1", e->mlp, true);
        return enc_add(n, x, enc_linear(n, enc_act(n, y, ACT_GELU_TANH), "mlp.linear_fc2", d, true));
    }
    y = enc_rms_norm(n, x, "norm2", 1e-6, false);
    tensor gate_up[] = { enc_linear(n, y, "mlp.gate_proj", e->mlp, true), enc_linear(n, y, "mlp.up_proj", e->mlp, true) };
    y = graph_add(n->g, OP_GLU, gate_up, 2, &(op_attrs){ .glu = { .act = ACT_SILU } });
    return enc_add(n, x, enc_linear(n, y, "mlp.down_proj", d, true));
}

/* The columns of both, as one head: concat is for heads. */
static tensor beside(enc *n, tensor x, tensor y)
{
    tensor in[] = { x, y };
    for (int i = 0; i < 2; i++) {
        const shape *s = &graph_node(n->g, in[i])->s;
        if (s->rank == 2) in[i] = graph_add(n->g, OP_SPLIT_HEADS, &in[i], 1, &(op_attrs){ .split_heads = { s->dim[1] } });
    }
    return graph_add(n->g, OP_CONCAT, in, 2, NULL);
}

static status build_tower(encoder *e)
{
    enc n;
    tensor level[ENCODER_LEVELS];
    TRY(enc_begin(e, &n));
    tensor x = enc_input(&n, (int64_t)3 * e->temporal * e->patch * e->patch), segments[2] = { enc_input(&n, 1) };
    if (e->window) segments[1] = enc_input(&n, 1);
    n.prefix = "visual.";
    x = enc_linear(&n, x, "patch_embed.proj", e->hidden, is_omni(e));
    if (is_omni(e)) x = enc_add(&n, x, enc_input(&n, e->hidden));
    const tensor table = enc_rope_table(&n, 10000);
    n.prefix = "visual.blocks.%d.";
    for (int l = 0; l < e->layers; l++) {
        enc_layer(&n, l);
        x = block(&n, x, table, segments[e->window && !e->full[l]]);
        for (int k = 0; k < e->levels; k++)
            if (e->level_at[k] == l) level[k] = x;
    }
    enc_layer(&n, -1);
    n.prefix = "visual.";
    x = is_omni(e) ? enc_layer_norm(&n, x, "merger.ln_q", 1e-6) : enc_rms_norm(&n, x, "merger.ln_q", 1e-6, false);
    for (int k = 0; k < e->levels; k++) x = beside(&n, x, level[k]);
    return enc_end(&n, x);
}

static status build_merger(encoder *e, int k)
{
    enc n;
    const int64_t wide = (int64_t)e->hidden * e->merge * e->merge;
    char prefix[64] = "visual.merger.";
    TRY(enc_begin(e, &n));
    if (k > 0) snprintf(prefix, sizeof prefix, "visual.merger_list.%d.", k - 1);
    n.prefix = prefix;
    tensor x = enc_input(&n, wide);
    if (k > 0) x = enc_layer_norm(&n, x, "ln_q", 1e-6);
    x = enc_linear(&n, enc_act(&n, enc_linear(&n, x, "mlp.0", wide, true), ACT_GELU), "mlp.2", e->text_hidden, true);
    return enc_end(&n, x);
}

static status sizes(encoder *e, const jv *v, const char *channels)
{
    int in;
    TRY(enc_int(v, "vision_config", "hidden_size", 1 << 16, is_omni(e) ? 1152 : 3584, &e->hidden));
    TRY(enc_int(v, "vision_config", "depth", 1024, is_omni(e) ? 27 : 32, &e->layers));
    TRY(enc_int(v, "vision_config", "num_heads", 1024, 16, &e->n_heads));
    TRY(enc_int(v, "vision_config", "intermediate_size", 1 << 18, is_omni(e) ? 4304 : 3420, &e->mlp));
    TRY(enc_int(v, "vision_config", "patch_size", 256, is_omni(e) ? 16 : 14, &e->patch));
    TRY(enc_int(v, "vision_config", "temporal_patch_size", 16, 2, &e->temporal));
    TRY(enc_int(v, "vision_config", "spatial_merge_size", 16, 2, &e->merge));
    TRY(enc_int(v, "vision_config", "out_hidden_size", 1 << 16, 3584, &e->text_hidden));
    TRY(enc_int(v, "vision_config", channels, 3, 3, &in));
    if (e->hidden % (4 * e->n_heads) || in != 3)
        return err_set(ST_INVALID, "config.json: vision_config: hidden_size %d must be a multiple of 4 * num_heads %d, %s 3", e->hidden, e->n_heads, channels);
    e->head_dim = e->hidden / e->n_heads;
    return ST_OK;
}

static status layer_list(const encoder *e, const jv *list, const char *name, int most)
{
    if (!jv_is(list, JV_ARR) || jv_len(list) > (size_t)most) return err_set(ST_INVALID, "config.json: vision_config.%s must be a list of at most %d layers", name, most);
    for (size_t i = 0; i < jv_len(list); i++)
        if (jv_i64(jv_at(list, i), -1) < 0 || jv_i64(jv_at(list, i), -1) >= e->layers)
            return err_set(ST_INVALID, "config.json: vision_config.%s names a layer beyond the %d that there are", name, e->layers);
    return ST_OK;
}

static status build_2_5(encoder *e, const jv *config)
{
    const jv *v = jv_get(config, "vision_config"), *full = jv_get(v, "fullatt_block_indexes");
    int pixels;
    TRY(sizes(e, v, "in_chans"));
    TRY(enc_int(v, "vision_config", "window_size", 1 << 16, 112, &pixels));
    e->window = pixels / e->merge / e->patch;
    if (e->window < 1) return err_set(ST_INVALID, "config.json: vision_config.window_size %d is less than a merged patch", pixels);
    e->full = arena_calloc(&e->mem, (size_t)e->layers, 1);
    if (!e->full) return err_nomem();
    if (full) TRY(layer_list(e, full, "fullatt_block_indexes", 1024));
    static const int usual[] = { 7, 15, 23, 31 };
    for (size_t i = 0; full && i < jv_len(full); i++) e->full[jv_i64(jv_at(full, i), 0)] = 1;
    for (int i = 0; !full && i < 4; i++)
        if (usual[i] < e->layers) e->full[usual[i]] = 1;
    TRY(build_tower(e));
    return build_merger(e, 0);
}

static status build_omni(encoder *e, const jv *config)
{
    const jv *v = jv_get(jv_get(config, "thinker_config"), "vision_config"), *at = jv_get(v, "deepstack_visual_indexes");
    int table;
    TRY(sizes(e, v, "in_channels"));
    TRY(enc_int(v, "vision_config", "num_position_embeddings", 1 << 20, 2304, &table));
    e->table_name = "visual.pos_embed.weight";
    e->table_rows = table;
    if (at) TRY(layer_list(e, at, "deepstack_visual_indexes", ENCODER_LEVELS));
    static const int usual[] = { 8, 16, 24 };
    e->levels = at ? (int)jv_len(at) : 3;
    for (int i = 0; i < e->levels; i++) {
        e->level_at[i] = at ? (int)jv_i64(jv_at(at, (size_t)i), 0) : usual[i];
        if (e->level_at[i] >= e->layers) return err_set(ST_INVALID, "config.json: vision_config has %d layers, deepstack wants %d", e->layers, e->level_at[i]);
    }
    TRY(build_tower(e));
    for (int k = 0; k <= e->levels; k++) TRY(build_merger(e, k));
    return ST_OK;
}

/* ---- running ---- */

static status n_tokens(const encoder *e, const encoder_input *in, int64_t *out)
{
    const int64_t t = in->grid[0], h = in->grid[1], w = in->grid[2], cols = (int64_t)3 * e->temporal * e->patch * e->patch;
    if (t < 1 || h < 1 || w < 1 || h % e->merge || w % e->merge || t * h * w != in->rows || in->cols != cols)
        return err_set(ST_INVALID, "an image of %lld x %lld x %lld patches of %lld values does not fit the vision encoder (%lld values, multiples of %d): "
                       "preprocessor_config.json and config.json disagree", (long long)t, (long long)h, (long long)w, (long long)in->cols, (long long)cols, e->merge);
    *out = in->rows / (e->merge * e->merge);
    return ST_OK;
}

static int64_t most_rows(const encoder *e, int stage, int64_t tokens) { return stage == 0 ? tokens * e->merge * e->merge : tokens; }

/* Everything a run needs per patch; `order`: where each merged square of the processor's order goes. */
typedef struct tower {
    int64_t patches, squares, unit;
    int64_t *order;         /* [squares] the square at each place */
    int32_t *positions3;    /* [patches][3] 0, row, column */
    float *values, *segments, *windows, *learned, *x, *merged, *out;
} tower;

static void tower_free(tower *t)
{
    void *all[] = { t->order, t->positions3, t->values, t->segments, t->windows, t->learned, t->x, t->merged, t->out };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_free(all[i]);
}

/* Squares window by window, each row by row; without windows as they are. Windows are numbered from 0 in `windows`. */
static void order_squares(const encoder *e, const encoder_input *in, tower *t)
{
    const int64_t h = in->grid[1] / e->merge, w = in->grid[2] / e->merge, side = e->window ? e->window : 1 << 30;
    int64_t at = 0, window = 0;
    for (int64_t f = 0; f < in->grid[0]; f++)
        for (int64_t wy = 0; wy < h; wy += side)
            for (int64_t wx = 0; wx < w; wx += side, window++)
                for (int64_t y = wy; y < h && y < wy + side; y++)
                    for (int64_t x = wx; x < w && x < wx + side; x++, at++) {
                        t->order[at] = (f * h + y) * w + x;
                        for (int64_t i = 0; i < t->unit; i++) {
                            const int64_t row = at * t->unit + i;
                            t->windows[row] = (float)window;
                            t->segments[row] = (float)f;
                            t->positions3[row * 3 + 1] = (int32_t)(y * e->merge + i / e->merge);
                            t->positions3[row * 3 + 2] = (int32_t)(x * e->merge + i % e->merge);
                        }
                    }
}

/* Place i of n points from 0 to top, both included, as torch.linspace has it. */
static float linspace(float top, int i, int n)
{
    if (n == 1) return 0;
    const float step = top / (float)(n - 1);
    return i < n / 2 ? step * (float)i : top - step * (float)(n - 1 - i);
}

/* The learned square table, stretched over the image's grid bilinearly. */
static void learned_positions(const encoder *e, const encoder_input *in, tower *t)
{
    const int side = (int)lrint(sqrt((double)e->table_rows));
    for (int64_t r = 0; r < t->patches; r++) {
        const float y = linspace((float)(side - 1), t->positions3[r * 3 + 1], in->grid[1]), x = linspace((float)(side - 1), t->positions3[r * 3 + 2], in->grid[2]);
        const int y0 = (int)y, x0 = (int)x, y1 = y0 + 1 < side ? y0 + 1 : side - 1, x1 = x0 + 1 < side ? x0 + 1 : side - 1;
        const float dy = y - (float)y0, dx = x - (float)x0;
        const float *a = e->table + (int64_t)(y0 * side + x0) * e->hidden, *b = e->table + (int64_t)(y0 * side + x1) * e->hidden;
        const float *c = e->table + (int64_t)(y1 * side + x0) * e->hidden, *d = e->table + (int64_t)(y1 * side + x1) * e->hidden;
        for (int i = 0; i < e->hidden; i++)
            t->learned[r * e->hidden + i] = a[i] * ((1 - dy) * (1 - dx)) + b[i] * ((1 - dy) * dx) + c[i] * (dy * (1 - dx)) + d[i] * (dy * dx);
    }
}

static status tower_make(const encoder *e, const encoder_input *in, tower *t)
{
    const size_t n = (size_t)in->rows, f = sizeof(float), d = (size_t)e->hidden;
    *t = (tower){ .patches = in->rows, .unit = (int64_t)e->merge * e->merge };
    t->squares = t->patches / t->unit;
    t->order = mem_array((size_t)t->squares, sizeof *t->order);
    t->positions3 = mem_calloc(n, 3 * sizeof *t->positions3);
    t->values = mem_array(n, (size_t)in->cols * f);
    t->segments = mem_array(n, f);
    t->windows = mem_array(n, f);
    t->learned = mem_array(n, d * f);
    t->x = mem_array(n, d * (size_t)(1 + e->levels) * f);
    t->merged = mem_array(n, d * f);
    t->out = mem_array((size_t)t->squares, (size_t)e->text_hidden * f);
    if (!t->order || !t->positions3 || !t->values || !t->segments || !t->windows || !t->learned || !t->x || !t->merged || !t->out) return err_nomem();
    order_squares(e, in, t);
    for (int64_t i = 0; i < t->squares; i++)
        memcpy(t->values + i * t->unit * in->cols, in->values + t->order[i] * t->unit * in->cols, (size_t)(t->unit * in->cols) * f);
    if (e->table) learned_positions(e, in, t);
    return ST_OK;
}

static status run_stages(const encoder *e, const enc_work *w, tower *t, float *out)
{
    const int64_t d = e->hidden, wide = d * (1 + e->levels), width = encoder_width(e);
    const float *in[] = { t->values, t->segments, e->window ? t->windows : t->learned };
    TRY(enc_stage(w, 0, t->patches, in, t->positions3, t->x));
    for (int k = 0; k <= e->levels; k++) {
        for (int64_t r = 0; r < t->patches; r++) memcpy(t->merged + r * d, t->x + r * wide + k * d, (size_t)d * sizeof(float));
        TRY(enc_stage(w, 1 + k, t->squares, (const float *[]){ t->merged }, NULL, t->out));
        for (int64_t i = 0; i < t->squares; i++)
            memcpy(out + t->order[i] * width + (int64_t)k * e->text_hidden, t->out + i * e->text_hidden, (size_t)e->text_hidden * sizeof(float));
    }
    return ST_OK;
}

static status run(const encoder *e, const encoder_input *in, encoder_step *step, void *arg, float *out)
{
    tower t;
    status st = tower_make(e, in, &t);
    if (st == ST_OK) st = run_stages(e, &(enc_work){ e, step, arg }, &t, out);
    tower_free(&t);
    return st;
}

const encoder_family encoder_qwen2_5_vl = { "qwen2_5_vl", ENCODER_IMAGE, build_2_5, n_tokens, most_rows, run };
const encoder_family encoder_qwen3_omni = { "qwen3_omni_moe", ENCODER_IMAGE, build_omni, n_tokens, most_rows, run };
