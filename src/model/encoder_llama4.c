/* The vision tower of Llama 4: a ViT over each tile with a class token at the end, 2-D rope of neighbouring pairs, then the patches of 2 x 2 squares side by side
 * through an MLP (the class token goes), and a projection. Source: the model's configuration and tensors, transformers documentation. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/encoder_int.h"

static const double eps = 1e-5;

static status build_tower(encoder *e, double theta)
{
    enc n;
    TRY(enc_begin(e, &n));
    tensor x = enc_input(&n, (int64_t)3 * e->patch * e->patch), segments = enc_input(&n, 1);
    n.prefix = "vision_model.";
    x = enc_add(&n, enc_linear(&n, x, "patch_embedding.linear", e->hidden, false), enc_input(&n, e->hidden));
    x = enc_layer_norm(&n, x, "layernorm_pre", eps);
    const tensor table = enc_rope_table(&n, theta);
    n.prefix = "vision_model.model.layers.%d.";
    for (int l = 0; l < e->layers; l++) {
        enc_layer(&n, l);
        x = enc_vit_block(&n, x, "input_layernorm", "post_attention_layernorm", "self_attn.o_proj", eps, ACT_GELU, table, segments);
    }
    enc_layer(&n, -1);
    n.prefix = "vision_model.";
    return enc_end(&n, enc_layer_norm(&n, x, "layernorm_post", eps));
}

static status build(encoder *e, const jv *config)
{
    const jv *v = jv_get(config, "vision_config");
    int middle, out;
    TRY(enc_int(v, "vision_config", "hidden_size", 1 << 16, 768, &e->hidden));
    TRY(enc_int(v, "vision_config", "num_hidden_layers", 1024, 34, &e->layers));
    TRY(enc_int(v, "vision_config", "num_attention_heads", 1024, 16, &e->n_heads));
    TRY(enc_int(v, "vision_config", "intermediate_size", 1 << 18, 5632, &e->mlp));
    TRY(enc_int(v, "vision_config", "patch_size", 256, 14, &e->patch));
    TRY(enc_int(v, "vision_config", "image_size", 8192, 448, &e->image_side));
    TRY(enc_int(v, "vision_config", "projector_input_dim", 1 << 18, 4096, &middle));
    TRY(enc_int(v, "vision_config", "projector_output_dim", 1 << 18, 4096, &out));
    TRY(enc_int(jv_get(config, "text_config"), "text_config", "hidden_size", 1 << 16, 5120, &e->text_hidden));
    const double ratio = jv_get_f64(v, "pixel_shuffle_ratio", 0.5), theta = jv_get_f64(v, "rope_theta", 10000);
    if (!(ratio > 0.01 && ratio <= 1)) return err_set(ST_INVALID, "config.json: vision_config.pixel_shuffle_ratio must be in (0, 1], got %g", ratio);
    e->merge = (int)lrint(1 / ratio);
    if (e->hidden % (4 * e->n_heads) || e->image_side % e->patch || enc_per_side(e) % e->merge)
        return err_set(ST_INVALID, "config.json: vision_config: %d heads of %d and %d pixels in patches of %d, %d x %d of them side by side, do not come out even", e->n_heads,
                       e->hidden, e->image_side, e->patch, e->merge, e->merge);
    e->head_dim = e->hidden / e->n_heads;
    e->table_name = "vision_model.positional_embedding_vlm";
    e->class_name = "vision_model.class_embedding";
    e->table_rows = (int64_t)enc_per_side(e) * enc_per_side(e) + 1;
    TRY(build_tower(e, theta));
    enc n;
    TRY(enc_begin(e, &n));
    tensor x = enc_input(&n, (int64_t)e->hidden * e->merge * e->merge);
    n.prefix = "vision_model.vision_adapter.mlp.";
    x = enc_act(&n, enc_linear(&n, x, "fc1", middle, false), ACT_GELU);
    x = enc_act(&n, enc_linear(&n, x, "fc2", out, false), ACT_GELU);
    n.prefix = "multi_modal_projector.";
    return enc_end(&n, enc_linear(&n, x, "linear_1", e->text_hidden, false));
}

static int64_t squares(const encoder *e) { return (e->table_rows - 1) / (e->merge * e->merge); }

static status n_tokens(const encoder *e, const encoder_input *in, int64_t *out)
{
    TRY(enc_check_squares(e, in, "a tile"));
    *out = in->rows * squares(e);
    return ST_OK;
}

/* Tiles run one at a time. */
static int64_t most_rows(const encoder *e, int stage, int64_t tokens)
{
    (void)tokens;
    return stage == 0 ? e->table_rows : squares(e);
}

/* The patches of each square side by side, row by row. */
static void shuffle(const encoder *e, const float *x, float *out)
{
    const int side = enc_per_side(e), m = e->merge, d = e->hidden;
    for (int y = 0; y < side; y += m)
        for (int c = 0; c < side; c += m)
            for (int i = 0; i < m * m; i++, out += d) memcpy(out, x + (ptrdiff_t)((y + i / m) * side + c + i % m) * d, (size_t)d * sizeof *out);
}

static status run(const encoder *e, const encoder_input *in, encoder_step *step, void *arg, float *out)
{
    const enc_work w = { e, step, arg };
    const size_t n = (size_t)e->table_rows, cols = (size_t)3 * (size_t)(e->patch * e->patch);
    const int side = enc_per_side(e);
    float *patches = mem_calloc(n, cols * sizeof *patches), *segments = mem_calloc(n, sizeof *segments), *x = mem_array(n, (size_t)e->hidden * sizeof *x);
    float *wide = mem_array(n, (size_t)e->hidden * sizeof *wide);
    int32_t *pos = mem_calloc(n, 3 * sizeof *pos);
    status st = patches && segments && x && wide && pos ? ST_OK : err_nomem();
    for (int i = 0; st == ST_OK && i < side * side; i++) { /* counted from 1; the class token's are 0 */
        pos[3 * i + 1] = i % side + 1;
        pos[3 * i + 2] = i / side + 1;
    }
    for (int64_t i = 0; st == ST_OK && i < in->rows; i++) {
        enc_unfold(in->values + i * in->cols, e->image_side, e->patch, patches); /* the class token's row stays zero */
        st = enc_stage(&w, 0, e->table_rows, (const float *[]){ patches, segments, e->table }, pos, x);
        if (st == ST_OK) shuffle(e, x, wide);
        if (st == ST_OK) st = enc_stage(&w, 1, squares(e), (const float *[]){ wide }, NULL, out + i * squares(e) * e->text_hidden);
    }
    mem_free(patches);
    mem_free(segments);
    mem_free(x);
    mem_free(wide);
    mem_free(pos);
    return st;
}

const encoder_family encoder_llama4 = { "llama4", ENCODER_IMAGE, build, n_tokens, most_rows, run };
