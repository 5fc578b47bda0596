/* quant_method and what it needs: awq and gptq (AutoAWQ, AutoGPTQ), compressed-tensors, fp8 (DeepSeek, Qwen, vLLM), mxfp4 (gpt-oss),
 * modelopt (FP8). Rules are tried in order; what none matches, and what is ignored, is stored as it is. */
#include "model/quantization.h"

#include <regex.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/log.h"
#include "base/mem.h"

enum { MAX_RULES = 64, MAX_PATTERNS = 65536, MAX_PATTERN = 256 };

typedef struct pattern { const char *text; regex_t *regex; } pattern;
typedef struct patterns { pattern *at; size_t n; } patterns;
typedef struct rule { patterns targets; quant_module module; } rule;

struct quantization {
    arena mem;
    char method[32];
    rule rules[MAX_RULES];
    int n_rules;
    patterns ignored;
    bool head;              /* the head is quantised too, unless it is ignored */
    bool experts_only;
};

/* ---- patterns: module names, parts of them, or "re:" and a Python expression ---- */

/* What Python and POSIX write differently. Expressions that could take for ever, or mean something else, are refused. */
static status translate(const char *from, char *to, size_t cap)
{
    size_t n = (size_t)snprintf(to, cap, "^(");
    int depth = 0;
    for (const char *p = from; *p; p++) {
        if (n + 8 > cap) return err_set(ST_LIMIT, "the expression '%.60s...' in quantization_config is too long", from);
        if (p[0] == '(' && p[1] == '?' && p[2] == ':') p += 2, to[n++] = '(', depth++;
        else if (p[0] == '\\' && p[1] == 'd') p++, n += (size_t)snprintf(to + n, cap - n, "[0-9]");
        else if ((p[0] == '(' && p[1] == '?') || p[0] == '{' || (p[0] == '\\' && (p[1] == 0 || (p[1] >= '0' && p[1] <= '9'))) || (p[0] == '?' && p > from && strchr("*+?", p[-1])))
            return err_set(ST_UNSUPPORTED, "quantization_config: the expression 're:%.100s' uses what is not supported: %.3s", from, p);
        else if (p[0] == '\\') to[n++] = *p++, to[n++] = *p;
        else {
            if (*p == '(') depth++;
            to[n++] = *p;
        }
    }
    if (depth > 16) return err_set(ST_LIMIT, "quantization_config: the expression 're:%.60s' is nested too deeply", from);
    to[n++] = ')';
    to[n] = 0;
    return ST_OK;
}

static status compile(quantization *q, pattern *p)
{
    char posix[MAX_PATTERN * 5];
    if (strncmp(p->text, "re:", 3) != 0) return ST_OK;
    TRY(translate(p->text + 3, posix, sizeof posix));
    regex_t *r = arena_calloc(&q->mem, 1, sizeof *r);
    if (!r) return err_nomem();
    int bad = regcomp(r, posix, REG_EXTENDED | REG_NOSUB);
    if (bad == REG_ESPACE) return err_nomem();
    if (bad) return err_set(ST_UNSUPPORTED, "quantization_config: '%.100s' is no expression that is supported", p->text);
    p->regex = r;
    return ST_OK;
}

static status read_patterns(quantization *q, const jv *list, const char *field, patterns *out)
{
    if (jv_is(list, JV_MISSING) || jv_is(list, JV_NULL)) return ST_OK;
    if (!jv_is(list, JV_ARR)) return err_set(ST_INVALID, "quantization_config: %s is %s, expected a list of names", field, jv_kind_name(jv_type(list)));
    size_t n = jv_len(list);
    if (n > MAX_PATTERNS) return err_set(ST_LIMIT, "quantization_config: %s has %zu entries, expected at most %d", field, n, MAX_PATTERNS);
    out->at = arena_calloc(&q->mem, n + 1, sizeof *out->at);
    if (!out->at) return err_nomem();
    for (size_t i = 0; i < n; i++) {
        const char *s = jv_str(jv_at(list, i), NULL);
        if (!s) return err_set(ST_INVALID, "quantization_config: %s[%zu] is %s, expected a name", field, i, jv_kind_name(jv_type(jv_at(list, i))));
        if (strlen(s) > MAX_PATTERN) return err_set(ST_LIMIT, "quantization_config: %s[%zu] is longer than %d bytes", field, i, MAX_PATTERN);
        out->at[i].text = arena_strdup(&q->mem, s);
        if (!out->at[i].text) return err_nomem();
        out->n = i + 1;
        TRY(compile(q, &out->at[i]));
    }
    return ST_OK;
}

/* Is `part` in `name` as whole components? "mlp.gate" is in "model.layers.0.mlp.gate", not in "model.layers.0.mlp.gate_proj". */
static bool has_components(const char *name, const char *part)
{
    size_t n = strlen(part);
    if (n == 0) return false;
    for (const char *at = strstr(name, part); at; at = strstr(at + 1, part))
        if ((at == name || at[-1] == '.') && (at[n] == 0 || at[n] == '.')) return true;
    return false;
}

static bool matches(const pattern *p, const char *name)
{
    if (p->regex) return regexec(p->regex, name, 0, NULL, 0) == 0;
    return has_components(name, p->text);
}

/* Names vary: a decoder nested in a multimodal model, and what other engines fuse. */
static bool matches_any(const patterns *list, const char *module)
{
    static const struct { const char *own, *fused; } fusions[] = {
        { "q_proj", "qkv_proj" }, { "k_proj", "qkv_proj" }, { "v_proj", "qkv_proj" }, { "gate_proj", "gate_up_proj" }, { "up_proj", "gate_up_proj" } };
    char other[4][QUANT_NAME_MAX];
    const char *last = strrchr(module, '.');
    int n = 0;
    snprintf(other[n++], sizeof other[0], "%s", module);
    snprintf(other[n++], sizeof other[0], "language_model.%s", module);
    if (strncmp(module, "model.", 6) == 0) snprintf(other[n++], sizeof other[0], "model.language_model.%s", module + 6);
    for (size_t i = 0; last && i < sizeof fusions / sizeof *fusions; i++)
        if (strcmp(last + 1, fusions[i].own) == 0) snprintf(other[n++], sizeof other[0], "%.*s%s", (int)(last + 1 - module), module, fusions[i].fused);
    for (size_t i = 0; i < list->n; i++)
        for (int k = 0; k < n; k++)
            if (matches(&list->at[i], other[k])) return true;
    return false;
}

/* ---- fields ---- */

static status unsupported(const char *field, const char *value, const char *known)
{
    return err_set(ST_UNSUPPORTED, "config.json: quantization_config has %s '%.60s'; supported: %s", field, value, known);
}

static status need_bits(const jv *j, const char *field, int64_t want, const char *what)
{
    int64_t bits = jv_get_i64(j, field, -1);
    if (bits == want) return ST_OK;
    return err_set(ST_UNSUPPORTED, "config.json: quantization_config has %s %lld for %s; supported: %lld", field, (long long)bits, what, (long long)want);
}

/* -1 and null: all inputs share a scale. */
static status read_group(const jv *j, const char *field, int *out)
{
    const jv *v = jv_get(j, field);
    int64_t g = jv_i64(v, jv_is(v, JV_NULL) || jv_is(v, JV_MISSING) ? -1 : 0);
    if (g != -1 && (g < 16 || g > 16384 || (g & (g - 1))))
        return err_set(ST_UNSUPPORTED, "config.json: quantization_config has %s %lld; supported: -1 and powers of two from 16 to 16384", field, (long long)g);
    *out = g == -1 ? 0 : (int)g;
    return ST_OK;
}

static status add_rule(quantization *q, const quant_module *m, rule **out)
{
    if (q->n_rules == MAX_RULES) return err_set(ST_LIMIT, "config.json: quantization_config has more than %d groups", MAX_RULES);
    q->rules[q->n_rules] = (rule){ .module = *m };
    if (out) *out = &q->rules[q->n_rules];
    q->n_rules++;
    return ST_OK;
}

/* ---- awq, gptq, fp8, mxfp4, modelopt: one rule for all linears ---- */

static status parse_awq(quantization *q, const jv *j)
{
    quant_module m = { .format = QUANT_FORMAT_AWQ };
    const char *version = jv_get_str(j, "version", "gemm");
    TRY(need_bits(j, jv_is(jv_get(j, "bits"), JV_MISSING) ? "w_bit" : "bits", 4, "awq"));
    TRY(read_group(j, jv_is(jv_get(j, "group_size"), JV_MISSING) ? "q_group_size" : "group_size", &m.group));
    if (strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0) return unsupported("version", version, "gemm");
    if (!jv_get_bool(j, "zero_point", true)) return unsupported("zero_point", "false", "true");
    m.scheme = quant_stored((quant_info){ .type = DT_I4, .group = m.group, .zeros = true });
    TRY(read_patterns(q, jv_get(j, "modules_to_not_convert"), "modules_to_not_convert", &q->ignored));
    return add_rule(q, &m, NULL);
}

static status parse_gptq(quantization *q, const jv *j)
{
    quant_module m = { .format = QUANT_FORMAT_GPTQ };
    const char *version = jv_get_str(j, "checkpoint_format", "gptq");
    TRY(need_bits(j, "bits", 4, "gptq"));
    TRY(read_group(j, "group_size", &m.group));
    if (strcmp(version, "gptq") != 0 && strcmp(version, "gptq_v2") != 0) return unsupported("checkpoint_format", version, "gptq, gptq_v2");
    if (jv_len(jv_get(j, "dynamic"))) return unsupported("dynamic", "...", "no rules per module");
    m.zeros_less_one = strcmp(version, "gptq") == 0;
    q->head = jv_get_bool(j, "lm_head", false);
    m.scheme = quant_stored((quant_info){ .type = DT_I4, .group = m.group, .zeros = true, .ordered = jv_get_bool(j, "desc_act", false) && m.group });
    TRY(read_patterns(q, jv_get(j, "modules_to_not_convert"), "modules_to_not_convert", &q->ignored));
    return add_rule(q, &m, NULL);
}

/* [rows, columns] of a block; columns as scales of groups go. */
static status read_block(const jv *list, const char *field, quant_module *m)
{
    int64_t rows = jv_i64(jv_at(list, 0), 0), cols = jv_i64(jv_at(list, 1), 0);
    if (jv_len(list) != 2 || rows < 1 || rows > 1 << 20) return err_set(ST_INVALID, "config.json: quantization_config: %s is not two sizes", field);
    if (cols != 128) return err_set(ST_UNSUPPORTED, "config.json: quantization_config: %s has %lld columns; supported: 128", field, (long long)cols);
    m->format = QUANT_FORMAT_BLOCK;
    m->block_out = (int)rows, m->block_in = (int)cols, m->group = (int)cols;
    return ST_OK;
}

static status parse_fp8(quantization *q, const jv *j)
{
    quant_module m = { .format = QUANT_FORMAT_CHANNEL };
    const char *act = jv_get_str(j, "activation_scheme", "dynamic"), *fmt = jv_get_str(j, "fmt", "e4m3");
    bool fixed = strcmp(act, "static") == 0, block = jv_is(jv_get(j, "weight_block_size"), JV_ARR);
    if (!fixed && strcmp(act, "dynamic") != 0) return unsupported("activation_scheme", act, "dynamic, static");
    if (strcmp(fmt, "e4m3") != 0) return unsupported("fmt", fmt, "e4m3");
    if (block && fixed) return unsupported("activation_scheme", act, "dynamic (with weight_block_size)");
    if (block) TRY(read_block(jv_get(j, "weight_block_size"), "weight_block_size", &m));
    quant_act a = block ? QUANT_ACT_FP8_G128 : fixed ? QUANT_ACT_FP8_STATIC : QUANT_ACT_FP8;
    m.scheme = quant_stored((quant_info){ .type = DT_F8E4M3, .group = m.group, .act = a });
    const char *list = jv_is(jv_get(j, "ignored_layers"), JV_ARR) ? "ignored_layers" : "modules_to_not_convert";
    TRY(read_patterns(q, jv_get(j, list), list, &q->ignored));
    return add_rule(q, &m, NULL);
}

static const quant_module mxfp4 = { .format = QUANT_FORMAT_MXFP4, .group = 32 };

static status add_mxfp4(quantization *q, rule **out)
{
    quant_module m = mxfp4;
    m.scheme = quant_stored((quant_info){ .type = DT_F4E2M1, .group = 32 });
    return add_rule(q, &m, out);
}

/* gpt-oss: experts alone, whatever else is listed. */
static status parse_mxfp4(quantization *q, const jv *j)
{
    q->experts_only = true;
    TRY(read_patterns(q, jv_get(j, "modules_to_not_convert"), "modules_to_not_convert", &q->ignored));
    return add_mxfp4(q, NULL);
}

static status parse_modelopt(quantization *q, const jv *j)
{
    if (jv_is(jv_get(j, "quantization"), JV_OBJ)) j = jv_get(j, "quantization");
    const char *algo = jv_get_str(j, "quant_algo", "?"), *list = jv_is(jv_get(j, "exclude_modules"), JV_ARR) ? "exclude_modules" : "ignore";
    if (strcmp(algo, "FP8") != 0) return unsupported("quant_algo", algo, "FP8");
    quant_module m = { .format = QUANT_FORMAT_CHANNEL, .scheme = quant_stored((quant_info){ .type = DT_F8E4M3, .act = QUANT_ACT_FP8_STATIC }) };
    const char *kv = jv_get_str(j, "kv_cache_quant_algo", "");
    if (*kv && strcmp(kv, "FP8") != 0) return unsupported("kv_cache_quant_algo", kv, "FP8");
    TRY(read_patterns(q, jv_get(j, list), list, &q->ignored));
    return add_rule(q, &m, NULL);
}

/* ---- compressed-tensors ---- */

/* One of weights, input_activations. */
typedef struct args { bool given, floating, symmetric, dynamic; int64_t bits; const char *strategy, *order; const jv *j; } args;

static args args_of(const jv *j)
{
    const char *order = jv_get_str(j, "actorder", NULL);
    if (!order) order = jv_get_bool(j, "actorder", false) ? "group" : "";
    return (args){ jv_is(j, JV_OBJ), strcmp(jv_get_str(j, "type", "int"), "float") == 0, jv_get_bool(j, "symmetric", true), jv_get_bool(j, "dynamic", false),
                   jv_get_i64(j, "num_bits", 8), jv_get_str(j, "strategy", ""), order, j };
}

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static status refuse(const char *group, const args *a, const char *what, const char *format)
{
    return err_set(ST_UNSUPPORTED, "config.json: quantization_config.%s: %s of %lld bits (%s, strategy '%.30s', %s, %s) are not supported in format '%.40s'", group, what, (long long)a->bits,
                   a->floating ? "float" : "int", a->strategy, a->symmetric ? "symmetric" : "asymmetric", a->dynamic ? "dynamic" : "static", format);
}

/* The rule for activations of 8 bits that go with values of this type. */
static status activations(const char *group, const args *a, bool floating, const char *format, quant_act *out)
{
    bool right = a->bits == 8 && a->symmetric && a->floating == floating;
    if (right && a->dynamic && is(a->strategy, "token")) *out = floating ? QUANT_ACT_FP8 : QUANT_ACT_INT8;
    else if (right && !a->dynamic && is(a->strategy, "tensor")) *out = floating ? QUANT_ACT_FP8_STATIC : QUANT_ACT_INT8_STATIC;
    else return refuse(group, a, "input_activations", format);
    return ST_OK;
}

static status packed_group(const char *group, const args *w, const char *format, quant_module *m)
{
    bool grouped = is(w->strategy, "group"), ordered = is(w->order, "group");
    if (w->floating || w->bits != 4 || (!grouped && !is(w->strategy, "channel"))) return refuse(group, w, "weights", format);
    m->format = QUANT_FORMAT_PACKED;
    if (grouped) TRY(read_group(w->j, "group_size", &m->group));
    if (grouped && !m->group) return refuse(group, w, "weights", format);
    m->scheme = quant_stored((quant_info){ .type = DT_I4, .group = m->group, .zeros = !w->symmetric, .ordered = ordered && grouped });
    return ST_OK;
}

/* Int-quantized checkpoints multiply int8 by int8: where activations are left out they are dynamic, per token. */
static status int8_group(const char *group, const args *w, const args *a, const char *format, quant_module *m)
{
    quant_act act = QUANT_ACT_INT8;
    if (w->floating || w->bits != 8 || !w->symmetric || (!is(w->strategy, "channel") && !is(w->strategy, "tensor"))) return refuse(group, w, "weights", format);
    if (a->given) TRY(activations(group, a, false, format, &act));
    m->format = QUANT_FORMAT_CHANNEL;
    m->scheme = quant_stored((quant_info){ .type = DT_I8, .act = act });
    return ST_OK;
}

static status fp8_group(const char *group, const args *w, const args *a, const char *format, quant_module *m)
{
    quant_act act = QUANT_ACT_NONE;
    if (!w->floating || w->bits != 8 || !w->symmetric) return refuse(group, w, "weights", format);
    if (is(w->strategy, "block")) {
        TRY(read_block(jv_get(w->j, "block_structure"), "block_structure", m));
        if (a->given && !(a->floating && a->bits == 8 && a->dynamic && is(a->strategy, "group") && jv_get_i64(a->j, "group_size", 0) == 128))
            return refuse(group, a, "input_activations", format);
        act = a->given ? QUANT_ACT_FP8_G128 : QUANT_ACT_NONE;
    } else {
        if (!is(w->strategy, "channel") && !is(w->strategy, "tensor")) return refuse(group, w, "weights", format);
        m->format = QUANT_FORMAT_CHANNEL;
        if (a->given) TRY(activations(group, a, true, format, &act));
    }
    m->scheme = quant_stored((quant_info){ .type = DT_F8E4M3, .group = m->group, .act = act });
    return ST_OK;
}

static status fp4_group(const char *group, const args *w, const args *a, const char *format, quant_module *m)
{
    bool nv = is(format, "nvfp4-pack-quantized");
    int64_t size = jv_get_i64(w->j, "group_size", nv ? 16 : 32);
    if (!w->floating || w->bits != 4 || !w->symmetric || size != (nv ? 16 : 32)) return refuse(group, w, "weights", format);
    /* NVFP4 W4A4: activations stay as they are, as on hardware without FP4 products. */
    const bool w4a4 = nv && a->given && a->floating && a->bits == 4 && a->symmetric && jv_get_i64(a->j, "group_size", 0) == size;
    if (a->given && !w4a4) return refuse(group, a, "input_activations", format);
    if (w4a4) log_warn("quantization_config.%s: activations in NVFP4 are not rounded: the weights alone are 4-bit", group);
    *m = (quant_module){ .format = nv ? QUANT_FORMAT_NVFP4 : QUANT_FORMAT_MXFP4, .group = (int)size };
    m->scheme = quant_stored((quant_info){ .type = DT_F4E2M1, .group = (int)size });
    return ST_OK;
}

static status parse_group(quantization *q, const char *name, const jv *j, const char *format)
{
    quant_module m = { 0 };
    rule *r;
    char shown[64];
    snprintf(shown, sizeof shown, "%.60s", name);
    format = jv_get_str(j, "format", format);
    args w = args_of(jv_get(j, "weights")), a = args_of(jv_get(j, "input_activations"));
    if (!w.given) return err_set(ST_UNSUPPORTED, "config.json: quantization_config.%s has no weights", shown);
    if (is(format, "pack-quantized") && !a.given) TRY(packed_group(shown, &w, format, &m));
    else if (is(format, "pack-quantized")) return refuse(shown, &a, "input_activations", format);
    else if (is(format, "int-quantized")) TRY(int8_group(shown, &w, &a, format, &m));
    else if (is(format, "float-quantized") || (is(format, "naive-quantized") && w.floating)) TRY(fp8_group(shown, &w, &a, format, &m));
    else if (is(format, "nvfp4-pack-quantized") || is(format, "mxfp4-pack-quantized")) TRY(fp4_group(shown, &w, &a, format, &m));
    else return unsupported("format", format, "pack-quantized, int-quantized, float-quantized, nvfp4-pack-quantized, mxfp4-pack-quantized");
    TRY(add_rule(q, &m, &r));
    return read_patterns(q, jv_get(j, "targets"), "targets", &r->targets);
}

static status parse_compressed(quantization *q, const jv *j)
{
    const jv *groups = jv_get(j, "config_groups"), *kv = jv_get(j, "kv_cache_scheme"), *sparse = jv_get(j, "sparsity_config");
    const char *format = jv_get_str(j, "format", "?"), *dense = jv_get_str(sparse, "format", "dense");
    if (!is(dense, "dense")) return unsupported("sparsity_config.format", dense, "dense");
    if (jv_is(kv, JV_OBJ)) {
        args a = args_of(kv);
        if (!a.floating || a.bits != 8 || !a.symmetric || a.dynamic || !is(a.strategy, "tensor")) return refuse("kv_cache_scheme", &a, "values", "fp8 KV cache");
    }
    if (!jv_is(groups, JV_OBJ)) return err_set(ST_INVALID, "config.json: quantization_config.config_groups is %s, expected an object", jv_kind_name(jv_type(groups)));
    for (jv_iter it = jv_begin(groups); jv_next(&it);) TRY(parse_group(q, it.key, it.val, format));
    return read_patterns(q, jv_get(j, "ignore"), "ignore", &q->ignored);
}

/* ---- all ---- */

static const struct { const char *name; status (*parse)(quantization *q, const jv *j); } methods[] = {
    { "awq", parse_awq }, { "gptq", parse_gptq }, { "compressed-tensors", parse_compressed }, { "fp8", parse_fp8 }, { "mxfp4", parse_mxfp4 },
    { "modelopt", parse_modelopt } };

static const jv *find_config(const jv *config)
{
    static const char *const names[] = { "quantization_config", "compression_config" };
    for (int i = 0; i < 2; i++) {
        if (jv_is(jv_get(config, names[i]), JV_OBJ)) return jv_get(config, names[i]);
        if (jv_is(jv_get(jv_get(config, "text_config"), names[i]), JV_OBJ)) return jv_get(jv_get(config, "text_config"), names[i]);
    }
    return jv_get(config, "quantization_config");
}

static const char *method_of(const jv *j)
{
    return jv_get_str(j, "quant_method", jv_is(jv_get(j, "config_groups"), JV_OBJ) ? "compressed-tensors" : "?");
}

/* Other names of a method, as --quantization has them. */
static const struct { const char *flag, *method; } flag_names[] = {
    { "awq", "awq" }, { "auto_awq", "awq" }, { "awq_marlin", "awq" }, { "gptq", "gptq" }, { "auto_gptq", "gptq" }, { "gptq_marlin", "gptq" },
    { "compressed-tensors", "compressed-tensors" }, { "fp8", "fp8" }, { "mxfp4", "mxfp4" }, { "gpt_oss_mxfp4", "mxfp4" }, { "modelopt", "modelopt" } };

status quantization_flag(const jv *config, const char *flag, quant_scheme *out)
{
    const jv *j = find_config(config);
    bool stored = jv_is(j, JV_OBJ), known = false;
    *out = QUANT_NONE;
    if (!flag) return ST_OK;
    for (size_t i = 0; i < sizeof flag_names / sizeof *flag_names; i++) {
        if (!is(flag, flag_names[i].flag)) continue;
        known = true;
        if (stored && is(method_of(j), flag_names[i].method)) return ST_OK;
    }
    if (stored)
        return err_set(ST_INVALID, "Quantization method specified in the model config (%.60s) does not match the quantization method specified in the `quantization` argument (%.60s).", method_of(j), flag);
    if (known && !is(flag, "fp8")) return err_set(ST_INVALID, "--quantization %s wants a checkpoint that is quantised so; config.json has no quantization_config", flag);
    return quant_parse(flag, out);
}

bool quantization_fp8_cache(const jv *config)
{
    const jv *j = find_config(config), *inner = jv_is(jv_get(j, "quantization"), JV_OBJ) ? jv_get(j, "quantization") : j, *scheme = jv_get(inner, "kv_cache_scheme");
    if (!jv_is(j, JV_OBJ)) return false;
    const bool modelopt = is(method_of(j), "modelopt");
    if (!modelopt && !is(method_of(j), "compressed-tensors")) return false;
    if (jv_is(scheme, JV_OBJ)) {
        const args a = args_of(scheme);
        return a.floating && a.bits == 8 && !a.dynamic;
    }
    return modelopt && is(jv_get_str(inner, "kv_cache_quant_algo", ""), "FP8");
}

static status parse_into(quantization *q, const jv *j)
{
    const char *method = method_of(j);
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (is(method, methods[i].name)) {
            snprintf(q->method, sizeof q->method, "%s", method);
            return methods[i].parse(q, j);
        }
    return unsupported("quant_method", method, "awq, gptq, compressed-tensors, fp8, mxfp4, modelopt");
}

status quantization_parse(const jv *config, quantization **out)
{
    const jv *j = find_config(config);
    *out = NULL;
    if (jv_is(j, JV_MISSING) || jv_is(j, JV_NULL)) return ST_OK;
    if (!jv_is(j, JV_OBJ)) return err_set(ST_INVALID, "config.json: quantization_config is %s, expected an object", jv_kind_name(jv_type(j)));
    quantization *q = mem_calloc(1, sizeof *q);
    if (!q) return err_nomem();
    status st = parse_into(q, j);
    if (st == ST_OK) *out = q;
    else quantization_free(q);
    return st;
}

static void free_patterns(patterns *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->at[i].regex) regfree(p->at[i].regex);
}

void quantization_free(quantization *q)
{
    if (!q) return;
    free_patterns(&q->ignored);
    for (int i = 0; i < q->n_rules; i++) free_patterns(&q->rules[i].targets);
    arena_free(&q->mem);
    mem_free(q);
}

void quantization_keep_activations(quantization *q)
{
    for (int i = 0; q && i < q->n_rules; i++) {
        quant_info info = quant_describe(q->rules[i].module.scheme);
        info.act = QUANT_ACT_NONE;
        q->rules[i].module.scheme = quant_stored(info);
    }
}

const char *quantization_method(const quantization *q) { return q ? q->method : NULL; }

/* Routers choose experts; nothing quantises them, and lists often leave them out. */
static bool is_router(const char *last) { return is(last, "gate") || is(last, "router") || is(last, "shared_expert_gate"); }

static bool has_class(const patterns *p, const char *class_name)
{
    for (size_t i = 0; i < p->n; i++)
        if (is(p->at[i].text, class_name)) return true;
    return false;
}

void quantization_module(const quantization *q, const char *name, quant_module *out)
{
    char module[QUANT_NAME_MAX];
    *out = (quant_module){ 0 };
    if (!q) return;
    size_t n = strcspn(name, "[");
    if (n > 7 && strncmp(name + n - 7, ".weight", 7) == 0) n -= 7;
    snprintf(module, sizeof module, "%.*s", (int)n, name);
    char *any = strchr(module, '*');
    if (any) *any = '0';        /* lists that name experts name them all */
    const char *last = strrchr(module, '.');
    bool head = is(module, "lm_head");
    if (is_router(last ? last + 1 : module) || is(module, "model.embed_tokens") || matches_any(&q->ignored, module)) return;
    if (q->experts_only && !has_components(module, "experts")) return;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < q->n_rules; i++) {
            const patterns *p = &q->rules[i].targets;
            bool named = p->n && matches_any(p, module), all = !p->n || has_class(p, "Linear");
            if (pass == 0 ? !named : !all || (head && !q->head)) continue;
            *out = q->rules[i].module;
            return;
        }
}
