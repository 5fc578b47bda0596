/* The audio tower of Qwen3-Omni (Xu et al. 2025, arXiv:2509.17765): the features are cut into chunks of a second, each goes through three convolutions
 * of 3 x 3 with stride 2 and a projection, gets sinusoidal positions that start anew with it, and all go through a transformer whose tokens see those of
 * n_window_infer frames around them (blocks, not a sliding window).
 *
 * Stages 0..2: the convolutions as products of 3 x 3 neighbourhoods; 3: the rest. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/encoder_int.h"

static int halved(int n) { return (n - 1) / 2 + 1; }

static tensor block(enc *n, tensor x, tensor segments)
{
    const int64_t d = n->e->hidden;
    tensor y = enc_layer_norm(n, x, "self_attn_layer_norm", 1e-5);
    y = enc_attention(n, enc_linear(n, y, "self_attn.q_proj", d, true), enc_linear(n, y, "self_attn.k_proj", d, true), enc_linear(n, y, "self_attn.v_proj", d, true),
                      NO_TENSOR, false, segments);
    x = enc_add(n, x, enc_linear(n, y, "self_attn.out_proj", d, true));
    y = enc_linear(n, enc_layer_norm(n, x, "final_layer_norm", 1e-5), "fc1", n->e->mlp, true);
    return enc_add(n, x, enc_linear(n, enc_act(n, y, ACT_GELU), "fc2", d, true));
}

static int bands(const encoder *e) { return halved(halved(halved(e->mels))); }

static status build(encoder *e, const jv *config)
{
    const jv *a = jv_get(jv_get(config, "thinker_config"), "audio_config");
    int half, seen;
    enc n;
    TRY(enc_int(a, "audio_config", "d_model", 1 << 16, 1280, &e->hidden));
    TRY(enc_int(a, "audio_config", "encoder_layers", 1024, 32, &e->layers));
    TRY(enc_int(a, "audio_config", "encoder_attention_heads", 1024, 20, &e->n_heads));
    TRY(enc_int(a, "audio_config", "encoder_ffn_dim", 1 << 18, 5120, &e->mlp));
    TRY(enc_int(a, "audio_config", "num_mel_bins", 1024, 128, &e->mels));
    TRY(enc_int(a, "audio_config", "downsample_hidden_size", 1 << 14, 480, &e->channels));
    TRY(enc_int(a, "audio_config", "n_window", 1 << 14, 50, &half));
    TRY(enc_int(a, "audio_config", "n_window_infer", 1 << 18, 800, &seen));
    TRY(enc_int(a, "audio_config", "output_dim", 1 << 16, 2048, &e->text_hidden));
    e->chunk = 2 * half;
    e->chunks_seen = seen / e->chunk;
    if (e->hidden % e->n_heads || e->hidden % 2 || e->hidden < 4 || e->chunks_seen < 1)
        return err_set(ST_INVALID, "config.json: audio_config: %d heads of %d, n_window %d and n_window_infer %d do not come out even", e->n_heads, e->hidden, half, seen);
    e->head_dim = e->hidden / e->n_heads;
    for (int k = 0; k < 3; k++) {
        static const char *const names[] = { "conv2d1", "conv2d2", "conv2d3" };
        TRY(enc_begin(e, &n));
        n.prefix = "audio_tower.";
        tensor x = enc_input(&n, 9 * (k ? e->channels : 1));
        TRY(enc_end(&n, enc_act(&n, enc_linear(&n, x, names[k], e->channels, true), ACT_GELU)));
    }
    TRY(enc_begin(e, &n));
    tensor x = enc_input(&n, (int64_t)e->channels * bands(e)), segments = enc_input(&n, 1);
    n.prefix = "audio_tower.";
    x = enc_add(&n, enc_linear(&n, x, "conv_out", e->hidden, false), enc_input(&n, e->hidden));
    n.prefix = "audio_tower.layers.%d.";
    for (int l = 0; l < e->layers; l++) {
        enc_layer(&n, l);
        x = block(&n, x, segments);
    }
    enc_layer(&n, -1);
    n.prefix = "audio_tower.";
    x = enc_linear(&n, enc_layer_norm(&n, x, "ln_post", 1e-5), "proj1", e->hidden, true);
    return enc_end(&n, enc_linear(&n, enc_act(&n, x, ACT_GELU), "proj2", e->text_hidden, true));
}

/* Tokens of the first n frames of a chunk. */
static int chunk_tokens(int n) { return halved(halved(halved(n))); }

static status n_tokens(const encoder *e, const encoder_input *in, int64_t *out)
{
    if (in->rows != e->mels || in->cols < 1)
        return err_set(ST_INVALID, "features of %lld bands do not fit the audio encoder (%d): preprocessor_config.json and config.json disagree", (long long)in->rows, e->mels);
    const int rest = (int)(in->cols % e->chunk);
    *out = in->cols / e->chunk * chunk_tokens(e->chunk) + (rest ? chunk_tokens(rest) : 0);
    return ST_OK;
}

/* Convolutions run chunk by chunk. */
static int64_t most_rows(const encoder *e, int stage, int64_t tokens)
{
    int h = e->mels, t = e->chunk;
    if (stage == 3) return tokens;
    for (int k = 0; k <= stage; k++) h = halved(h), t = halved(t);
    return (int64_t)h * t;
}

/* 3 x 3 neighbourhoods with stride 2 and a border of zeros: x [h][t][c] -> out [h'][t'][c * 9], kernel positions last. */
static void neighbourhoods(const float *x, int h, int t, int c, float *out)
{
    for (int y = 0; y < halved(h); y++)
        for (int z = 0; z < halved(t); z++, out += (ptrdiff_t)9 * c)
            for (int k = 0; k < 9; k++) {
                const int sy = 2 * y - 1 + k / 3, sz = 2 * z - 1 + k % 3;
                const bool inside = sy >= 0 && sy < h && sz >= 0 && sz < t;
                const float *src = x + ((ptrdiff_t)sy * t + sz) * c;
                for (int i = 0; i < c; i++) out[i * 9 + k] = inside ? src[i] : 0;
            }
}

typedef struct chunk_work { float *x, *near; } chunk_work;

/* One chunk of `frames` frames, zeros up to `width`: its tokens' rows [channels * bands]. */
static status convolve(const encoder *e, const enc_work *w, const chunk_work *c, const encoder_input *in, int64_t from, int frames, int width, float *rows)
{
    int h = e->mels, t = width;
    for (int y = 0; y < h; y++)
        for (int z = 0; z < t; z++) c->x[y * t + z] = z < frames ? in->values[y * in->cols + from + z] : 0;
    for (int k = 0; k < 3; k++) {
        neighbourhoods(c->x, h, t, k ? e->channels : 1, c->near);
        h = halved(h), t = halved(t);
        TRY(enc_stage(w, k, (int64_t)h * t, (const float *[]){ c->near }, NULL, c->x));
    }
    for (int z = 0; z < chunk_tokens(frames); z++)
        for (int i = 0; i < e->channels; i++)
            for (int y = 0; y < h; y++) *rows++ = c->x[((ptrdiff_t)y * t + z) * e->channels + i];
    return ST_OK;
}

/* Sine and cosine of place p at geometrically falling rates. */
static void sinusoid(int p, int d, float *out)
{
    const float fall = logf(10000.0f) / (float)(d / 2 - 1);
    for (int i = 0; i < d / 2; i++) {
        const float a = (float)p * expf(-fall * (float)i);
        out[i] = sinf(a);
        out[d / 2 + i] = cosf(a);
    }
}

static status run(const encoder *e, const encoder_input *in, encoder_step *step, void *arg, float *out)
{
    const enc_work w = { e, step, arg };
    const int width = in->cols < e->chunk ? (int)in->cols : e->chunk, wide = e->channels * bands(e);
    int64_t n, at = 0;
    TRY(n_tokens(e, in, &n));
    const size_t area = (size_t)(halved(e->mels) * halved(width)), room = (area > (size_t)(e->mels * width) ? area : (size_t)(e->mels * width)) * (size_t)e->channels;
    chunk_work c = { mem_array(room + (size_t)(e->mels * width), sizeof(float)), mem_array(area * 9, (size_t)e->channels * sizeof(float)) };
    float *rows = mem_array((size_t)n, (size_t)wide * sizeof *rows), *segments = mem_array((size_t)n, sizeof *segments), *pos = mem_array((size_t)n, (size_t)e->hidden * sizeof *pos);
    status st = c.x && c.near && rows && segments && pos ? ST_OK : err_nomem();
    const int seen = chunk_tokens(width) * e->chunks_seen;
    for (int64_t from = 0; st == ST_OK && from < in->cols; from += e->chunk) {
        const int frames = in->cols - from < e->chunk ? (int)(in->cols - from) : e->chunk;
        st = convolve(e, &w, &c, in, from, frames, width, rows + at * wide);
        for (int i = 0; st == ST_OK && i < chunk_tokens(frames); i++, at++) {
            sinusoid(i, e->hidden, pos + at * e->hidden);
            segments[at] = (float)(at / seen);
        }
    }
    if (st == ST_OK) st = enc_stage(&w, 3, n, (const float *[]){ rows, segments, pos }, NULL, out);
    mem_free(c.x);
    mem_free(c.near);
    mem_free(rows);
    mem_free(segments);
    mem_free(pos);
    return st;
}

const encoder_family encoder_qwen3_omni_audio = { "qwen3_omni_moe", ENCODER_AUDIO, build, n_tokens, most_rows, run };
