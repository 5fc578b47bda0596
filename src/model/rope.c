/* Frequencies of rotary embeddings, as transformers computes them (modeling_rope_utils.py): default, linear, llama3, yarn
 * (Peng et al. 2023, arXiv:2309.00071) and longrope (Ding et al. 2024, arXiv:2402.13753), and the sections of multimodal rope
 * (Wang et al. 2024, arXiv:2409.12191), which keep the plain frequencies. Arithmetic is in float32 where theirs is. Both spellings are read: rope_theta with rope_scaling {type | rope_type}, and rope_parameters. */
#include <math.h>
#include <string.h>

#include "model/config.h"

typedef struct rope_input {
    const jv *r;          /* rope_scaling or rope_parameters; NULL = none */
    const char *type;
    double theta;
    int rot, half;
    double max_position;
    double original;      /* original_max_position_embeddings; 0 = not given */
} rope_input;

static const double two_pi = 6.283185307179586;

/* theta^(2i/rot), in float32 */
static float base_power(const rope_input *in, int i) { return (float)pow(in->theta, (double)((float)(2 * i) / (float)in->rot)); }

static void plain(const rope_input *in, float *f)
{
    for (int i = 0; i < in->half; i++) f[i] = 1.0f / base_power(in, i);
}

static status linear(const rope_input *in, rope_config *out, float *f)
{
    double factor;
    TRY(config_real(in->r, "factor", 1e-3, 1e6, NAN, &factor));
    plain(in, f);
    for (int i = 0; i < in->half; i++) f[i] /= (float)factor;
    out->max_len = in->max_position * factor;
    return ST_OK;
}

static status llama3(const rope_input *in, float *f)
{
    double factor, low, high;
    TRY(config_real(in->r, "factor", 1e-3, 1e6, NAN, &factor));
    TRY(config_real(in->r, "low_freq_factor", 1e-6, 1e6, NAN, &low));
    TRY(config_real(in->r, "high_freq_factor", 1e-6, 1e6, NAN, &high));
    if (high < low) return err_set(ST_INVALID, "config.json: high_freq_factor %g is below low_freq_factor %g", high, low);
    if (in->original == 0) return err_set(ST_INVALID, "config.json: original_max_position_embeddings is missing");
    plain(in, f);
    float old = (float)in->original;
    for (int i = 0; i < in->half; i++) {
        float wavelen = (float)two_pi / f[i];
        if (wavelen > (float)(in->original / low)) {
            f[i] /= (float)factor;
        } else if (!(wavelen < (float)(in->original / high))) {
            /* Llama 4 Scout has no band between: both factors are 1 */
            float smooth = high > low ? (old / wavelen - (float)low) / (float)(high - low) : 1;
            f[i] = (1 - smooth) * f[i] / (float)factor + smooth * f[i];
        }
    }
    return ST_OK;
}

static double yarn_mscale(double scale, double mscale) { return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1; }

/* The dimension that turns `turns` times over the original context. */
static double yarn_dim(const rope_input *in, double turns, double context)
{
    return in->rot * log(context / (turns * two_pi)) / (2 * log(in->theta));
}

static status yarn(const rope_input *in, rope_config *out, float *f)
{
    double context = in->original > 0 ? in->original : in->max_position, factor, fast, slow, mscale, mscale_all, attention;
    TRY(config_real(in->r, "factor", 1e-3, 1e6, in->original > 0 ? in->max_position / in->original : NAN, &factor));
    TRY(config_real(in->r, "beta_fast", 1e-6, 1e6, 32, &fast));
    TRY(config_real(in->r, "beta_slow", 1e-6, 1e6, 1, &slow));
    TRY(config_real(in->r, "mscale", 0, 1e6, 0, &mscale));
    TRY(config_real(in->r, "mscale_all_dim", 0, 1e6, 0, &mscale_all));
    double own = mscale != 0 && mscale_all != 0 ? yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all) : yarn_mscale(factor, 1);
    TRY(config_real(in->r, "attention_factor", 1e-6, 1e6, own, &attention));
    double low = yarn_dim(in, fast, context), high = yarn_dim(in, slow, context);
    if (jv_get_bool(in->r, "truncate", true)) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < in->rot - 1 ? high : in->rot - 1;
    if (low == high) high += 0.001;
    for (int i = 0; i < in->half; i++) {
        float power = base_power(in, i), ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
        f[i] = 1.0f / ((float)factor * power) * (1 - keep) + 1.0f / power * keep;
    }
    out->scale[0] = (float)attention;
    out->max_len = context * factor;
    return ST_OK;
}

static status read_factors(const rope_input *in, const char *name, float *f)
{
    const jv *list = jv_get(in->r, name);
    if (!jv_is(list, JV_ARR) || jv_len(list) != (size_t)in->half)
        return err_set(ST_INVALID, "config.json: %s must be a list of %d numbers", name, in->half);
    for (int i = 0; i < in->half; i++) {
        double x = jv_f64(jv_at(list, (size_t)i), NAN);
        if (!(x >= 1e-6 && x <= 1e9)) return err_set(ST_INVALID, "config.json: %s[%d] is no positive number", name, i);
        f[i] = 1.0f / ((float)x * base_power(in, i));
    }
    return ST_OK;
}

static status longrope(const rope_input *in, rope_config *out, float *f)
{
    double factor, attention, original = in->original > 0 ? in->original : in->max_position;
    TRY(config_real(in->r, "factor", 1e-3, 1e6, 1, &factor));
    if (in->original > 0) factor = in->max_position / in->original;
    double own = factor <= 1 || original <= 1 ? 1 : sqrt(1 + log(factor) / log(original));
    TRY(config_real(in->r, "attention_factor", 1e-6, 1e6, own, &attention));
    TRY(read_factors(in, "short_factor", f));
    TRY(read_factors(in, "long_factor", f + in->half));
    out->n_variants = 2;
    for (int i = 0; i < 2; i++) {
        double mscale;
        TRY(config_real(in->r, i ? "long_mscale" : "short_mscale", 1e-6, 1e6, attention, &mscale));
        out->scale[i] = (float)mscale;
    }
    out->switch_len = (int)original;
    return ST_OK;
}

static status read_input(const jv *j, const jv *params, double theta, const model_config *c, rope_input *in)
{
    in->r = jv_is(params, JV_OBJ) ? params : NULL;
    if (!in->r && params && !jv_is(params, JV_MISSING) && !jv_is(params, JV_NULL))
        return err_set(ST_INVALID, "config.json: rope_scaling is %s, expected an object", jv_kind_name(jv_type(params)));
    const char *type = jv_get_str(in->r, "rope_type", jv_get_str(in->r, "type", NULL));
    if (in->r && !type && in->r == jv_get(j, "rope_scaling")) return err_set(ST_INVALID, "config.json: rope_scaling has no rope_type");
    in->type = type ? type : "default";
    if (strcmp(in->type, "su") == 0) in->type = "longrope"; /* its first name */
    double partial;
    TRY(config_real(in->r, "rope_theta", 1, 1e15, theta, &in->theta));
    TRY(config_real(j, "partial_rotary_factor", 0, 1, 1, &partial));
    TRY(config_real(in->r, "partial_rotary_factor", 0, 1, partial, &partial));
    in->rot = (int)(c->head_dim * partial);
    if (in->rot < 2 || in->rot % 2)
        return err_set(ST_INVALID, "config.json: head_dim %d with partial_rotary_factor %g rotates %d elements, expected an even number", c->head_dim, partial, in->rot);
    in->half = in->rot / 2;
    in->max_position = c->max_position;
    double top;
    TRY(config_real(j, "original_max_position_embeddings", 1, 1 << 30, 0, &top));
    return config_real(in->r, "original_max_position_embeddings", 1, 1 << 30, top, &in->original);
}

/* mrope_section: how many frequencies follow a position's time, height and width. */
static status read_sections(const rope_input *in, rope_config *out)
{
    const jv *list = jv_get(in->r, "mrope_section");
    if (jv_is(list, JV_MISSING) || jv_is(list, JV_NULL)) return ST_OK;
    int64_t n[3], sum = 0;
    for (int i = 0; i < 3; i++) {
        n[i] = jv_i64(jv_at(list, (size_t)i), -1);
        if (n[i] >= 0 && n[i] <= in->half) sum += n[i];
        else sum = -1, i = 3;
    }
    if (sum != in->half || jv_len(list) != 3)
        return err_set(ST_INVALID, "config.json: mrope_section must be three numbers that add up to %d", in->half);
    out->height = (int)n[1];
    out->width = (int)n[2];
    out->mrope_interleaved = jv_get_bool(in->r, "mrope_interleaved", false);
    return ST_OK;
}

status config_parse_rope(const jv *j, double theta, model_config *c)
{
    const jv *params = jv_get(j, "rope_parameters"), *scaling = jv_get(j, "rope_scaling");
    TRY(config_real(j, "rope_theta", 1, 1e15, theta, &theta));
    c->n_ropes = 1;
    return config_rope(j, jv_is(params, JV_OBJ) ? params : scaling, theta, c, &c->ropes[0]);
}

status config_rope(const jv *j, const jv *params, double theta, model_config *c, rope_config *rope)
{
    rope_input in = { 0 };
    TRY(read_input(j, params, theta, c, &in));
    float *f = arena_alloc(&c->mem, 2 * (size_t)in.half * sizeof *f);
    if (!f) return err_nomem();
    rope_config out = { .rot = in.rot, .n_variants = 1, .scale = { 1, 1 }, .inv_freq = f, .max_len = c->max_position };
    if (strcmp(in.type, "default") == 0) plain(&in, f), out.type = "default";
    else if (strcmp(in.type, "mrope") == 0) plain(&in, f), out.type = "mrope";
    else if (strcmp(in.type, "linear") == 0) { TRY(linear(&in, &out, f)); out.type = "linear"; }
    else if (strcmp(in.type, "llama3") == 0) { TRY(llama3(&in, f)); out.type = "llama3"; }
    else if (strcmp(in.type, "yarn") == 0) { TRY(yarn(&in, &out, f)); out.type = "yarn"; }
    else if (strcmp(in.type, "longrope") == 0) { TRY(longrope(&in, &out, f)); out.type = "longrope"; }
    else return err_set(ST_UNSUPPORTED, "config.json: rope_type '%s' is not supported; supported: default, linear, llama3, yarn, longrope, mrope", in.type);
    if (!(out.max_len >= 1)) return err_set(ST_INVALID, "config.json: the derived context length is %g", out.max_len);
    if (out.max_len > 1 << 30) out.max_len = 1 << 30;
    TRY(read_sections(&in, &out));
    *rope = out;
    return ST_OK;
}
