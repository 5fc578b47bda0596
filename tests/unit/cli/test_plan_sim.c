/* Workloads on simulated chips: traces as they are read, the engine without threads, and what `systolic plan` makes of it. */
#include <time.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/plan.h"
#include "cli/serve.h"
#include "engine/drive.h"
#include "model/presets.h"
#include "tests/capture.h"
#include "tests/test.h"
#include "tests/unit/device/pjrt/help.h"

#define RUN(...) run_command(plan_main, (const char *const[]){ __VA_ARGS__, NULL })

/* ---- workloads ---- */

static status parse(const char *text, workload *w) { return workload_parse(text, strlen(text), w); }

TEST(traces_are_read)
{
    workload w;
    REQUIRE_OK(parse("TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-12-31 23:59:59.5,374,44\r\n2024-01-01 00:00:02.25,396,0\n", &w));
    CHECK_INT(w.n, 2);
    CHECK_NEAR(w.v[1].at, 2.75, 1e-6);
    CHECK_INT(w.v[0].input, 374);
    CHECK_INT(w.v[1].output, 1);     /* an answer has a token */
    CHECK_OK(workload_span(&w, 12)); /* rounds of 2.75 s and a gap of the same */
    CHECK_INT(w.n, 5);
    CHECK_NEAR(w.v[2].at, 5.5, 1e-6);
    CHECK_NEAR(w.v[4].at, 11, 1e-6);
    workload_free(&w);
    REQUIRE_OK(parse("5,1,2\n3,10,20\n", &w));
    CHECK_INT(w.v[0].input, 10);
    CHECK_NEAR(w.v[1].at, 2, 0);
    workload_free(&w);
    CHECK_ERR(parse("", &w), ST_INVALID, "no requests");
    CHECK_ERR(parse("a,b,c\n", &w), ST_INVALID, "no requests");
    CHECK_ERR(parse("a,b,c\n1,2\n", &w), ST_INVALID, "line 2: expected TIME");
    CHECK_ERR(parse("1,2,3\n1,-2,3\n", &w), ST_INVALID, "line 2");
    CHECK_ERR(parse("{\"timestamp\": 0, \"input_length\": 5}", &w), ST_INVALID, "line 1: expected timestamp");
    CHECK_ERR(parse("{\"timestamp\": 0,", &w), ST_INVALID, "line 1");
}

TEST(equal_blocks_are_equal_tokens)
{
    static const char text[] = "{\"timestamp\": 0, \"input_length\": 1000, \"output_length\": 5, \"hash_ids\": [7, 1]}\n"
                               "{\"timestamp\": 2000, \"input_length\": 900, \"output_length\": 4, \"hash_ids\": [7, 2]}\n";
    workload w;
    static int32_t a[1000], b[1000];
    REQUIRE_OK(parse(text, &w));
    CHECK_NEAR(w.v[1].at, 2, 1e-9);
    workload_prompt(&w, 0, 500, a);
    workload_prompt(&w, 1, 500, b);
    CHECK(memcmp(a, b, WORKLOAD_BLOCK * sizeof *a) == 0);
    CHECK(memcmp(a + WORKLOAD_BLOCK, b + WORKLOAD_BLOCK, 300 * sizeof *a) != 0);
    for (int i = 0; i < 900; i++) CHECK(b[i] >= 0 && b[i] < 500);
    workload_free(&w);
    CHECK_EVERY_ALLOCATION(parse(text, &w), workload_free(&w));
}

TEST(arrivals_come_at_their_rate)
{
    workload w;
    REQUIRE_OK(workload_make(&(workload_mix){ .n = 4000, .input_len = 100, .output_len = 10, .range_ratio = 0.5, .rate = 20, .seed = 3 }, &w));
    CHECK_NEAR(workload_seconds(&w), 200, 12);
    for (size_t i = 0; i < w.n; i++) CHECK(w.v[i].input >= 50 && w.v[i].input <= 150 && w.v[i].output >= 5 && w.v[i].output <= 15);
    workload_free(&w);
}

/* ---- the engine without threads ---- */

enum { N = 24, MOST = 40 };
typedef struct answer { int32_t tokens[MOST]; int n; bool done; double first, last; } answer;
typedef struct world { instance in; device_limits limits; device *dev; device_model *dm; graph *g; } world;
typedef struct script { int at; double t0; answer *a; int32_t prompt[64]; sampling_params p; } script;

static void note(const engine_output *o)
{
    answer *a = o->user;
    for (int i = 0; i < o->n_tokens && a->n < MOST; i++) a->tokens[a->n++] = o->tokens[i];
    if (a->first == 0) a->first = o->now_s;
    a->last = o->now_s;
    if (o->finish != FINISH_NONE) __atomic_store_n(&a->done, true, __ATOMIC_RELEASE);
}

static void make_spec(script *s, int i, request_spec *out)
{
    for (int k = 0; k < 64; k++) s->prompt[k] = (i * 31 + k * 7) % 1000;
    s->p = (sampling_params){ .temperature = (float)(i % 2), .top_p = 1, .repetition_penalty = 1, .has_seed = true, .seed = i, .max_tokens = 10 + i % 7, .ignore_eos = true, .logprobs = -2, .prompt_logprobs = -2 };
    *out = (request_spec){ .id = "", .prompt = s->prompt, .n_prompt = 20 + i, .params = &s->p, .on_output = note, .user = &s->a[i] };
}

static double next_one(void *arg)
{
    script *s = arg;
    return s->at < N ? s->t0 + 0.002 * s->at : -1;
}

static status fill_one(void *arg, request_spec *out)
{
    script *s = arg;
    make_spec(s, s->at, out);
    out->arrival_s = s->t0 + 0.002 * s->at++;
    return ST_OK;
}

static bool world_open_on(world *w, const char *where)
{
    jv *config = NULL;
    *w = (world){0};
    CHECK_OK(preset_config(preset_find("Qwen3-0.6B"), &config));
    CHECK_OK(model_new(config, &(model_options){ .weight_dtype = DT_BF16, .max_model_len = 512 }, &w->in.m));
    jv_free(config);
    w->in.eo = (engine_options){ .max_num_seqs = 16, .max_num_batched_tokens = 64, .max_model_len = 512, .kv_dtype = DT_BF16, .kv_cache_bytes = 1 << 30 };
    if (w->in.m) CHECK_OK(engine_plan(&w->in.eo, model_describe(w->in.m), &w->in.eo, &w->limits));
    if (w->in.m) CHECK_OK(model_graph_for(w->in.m, (mesh){ .dp = 1, .tp = 1 }, true, &w->g));
    CHECK_OK(device_open(where, NULL, &w->dev));
    if (w->g && w->dev) CHECK_OK(device_load(w->dev, w->g, NULL, &w->limits, NULL, NULL, &w->dm));
    return w->dm != NULL;
}

static bool world_open(world *w) { return world_open_on(w, "sim:v6e-1?speed=0"); }

static void world_close(world *w)
{
    device_unload(w->dm);
    if (w->dev) device_close(w->dev);
    graph_free(w->g);
    if (w->in.m) model_free(w->in.m);
}

static void drive_all(world *w, answer *a)
{
    engine_device ed;
    drive *d = NULL;
    script s = { .a = a };
    engine_device_of(w->dm, &ed);
    REQUIRE_OK(drive_new(&ed, model_describe(w->in.m), &w->in.eo, &d));
    s.t0 = drive_now(d);
    CHECK_OK(drive_run(d, &(drive_source){ next_one, fill_one, &s }, -1));
    CHECK_OK(drive_check(d));
    drive_free(d);
}

/* The same requests through the engine's threads: other batches, other times, the same tokens. */
static void serve_all(world *w, answer *a)
{
    engine *e = NULL;
    engine_request *r[N];
    script s = { .a = a };
    REQUIRE_OK(engine_start(w->dm, w->in.m, &w->in.eo, &e));
    for (int i = 0; i < N; i++) {
        request_spec spec;
        make_spec(&s, i, &spec);
        CHECK_OK(engine_submit(e, &spec, &r[i]));
    }
    for (int i = 0; i < N; i++) {
        for (int tries = 0; tries < 60000 && !__atomic_load_n(&a[i].done, __ATOMIC_ACQUIRE); tries++) nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        CHECK(a[i].done);
        engine_request_release(r[i]);
    }
    engine_stop(e, 0);
}

TEST(without_threads_the_engine_says_the_same)
{
    world w;
    static answer a[N], b[N], c[N];
    log_set_level(LOG_ERROR);
    if (world_open(&w)) {
        drive_all(&w, a);
        device_unload(w.dm);
        w.dm = NULL;
        CHECK_OK(device_load(w.dev, w.g, NULL, &w.limits, NULL, NULL, &w.dm));
        drive_all(&w, b);
        serve_all(&w, c);
        for (int i = 0; i < N; i++) {
            CHECK_INT(a[i].n, 10 + i % 7);
            CHECK_INT(c[i].n, a[i].n);
            CHECK(memcmp(a[i].tokens, b[i].tokens, sizeof a[i].tokens) == 0);
            CHECK(memcmp(a[i].tokens, c[i].tokens, sizeof a[i].tokens) == 0);
            CHECK(a[i].first == b[i].first && a[i].last == b[i].last);   /* to the bit */
            CHECK(a[i].last > a[i].first);
        }
    }
    world_close(&w);
}

/* Requests that are left when the time is over end quietly. */
/* Two of them behind one engine: each request goes to one, both get some, the tokens are those of one alone. */
TEST(replicas_share_the_requests)
{
    world w;
    static answer alone[N], shared[N];
    engine *e = NULL, *other = NULL;
    engine_request *r[N];
    device_model *second = NULL, *third = NULL;
    engine_stats sum;
    uint64_t steps[2];
    step_time t;
    memset(alone, 0, sizeof alone);
    memset(shared, 0, sizeof shared);
    if (world_open(&w)) {
        drive_all(&w, alone);
        CHECK_ERR(device_load(w.dev, w.g, NULL, &w.limits, NULL, NULL, &second), ST_INVALID, "2 replicas on 1 device each need more than the 1 devices");
        world_close(&w);
    }
    if (!world_open_on(&w, "sim:v6e-4?speed=0")) return;
    REQUIRE_OK(device_load(w.dev, w.g, NULL, &w.limits, NULL, NULL, &second));
    REQUIRE_OK(engine_start(w.dm, w.in.m, &w.in.eo, &e));
    REQUIRE_OK(engine_start(second, w.in.m, &w.in.eo, &other));
    const int blocks = engine_num_blocks(e);
    REQUIRE_OK(engine_join(e, other));
    CHECK_INT(engine_num_blocks(e), 2 * blocks);
    script s = { .a = shared };
    for (int i = 0; i < N; i++) {
        request_spec spec;
        make_spec(&s, i, &spec);
        CHECK_OK(engine_submit(e, &spec, &r[i]));
    }
    engine_abort(r[N - 1]);
    for (int i = 0; i < N; i++) {
        for (int tries = 0; tries < 60000 && !__atomic_load_n(&shared[i].done, __ATOMIC_ACQUIRE); tries++) nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        CHECK(shared[i].done);
        if (i < N - 1) CHECK(shared[i].n == alone[i].n && memcmp(shared[i].tokens, alone[i].tokens, sizeof(int32_t) * (size_t)alone[i].n) == 0);
        engine_request_release(r[i]);
    }
    CHECK(engine_check_kv(e) && engine_healthy(e));
    engine_get_stats(e, &sum);
    CHECK_INT(sum.finished[FINISH_LENGTH] + sum.finished[FINISH_ABORT], N);
    sim_totals(w.dm, &t, &steps[0]);
    sim_totals(second, &t, &steps[1]);
    CHECK(steps[0] > 10 && steps[1] > 10);
    CHECK_INT(sum.steps, steps[0] + steps[1]);
    engine_stop(e, 0);
    CHECK_OK(device_load(w.dev, w.g, NULL, &w.limits, NULL, NULL, &third));
    device_unload(third);
    device_unload(second);
    world_close(&w);
}

TEST(a_drive_can_stop_in_the_middle)
{
    world w;
    static answer a[N];
    if (world_open(&w)) {
        engine_device ed;
        drive *d = NULL;
        script s = { .a = a };
        engine_device_of(w.dm, &ed);
        REQUIRE_OK(drive_new(&ed, model_describe(w.in.m), &w.in.eo, &d));
        s.t0 = drive_now(d);
        CHECK_OK(drive_run(d, &(drive_source){ next_one, fill_one, &s }, s.t0 + 0.02));
        CHECK(drive_now(d) <= s.t0 + 0.02 && s.at > 5 && s.at < N);
        drive_free(d);
        CHECK_EVERY_ALLOCATION(drive_new(&ed, model_describe(w.in.m), &w.in.eo, &d), drive_free(d));
        ed.now = NULL;
        CHECK_ERR(drive_new(&ed, model_describe(w.in.m), &w.in.eo, &d), ST_INVALID, "no time of its own");
    }
    world_close(&w);
}

/* ---- plan ---- */

static double series(const jv *run, const char *name, const char *p) { return jv_get_f64(jv_get(run, name), p, -1); }

TEST(layouts_are_compared_and_one_recommended)
{
    jv *o = ran_json(RUN("Qwen3-0.6B", "--json", "--target", "v6e:2x2", "v5e:1x1", "--input-len", "512", "--output-len", "64", "--num-prompts", "64", "--request-rate", "20", "--max-model-len", "2048"));
    REQUIRE(o != NULL);
    const jv *s = jv_get(o, "simulation"), *runs = jv_get(s, "runs");
    CHECK_INT(jv_len(runs), 4);      /* 1 x 4, 2 x 2, 4 x 1, and one chip */
    double least = 1e9;
    int64_t best = -1;
    for (size_t i = 0; i < jv_len(runs); i++) {
        const jv *r = jv_at(runs, i);
        CHECK_INT(jv_get_i64(r, "completed", 0), 64);
        CHECK_INT((int64_t)jv_get_f64(r, "output_tokens", 0), 64 * 64);
        CHECK_INT(jv_get_i64(r, "tensor_parallel_size", 0) * jv_get_i64(r, "data_parallel_size", 0), i < 3 ? 4 : 1);
        CHECK(series(r, "ttft_ms", "p50") > 0 && series(r, "ttft_ms", "p99") >= series(r, "ttft_ms", "p50"));
        CHECK(series(r, "itl_ms", "p99") >= series(r, "itl_ms", "p50"));
        const double cost = jv_get_f64(r, "usd_per_million_tokens", -1);
        CHECK_NEAR(cost, jv_get_f64(r, "usd_per_hour", 0) / 3600 / jv_get_f64(r, "total_token_throughput", 1) * 1e6, 1e-9);
        if (cost < least) best = (int64_t)i;
        if (cost < least) least = cost;
    }
    CHECK_INT(jv_get_i64(s, "recommended", -1), best);
    /* More tensor ranks decode faster. */
    CHECK(series(jv_at(runs, 2), "itl_ms", "p50") < series(jv_at(runs, 0), "itl_ms", "p50"));
    jv_free(o);
}

TEST(as_many_replicas_as_are_asked_for)
{
    jv *o = ran_json(RUN("Qwen3-0.6B", "--json", "--target", "v6e:2x2", "--input-len", "64", "--output-len", "8", "--num-prompts", "8", "--max-model-len", "2048", "--data-parallel-size", "2"));
    REQUIRE(o != NULL);
    const jv *runs = jv_get(jv_get(o, "simulation"), "runs");
    CHECK_INT(jv_len(runs), 2);      /* of one device and of two; of four there is room for one */
    for (size_t i = 0; i < jv_len(runs); i++) CHECK_INT(jv_get_i64(jv_at(runs, i), "data_parallel_size", 0), 2);
    jv_free(o);
}

TEST(who_misses_the_goal_is_not_recommended)
{
    jv *o = ran_json(RUN("Qwen3-0.6B", "--json", "--target", "v6e:1x1", "v5e:1x1", "--num-prompts", "32", "--max-concurrency", "8", "--max-model-len", "2048", "--slo-itl", "0.01"));
    REQUIRE(o != NULL);
    CHECK(jv_is(jv_get(jv_get(o, "simulation"), "recommended"), JV_NULL));
    CHECK_INT(jv_len(jv_get(jv_get(o, "simulation"), "runs")), 2);
    CHECK(!jv_get_bool(jv_at(jv_get(jv_get(o, "simulation"), "runs"), 0), "meets_goal", true));
    jv_free(o);
    ran r = RUN("Qwen3-0.6B", "--target", "v6e:1x1", "v5e:1x1", "--num-prompts", "32", "--max-concurrency", "8", "--max-model-len", "2048", "--slo-itl", "50");
    CHECK_INT(r.rc, 0);
    CHECK(strstr(buf_cstr(&r.out), "at most 8 at a time"));
    CHECK(strstr(buf_cstr(&r.out), "recommended: v"));
    CHECK(strstr(buf_cstr(&r.out), "the cheapest that meets ITL p99 <= 50 ms"));
    ran_free(&r);
}

TEST(the_same_seed_gives_the_same_report)
{
    ran r[3];
    for (int i = 0; i < 3; i++)
        r[i] = RUN("Qwen3-0.6B", "--json", "--target", "v6e:1x1", "--num-prompts", "100", "--random-range-ratio", "0.5", "--request-rate", "50", "--max-model-len", "4096", "--seed", i < 2 ? "1" : "2");
    CHECK_INT(r[0].out.len, r[1].out.len);
    CHECK(strcmp(buf_cstr(&r[0].out), buf_cstr(&r[1].out)) == 0);
    CHECK(strcmp(buf_cstr(&r[0].out), buf_cstr(&r[2].out)) != 0);
    for (int i = 0; i < 3; i++) ran_free(&r[i]);
}

/* A plugin that takes 3,800 cycles for any program: steps are then faster than what they read from memory allows. */
TEST(a_compiler_refines_the_programs_that_steps_fall_into)
{
    char cache[] = "/tmp/systolic-plan-XXXXXX", command[100];
    if (NO_PLUGIN || !fake_compiler()) SKIP("no C compiler here, or plugins cannot be loaded");
    REQUIRE(mkdtemp(cache));
    setenv("TPU_LIBRARY_PATH", fake_compiler(), 1);
#define ASK(refine) RUN("Qwen3-0.6B", "--json", "--target", "v6e:1x1", "--input-len", "100", "--output-len", "20", "--num-prompts", "40", "--max-num-seqs", "32", "--max-model-len", "1024", "--sim-refine", refine, "--program-cache", cache)
    ran first = ASK("libtpu"), again = ASK("libtpu");
    CHECK(strcmp(buf_cstr(&first.out), buf_cstr(&again.out)) == 0);
    CHECK(strstr(buf_cstr(&first.err), "decode t32 s32 compiled") && strstr(buf_cstr(&again.err), "decode t32 s32 from the cache"));
    jv *refined = ran_json(first), *plain = ran_json(ASK("none"));
    const jv *x = jv_at(jv_get(jv_get(refined, "simulation"), "runs"), 0), *y = jv_at(jv_get(jv_get(plain, "simulation"), "runs"), 0);
    CHECK_STR(jv_get_str(x, "refined_by", ""), "libtpu");
    CHECK(jv_len(jv_get(x, "programs")) >= 2 && jv_len(jv_get(x, "programs")) < 10);
    CHECK_NEAR(jv_get_f64(jv_at(jv_get(x, "programs"), 0), "refined_ms", 0), 3800 / 1.75e9 * 1e3, 1e-9);
    CHECK(series(x, "itl_ms", "p50") < series(y, "itl_ms", "p50") && jv_get(y, "programs") == NULL);
    CHECK_INT(jv_get_i64(x, "completed", 0), 40);
    jv_free(refined);
    jv_free(plain);
    ran_free(&again);
    setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so", 1);
    ran absent = ASK("libtpu");
    CHECK_INT(absent.rc, 1);
    CHECK(strstr(buf_cstr(&absent.err), "--sim-refine: ") && strstr(buf_cstr(&absent.err), "/nowhere/libtpu.so"));
    ran_free(&absent);
    unsetenv("TPU_LIBRARY_PATH");
    snprintf(command, sizeof command, "rm -rf %s", cache);
    CHECK(system(command) == 0);
}

/* Four replicas: the same again, every request served, and with lengths that differ nobody waits long for a free one. */
TEST(replicas_are_routed_the_same_way_each_time)
{
    ran r[2];
    for (int i = 0; i < 2; i++)
        r[i] = RUN("Qwen3-0.6B", "--json", "--target", "v6e:2x2", "--tensor-parallel-size", "1", "--input-len", "600", "--output-len", "100", "--num-prompts", "200", "--random-range-ratio", "0.9", "--request-rate", "60",
                   "--max-model-len", "4096", "--max-num-seqs", "8");
    CHECK(strcmp(buf_cstr(&r[0].out), buf_cstr(&r[1].out)) == 0);
    ran_free(&r[1]);
    jv *o = ran_json(r[0]);
    REQUIRE(o != NULL);
    const jv *x = jv_at(jv_get(jv_get(o, "simulation"), "runs"), 0);
    CHECK_INT(jv_get_i64(x, "data_parallel_size", 0), 4);
    CHECK_INT(jv_get_i64(x, "completed", 0), 200);
    CHECK(series(x, "ttft_ms", "p99") < 100);
    jv_free(o);
}

static void refused(ran r, int rc, const char *text)
{
    CHECK_INT(r.rc, rc);
    if (!strstr(buf_cstr(&r.err), text)) FAIL("\"%s\" is not in: %s", text, buf_cstr(&r.err));
    ran_free(&r);
}

TEST(nonsense_is_refused)
{
    refused(RUN("Qwen3-0.6B", "--trace", "/nowhere.csv"), 1, "cannot open /nowhere.csv");
    refused(RUN("Qwen3-0.6B", "--trace", "x.csv", "--input-len", "5"), 1, "a trace has its own lengths");
    refused(RUN("Qwen3-0.6B", "--input-len", "0"), 1, "--input-len");
    refused(RUN("Qwen3-0.6B", "--request-rate", "0"), 1, "--request-rate");
    refused(RUN("Qwen3-0.6B", "--num-prompts", "5", "--target", "v6e:2x2?mxu=fast"), 1, "mxu must be a number");
}

static void check_picture(const char *dir, const char *name, const char *const *texts)
{
    char path[4200];
    buf b = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    if (f) slurp(f, &b);
    const char *s = buf_cstr(&b);
    CHECK(strncmp(s, "<svg ", 5) == 0 && b.len > 8 && strcmp(s + b.len - 7, "</svg>\n") == 0);
    CHECK(!strstr(s, "nan") && !strstr(s, "inf"));
    for (int i = 0; texts[i]; i++)
        if (!strstr(s, texts[i])) FAIL("%s does not say \"%s\"", name, texts[i]);
    buf_free(&b);
    unlink(path);
}

TEST(pictures_have_axes_units_and_legends)
{
    char dir[] = "/tmp/systolic-svg-XXXXXX";
    REQUIRE(mkdtemp(dir) != NULL);
    ran r = RUN("Qwen3-0.6B", "--target", "v6e:1x1", "v5e:1x1", "--max-concurrency", "8", "--num-prompts", "16", "--output-len", "16", "--max-model-len", "2048", "--max-num-seqs", "8", "--slo-itl", "50", "--svg", dir);
    CHECK_INT(r.rc, 0);
    if (r.rc) printf("  %s\n", buf_cstr(&r.err));
    check_picture(dir, "roofline.svg", (const char *const[]){ "Roofline: Qwen3-0.6B on v", "FLOP per byte of HBM traffic", "FLOP/s of one device", "TFLOP/s bf16", "attention", "whole step", NULL });
    check_picture(dir, "latency.svg", (const char *const[]){ "output tokens per second, all chips", "time to first token (ms)", "time between tokens (ms)", "v6e:1x1, 1 x 1", "v5e:1x1, 1 x 1", "99th percentile", "goal", NULL });
    ran_free(&r);
    /* Replicas use the devices that one of them leaves: nothing to warn of. */
    r = RUN("Qwen3-0.6B", "--target", "v6e:2x2", "--tensor-parallel-size", "1", "--num-prompts", "8", "--output-len", "8", "--max-model-len", "2048", "--max-num-seqs", "8", "--svg", dir);
    CHECK_INT(r.rc, 0);
    CHECK_STR(buf_cstr(&r.err), "");
    check_picture(dir, "roofline.svg", (const char *const[]){ "Qwen3-0.6B on v6e:2x2", NULL });
    check_picture(dir, "latency.svg", (const char *const[]){ "v6e:2x2, 1 x 4", NULL });
    ran_free(&r);
    rmdir(dir);
    r = RUN("Qwen3-0.6B", "--target", "v6e:1x1", "--num-prompts", "4", "--max-model-len", "2048", "--svg", "/nowhere/at/all");
    CHECK_INT(r.rc, 1);
    CHECK(strstr(buf_cstr(&r.err), "--svg: cannot make /nowhere/at/all"));
    ran_free(&r);
}

/* What all prompts begin with is computed once. */
TEST(shared_prefixes_are_found)
{
    jv *o = ran_json(RUN("Qwen3-0.6B", "--json", "--target", "v6e:1x1", "--num-prompts", "40", "--input-len", "488", "--prefix-len", "512", "--output-len", "8", "--max-concurrency", "1", "--max-model-len", "2048"));
    REQUIRE(o != NULL);
    const jv *r = jv_at(jv_get(jv_get(o, "simulation"), "runs"), 0);
    CHECK_NEAR(jv_get_f64(r, "prefix_hit_rate", 0), 39.0 / 40 * 512 / 1000, 1e-9);
    CHECK_INT((int64_t)jv_get_f64(r, "input_tokens", 0), 40 * 1000);
    jv_free(o);
}

/* An hour of the Azure conversation trace, within a minute of one core. */
TEST(an_hour_takes_seconds)
{
    const char *dir = test_shared("realdata/traces/azure");
    char path[8192];
    struct timespec from, to;
    if (!dir) SKIP("no traces");
    snprintf(path, sizeof path, "%s/AzureLLMInferenceTrace_conv.first60pct.csv", dir);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    jv *o = ran_json(RUN("Llama-3.3-70B-Instruct", "--json", "--target", "v6e-8", "--trace", path, "--trace-duration", "3600", "--max-model-len", "16384", "--max-num-seqs", "256"));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
    REQUIRE(o != NULL);
    const jv *r = jv_at(jv_get(jv_get(o, "simulation"), "runs"), 0);
    CHECK(jv_get_i64(r, "completed", 0) > 15000);
    CHECK(jv_get_f64(r, "duration_s", 0) > 3500);
#ifndef SYSTOLIC_SANITIZED
    CHECK((double)(to.tv_sec - from.tv_sec) < 60);
#endif
    jv_free(o);
}

TEST_MAIN
