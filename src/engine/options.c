#include "engine/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum { DEFAULT_BATCHED_TOKENS = 2048, DEFAULT_SEQS = 128, DEFAULT_BLOCK = 16, DEFAULT_KV_GIB = 4 };
static const double DEFAULT_STEP_S = 0.2;
static const double GIB = 1024.0 * 1024 * 1024;

static status check_signs(const engine_options *o)
{
    const struct { const char *name; int64_t value; } all[] = {
        { "max_num_batched_tokens", o->max_num_batched_tokens }, { "max_num_seqs", o->max_num_seqs }, { "max_model_len", o->max_model_len },
        { "block_size", o->block_size }, { "max_num_active_seqs", o->max_num_active_seqs }, { "max_num_queued_reqs", o->max_num_queued_reqs },
        { "max_num_queued_tokens", o->max_num_queued_tokens }, { "long_prefill_token_threshold", o->long_prefill_token_threshold },
        { "kv_cache_memory_bytes", o->kv_cache_bytes }, { "num_gpu_blocks_override", o->num_blocks_override },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].value < 0) return err_set(ST_INVALID, "%s must not be negative, got %lld", all[i].name, (long long)all[i].value);
    if (!(o->watermark >= 0 && o->watermark < 1)) return err_set(ST_INVALID, "watermark must be in [0, 1), got %g", o->watermark);
    return ST_OK;
}

static status plan_model_len(engine_options *o, const model_info *mi)
{
    const char *allow = getenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN");
    if (o->max_model_len == 0) o->max_model_len = mi->max_model_len;
    if (mi->max_model_len > 0 && o->max_model_len > mi->max_model_len && !(allow && strcmp(allow, "1") == 0))
        return err_set(ST_INVALID, "max_model_len (%d) is greater than the %d the model's configuration gives; VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 allows it",
                       o->max_model_len, mi->max_model_len);
    if (o->max_model_len < 1) return err_set(ST_INVALID, "max_model_len is neither given nor in the model's configuration");
    return ST_OK;
}

static status plan_batch(engine_options *o)
{
    const bool given = o->max_num_batched_tokens > 0;
    if (!given) {
        o->max_num_batched_tokens = DEFAULT_BATCHED_TOKENS;
        if (o->no_chunked_prefill && o->max_num_batched_tokens < o->max_model_len) o->max_num_batched_tokens = o->max_model_len;
        if (o->max_num_batched_tokens < o->max_num_seqs) o->max_num_batched_tokens = o->max_num_seqs;
    }
    if (o->max_num_seqs == 0) o->max_num_seqs = DEFAULT_SEQS < o->max_num_batched_tokens ? DEFAULT_SEQS : o->max_num_batched_tokens;
    if (o->max_num_batched_tokens < o->max_num_seqs)
        return err_set(ST_INVALID, "max_num_batched_tokens (%d) must be greater than or equal to max_num_seqs (%d)", o->max_num_batched_tokens, o->max_num_seqs);
    if (o->no_chunked_prefill && o->max_num_batched_tokens < o->max_model_len)
        return err_set(ST_INVALID, "max_num_batched_tokens (%d) is smaller than max_model_len (%d), which no prompt longer than that could pass: "
                       "increase max_num_batched_tokens, decrease max_model_len or enable chunked prefill", o->max_num_batched_tokens, o->max_model_len);
    if (o->long_prefill_token_threshold > o->max_model_len)
        return err_set(ST_INVALID, "long_prefill_token_threshold (%d) cannot be greater than max_model_len (%d)", o->long_prefill_token_threshold, o->max_model_len);
    return ST_OK;
}

status engine_plan(const engine_options *in, const model_info *mi, engine_options *out, device_limits *limits)
{
    engine_options o = *in;
    TRY(check_signs(&o));
    if (mi->vocab_size < 1) return err_set(ST_INVALID, "the model has a vocabulary of %d tokens", mi->vocab_size);
    TRY(plan_model_len(&o, mi));
    TRY(plan_batch(&o));
    if (o.block_size == 0) o.block_size = DEFAULT_BLOCK;
    if (o.step_target_s == 0) o.step_target_s = DEFAULT_STEP_S; /* NaN counts as off */
    static const dtype kv_types[] = { DT_F32, DT_BF16, DT_F16, DT_F8E4M3, DT_F8E5M2, DT_I8 };
    bool known = false;
    for (size_t i = 0; i < sizeof kv_types / sizeof *kv_types; i++) known |= o.kv_dtype == kv_types[i];
    if (!known) return err_set(ST_UNSUPPORTED, "a KV cache of %s is not supported; expected f32, bf16, f16, f8e4m3, f8e5m2 or i8", dtype_name(o.kv_dtype));
    if (limits)
        *limits = (device_limits){ .max_tokens = o.max_num_batched_tokens, .max_seqs = o.max_num_seqs, .max_rows = o.max_num_seqs,
                                   .max_model_len = o.max_model_len, .block_size = o.block_size, .kv_dtype = o.kv_dtype, .see = mi->media_sees_all };
    *out = o;
    return ST_OK;
}

/* What Linux believes could be allocated without swapping; 0 when it does not say. */
static int64_t available_memory(void)
{
    long long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "r");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) break;
    fclose(f);
    return (int64_t)kib * 1024;
}

static status env_space(double *gib)
{
    const char *s = getenv("VLLM_CPU_KVCACHE_SPACE");
    *gib = DEFAULT_KV_GIB;
    if (!s || !*s) return ST_OK;
    char *end;
    errno = 0;
    double x = strtod(s, &end);
    if (*end || errno || !(x >= 0) || x > 1e9) return err_set(ST_INVALID, "VLLM_CPU_KVCACHE_SPACE must be a size in GiB, got \"%s\"", s);
    if (x > 0) *gib = x;
    return ST_OK;
}

static status kv_bytes(const engine_options *o, const engine_device *dev, int64_t *out)
{
    double gib;
    TRY(env_space(&gib));
    const double asked = o->kv_cache_bytes > 0 ? (double)o->kv_cache_bytes : gib * GIB;
    const int64_t free_bytes = dev->free_bytes > 0 ? dev->free_bytes : available_memory();
    *out = (int64_t)asked;
    if (free_bytes > 0 && asked > 0.9 * (double)free_bytes) {
        *out = (int64_t)(0.9 * (double)free_bytes);
        log_warn("KV cache: %.2f GiB wanted, %.2f GiB of memory are free; using %.2f GiB", asked / GIB, (double)free_bytes / GIB, (double)*out / GIB);
    }
    return ST_OK;
}

/* 1234567 as "1,234,567". */
static const char *with_commas(int64_t v, char s[32])
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)v), k = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) s[k++] = ',';
        s[k++] = digits[i];
    }
    s[k] = 0;
    return s;
}

/* What each kind of layer keeps, and how many groups of how many layers it makes. */
static void log_groups(const engine_options *o, const kv_layout *kv, int64_t block_bytes)
{
    char number[32];
    for (int g = 0; g < kv->n_groups; g++) {
        const kv_group *x = &kv->group[g];
        int n_layers = 0, n_groups = 0;
        bool told = false;
        for (int i = 0; i < kv->n_groups; i++) {
            if (kv->group[i].window != x->window || kv->group[i].chunk != x->chunk) continue;
            told = told || i < g;
            n_layers += kv->group[i].n_layers;
            n_groups++;
        }
        if (told) continue;
        const int64_t blocks = n_groups * kv_group_blocks(x, o->max_model_len, o->max_num_batched_tokens, o->block_size);
        char sees[64] = "all tokens";
        if (kv_forgets(x)) snprintf(sees, sizeof sees, "%s of %s tokens", x->window ? "a window" : "a chunk", with_commas(x->window ? x->window : x->chunk, number));
        log_info("KV cache: %d layer%s (%d group%s of up to %d) see%s %s: %.3f GiB for a request of %d tokens", n_layers, n_layers == 1 ? "" : "s", n_groups,
                 n_groups == 1 ? "" : "s", kv->n_places, n_layers == 1 ? "s" : "", sees,
                 (double)(blocks * block_bytes) / GIB, o->max_model_len);
    }
}

int64_t options_seq_blocks(const engine_options *o, const engine_device *dev)
{
    const kv_layout full = kv_layout_full();
    return kv_layout_blocks(dev->kv.n_groups ? &dev->kv : &full, o->max_model_len, o->max_num_batched_tokens, o->block_size);
}

status options_count_blocks(const engine_options *o, const engine_device *dev, int64_t block_bytes, int32_t *out)
{
    const int64_t per_seq = options_seq_blocks(o, dev), n_groups = dev->kv.n_groups ? dev->kv.n_groups : 1;
    const int64_t most = (int64_t)o->max_num_seqs * per_seq + 1, addressable = INT32_MAX / o->block_size;
    int64_t bytes = 0, n = o->num_blocks_override;
    if (block_bytes < 1) return err_set(ST_INTERNAL, "the device says that a KV block has %lld bytes", (long long)block_bytes);
    if (n == 0) {
        TRY(kv_bytes(o, dev, &bytes));
        n = bytes / block_bytes;
        if (n > most) n = most; /* more could never be used at once; the prefix cache lives in what is left over */
        log_info("Available KV cache memory: %.2f GiB", (double)bytes / GIB);
    } else {
        bytes = n * block_bytes;
    }
    if (n > addressable) n = addressable;
    if (n - 1 < per_seq)
        return err_set(ST_INVALID, "To serve at least one request with the model's max seq len (%d), %.2f GiB KV cache is needed, which is larger than the "
                       "available KV cache memory (%.2f GiB, %lld blocks of %d tokens). Try increasing VLLM_CPU_KVCACHE_SPACE (GiB) or --kv-cache-memory-bytes, "
                       "or decreasing --max-model-len", o->max_model_len, (double)((per_seq + 1) * block_bytes) / GIB, (double)bytes / GIB,
                       (long long)n, o->block_size);
    char tokens[32], len[32];
    if (n_groups > 1 || kv_forgets(&dev->kv.group[0])) log_groups(o, &dev->kv, block_bytes);
    const int64_t n_tokens = (n - 1) / n_groups * o->block_size;
    log_info("%s KV cache size: %s tokens, Maximum concurrency for %s tokens per request: %.2fx", dev->name ? dev->name : "CPU",
             with_commas(n_tokens, tokens), with_commas(o->max_model_len, len), (double)(n - 1) / (double)per_seq);
    *out = (int32_t)n;
    return ST_OK;
}
