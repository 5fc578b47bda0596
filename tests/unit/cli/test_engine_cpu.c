/* The engine on the CPU device with a real checkpoint: the reference's tokens, and the same bits however requests are run. Here and not
 * with the engine's tests because it needs the kernels. */
#include <pthread.h>

#include "base/log.h"
#include "base/mem.h"
#include "device/device.h"
#include "engine/engine.h"
#include "load/safetensors.h"
#include "model/model.h"
#include "tests/test.h"

enum { N_REQS = 64, MAX_OUT = 40, MAX_PROMPT = 140, N_LPS = 3 };

typedef struct machine { jv *config; model *m; weight_source *w; device *dev; device_model *dm; engine *e; } machine;

static void machine_close(machine *x)
{
    if (x->e) engine_stop(x->e, 0);
    device_unload(x->dm);
    if (x->w) model_weights_close(x->w);
    device_close(x->dev);
    model_free(x->m);
    jv_free(x->config);
    *x = (machine){0};
}

static status machine_open(machine *x, const char *dir, const engine_options *o, int n_threads)
{
    char path[4200];
    engine_options planned;
    device_limits l;
    status st;
    *x = (machine){0};
    snprintf(path, sizeof path, "%s/config.json", dir);
    TRY_OUT(jv_parse_file(path, 1 << 20, &x->config));
    TRY_OUT(model_new(x->config, &(model_options){ .weight_dtype = DT_F32 }, &x->m));
    TRY_OUT(model_weights_open(x->m, dir, false, 0, &x->w));
    TRY_OUT(device_open("cpu", &(device_options){ .n_threads = n_threads }, &x->dev));
    TRY_OUT(engine_plan(o, model_describe(x->m), &planned, &l));
    TRY_OUT(device_load(x->dev, model_graph(x->m), x->w, &l, NULL, NULL, &x->dm));
    TRY_OUT(engine_start(x->dm, x->m, &planned, &x->e));
    return ST_OK;
out:
    machine_close(x);
    return st;
}

typedef struct answer {
    int32_t tokens[MAX_OUT];
    float lps[MAX_OUT][N_LPS];
    float prompt_lps[MAX_PROMPT];
    int n;
    finish_reason finish;
} answer;

typedef struct caller { pthread_mutex_t mu; pthread_cond_t cv; int n_done; } caller;
static caller all = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 };
typedef struct job { answer *a; int n_prompt; engine_request *r; } job;

static void on_output(const engine_output *o)
{
    job *j = o->user;
    for (int i = 0; i < o->n_tokens && j->a->n < MAX_OUT; i++) {
        for (int k = 0; o->logprobs && k < N_LPS && k < o->logprobs[i].n; k++) j->a->lps[j->a->n][k] = o->logprobs[i].items[k].logprob;
        j->a->tokens[j->a->n++] = o->tokens[i];
    }
    for (int i = 1; o->prompt_logprobs && i < j->n_prompt; i++) j->a->prompt_lps[i] = o->prompt_logprobs[i].items[0].logprob;
    if (o->finish == FINISH_NONE) return;
    j->a->finish = o->finish;
    pthread_mutex_lock(&all.mu);
    all.n_done++;
    pthread_cond_signal(&all.cv);
    pthread_mutex_unlock(&all.mu);
}

static void wait_for(int n)
{
    pthread_mutex_lock(&all.mu);
    while (all.n_done < n) pthread_cond_wait(&all.cv, &all.mu);
    pthread_mutex_unlock(&all.mu);
}

typedef struct question { int32_t prompt[MAX_PROMPT]; int n; sampling_params p; } question;

static void ask(machine *x, const question *q, answer *a, job *j)
{
    *a = (answer){0};
    *j = (job){ .a = a, .n_prompt = q->n };
    request_spec s = { .id = "t", .prompt = q->prompt, .n_prompt = q->n, .params = &q->p, .on_output = on_output, .user = j };
    if (engine_submit(x->e, &s, &j->r) != ST_OK) FAIL("%s", err_msg());
}

/* With the engine given; all at once or one after the other. */
static void ask_all(machine *x, const question *q, answer *a, int n, bool one_by_one)
{
    static job jobs[N_REQS];
    all.n_done = 0;
    for (int i = 0; i < n; i++) {
        ask(x, &q[i], &a[i], &jobs[i]);
        if (one_by_one) wait_for(i + 1);
    }
    wait_for(n);
    for (int i = 0; i < n; i++) engine_request_release(jobs[i].r);
}

static sampling_params settings(int i, int max_tokens)
{
    sampling_params p = { .temperature = i % 3 ? 0.4f + 0.2f * (float)(i % 4) : 0, .top_p = i % 4 == 1 ? 0.9f : 1, .top_k = i % 5 == 2 ? 40 : 0,
                          .min_p = i % 7 == 5 ? 0.02f : 0, .repetition_penalty = i % 6 == 4 ? 1.2f : 1, .frequency_penalty = i % 6 == 5 ? 0.3f : 0,
                          .has_seed = true, .seed = i, .max_tokens = max_tokens, .logprobs = i % 2 ? 2 : -2, .prompt_logprobs = i % 11 == 3 ? 0 : -2 };
    return p;
}

static void make_questions(question *q, int vocab)
{
    for (int i = 0; i < N_REQS; i++) {
        q[i].n = 1 + i * 37 % (MAX_PROMPT - 1);
        for (int k = 0; k < q[i].n; k++) q[i].prompt[k] = (int32_t)((unsigned)(k * k * 7 + k * (i % 9) * 13 + i % 9) % (unsigned)vocab); /* nine families of shared prefixes */
        q[i].p = settings(i, 3 + i * 5 % 22);
    }
}

static void compare(const char *what, const answer *got, const answer *want, int n)
{
    for (int i = 0; i < n; i++) {
        if (got[i].n != want[i].n || got[i].finish != want[i].finish || memcmp(got[i].tokens, want[i].tokens, sizeof got[i].tokens) != 0)
            FAIL("%s: request %d has other tokens", what, i);
        else if (memcmp(got[i].lps, want[i].lps, sizeof got[i].lps) != 0 || memcmp(got[i].prompt_lps, want[i].prompt_lps, sizeof got[i].prompt_lps) != 0)
            FAIL("%s: request %d has the same tokens, other logprobs", what, i);
    }
}

static const char *golden_dir(const char *name)
{
    char rel[256];
    snprintf(rel, sizeof rel, "goldens/%s/config.json", name);
    const char *path = test_shared(rel);
    if (!path) return NULL;
    static char dir[4096];
    snprintf(dir, sizeof dir, "%.*s", (int)(strlen(path) - strlen("/config.json")), path);
    return dir;
}

/* groups: of layers that share blocks, which all pools are made larger by. */
static void check_model(const char *name, int groups)
{
    static question q[N_REQS];
    static answer want[N_REQS], got[N_REQS];
    const char *dir = golden_dir(name);
    if (!dir) SKIP("goldens/%s is not there", name);
    machine x;
    engine_stats st;
    engine_options o = { .max_model_len = 192, .num_blocks_override = 400 * groups, .no_async_scheduling = true, .no_prefix_caching = true };
    REQUIRE_OK(machine_open(&x, dir, &o, 1));
    make_questions(q, model_describe(x.m)->vocab_size);
    ask_all(&x, q, want, N_REQS, true);
    CHECK(engine_check_kv(x.e));
    machine_close(&x);

    const struct { const char *what; engine_options o; bool preempts; const char *hostile; } runs[] = {
        { "batch of 64, asynchronous", { .num_blocks_override = 2000 }, false, NULL },
        { "chunks of 5", { .num_blocks_override = 400, .max_num_batched_tokens = 5, .max_num_seqs = 4 }, false, NULL },
        { "chunks of 33, blocks of 7", { .num_blocks_override = 400, .max_num_batched_tokens = 33, .max_num_seqs = 12, .block_size = 7, .policy = SCHED_PRIORITY }, false, NULL },
        { "few blocks", { .num_blocks_override = 40, .no_reserve_full_isl = true }, true, NULL },
        { "few blocks, no cache, synchronous", { .num_blocks_override = 30, .no_reserve_full_isl = true, .no_prefix_caching = true, .no_async_scheduling = true }, true, NULL },
        { "hostile", { .num_blocks_override = 100, .block_size = 2 }, true, "3" },
    };
    int preempted = 0;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        o = runs[i].o;
        o.max_model_len = 192;
        o.num_blocks_override *= groups;
        if (runs[i].hostile) setenv("SYSTOLIC_HOSTILE", runs[i].hostile, 1);
        status s = machine_open(&x, dir, &o, 1);
        unsetenv("SYSTOLIC_HOSTILE");
        REQUIRE_OK(s);
        for (int round = 0; round < (runs[i].preempts ? 1 : 2); round++) { /* the second finds prefixes in the cache */
            ask_all(&x, q, got, N_REQS, false);
            compare(runs[i].what, got, want, N_REQS);
        }
        engine_get_stats(x.e, &st);
        if (runs[i].preempts) preempted += st.preemptions > 0;  /* whether one run is short of blocks depends on who asks when */
        else CHECK_INT(st.preemptions, 0);
        if (!runs[i].preempts) CHECK(st.prefix_hits > 0);
        CHECK(engine_check_kv(x.e));
        machine_close(&x);
    }
    CHECK(preempted > 0);
}

TEST(llama_is_the_same_however_it_runs) { check_model("llama", 1); }
TEST(sliding_windows_are_the_same_however_they_run) { check_model("mistral", 1); }
TEST(mixed_windows_are_the_same_however_they_run) { check_model("gemma3_text", 7); }
TEST(windows_and_sinks_are_the_same_however_they_run) { check_model("gpt_oss", 2); }
TEST(chunks_are_the_same_however_they_run) { check_model("llama4_scout", 4); }
TEST(longrope_is_the_same_however_it_runs) { check_model("phi3_longrope", 1); }

TEST(greedy_tokens_are_the_references)
{
    const char *names[] = { "llama", "qwen3", "phi3_longrope" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *dir = golden_dir(names[i]);
        if (!dir) SKIP("goldens/%s is not there", names[i]);
        char path[4200], key[64];
        snprintf(path, sizeof path, "%s/golden.safetensors", dir);
        st_set *g;
        machine x;
        REQUIRE_OK(st_open_file(path, &g));
        engine_options o = { .max_model_len = 192, .num_blocks_override = 100 };
        REQUIRE_OK(machine_open(&x, dir, &o, 2));
        for (int k = 0; k < 2; k++) {
            const char *prompt = k ? "long" : "short";
            snprintf(key, sizeof key, "%s.input_ids", prompt);
            const st_tensor *ids = st_find(g, key);
            snprintf(key, sizeof key, "%s.greedy_ids", prompt);
            const st_tensor *want = st_find(g, key);
            snprintf(key, sizeof key, "%s.greedy_margin", prompt);
            const st_tensor *margin = st_find(g, key);
            REQUIRE(ids && want && margin && ids->shape[0] <= MAX_PROMPT && want->shape[0] <= MAX_OUT);
            question q = { .n = (int)ids->shape[0], .p = { .top_p = 1, .repetition_penalty = 1, .max_tokens = (int)want->shape[0], .logprobs = -2, .prompt_logprobs = -2 } };
            answer a;
            memcpy(q.prompt, ids->data, ids->bytes);
            ask_all(&x, &q, &a, 1, true);
            CHECK_INT(a.n, want->shape[0]);
            for (int t = 0; t < a.n; t++) {
                int32_t id;
                float m;
                memcpy(&id, (const char *)want->data + 4 * t, 4);
                memcpy(&m, (const char *)margin->data + 4 * t, 4);
                if (m < 1e-3f) break; /* too close to call: from here on the texts may differ */
                if (a.tokens[t] != id) { FAIL("%s %s: token %d is %d, wanted %d", names[i], prompt, t, a.tokens[t], id); break; }
            }
        }
        machine_close(&x);
        st_close(g);
    }
}

TEST_MAIN
