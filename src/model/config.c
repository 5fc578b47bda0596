#include "model/config.h"

#include <math.h>
#include <string.h>

static bool absent(const jv *v) { return jv_is(v, JV_MISSING) || jv_is(v, JV_NULL); }
bool config_absent(const jv *j, const char *name) { return absent(jv_get(j, name)); }
const char *config_either(const jv *j, const char *name, const char *other) { return config_absent(j, name) ? other : name; }

const jv *config_text(const jv *j)
{
    const jv *thinker = jv_get(j, "thinker_config"), *text = jv_get(jv_is(thinker, JV_OBJ) ? thinker : j, "text_config");
    return jv_is(text, JV_OBJ) ? text : j;
}

/* Some fields stand in the language model's part or beside it. */
static const jv *holder_of(const jv *j, const char *name)
{
    const jv *thinker = jv_get(j, "thinker_config"), *text = config_text(j);
    return !config_absent(text, name) ? text : !config_absent(j, name) ? j : thinker;
}

status config_int(const jv *j, const char *name, int64_t least, int64_t most, int64_t def, int *out)
{
    const jv *v = jv_get(j, name);
    int64_t x = def;
    if (absent(v)) {
        if (def < least) return err_set(ST_INVALID, "config.json: %s is missing", name);
    } else {
        double r = jv_f64(v, NAN);
        if (!jv_is(v, JV_INT) && !(r == floor(r) && fabs(r) < 1e15))
            return err_set(ST_INVALID, "config.json: %s is %s, expected an integer", name, jv_kind_name(jv_type(v)));
        x = jv_i64(v, 0);
        if (x < least || x > most)
            return err_set(ST_INVALID, "config.json: %s is %lld, expected %lld to %lld", name, (long long)x, (long long)least, (long long)most);
    }
    *out = (int)x;
    return ST_OK;
}

status config_real(const jv *j, const char *name, double least, double most, double def, double *out)
{
    const jv *v = jv_get(j, name);
    double x = def;
    if (absent(v)) {
        if (isnan(def)) return err_set(ST_INVALID, "config.json: %s is missing", name);
    } else {
        if (!jv_is(v, JV_INT) && !jv_is(v, JV_REAL))
            return err_set(ST_INVALID, "config.json: %s is %s, expected a number", name, jv_kind_name(jv_type(v)));
        x = jv_f64(v, NAN);
        if (!(x >= least && x <= most)) return err_set(ST_INVALID, "config.json: %s is %g, expected %g to %g", name, x, least, most);
    }
    *out = x;
    return ST_OK;
}

status config_bool(const jv *j, const char *name, bool def, bool *out)
{
    const jv *v = jv_get(j, name);
    if (jv_is(v, JV_INT)) {
        *out = jv_i64(v, 0) != 0;
        return ST_OK;
    }
    if (!absent(v) && !jv_is(v, JV_BOOL)) return err_set(ST_INVALID, "config.json: %s is %s, expected a boolean", name, jv_kind_name(jv_type(v)));
    *out = jv_bool(v, def);
    return ST_OK;
}

static status read_string(const jv *j, const char *name, const char *def, const char **out)
{
    const jv *v = jv_get(j, name);
    if (!absent(v) && !jv_is(v, JV_STR)) return err_set(ST_INVALID, "config.json: %s is %s, expected a string", name, jv_kind_name(jv_type(v)));
    *out = jv_str(v, def);
    return ST_OK;
}

status config_architecture(const jv *j, const char **out)
{
    if (!jv_is(j, JV_OBJ)) return err_set(ST_INVALID, "config.json is %s, expected an object", jv_kind_name(jv_type(j)));
    const jv *list = jv_get(j, "architectures");
    const char *name = jv_str(jv_at(list, 0), NULL);
    if (!jv_is(list, JV_ARR) || !name) return err_set(ST_INVALID, "config.json: architectures is missing or not a list of names");
    *out = name;
    return ST_OK;
}

static status read_dtype(const jv *j, dtype *out)
{
    const char *name, *key = config_either(holder_of(j, "torch_dtype"), "torch_dtype", "dtype");
    TRY(read_string(holder_of(j, key), key, "float32", &name));
    if (strncmp(name, "torch.", 6) == 0) name += 6;
    if (strcmp(name, "float32") == 0 || strcmp(name, "float") == 0) *out = DT_F32;
    else if (strcmp(name, "bfloat16") == 0) *out = DT_BF16;
    else if (strcmp(name, "float16") == 0 || strcmp(name, "half") == 0) *out = DT_F16;
    else return err_set(ST_INVALID, "config.json: torch_dtype is '%s', expected float32, bfloat16 or float16", name);
    return ST_OK;
}

static status read_tokens(const jv *j, model_config *c)
{
    const jv *eos = jv_get(holder_of(j, "eos_token_id"), "eos_token_id"), *bos = jv_get(holder_of(j, "bos_token_id"), "bos_token_id");
    if (jv_is(bos, JV_ARR)) bos = jv_at(bos, 0);
    c->bos = -1;
    if (!absent(bos)) {
        int64_t id = jv_i64(bos, -1);
        if (id < -1 || id > INT32_MAX || !jv_is(bos, JV_INT)) return err_set(ST_INVALID, "config.json: bos_token_id is no token id");
        c->bos = (int32_t)id;
    }
    size_t n = jv_is(eos, JV_ARR) ? jv_len(eos) : absent(eos) ? 0 : 1;
    if (n > CONFIG_MAX_EOS) return err_set(ST_INVALID, "config.json: eos_token_id has %zu entries, expected at most %d", n, CONFIG_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        const jv *v = jv_is(eos, JV_ARR) ? jv_at(eos, i) : eos;
        int64_t id = jv_i64(v, -2);
        if (!jv_is(v, JV_INT) || id < -1 || id > INT32_MAX) return err_set(ST_INVALID, "config.json: eos_token_id is no token id or list of them");
        if (id >= 0) c->eos[c->n_eos++] = (int32_t)id; /* -1 is how some say "none" */
    }
    return ST_OK;
}

static status read_windows(const jv *j, const config_defaults *d, model_config *c)
{
    c->layers = arena_calloc(&c->mem, (size_t)c->n_layers, sizeof *c->layers);
    if (!c->layers) return err_nomem();
    if (!d->uses_window) return ST_OK;
    int window, from = 0, pattern = d->window_pattern;
    bool missing = jv_is(jv_get(j, "sliding_window"), JV_MISSING), use = true;
    TRY(config_int(j, "sliding_window", 0, INT32_MAX, missing ? d->sliding_window : 0, &window));
    TRY(config_bool(j, "use_sliding_window", d->max_window_layers == 0, &use));
    if (d->max_window_layers > 0) TRY(config_int(j, "max_window_layers", 0, INT32_MAX, d->max_window_layers, &from));
    if (pattern) TRY(config_int(j, config_either(j, "_sliding_window_pattern", "sliding_window_pattern"), 1, CONFIG_MAX_LAYERS, pattern, &pattern));
    const jv *types = jv_get(j, "layer_types");
    if (!absent(types) && (!jv_is(types, JV_ARR) || jv_len(types) < (size_t)c->n_layers))
        return err_set(ST_INVALID, "config.json: layer_types must list a type for each of the %d layers", c->n_layers);
    for (int l = 0; l < c->n_layers; l++) {
        bool windowed = l >= from && (!pattern || (l + 1) % pattern != 0);
        if (!absent(types)) {
            const char *t = jv_str(jv_at(types, (size_t)l), "");
            windowed = strcmp(t, "sliding_attention") == 0;
            if (!windowed && strcmp(t, "full_attention") != 0)
                return err_set(ST_UNSUPPORTED, "config.json: layer_types[%d] is '%s'; supported: full_attention, sliding_attention", l, t);
        }
        c->layers[l].window = windowed && use ? window : 0;
    }
    return ST_OK;
}

static status read_activation(const jv *j, activation *out)
{
    static const struct { const char *name; activation act; } known[] = {
        { "silu", ACT_SILU }, { "swish", ACT_SILU }, { "gelu", ACT_GELU }, { "gelu_pytorch_tanh", ACT_GELU_TANH }, { "gelu_new", ACT_GELU_TANH } };
    const char *act, *key = config_either(j, "hidden_activation", "hidden_act");
    TRY(read_string(j, key, "silu", &act));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(act, known[i].name) == 0) {
            *out = known[i].act;
            return ST_OK;
        }
    return err_set(ST_UNSUPPORTED, "config.json: %s '%s' is not supported; supported: silu, swish, gelu, gelu_pytorch_tanh, gelu_new", key, act);
}

static status read_sizes(const jv *j, const config_defaults *d, model_config *c)
{
    TRY(config_int(j, "vocab_size", 1, 1 << 24, d->vocab, &c->vocab));
    TRY(config_int(j, "num_hidden_layers", 1, CONFIG_MAX_LAYERS, d->n_layers, &c->n_layers));
    TRY(config_int(j, "hidden_size", 1, 1 << 20, d->hidden, &c->hidden));
    TRY(config_int(j, "intermediate_size", 1, 1 << 22, d->intermediate, &c->intermediate));
    TRY(config_int(j, "num_attention_heads", 1, 1 << 14, d->n_heads, &c->n_heads));
    TRY(config_int(j, "num_key_value_heads", 1, 1 << 14, d->n_kv_heads ? d->n_kv_heads : c->n_heads, &c->n_kv_heads));
    if (absent(jv_get(j, "head_dim")) && !d->head_dim && c->hidden % c->n_heads)
        return err_set(ST_INVALID, "config.json: hidden_size %d is no multiple of num_attention_heads %d", c->hidden, c->n_heads);
    TRY(config_int(j, "head_dim", 1, 1 << 12, d->head_dim ? d->head_dim : c->hidden / c->n_heads, &c->head_dim));
    if (c->head_dim > 1 << 12) return err_set(ST_INVALID, "config.json: hidden_size / num_attention_heads is %d, expected at most 4096", c->head_dim);
    if (c->n_heads % c->n_kv_heads)
        return err_set(ST_INVALID, "config.json: num_attention_heads %d is no multiple of num_key_value_heads %d", c->n_heads, c->n_kv_heads);
    if ((int64_t)c->n_heads * c->head_dim > 1 << 22)
        return err_set(ST_INVALID, "config.json: num_attention_heads %d times head_dim %d is too large", c->n_heads, c->head_dim);
    TRY(config_int(j, "max_position_embeddings", 1, 1 << 30, d->max_position, &c->max_position));
    TRY(config_real(j, "rms_norm_eps", 0, 1, d->eps, &c->eps));
    TRY(config_bool(j, "attention_bias", false, &c->attention_bias));
    return config_bool(j, "mlp_bias", false, &c->mlp_bias);
}

static status parse_into(const jv *j, const config_defaults *d, model_config *c)
{
    const char *name;
    const jv *text = config_text(j);
    TRY(config_architecture(j, &name));
    c->architecture = arena_strdup(&c->mem, name);
    TRY(read_string(j, "model_type", "", &name));
    c->model_type = arena_strdup(&c->mem, name);
    if (!c->architecture || !c->model_type) return err_nomem();
    TRY(read_sizes(text, d, c));
    TRY(read_activation(text, &c->act));
    TRY(config_bool(holder_of(j, "tie_word_embeddings"), "tie_word_embeddings", d->tied, &c->tied));
    TRY(read_windows(text, d, c));
    TRY(read_dtype(j, &c->torch_dtype));
    TRY(read_tokens(j, c));
    c->attention_scale = 1 / sqrt((double)c->head_dim);
    TRY(config_parse_rope(text, d->rope_theta > 0 ? d->rope_theta : 10000, c));
    return d->read ? d->read(text, c) : ST_OK;
}

status config_parse(const jv *j, const config_defaults *d, model_config *out)
{
    *out = (model_config){ 0 };
    status st = parse_into(j, d, out);
    if (st != ST_OK) config_free(out);
    return st;
}

void config_free(model_config *c)
{
    arena_free(&c->mem);
    *c = (model_config){ 0 };
}
