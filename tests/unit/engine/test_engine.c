/* The engine on a fake device: the same tokens whatever runs beside a request and whatever happens to it. */
#include "tests/unit/engine/harness.h"

#include "base/clock.h"
#include "base/log.h"

/* What a request must produce, from the definition: history, logits, sampler. No engine involved. (seed given, or greedy) */
static uint64_t seed_of(const sampling_params *p)
{
    uint64_t x = (uint64_t)p->seed + 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static int reference(const int32_t *prompt, int n_prompt, const sampling_params *p, int max_model_len, int rope_switch, int32_t *out)
{
    int32_t hist[2 * MAX_OUT];
    float logits[VOCAB];
    lp_vec lps = {0};
    sampler *s = NULL;
    memcpy(hist, prompt, (size_t)n_prompt * sizeof *hist);
    if (sampler_new(VOCAB, LOGPROBS_RAW, &s) != ST_OK) return -1;
    int n = n_prompt, k = 0;
    for (;;) {
        fake_reference(hist, n, rope_switch > 0 && n > rope_switch, VOCAB, logits);
        sample_input in = { .params = p, .tokens = hist, .n_prompt = n_prompt, .n_tokens = n, .seed = seed_of(p) };
        if (sampler_next(s, &in, logits, &hist[n], &lps) != ST_OK) break;
        out[k++] = hist[n++];
        if (is_in(p->eos_ids, p->n_eos_ids, out[k - 1]) || is_in(p->stop_token_ids, p->n_stop_token_ids, out[k - 1])) break;
        if (n >= max_model_len || k >= p->max_tokens) break;
    }
    sampler_free(s);
    lp_vec_free(&lps);
    return k;
}

enum { N_MIX = 64 };
typedef struct mix { int32_t prompt[200]; int n; sampling_params p; int32_t want[MAX_OUT]; int n_want; } mix;
static const int32_t eos[] = { 3 };
static const float biases[] = { 3.5f, -2 };
static const int32_t bias_ids[] = { 11, 12 };
static const int32_t bad_a[] = { 7 }, bad_b[] = { 20, 21 };
static const int32_t *const bad[] = { bad_a, bad_b };
static const int bad_lens[] = { 1, 2 };

/* A variety of prompts and settings; longest sequence below max_len. */
static void make_mix(mix *m, int max_len, int rope_switch)
{
    for (int i = 0; i < N_MIX; i++) {
        mix *x = &m[i];
        x->n = 1 + (int)(fake_mix((unsigned)i) % (unsigned)(max_len / 2));
        make_prompt(x->prompt, x->n, (unsigned)(i % 40)); /* some share prefixes */
        sampling_params p = greedy(1 + i % (max_len / 3));
        if (i % 4) {
            p.temperature = 0.3f + (float)(i % 5) * 0.3f;
            p.has_seed = true;
            p.seed = i;
            p.top_k = i % 3 ? i % 30 : 0;
            p.top_p = i % 5 ? 0.5f + (float)(i % 5) * 0.1f : 1;
            p.min_p = i % 7 == 0 ? 0.05f : 0;
        }
        if (i % 6 == 1) p.repetition_penalty = 1.3f, p.frequency_penalty = 0.4f, p.presence_penalty = -0.2f;
        if (i % 6 == 2) p.logit_bias = biases, p.logit_bias_ids = bias_ids, p.n_logit_bias = 2;
        if (i % 6 == 3) p.bad_words = bad, p.bad_word_lens = bad_lens, p.n_bad_words = 2;
        p.eos_ids = p.all_stop_ids = eos;
        p.n_eos_ids = p.n_all_stop_ids = 1;
        p.min_tokens = i % 9 == 0 ? 3 : 0;
        if (p.min_tokens > p.max_tokens) p.min_tokens = p.max_tokens;
        x->p = p;
        x->n_want = reference(x->prompt, x->n, &x->p, max_len, rope_switch, x->want);
    }
}

static void check_tokens(const char *what, int i, const outcome *o, const mix *x)
{
    int same = 0;
    while (same < o->n && same < x->n_want && o->tokens[same] == x->want[same]) same++;
    if (o->n != x->n_want || same != o->n) FAIL("%s, request %d (prompt %d): %d tokens, wanted %d, equal up to %d", what, i, x->n, o->n, x->n_want, same);
    if (o->n_finals != 1) FAIL("%s, request %d: %d final outputs", what, i, o->n_finals);
}

/* All at once, then once more (prefix hits). Returns the stats at the end. */
static int helpers, n_helped;    /* run_mix's device has threads that help to sample; how often they did */
static engine_stats run_mix(const char *what, const engine_options *o, int rope_switch, bool one_by_one)
{
    static mix m[N_MIX];
    static outcome out[N_MIX];
    engine_stats st = {0};
    rig g = { .dev.n_threads = helpers };
    make_mix(m, o->max_model_len, rope_switch);
    g.mi.rope_switch_len = rope_switch;
    if (rig_start(&g, o) != ST_OK) {
        FAIL("%s: %s", what, err_msg());
        return st;
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N_MIX; i++) {
            outcome_init(&out[i]);
            CHECK_OK(submit_full(&g, &out[i], m[i].prompt, m[i].n, &m[i].p, i % 5, NULL));
            if (one_by_one) outcome_wait(&out[i]);
        }
        for (int i = 0; i < N_MIX; i++) {
            outcome_wait(&out[i]);
            check_tokens(what, i, &out[i], &m[i]);
            outcome_done(&out[i]);
        }
        if (!engine_check_kv(g.e)) FAIL("%s: the KV check failed", what);
    }
    engine_get_stats(g.e, &st);
    n_helped = atomic_load(&g.dev.n_helped);
    rig_stop(&g);
    return st;
}

TEST(same_tokens_alone)
{
    engine_options o = { .max_model_len = 128, .num_blocks_override = 200, .no_async_scheduling = true };
    engine_stats s = run_mix("alone", &o, 0, true);
    CHECK(s.prefix_hits > 0);
    CHECK_INT(s.preemptions, 0);
    CHECK_INT(s.generation_tokens > 0, 1);
}

TEST(same_tokens_in_a_batch)
{
    engine_options o = { .max_model_len = 128, .num_blocks_override = 2000, .no_async_scheduling = true };
    run_mix("batch", &o, 0, false);
    o.no_async_scheduling = false;
    run_mix("batch, async", &o, 0, false);
    o.no_prefix_caching = true;
    CHECK_INT(run_mix("batch, async, no cache", &o, 0, false).prefix_hits, 0);
}

TEST(same_tokens_when_threads_help_to_sample)
{
    engine_options o = { .max_model_len = 128, .num_blocks_override = 2000, .no_prefix_caching = true };
    for (helpers = 2; helpers <= 5; helpers += 3) {
        run_mix("helped", &o, 0, false);
        CHECK(n_helped > 0);
        run_mix("helped, alone", &o, 0, true);
        CHECK_INT(n_helped, 0);
    }
    helpers = 0;
}

TEST(same_tokens_chunked)
{
    for (int budget = 1; budget <= 40; budget += budget < 8 ? 1 : 9) {
        engine_options o = { .max_model_len = 96, .num_blocks_override = 300, .max_num_batched_tokens = budget, .max_num_seqs = budget < 8 ? budget : 8, .block_size = 4 };
        run_mix("chunked", &o, 0, false);
        o.long_prefill_token_threshold = 5;
        run_mix("chunked, threshold", &o, 0, false);
    }
}

TEST(same_tokens_after_preemption)
{
    for (int policy = 0; policy < 2; policy++)
        for (int async = 0; async < 2; async++) {
            engine_options o = { .max_model_len = 96, .num_blocks_override = 30, .block_size = 4, .policy = policy ? SCHED_PRIORITY : SCHED_FCFS,
                                 .no_async_scheduling = !async, .no_reserve_full_isl = true };
            CHECK(run_mix("preempted", &o, 0, false).preemptions > 0);
            o.watermark = 0.2;
            o.no_prefix_caching = true;
            CHECK(run_mix("preempted, watermark", &o, 0, false).preemptions > 0);
        }
}

TEST(same_tokens_without_chunked_prefill)
{
    engine_options o = { .max_model_len = 96, .num_blocks_override = 60, .block_size = 4, .no_chunked_prefill = true, .max_num_batched_tokens = 100, .max_num_seqs = 50 };
    run_mix("unchunked", &o, 0, false);
}

TEST(same_tokens_in_a_hostile_world)
{
    for (int blocks = 9; blocks <= 12; blocks++)
        for (int async = 0; async < 2; async++) {
            char every[8];
            snprintf(every, sizeof every, "%d", 3 + blocks % 3);
            setenv("SYSTOLIC_HOSTILE", every, 1);
            engine_options o = { .max_model_len = 16, .block_size = 2, .num_blocks_override = blocks, .no_async_scheduling = !async };
            CHECK(run_mix("hostile", &o, 0, false).preemptions > 20);
            unsetenv("SYSTOLIC_HOSTILE");
        }
}

TEST(same_tokens_with_two_rope_tables)
{
    engine_options o = { .max_model_len = 96, .num_blocks_override = 60, .block_size = 4 };
    run_mix("longrope", &o, 40, false);
    o.num_blocks_override = 26;
    o.max_num_batched_tokens = 16;
    o.max_num_seqs = 16;
    run_mix("longrope, tight", &o, 23, false);
}

/* ---- outputs ---- */

static void start_default(rig *g, engine_options *o)
{
    if (!o->max_model_len) o->max_model_len = 128;
    if (!o->num_blocks_override) o->num_blocks_override = 300;
    if (rig_start(g, o) != ST_OK) FAIL("%s", err_msg());
}

TEST(stop_reasons_come_in_order)
{
    rig g = {0};
    engine_options o = {0};
    outcome a;
    int32_t prompt[10], all[MAX_OUT];
    make_prompt(prompt, 10, 5);
    sampling_params p = greedy(20);
    const int n = reference(prompt, 10, &p, 128, 0, all);
    CHECK_INT(n, 20);
    start_default(&g, &o);
    struct { const int32_t *eos; const int32_t *stop; int max; finish_reason want; int want_n; int32_t want_stop; } cases[] = {
        { NULL, NULL, 20, FINISH_LENGTH, 20, -1 }, { &all[4], NULL, 20, FINISH_STOP, 5, -1 }, { NULL, &all[4], 20, FINISH_STOP, 5, all[4] },
        { &all[4], &all[4], 20, FINISH_STOP, 5, -1 }, { &all[4], NULL, 5, FINISH_STOP, 5, -1 }, { &all[4], NULL, 4, FINISH_LENGTH, 4, -1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        p = greedy(cases[i].max);
        p.eos_ids = cases[i].eos;
        p.n_eos_ids = cases[i].eos != NULL;
        p.stop_token_ids = cases[i].stop;
        p.n_stop_token_ids = cases[i].stop != NULL;
        outcome_init(&a);
        CHECK_OK(submit(&g, &a, prompt, 10, &p));
        outcome_wait(&a);
        CHECK_INT(a.finish, cases[i].want);
        CHECK_INT(a.n, cases[i].want_n);
        CHECK_INT(a.stop_token, cases[i].want_stop);
        outcome_done(&a);
    }
    CHECK(engine_check_kv(g.e));
    rig_stop(&g);
}

TEST(context_length_ends_a_request)
{
    rig g = {0};
    engine_options o = { .max_model_len = 40 };
    outcome a;
    int32_t prompt[41];
    make_prompt(prompt, 41, 6);
    start_default(&g, &o);
    sampling_params p = greedy(1000);
    for (int n = 38; n <= 40; n++) {
        outcome_init(&a);
        CHECK_OK(submit(&g, &a, prompt, n, &p));
        outcome_wait(&a);
        CHECK_INT(a.finish, FINISH_LENGTH);
        CHECK_INT(a.n, n == 38 ? 2 : 1);
        outcome_done(&a);
    }
    rig_stop(&g);
}

TEST(repetition_is_detected_after_min_tokens)
{
    rig g = {0};
    engine_options o = {0};
    outcome a;
    int32_t prompt[5];
    const int32_t only[] = { 9 };
    make_prompt(prompt, 5, 7);
    start_default(&g, &o);
    sampling_params p = greedy(50);
    p.allowed_token_ids = only;
    p.n_allowed_token_ids = 1;
    p.rep_max_pattern = 3;
    p.rep_min_pattern = 2;
    p.rep_min_count = 4;
    for (int min = 0; min <= 12; min += 12) {
        p.min_tokens = min;
        outcome_init(&a);
        CHECK_OK(submit(&g, &a, prompt, 5, &p));
        outcome_wait(&a);
        CHECK_INT(a.finish, FINISH_REPETITION);
        CHECK_INT(a.n, min ? 12 : 8);
        outcome_done(&a);
    }
    rig_stop(&g);
}

TEST(logprobs_come_with_tokens)
{
    for (int async = 0; async < 2; async++) {
        rig g = {0};
        engine_options o = { .no_async_scheduling = !async, .max_num_batched_tokens = 13, .max_num_seqs = 4 }; /* 4 rows: prompt rows in pieces */
        outcome a[3];
        int32_t prompt[60];
        float logits[VOCAB];
        make_prompt(prompt, 60, 8);
        start_default(&g, &o);
        sampling_params p = greedy(6);
        p.logprobs = 3;
        for (int i = 0; i < 3; i++) {
            p.prompt_logprobs = i - 1 ? 2 : 0;
            if (i == 2) p.prompt_logprobs = -2;
            outcome_init(&a[i]);
            CHECK_OK(submit(&g, &a[i], prompt, 60, &p));
        }
        for (int i = 0; i < 3; i++) {
            outcome_wait(&a[i]);
            CHECK_INT(a[i].n, 6);
            CHECK_INT(a[i].n_prompt_lps, i < 2);
            if (i < 2) CHECK_INT(a[i].n_cached, 0); /* they do not read the cache */
            for (int k = 0; k < a[i].n; k++) {
                CHECK_INT(a[i].n_lps[k], 3);
                CHECK_INT(a[i].lps[k][0].id, a[i].tokens[k]);
                CHECK_INT(a[i].lps[k][0].rank, 1);
                CHECK(a[i].lps[k][1].logprob <= a[i].lps[k][0].logprob);
            }
            for (int pos = 0; i < 2 && pos < 60; pos++) {
                if (pos == 0) {
                    CHECK_INT(a[i].n_plps[0], 0);
                    continue;
                }
                fake_reference(prompt, pos, 0, VOCAB, logits);
                double sum = 0;
                int rank = 0;
                for (int v = 0; v < VOCAB; v++) sum += exp((double)logits[v]);
                for (int v = 0; v < VOCAB; v++) rank += logits[v] >= logits[prompt[pos]];
                CHECK_INT(a[i].plps[pos][0].id, prompt[pos]);
                CHECK_NEAR(a[i].plps[pos][0].logprob, (double)logits[prompt[pos]] - log(sum), 1e-4);
                CHECK_INT(a[i].plps[pos][0].rank, rank);
                CHECK_INT(a[i].n_plps[pos], i == 1 ? 1 : rank <= 2 ? 2 : 3);
            }
            outcome_done(&a[i]);
        }
        CHECK(atomic_load(&g.dev.max_tokens_seen) <= 13);
        CHECK(engine_check_kv(g.e));
        rig_stop(&g);
    }
}

TEST(prompt_logprobs_survive_preemption)
{
    rig g = {0};
    engine_options o = { .max_model_len = 64, .block_size = 4, .num_blocks_override = 18, .max_num_seqs = 6, .max_num_batched_tokens = 9, .no_reserve_full_isl = true };
    outcome a[6];
    int32_t prompt[30];
    setenv("SYSTOLIC_HOSTILE", "7", 1);
    start_default(&g, &o);
    unsetenv("SYSTOLIC_HOSTILE");
    for (int i = 0; i < 6; i++) {
        sampling_params p = greedy(20);
        p.prompt_logprobs = 0;
        make_prompt(prompt, 30, (unsigned)i);
        outcome_init(&a[i]);
        CHECK_OK(submit(&g, &a[i], prompt, 30, &p));
    }
    for (int i = 0; i < 6; i++) {
        outcome_wait(&a[i]);
        make_prompt(prompt, 30, (unsigned)i);
        CHECK_INT(a[i].n_prompt_lps, 1);
        for (int pos = 1; pos < 30; pos++) CHECK(a[i].n_plps[pos] == 1 && a[i].plps[pos][0].id == prompt[pos]);
        outcome_done(&a[i]);
    }
    engine_stats st;
    engine_get_stats(g.e, &st);
    CHECK(st.preemptions > 0);
    CHECK(engine_check_kv(g.e));
    rig_stop(&g);
}

/* ---- prefix cache ---- */

TEST(prefix_hits_are_counted_and_salted)
{
    rig g = {0};
    engine_options o = { .block_size = 4 };
    outcome a;
    int32_t prompt[16];
    make_prompt(prompt, 16, 9);
    start_default(&g, &o);
    sampling_params p = greedy(3);
    const struct { const char *salt; int n, cached; } cases[] = {
        { NULL, 16, 0 }, { NULL, 16, 12 }, /* never the last prompt token */ { NULL, 15, 12 }, { NULL, 11, 8 }, { NULL, 3, 0 }, { "tenant", 16, 0 }, { "tenant", 16, 12 }, { "other", 16, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome_init(&a);
        CHECK_OK(submit_full(&g, &a, prompt, cases[i].n, &p, 0, cases[i].salt));
        outcome_wait(&a);
        CHECK_INT(a.n_cached, cases[i].cached);
        outcome_done(&a);
    }
    CHECK(engine_reset_prefix_cache(g.e));
    outcome_init(&a);
    CHECK_OK(submit(&g, &a, prompt, 16, &p));
    outcome_wait(&a);
    CHECK_INT(a.n_cached, 0);
    outcome_done(&a);
    engine_stats st;
    engine_get_stats(g.e, &st);
    CHECK_INT(st.prefix_hits, 12 + 12 + 8 + 12);
    CHECK_INT(st.prefix_queries, 16 + 16 + 15 + 11 + 3 + 16 + 16 + 16 + 16);
    CHECK_INT(st.prompt_tokens, st.prefix_queries);
    CHECK_INT(st.prompt_tokens_computed + st.prompt_tokens_cached, st.prompt_tokens);
    CHECK_NEAR(st.hit_rate_recent, 44.0 / 125, 1e-9);
    CHECK_INT(st.finished[FINISH_LENGTH], 9);
    CHECK_NEAR(st.kv_usage, 0, 0);
    rig_stop(&g);
}

TEST(short_and_long_rope_blocks_do_not_mix)
{
    rig g = { .mi = { .rope_switch_len = 12 } };
    engine_options o = { .block_size = 4 };
    outcome a;
    int32_t prompt[20], want[MAX_OUT];
    make_prompt(prompt, 20, 11);
    start_default(&g, &o);
    sampling_params p = greedy(2);
    const struct { int n, cached; } cases[] = { { 10, 0 }, { 10, 8 }, { 20, 0 }, { 20, 16 }, { 9, 8 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome_init(&a);
        CHECK_OK(submit(&g, &a, prompt, cases[i].n, &p));
        outcome_wait(&a);
        CHECK_INT(a.n_cached, cases[i].cached);
        CHECK_INT(reference(prompt, cases[i].n, &p, 128, 12, want), a.n);
        CHECK(memcmp(a.tokens, want, (size_t)a.n * sizeof *want) == 0);
        outcome_done(&a);
    }
    rig_stop(&g);
}

TEST(outputs_are_cached_too)
{
    rig g = {0};
    engine_options o = { .block_size = 4 };
    outcome a;
    int32_t prompt[40];
    make_prompt(prompt, 10, 10);
    start_default(&g, &o);
    sampling_params p = greedy(12);
    outcome_init(&a);
    CHECK_OK(submit(&g, &a, prompt, 10, &p));
    outcome_wait(&a);
    memcpy(prompt + 10, a.tokens, 12 * sizeof *prompt);
    outcome_done(&a);
    outcome_init(&a);
    CHECK_OK(submit(&g, &a, prompt, 22, &p)); /* a conversation's next turn */
    outcome_wait(&a);
    CHECK_INT(a.n_cached, 20);
    outcome_done(&a);
    rig_stop(&g);
}

/* ---- cancelling, limits, failure ---- */

TEST(abort_and_finish)
{
    for (int async = 0; async < 2; async++) {
        rig g = { .dev = { .delay_us = 200 } };
        engine_options o = { .no_async_scheduling = !async, .max_num_seqs = 3, .block_size = 4 };
        outcome a[12];
        int32_t prompt[20];
        start_default(&g, &o);
        sampling_params p = greedy(100);
        for (int i = 0; i < 12; i++) {
            outcome_init(&a[i]);
            a[i].abort_after = i % 3 == 0 ? 5 : 0;
            a[i].finish_after = i % 3 == 1 ? 7 : 0;
            make_prompt(prompt, 20, (unsigned)i);
            CHECK_OK(submit(&g, &a[i], prompt, 20, &p));
        }
        engine_abort(a[11].r); /* still waiting */
        engine_abort(a[11].r);
        for (int i = 0; i < 12; i++) {
            outcome_wait(&a[i]);
            engine_abort(a[i].r); /* too late: nothing happens */
        }
        engine_get_stats(g.e, &(engine_stats){0});
        CHECK(engine_check_kv(g.e));
        for (int i = 0; i < 12; i++) {
            CHECK_INT(a[i].n_finals, 1);
            CHECK_INT(a[i].finish, i == 11 || i % 3 == 0 ? FINISH_ABORT : i % 3 == 1 ? FINISH_STOP : FINISH_LENGTH);
            if (i % 3 == 0) CHECK(a[i].n >= 5 && a[i].n <= 7);
            if (i == 11) CHECK_INT(a[i].n, 0);
            outcome_done(&a[i]);
        }
        rig_stop(&g);
    }
}

TEST(admission_limits)
{
    rig g = { .dev = { .delay_us = 2000 } };
    engine_options o = { .max_num_seqs = 2, .max_num_queued_reqs = 3, .max_num_queued_tokens = 50 };
    outcome a[6];
    int32_t prompt[64];
    engine_stats st;
    make_prompt(prompt, 64, 1);
    start_default(&g, &o);
    sampling_params p = greedy(60);
    for (int i = 0; i < 5; i++) {
        outcome_init(&a[i]);
        REQUIRE_OK(submit(&g, &a[i], prompt, 10, &p));
        if (i == 1) REQUIRE(wait_for_counts(g.e, 2, 0));
    }
    REQUIRE(wait_for_counts(g.e, 2, 3));
    outcome_init(&a[5]);
    CHECK_ERR(submit(&g, &a[5], prompt, 10, &p), ST_LIMIT, "max_num_queued_reqs");
    engine_abort(a[4].r);
    outcome_wait(&a[4]);
    REQUIRE(wait_for_counts(g.e, 2, 2));
    CHECK_ERR(submit(&g, &a[5], prompt, 31, &p), ST_LIMIT, "max_num_queued_tokens");
    REQUIRE_OK(submit(&g, &a[5], prompt, 30, &p));
    engine_get_stats(g.e, &st);
    CHECK_INT(st.rejected_reqs, 1);
    CHECK_INT(st.rejected_tokens, 1);
    CHECK_INT(st.n_queued_tokens, 50);
    for (int i = 0; i < 6; i++) outcome_done(&a[i]);
    CHECK_INT(atomic_load(&g.dev.max_seqs_seen), 2);
    rig_stop(&g);
}

TEST(active_limit_and_priority)
{
    rig g = { .dev = { .delay_us = 500 } };
    engine_options o = { .max_num_active_seqs = 1, .policy = SCHED_PRIORITY };
    outcome a[4];
    int32_t prompt[8];
    start_default(&g, &o);
    sampling_params p = greedy(30);
    make_prompt(prompt, 8, 1);
    for (int i = 0; i < 4; i++) {
        outcome_init(&a[i]);
        CHECK_OK(submit_full(&g, &a[i], prompt, 8, &p, i == 0 ? 0 : 10 - i, NULL));
    }
    outcome_wait(&a[3]); /* the most urgent of the waiting ones */
    CHECK_INT(a[1].n_finals, 0);
    outcome_wait(&a[2]);
    CHECK_INT(a[1].n_finals, 0);
    for (int i = 0; i < 4; i++) outcome_done(&a[i]);
    CHECK_INT(atomic_load(&g.dev.max_seqs_seen), 1);
    rig_stop(&g);
}

TEST(a_failing_device_ends_all)
{
    for (int async = 0; async < 2; async++) {
        rig g = { .dev = { .delay_us = 300, .fail_at = 6 } };
        engine_options o = { .no_async_scheduling = !async, .max_num_seqs = 2 };
        outcome a[5];
        int32_t prompt[8];
        log_set_level(LOG_ERROR + 1);
        start_default(&g, &o);
        CHECK(engine_healthy(g.e));
        sampling_params p = greedy(30);
        make_prompt(prompt, 8, 1);
        for (int i = 0; i < 5; i++) {
            outcome_init(&a[i]);
            CHECK_OK(submit(&g, &a[i], prompt, 8, &p));
        }
        for (int i = 0; i < 5; i++) {
            outcome_wait(&a[i]);
            CHECK_INT(a[i].finish, FINISH_ERROR);
            CHECK(strstr(a[i].error, "fake device broke") != NULL);
        }
        CHECK(!engine_healthy(g.e));
        CHECK(engine_check_kv(g.e));
        outcome b;
        outcome_init(&b);
        CHECK_ERR(submit(&g, &b, prompt, 8, &p), ST_INTERNAL, "fake device broke");
        for (int i = 0; i < 5; i++) outcome_done(&a[i]);
        rig_stop(&g);
        log_set_level(LOG_INFO);
    }
}

TEST(stop_drains_then_aborts)
{
    for (int drain = 0; drain < 2; drain++) {
        rig g = { .dev = { .delay_us = 1000 } };
        engine_options o = { .max_num_seqs = 4 };
        outcome a[8];
        int32_t prompt[8];
        start_default(&g, &o);
        make_prompt(prompt, 8, 1);
        sampling_params p = greedy(20);
        for (int i = 0; i < 8; i++) {
            outcome_init(&a[i]);
            CHECK_OK(submit(&g, &a[i], prompt, 8, &p));
        }
        engine_stop(g.e, drain ? 60 : 0);
        for (int i = 0; i < 8; i++) {
            CHECK_INT(a[i].n_finals, 1);
            CHECK_INT(a[i].finish, drain ? FINISH_LENGTH : FINISH_ABORT);
            outcome_done(&a[i]); /* a handle may outlive the engine */
        }
        free(g.dev.store);
    }
}

TEST(bad_requests_are_refused)
{
    rig g = {0};
    engine_options o = { .max_model_len = 16 };
    outcome a;
    int32_t prompt[20], bad_id[] = { VOCAB };
    float nan_bias[] = { NAN };
    int zero[] = { 0 };
    const int32_t *words[] = { bad_id };
    make_prompt(prompt, 20, 1);
    start_default(&g, &o);
    outcome_init(&a);
    sampling_params p = greedy(5), q;
    int64_t live = mem_live();
    CHECK_ERR(submit(&g, &a, prompt, 0, &p), ST_INVALID, "empty");
    CHECK_ERR(submit(&g, &a, prompt, 17, &p), ST_INVALID, "context length is 16");
    CHECK_ERR(submit(&g, &a, bad_id, 1, &p), ST_INVALID, "out of vocabulary");
    q = p, q.max_tokens = 0;
    CHECK_ERR(submit(&g, &a, prompt, 3, &q), ST_INVALID, "max_tokens");
    q = p, q.temperature = NAN;
    CHECK_ERR(submit(&g, &a, prompt, 3, &q), ST_INVALID, "temperature");
    q = p, q.top_p = 0;
    CHECK_ERR(submit(&g, &a, prompt, 3, &q), ST_INVALID, "top_p");
    q = p, q.allowed_token_ids = bad_id, q.n_allowed_token_ids = 1;
    CHECK_ERR(submit(&g, &a, prompt, 3, &q), ST_INVALID, "allowed_token_ids");
    q = p, q.logit_bias_ids = prompt, q.logit_bias = nan_bias, q.n_logit_bias = 1;
    CHECK_ERR(submit(&g, &a, prompt, 3, &q), ST_INVALID, "logit_bias");
    q = p, q.bad_words = words, q.bad_word_lens = zero, q.n_bad_words = 1;
    CHECK_ERR(submit(&g, &a, prompt, 3, &q), ST_INVALID, "bad_words");
    q = p, q.rep_max_pattern = 2;
    CHECK_ERR(submit(&g, &a, prompt, 3, &q), ST_INVALID, "repetition_detection");
    CHECK_INT(mem_live(), live);
    rig_stop(&g);
}

TEST(options_are_checked)
{
    engine_options o, in;
    device_limits l;
    model_info mi = { .vocab_size = 10, .max_model_len = 4096 };
    in = (engine_options){0};
    REQUIRE_OK(engine_plan(&in, &mi, &o, &l));
    CHECK_INT(o.max_num_batched_tokens, 2048);
    CHECK_INT(o.max_num_seqs, 128);
    CHECK_INT(o.block_size, 16);
    CHECK_INT(o.max_model_len, 4096);
    CHECK_INT(l.max_rows, 128);
    engine_options again;
    REQUIRE_OK(engine_plan(&o, &mi, &again, NULL));
    CHECK(memcmp(&o, &again, sizeof o) == 0);
    in = (engine_options){ .no_chunked_prefill = true };
    REQUIRE_OK(engine_plan(&in, &mi, &o, NULL));
    CHECK_INT(o.max_num_batched_tokens, 4096);
    in = (engine_options){ .max_num_batched_tokens = 64 };
    REQUIRE_OK(engine_plan(&in, &mi, &o, NULL));
    CHECK_INT(o.max_num_seqs, 64);
    in.max_num_seqs = 65;
    CHECK_ERR(engine_plan(&in, &mi, &o, NULL), ST_INVALID, "max_num_seqs");
    in = (engine_options){ .no_chunked_prefill = true, .max_num_batched_tokens = 100 };
    CHECK_ERR(engine_plan(&in, &mi, &o, NULL), ST_INVALID, "smaller than max_model_len");
    in = (engine_options){ .max_model_len = 5000 };
    CHECK_ERR(engine_plan(&in, &mi, &o, NULL), ST_INVALID, "greater than the 4096");
    in = (engine_options){ .watermark = 1 };
    CHECK_ERR(engine_plan(&in, &mi, &o, NULL), ST_INVALID, "watermark");
    in = (engine_options){ .max_num_seqs = -1 };
    CHECK_ERR(engine_plan(&in, &mi, &o, NULL), ST_INVALID, "max_num_seqs must not be negative");
    rig g = {0};
    in = (engine_options){ .max_model_len = 4096, .kv_cache_bytes = 16 * 8 * 100 };
    CHECK_ERR(rig_start(&g, &in), ST_INVALID, "VLLM_CPU_KVCACHE_SPACE");
    setenv("VLLM_CPU_KVCACHE_SPACE", "lots", 1);
    in.kv_cache_bytes = 0;
    CHECK_ERR(rig_start(&g, &in), ST_INVALID, "must be a size in GiB");
    unsetenv("VLLM_CPU_KVCACHE_SPACE");
    in = (engine_options){ .max_model_len = 64, .max_num_seqs = 3 };
    REQUIRE_OK(rig_start(&g, &in));
    CHECK_INT(engine_num_blocks(g.e), 12); /* no more than could be used at once */
    CHECK_INT(engine_config(g.e)->max_num_seqs, 3);
    rig_stop(&g);
}

/* ---- accounting ---- */

typedef struct seen { int steps, gaps, firsts, ends; int64_t prefill, decode; engine_request_event last; } seen;
static void see_step(void *arg, const engine_step_event *e) { seen *s = arg; s->steps++; s->prefill += e->n_prefill_tokens; s->decode += e->n_decode_tokens; if (e->seconds < 0) s->steps = -1000; }
static void see_gap(void *arg, double x) { ((seen *)arg)->gaps += x >= 0; }
static void see_first(void *arg, double x) { ((seen *)arg)->firsts += x >= 0; }
static void see_end(void *arg, const engine_request_event *e) { ((seen *)arg)->ends++; ((seen *)arg)->last = *e; }

TEST(observers_see_everything)
{
    rig g = {0};
    engine_options o = {0};
    seen s = {0};
    outcome a;
    int32_t prompt[50];
    make_prompt(prompt, 50, 3);
    start_default(&g, &o);
    engine_observe(g.e, &(engine_observer){ see_step, see_gap, see_first, see_end, &s });
    sampling_params p = greedy(9);
    outcome_init(&a);
    CHECK_OK(submit(&g, &a, prompt, 50, &p));
    outcome_wait(&a);
    CHECK(engine_check_kv(g.e)); /* also: the scheduler thread is done with it */
    CHECK_INT(s.firsts, 1);
    CHECK_INT(s.gaps, 8);
    CHECK_INT(s.ends, 1);
    CHECK_INT(s.prefill, 50);
    CHECK_INT(s.decode, 8);
    CHECK_INT(s.steps, 9);
    CHECK_INT(s.last.n_generated, 9);
    CHECK(s.last.arrival_s > 0 && s.last.queued_s >= s.last.arrival_s && s.last.scheduled_s >= s.last.queued_s);
    CHECK(s.last.first_token_s >= s.last.scheduled_s && s.last.last_token_s >= s.last.first_token_s && s.last.finish_s >= s.last.last_token_s);
    outcome_done(&a);
    rig_stop(&g);
}

static void silent(const engine_output *o)
{
    if (o->finish == FINISH_NONE) return;
    atomic_fetch_add((atomic_int *)o->user, 1);
}

TEST(decoding_allocates_nothing)
{
    enum { N = 32 };
    for (int async = 0; async < 2; async++) {
        rig g = { .dev = { .delay_us = 100 } };
        engine_options o = { .max_model_len = 600, .num_blocks_override = 3000, .no_async_scheduling = !async };
        engine_request *r[N];
        int32_t prompt[16];
        atomic_int done;
        atomic_init(&done, 0);
        start_default(&g, &o);
        for (int i = 0; i < N; i++) {
            sampling_params p = greedy(500);
            p.temperature = i % 2 ? 0.8f : 0;
            p.top_p = i % 4 == 1 ? 0.9f : 1;
            p.top_k = i % 4 == 3 ? 20 : 0;
            p.frequency_penalty = i % 3 ? 0 : 0.5f;
            p.logprobs = i % 5 ? -2 : 3;
            make_prompt(prompt, 16, (unsigned)i);
            request_spec s = { .id = "x", .prompt = prompt, .n_prompt = 16, .params = &p, .on_output = silent, .user = &done };
            REQUIRE_OK(engine_submit(g.e, &s, &r[i]));
        }
        while (atomic_load(&g.dev.n_runs) < 30) sched_yield();
        const uint64_t before = mem_count();
        const int from = atomic_load(&g.dev.n_runs);
        while (atomic_load(&g.dev.n_runs) < from + 200) sched_yield();
        CHECK_INT(mem_count() - before, 0);
        while (atomic_load(&done) < N) sched_yield();
        for (int i = 0; i < N; i++) engine_request_release(r[i]);
        CHECK(engine_check_kv(g.e));
        rig_stop(&g);
    }
}

TEST(out_of_memory_is_a_status)
{
    int64_t live = mem_live();
    log_set_level(LOG_ERROR + 1);
    for (uint64_t n = 1;; n++) {
        rig g = {0};
        engine_options o = { .max_model_len = 32, .num_blocks_override = 30, .block_size = 4, .no_async_scheduling = n % 2 };
        outcome a;
        int32_t prompt[20];
        make_prompt(prompt, 20, 2);
        sampling_params p = greedy(6);
        p.logprobs = p.prompt_logprobs = 3;
        p.bad_words = bad, p.bad_word_lens = bad_lens, p.n_bad_words = 2;
        outcome_init(&a);
        mem_fail_at(n);
        status st = rig_start(&g, &o);
        if (st == ST_OK) {
            st = submit(&g, &a, prompt, 20, &p);
            if (st == ST_OK) {
                outcome_wait(&a);
                if (a.finish == FINISH_ERROR) st = ST_NOMEM;
                engine_request_release(a.r);
            }
            engine_stop(g.e, 0);
        }
        int hit = mem_failed();
        mem_fail_at(0);
        free(g.dev.store);
        CHECK_INT(mem_live(), live);
        if (!hit) {
            CHECK_INT(st, ST_OK);
            CHECK(n > 20);
            break;
        }
        CHECK(st == ST_NOMEM || a.finish == FINISH_LENGTH); /* a block hash may be missed without harm */
    }
    log_set_level(LOG_INFO);
}

/* Callers on several threads, aborting at random. */
typedef struct client { rig *g; unsigned seed; } client;
static void *client_main(void *arg)
{
    client *c = arg;
    int32_t prompt[40];
    for (int i = 0; i < 30; i++) {
        outcome a;
        outcome_init(&a);
        const int n = 1 + (int)(fake_mix(c->seed * 100 + (unsigned)i) % 39);
        make_prompt(prompt, n, (unsigned)i % 7);
        sampling_params p = greedy(1 + i % 25);
        a.abort_after = i % 5 == 0 ? 3 : 0;
        if (submit(c->g, &a, prompt, n, &p) != ST_OK) continue;
        if (i % 7 == 0) engine_abort(a.r);
        engine_stats st;
        engine_get_stats(c->g->e, &st);
        if (i % 10 == 0) engine_reset_prefix_cache(c->g->e);
        outcome_done(&a);
    }
    return NULL;
}

TEST(many_clients)
{
    rig g = {0};
    engine_options o = { .max_model_len = 64, .block_size = 4, .num_blocks_override = 40, .max_num_seqs = 8, .max_num_queued_reqs = 100 };
    pthread_t t[8];
    client c[8];
    start_default(&g, &o);
    for (unsigned i = 0; i < 8; i++) {
        c[i] = (client){ &g, i };
        pthread_create(&t[i], NULL, client_main, &c[i]);
    }
    for (int i = 0; i < 8; i++) pthread_join(t[i], NULL);
    CHECK(engine_check_kv(g.e));
    engine_stats st;
    engine_get_stats(g.e, &st);
    CHECK_INT(st.n_running + st.n_waiting, 0);
    uint64_t all = 0;
    for (int i = 0; i < 6; i++) all += st.finished[i];
    CHECK_INT(all, 240);
    rig_stop(&g);
}

TEST_MAIN
