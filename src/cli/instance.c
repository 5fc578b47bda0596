#include "cli/instance.h"

#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/attention.h"
#include "cli/serve_model.h"
#include "load/hub.h"
#include "model/presets.h"
#include "model/quantization.h"

enum { CONFIG_BYTES = 1 << 20 };

/* ---- where the model is ---- */

static status read_config_file(const char *path, jv **out)
{
    jv *v;
    TRY(jv_parse_file(path, CONFIG_BYTES, &v));
    if (jv_is(v, JV_OBJ)) {
        *out = v;
        return ST_OK;
    }
    status st = err_set(ST_INVALID, "%s must hold a JSON object, not %s", path, jv_kind_name(jv_type(v)));
    jv_free(v);
    return st;
}

status instance_read_config(const flags *f, const char *where, jv **out, model_dir **files)
{
    struct stat sb;
    char *dir;
    const bool here = stat(where, &sb) == 0;
    if (here && S_ISREG(sb.st_mode)) return read_config_file(where, out);
    const preset *known = here ? NULL : preset_find(where);
    if (known) return preset_config(known, out);
    hub_options h = { .revision = flags_str(f, "revision"), .token = flags_str(f, "hf-token"), .download_dir = flags_str(f, "download-dir"),
                      .weights = false, .progress = flags_bool(f, "use-tqdm-on-load", true) };
    TRY(hub_resolve(where, &h, &dir));
    status st = model_dir_open(dir, files);
    mem_free(dir);
    TRY(st);
    *out = jv_ref((*files)->config);
    return ST_OK;
}

/* Where no weights are read, a configuration alone is a model. */
static status resolve_config(instance *s)
{
    jv *config;
    const char *where = flags_str(s->f, "model");
    TRY(instance_read_config(s->f, where, &config, &s->files));
    if (!s->files) return model_dir_of_config(config, &s->files);
    jv_free(config);
    s->dir = mem_strdup(s->files->path);
    return s->dir ? ST_OK : err_nomem();
}

static status resolve_model(instance *s)
{
    if (!device_needs_weights(flags_str(s->f, "device"))) {
        TRY(resolve_config(s));
        return merge_json(s->files->config, flags_json(s->f, "hf-overrides"));
    }
    const char *load = flags_str(s->f, "load-format");
    hub_options h = {
        .revision = flags_str(s->f, "revision"), .token = flags_str(s->f, "hf-token"), .download_dir = flags_str(s->f, "download-dir"),
        .ignore = flags_list(s->f, "ignore-patterns", NULL), .weights = strcmp(load, "dummy") != 0, .progress = flags_bool(s->f, "use-tqdm-on-load", true),
    };
    TRY(hub_resolve(flags_str(s->f, "model"), &h, &s->dir));
    TRY(model_dir_open(s->dir, &s->files));
    return merge_json(s->files->config, flags_json(s->f, "hf-overrides"));
}

static dtype dtype_of(const char *name, dtype automatic)
{
    if (strcmp(name, "half") == 0 || strcmp(name, "float16") == 0) return DT_F16;
    if (strcmp(name, "bfloat16") == 0) return DT_BF16;
    if (strcmp(name, "float") == 0 || strcmp(name, "float32") == 0) return DT_F32;
    return automatic;
}

/* --kv-cache-dtype; fp8 is e4m3, as in vLLM. */
static dtype kv_dtype_of(const char *name, dtype automatic)
{
    if (strcmp(name, "fp8") == 0 || strcmp(name, "fp8_e4m3") == 0) return DT_F8E4M3;
    if (strcmp(name, "fp8_e5m2") == 0) return DT_F8E5M2;
    if (strcmp(name, "int8_per_token_head") == 0) return DT_I8;
    return dtype_of(name, automatic);
}

/* The type in config.json: "torch_dtype", or "dtype" as newer files call it. gpt-oss' says neither; beside MXFP4 it is bfloat16. */
static dtype checkpoint_dtype(const jv *config)
{
    const char *name = jv_get_str(config, "torch_dtype", NULL);
    if (!name) name = jv_get_str(config, "dtype", NULL);
    if (!name) name = jv_get_str(jv_get(config, "text_config"), "torch_dtype", NULL);
    if (!name) name = strcmp(jv_get_str(jv_get(config, "quantization_config"), "quant_method", ""), "mxfp4") == 0 ? "bfloat16" : "float32";
    return dtype_of(name, DT_F32);
}

int64_t instance_i64(const flags *f, const char *name, int64_t def)
{
    int64_t v = flags_i64(f, name, def);
    return v > INT32_MAX ? INT32_MAX : v;
}

status flags_check_range(const flags *f, const char *name, int64_t min, int64_t max)
{
    if (!flags_given(f, name)) return ST_OK;
    int64_t v = flags_i64(f, name, min);
    if (v < min) return err_set(ST_INVALID, "argument --%s: must be at least %lld, got %lld", name, (long long)min, (long long)v);
    if (v > max) return err_set(ST_INVALID, "argument --%s: must be at most %lld, got %lld", name, (long long)max, (long long)v);
    return ST_OK;
}

status instance_check_flags(const flags *f)
{
    static const struct { const char *name; int64_t min; } all[] = {
        { "max-num-batched-tokens", 1 }, { "max-num-seqs", 1 }, { "max-model-len", -1 }, { "block-size", 1 }, { "max-num-active-seqs", 1 }, { "max-num-queued-reqs", 1 },
        { "max-num-queued-tokens", 1 }, { "long-prefill-token-threshold", 0 }, { "num-gpu-blocks-override", 1 }, { "kv-cache-memory-bytes", 1 }, { "max-logprobs", -1 },
        { "threads", 0 }, { "tensor-parallel-size", 1 }, { "data-parallel-size", 1 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) TRY(flags_check_range(f, all[i].name, all[i].min, INT64_MAX));
    double w = flags_f64(f, "gpu-memory-utilization", 0.92);
    if (!(w > 0 && w <= 1)) return err_set(ST_INVALID, "argument --gpu-memory-utilization: must be in (0, 1], got %g", w);
    return ST_OK;
}

int instance_choice(const char *name, const char *const *all, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(name, all[i]) == 0) return i;
    return 0;
}

static void engine_flags(instance *s)
{
    static const char *const modes[] = { "raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits" };
    static const char *const algos[] = { "sha256", "sha256_cbor", "xxhash", "xxhash_cbor" };
    const flags *f = s->f;
    int64_t len = instance_i64(f, "max-model-len", 0);
    s->eo = (engine_options){
        .max_num_batched_tokens = (int)instance_i64(f, "max-num-batched-tokens", 0), .max_num_seqs = (int)instance_i64(f, "max-num-seqs", 0),
        .max_model_len = len > 0 ? (int)len : 0, .block_size = (int)instance_i64(f, "block-size", 0),
        .max_num_active_seqs = (int)instance_i64(f, "max-num-active-seqs", 0), .max_num_queued_reqs = (int)instance_i64(f, "max-num-queued-reqs", 0),
        .max_num_queued_tokens = flags_i64(f, "max-num-queued-tokens", 0), .long_prefill_token_threshold = (int)instance_i64(f, "long-prefill-token-threshold", 0),
        .no_chunked_prefill = !flags_bool(f, "enable-chunked-prefill", true), .no_prefix_caching = !flags_bool(f, "enable-prefix-caching", true),
        .no_async_scheduling = !flags_bool(f, "async-scheduling", true), .no_reserve_full_isl = !flags_bool(f, "scheduler-reserve-full-isl", true),
        .watermark = flags_f64(f, "watermark", 0), .policy = strcmp(flags_str(f, "scheduling-policy"), "priority") == 0 ? SCHED_PRIORITY : SCHED_FCFS,
        .hash_algo = (hash_algo)instance_choice(flags_str(f, "prefix-caching-hash-algo"), algos, 4),
        .logprobs_mode = (logprobs_mode)instance_choice(flags_str(f, "logprobs-mode"), modes, 4),
        .kv_cache_bytes = flags_i64(f, "kv-cache-memory-bytes", 0), .num_blocks_override = (int)instance_i64(f, "num-gpu-blocks-override", 0),
        .step_target_s = flags_f64(f, "step-time-target", 50) > 0 ? flags_f64(f, "step-time-target", 50) / 1000 : -1,
        .kv_dtype = s->kv_dt, .seed = (uint64_t)flags_i64(f, "seed", 0),
    };
}

static void log_engine(const instance *s, const device_info *di)
{
    const model_info *mi = model_describe(s->m);
    const char *quant = quantization_method(model_quantization(s->m));
    if (!quant) quant = flags_str(s->f, "quantization");
    log_info("Initializing a V1 LLM engine (v" API_VLLM_VERSION ") with config: model='%s', architecture=%s, dtype=%s, max_seq_len=%d, quantization=%s, kv_cache_dtype=%s, device=%s (%s, %s, %d threads), "
             "max_num_batched_tokens=%d, max_num_seqs=%d, block_size=%d, enable_prefix_caching=%s, seed=%llu",
             flags_str(s->f, "model"), mi->architecture, dtype_name(s->dt), s->eo.max_model_len,
             quant ? quant : "None", dtype_name(s->kv_dt), di->platform, di->name, di->isa, di->n_threads,
             s->eo.max_num_batched_tokens, s->eo.max_num_seqs, s->eo.block_size, s->eo.no_prefix_caching ? "False" : "True", (unsigned long long)s->eo.seed);
}

/* {"pass_config": {"enable_sequence_parallelism": true}}, vLLM's switch. */
static bool wants_sequence_parallel(const flags *f)
{
    return jv_get_bool(jv_get(flags_json(f, "compilation-config"), "pass_config"), "enable_sequence_parallelism", false);
}

/* The devices that the flags ask for. */
mesh instance_mesh(const flags *f)
{
    int tp = (int)instance_i64(f, "tensor-parallel-size", 1);
    return (mesh){ .dp = 1, .tp = tp, .sp = tp > 1 && wants_sequence_parallel(f), .ep = tp > 1 && flags_bool(f, "enable-expert-parallel", false) };
}

/* The graph as the device wants it: the model's own, or one that is cut for a mesh or keeps equal layers equal. */
static status choose_graph(instance *s, const device_info *di, const graph **out)
{
    mesh m = instance_mesh(s->f);
    *out = model_graph(s->m);
    if (m.tp == 1 && !di->loops) return ST_OK;
    TRY(model_graph_for(s->m, m, di->loops, &s->own_graph));
    *out = s->own_graph;
    return ST_OK;
}

static void log_loading(void *arg, int64_t done, int64_t total)
{
    double *said = arg, now = clock_now();
    if (now - *said < 5 || total <= 0) return;
    *said = now;
    log_info("Loading weights: %lld%% of %.2f GiB", (long long)(done * 100 / total), (double)total / 1073741824);
}

/* Shall the cache be divided by the checkpoint's scales? Where there are no weights the configuration tells. */
static status find_kv_scales(const instance *s, const jv *config, bool *out)
{
    *out = false;
    if (s->kv_dt != DT_F8E4M3 && s->kv_dt != DT_F8E5M2) return ST_OK;
    *out = quantization_fp8_cache(config);
    if (!s->files || strcmp(flags_str(s->f, "load-format"), "dummy") == 0) return ST_OK;
    bool stored;
    const status st = model_kv_scales_stored(s->files->path, &stored);
    if (st != ST_OK) return st == ST_NOMEM ? st : ST_OK;    /* of a file that is no good, loading tells */
    *out = *out || stored;
    if (stored) log_info("The fp8 KV cache uses the checkpoint's scales.");
    else if (s->kv_dt == DT_F8E4M3) log_warn("Using KV cache scaling factor 1.0 for fp8_e4m3. If accuracy suffers: a checkpoint with k_scale and v_scale, int8_per_token_head or a 16-bit type lose less.");
    return ST_OK;
}

status instance_plan(instance *s, const jv *config, device_limits *limits)
{
    const flags *f = s->f;
    dtype stored = checkpoint_dtype(config);
    s->dt = dtype_of(flags_str(f, "dtype"), stored == DT_F32 ? DT_F16 : stored); /* auto, as vLLM: float32 checkpoints are served in float16 */
    s->kv_dt = kv_dtype_of(flags_str(f, "kv-cache-dtype"), quantization_fp8_cache(config) ? DT_F8E4M3 : s->dt);
    int64_t len = instance_i64(f, "max-model-len", 0);
    model_options mo = { .weight_dtype = s->dt, .max_model_len = len > 0 ? (int)len : 0 };
    TRY(find_kv_scales(s, config, &mo.kv_scales));
    mo.keep_activations = !flags_bool(f, "quantized-activations", true);
    TRY(quantization_flag(config, flags_str(f, "quantization"), &mo.quant));
    TRY(instance_media_levels(s, config, &mo.media));
    TRY(model_new(config, &mo, &s->m));
    engine_flags(s);
    return engine_plan(&s->eo, model_describe(s->m), &s->eo, limits);
}

/* What the model and its encoders leave for KV; 0 = the host's memory decides. */
static int64_t instance_kv_bytes(const instance *s)
{
    const int64_t bytes = device_kv_bytes(s->loaded, flags_f64(s->f, "gpu-memory-utilization", 0.92)), taken = s->towers ? towers_device_bytes(s->towers) : 0;
    return bytes > 0 && bytes <= taken ? 1 : bytes > 0 ? bytes - taken : 0;
}

/* Each has devices, a KV cache and an engine of its own; weights are those of all. */
static status add_replica(instance *s, const graph *g, const device_limits *limits)
{
    engine *e;
    TRY(device_load(s->dev, g, s->weights, limits, NULL, NULL, &s->replicas[s->n_replicas]));
    TRY(engine_start(s->replicas[s->n_replicas++], s->m, &s->eo, &e));
    status st = engine_join(s->e, e);
    if (st != ST_OK) engine_stop(e, 0);
    return st;
}

static status add_replicas(instance *s, const graph *g, const device_limits *limits)
{
    const int n = (int)instance_i64(s->f, "data-parallel-size", 1);
    if (n == 1) return ST_OK;
    s->replicas = mem_calloc((size_t)n, sizeof *s->replicas);
    if (!s->replicas) return err_nomem();
    for (int i = 1; i < n; i++) TRY(add_replica(s, g, limits));
    log_info("%d replicas, %d devices each: a request goes to the one that is least busy", n, graph_mesh(g).tp);
    return ST_OK;
}

static status check_replicas(const instance *s, const device_info *di)
{
    const int64_t n = instance_i64(s->f, "data-parallel-size", 1);
    if (n == 1 || di->own_time) return ST_OK;
    return err_set(ST_UNSUPPORTED, "argument --data-parallel-size: replicas run beside each other on simulated chips (--device sim:...); elsewhere start a server for each");
}

static status load_model(instance *s)
{
    const flags *f = s->f;
    device_limits limits;
    device_info di;
    const char *spec = flags_str(f, "device");
    TRY(instance_plan(s, s->files->config, &limits));
    device_options dopt = { .n_threads = (int)instance_i64(f, "threads", 0), .isa = flags_str(f, "isa"), .lazy_compile = flags_bool(f, "lazy-compile", false),
                            .program_cache = flags_str(f, "program-cache"), .sim_refine = flags_str(f, "sim-refine"),
                            .weight_cache = flags_str(f, "weight-cache") ? flags_str(f, "weight-cache") : "" };
    TRY(device_open(strcmp(spec, "auto") == 0 ? "cpu" : spec, &dopt, &s->dev));
    device_describe(s->dev, &di);
    TRY(check_replicas(s, &di));
    bool dummy = strcmp(flags_str(f, "load-format"), "dummy") == 0 || !device_needs_weights(spec);
    double t0 = clock_now(), said = t0;
    const graph *g;
    TRY(choose_graph(s, &di, &g));
    TRY(attention_apply(f, g, di.chip, &limits));
    s->eo.block_size = limits.block_size;
    log_engine(s, &di);
    attention_log(g, &limits);
    TRY(model_weights_open(s->m, s->dir, dummy, s->eo.seed, &s->weights));
    TRY(device_load(s->dev, g, s->weights, &limits, log_loading, &said, &s->loaded));
    log_info("Loading weights took %.2f seconds", clock_now() - t0);
    TRY(instance_open_media(s));
    if (s->eo.kv_cache_bytes == 0) s->eo.kv_cache_bytes = instance_kv_bytes(s);
    t0 = clock_now();
    TRY(engine_start(s->loaded, s->m, &s->eo, &s->e));
    TRY(add_replicas(s, g, &limits));
    log_info("init engine (profile, create kv cache, warmup model) took %.2f seconds", clock_now() - t0);
    return ST_OK;
}

status instance_open(const flags *f, instance *out)
{
    *out = (instance){ .f = f };
    status st = resolve_model(out);
    if (st == ST_OK) st = load_model(out);
    if (st != ST_OK) instance_close(out, 0);
    return st;
}

void instance_stop(instance *s, double drain_s)
{
    if (s->e) engine_stop(s->e, drain_s);
    s->e = NULL;
}

void instance_close(instance *s, double drain_s)
{
    instance_stop(s, drain_s);
    instance_close_media(s);
    if (s->loaded) device_unload(s->loaded);
    for (int i = 0; i < s->n_replicas; i++) device_unload(s->replicas[i]);
    mem_free(s->replicas);
    if (s->weights) model_weights_close(s->weights);
    graph_free(s->own_graph);
    if (s->dev) device_close(s->dev);
    if (s->m) model_free(s->m);
    if (s->files) model_dir_free(s->files);
    mem_free(s->dir);
    *s = (instance){ .f = s->f };
}
