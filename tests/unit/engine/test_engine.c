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
static engine_stats run_mix(const char *what, const engine_options *o, int rope_switch, bool one_by_one)
{
    static mix m[N_MIX];
    static outcome out[N_MIX];
    engine_stats st = {0};
    rig g = {0};
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

TEST_MAIN
