/* The vision tower of Gemma 3 (Gemma Team 2025, arXiv:2503.19786): SigLIP (Zhai et al. 2023, arXiv:2303.15343), then the average of each square of
 * patches, a norm and a projection. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/encoder_int.h"

#define PREFIX "vision_tower.vision_model."

static status build(encoder *e, const jv *config)
{
    const jv *v = jv_get(config, "vision_config");
    int tokens;
    TRY(enc_int(v, "vision_config", "hidden_size", 1 << 16, 768, &e->hidden));
    TRY(enc_int(v, "vision_config", "num_hidden_layers", 1024, 12, &e->layers));
    TRY(enc_int(v, "vision_config", "num_attention_heads", 1024, 12, &e->n_heads));
    TRY(enc_int(v, "vision_config", "intermediate_size", 1 << 18, 3072, &e->mlp));
    TRY(enc_int(v, "vision_config", "patch_size", 256, 16, &e->patch));
    TRY(enc_int(v, "vision_config", "image_size", 8192, 224, &e->image_side));
    TRY(enc_int(config, "config", "mm_tokens_per_image", 1 << 20, 256, &tokens));
    TRY(enc_int(jv_get(config, "text_config"), "text_config", "hidden_size", 1 << 16, 2304, &e->text_hidden));
    const double eps = jv_get_f64(v, "layer_norm_eps", 1e-6);
    e->pooled_side = (int)lrint(sqrt((double)tokens));
    if (e->hidden % e->n_heads || e->image_side % e->patch || e->pooled_side * e->pooled_side != tokens || enc_per_side(e) % e->pooled_side)
        return err_set(ST_INVALID, "config.json: vision_config: %d heads of %d, %d pixels in patches of %d and %d tokens per image do not come out even", e->n_heads, e->hidden,
                       e->image_side, e->patch, tokens);
    e->head_dim = e->hidden / e->n_heads;
    e->table_name = PREFIX "embeddings.position_embedding.weight";
    e->table_rows = (int64_t)enc_per_side(e) * enc_per_side(e);
    enc n;
    TRY(enc_begin(e, &n));
    tensor x = enc_input(&n, (int64_t)3 * e->patch * e->patch), segments = enc_input(&n, 1);
    n.prefix = PREFIX;
    x = enc_add(&n, enc_linear(&n, x, "embeddings.patch_embedding", e->hidden, true), enc_input(&n, e->hidden));
    n.prefix = PREFIX "encoder.layers.%d.";
    for (int l = 0; l < e->layers; l++) {
        enc_layer(&n, l);
        x = enc_vit_block(&n, x, "layer_norm1", "layer_norm2", "self_attn.out_proj", eps, ACT_GELU_TANH, NO_TENSOR, segments);
    }
    enc_layer(&n, -1);
    n.prefix = PREFIX;
    TRY(enc_end(&n, enc_layer_norm(&n, x, "post_layernorm", eps)));
    TRY(enc_begin(e, &n));
    n.prefix = "multi_modal_projector.";
    x = enc_rms_norm(&n, enc_input(&n, e->hidden), "mm_soft_emb_norm", eps, true);
    return enc_end(&n, enc_linear(&n, x, "mm_input_projection_weight^T=", e->text_hidden, false));
}

static status n_tokens(const encoder *e, const encoder_input *in, int64_t *out)
{
    TRY(enc_check_squares(e, in, "an image"));
    *out = in->rows * e->pooled_side * e->pooled_side;
    return ST_OK;
}

/* Pictures run one at a time. */
static int64_t most_rows(const encoder *e, int stage, int64_t tokens)
{
    (void)tokens;
    return stage == 0 ? e->table_rows : (int64_t)e->pooled_side * e->pooled_side;
}

/* The mean of each k x k square of patches. */
static void pool(const encoder *e, const float *x, float *out)
{
    const int side = enc_per_side(e), k = side / e->pooled_side, d = e->hidden;
    for (int y = 0; y < e->pooled_side; y++)
        for (int c = 0; c < e->pooled_side; c++, out += d) {
            memset(out, 0, (size_t)d * sizeof *out);
            for (int i = 0; i < k * k; i++) {
                const float *src = x + (ptrdiff_t)((y * k + i / k) * side + c * k + i % k) * d;
                for (int j = 0; j < d; j++) out[j] += src[j];
            }
            for (int j = 0; j < d; j++) out[j] /= (float)(k * k);
        }
}

/* One picture after the other. */
static status run(const encoder *e, const encoder_input *in, encoder_step *step, void *arg, float *out)
{
    const enc_work w = { e, step, arg };
    const size_t n = (size_t)e->table_rows;
    const int64_t tokens = (int64_t)e->pooled_side * e->pooled_side;
    float *patches = mem_array(n, (size_t)3 * (size_t)(e->patch * e->patch) * sizeof *patches), *segments = mem_calloc(n, sizeof *segments);
    float *x = mem_array(n, (size_t)e->hidden * sizeof *x), *pooled = mem_array((size_t)tokens, (size_t)e->hidden * sizeof *pooled);
    status st = patches && segments && x && pooled ? ST_OK : err_nomem();
    for (int64_t i = 0; st == ST_OK && i < in->rows; i++) {
        enc_unfold(in->values + i * in->cols, e->image_side, e->patch, patches);
        st = enc_stage(&w, 0, e->table_rows, (const float *[]){ patches, segments, e->table }, NULL, x);
        if (st == ST_OK) pool(e, x, pooled);
        if (st == ST_OK) st = enc_stage(&w, 1, tokens, (const float *[]){ pooled }, NULL, out + i * tokens * e->text_hidden);
    }
    mem_free(patches);
    mem_free(segments);
    mem_free(x);
    mem_free(pooled);
    return st;
}

const encoder_family encoder_gemma3 = { "gemma3", ENCODER_IMAGE, build, n_tokens, most_rows, run };
