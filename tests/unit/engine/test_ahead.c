/* The engine on a device that samples by itself and takes steps ahead: the same outputs as on one that only runs. */
#include "tests/unit/engine/harness.h"

#include "base/clock.h"
#include "base/log.h"
#include "tests/unit/engine/fake_ahead.h"

/* ---- requests of all kinds ---- */

#ifdef SYSTOLIC_SANITIZED
enum { N_REQS = 90 };
#else
enum { N_REQS = 220 };
#endif
enum { MAX_PROMPT = 40 };

typedef struct wish {
    int32_t prompt[MAX_PROMPT];
    int n;
    sampling_params p;
    int32_t allowed[24], bias_ids[6], stops[2], words[4][3], shown[3];
    float bias[6];
    const int32_t *word_at[4];
    int word_lens[4];
    int abort_after;
} wish;

typedef struct dice { uint64_t state; } dice;
static int roll(dice *d, int below) { return (int)((d->state = fake_mix(d->state + 0x9E3779B97F4A7C15u)) >> 33) % below; }

static const int32_t eos[] = { 3 };

static void add_edits(wish *w, dice *d)
{
    sampling_params *p = &w->p;
    if (roll(d, 4) == 0) {
        for (int i = 0; i < 24; i++) w->allowed[i] = roll(d, VOCAB); /* some twice */
        p->allowed_token_ids = w->allowed;
        p->n_allowed_token_ids = 24;
    }
    if (roll(d, 3) == 0) {
        for (int i = 0; i < 6; i++) w->bias_ids[i] = roll(d, i < 3 ? VOCAB : 4), w->bias[i] = (float)roll(d, 16) * 0.5f - 4;
        p->logit_bias_ids = w->bias_ids;
        p->logit_bias = w->bias;
        p->n_logit_bias = 6;
    }
    if (roll(d, 4) == 0) {
        for (int i = 0; i < 4; i++) {
            w->word_lens[i] = 1 + roll(d, 3);
            for (int k = 0; k < 3; k++) w->words[i][k] = p->n_allowed_token_ids ? w->allowed[roll(d, 4)] : roll(d, VOCAB);
            w->word_at[i] = w->words[i];
        }
        p->bad_words = w->word_at;
        p->bad_word_lens = w->word_lens;
        p->n_bad_words = 4;
    }
}

static void make_wish(wish *w, int i, int max_len)
{
    dice d = { (uint64_t)i * 77 + 5 };
    memset(w, 0, sizeof *w);
    w->n = 1 + roll(&d, max_len / 2 < MAX_PROMPT ? max_len / 2 : MAX_PROMPT);
    make_prompt(w->prompt, w->n, (unsigned)(i % 50)); /* some share prefixes */
    sampling_params *p = &w->p;
    *p = greedy(1 + roll(&d, max_len * 2 / 3));
    if (roll(&d, 4)) {
        p->temperature = 0.3f + 0.35f * (float)roll(&d, 4);
        p->has_seed = roll(&d, 2);
        p->seed = i;
        p->top_k = roll(&d, 3) ? roll(&d, VOCAB + 9) : 0;
        p->top_p = roll(&d, 3) ? 0.5f + 0.1f * (float)roll(&d, 5) : 1;
        p->min_p = roll(&d, 5) ? 0 : 0.05f;
    }
    if (roll(&d, 3) == 0) p->frequency_penalty = 0.4f, p->presence_penalty = -0.2f;
    if (roll(&d, 3) == 0) p->repetition_penalty = roll(&d, 2) ? 1.3f : 0.8f;
    add_edits(w, &d);
    p->eos_ids = p->all_stop_ids = eos;
    p->n_eos_ids = p->n_all_stop_ids = 1;
    p->min_tokens = roll(&d, 4) ? 0 : 1 + roll(&d, p->max_tokens);
    if (roll(&d, 4) == 0) {
        w->stops[0] = roll(&d, VOCAB);
        w->stops[1] = roll(&d, VOCAB);
        p->stop_token_ids = w->stops;
        p->n_stop_token_ids = 2;
    }
    if (roll(&d, 5) == 0) p->logprobs = roll(&d, 4);
    if (roll(&d, 12) == 0) {
        for (int k = 0; k < 3; k++) w->shown[k] = roll(&d, VOCAB);
        p->logprob_token_ids = w->shown;
        p->n_logprob_token_ids = 3;
    }
    if (roll(&d, 10) == 0) p->prompt_logprobs = roll(&d, 3);
    if (roll(&d, 6) == 0) w->abort_after = 1 + roll(&d, 12);
}

static wish wishes[N_REQS];
static outcome sync_out[2 * N_REQS], ahead_out[2 * N_REQS];

/* All at once, then once more with a warm prefix cache. */
static void run_all(engine *e, outcome *out, bool aborts)
{
    rig g = { .e = e };
    for (int round = 0; round < 2; round++) {
        outcome *o = out + round * N_REQS;
        for (int i = 0; i < N_REQS; i++) {
            outcome_init(&o[i]);
            if (aborts) o[i].abort_after = wishes[i].abort_after;
            CHECK_OK(submit_full(&g, &o[i], wishes[i].prompt, wishes[i].n, &wishes[i].p, i % 5, NULL));
        }
        for (int i = 0; i < N_REQS; i++) outcome_done(&o[i]);
        CHECK(engine_check_kv(e));
    }
}

static bool same_lps(const token_logprob (*a)[8], const int *n_a, const token_logprob (*b)[8], const int *n_b, int n)
{
    for (int i = 0; i < n; i++) {
        if (n_a[i] != n_b[i]) return false;
        for (int k = 0; k < n_a[i] && k < 8; k++)
            if (a[i][k].id != b[i][k].id || memcmp(&a[i][k].logprob, &b[i][k].logprob, sizeof(float)) != 0 || a[i][k].rank != b[i][k].rank) return false;
    }
    return true;
}

static void compare(const char *what, int depth, int i, const outcome *want, const outcome *got)
{
    const bool aborted = got->finish == FINISH_ABORT && got->abort_after;
    int same = 0;
    while (same < got->n && same < want->n && got->tokens[same] == want->tokens[same]) same++;
    if (same < got->n || (!aborted && got->n != want->n))
        FAIL("%s, depth %d, request %d: %d tokens, wanted %d, equal up to %d", what, depth, i, got->n, want->n, same);
    if (!aborted && (got->finish != want->finish || got->stop_token != want->stop_token))
        FAIL("%s, depth %d, request %d ended with %d (stop %d), wanted %d (%d): %s", what, depth, i, (int)got->finish, got->stop_token, (int)want->finish, want->stop_token, got->error);
    if (got->n_finals != 1) FAIL("%s, depth %d, request %d: %d final outputs", what, depth, i, got->n_finals);
    if (!same_lps(want->lps, want->n_lps, got->lps, got->n_lps, same)) FAIL("%s, depth %d, request %d: other logprobs", what, depth, i);
    if (got->n_prompt_lps && !same_lps(want->plps, want->n_plps, got->plps, got->n_plps, got->n_prompt)) FAIL("%s, depth %d, request %d: other prompt logprobs", what, depth, i);
    if (!aborted && got->n_prompt_lps != want->n_prompt_lps) FAIL("%s, depth %d, request %d: prompt logprobs %d times, wanted %d", what, depth, i, got->n_prompt_lps, want->n_prompt_lps);
}

static status start_ahead(fake_ahead *d, const engine_options *o, engine **e)
{
    const model_info mi = { .vocab_size = VOCAB, .max_model_len = o->max_model_len, .rope_switch_len = d->base.n_blocks };
    d->base.n_blocks = 0;
    d->base.vocab = VOCAB;
    d->base.block_size = o->block_size ? o->block_size : 16;
    if (d->n_slots == 0) d->n_slots = 2 * (o->max_num_seqs ? o->max_num_seqs : 128);
    engine_device dev = ahead_open(d);
    return engine_start_on(&dev, &mi, o, e);
}

/* With and without steps ahead, at all depths. Bad words of several tokens keep the device waiting most of the time, so that there is
 * more to see without them. */
typedef enum variety { ALL = 0, TIGHT_SLOTS = 1, NO_WORDS = 2 } variety;
static void compare_all(const char *what, const engine_options *o, int rope_switch, variety v)
{
    fake_device plain = { .vocab = VOCAB, .block_size = o->block_size ? o->block_size : 16 };
    const model_info mi = { .vocab_size = VOCAB, .max_model_len = o->max_model_len, .rope_switch_len = rope_switch };
    engine_device dev = fake_engine_device(&plain);
    engine *e;
    for (int i = 0; i < N_REQS; i++) {
        make_wish(&wishes[i], i, o->max_model_len);
        if (v & NO_WORDS) wishes[i].p.n_bad_words = 0;
    }
    REQUIRE_OK(engine_start_on(&dev, &mi, o, &e));
    run_all(e, sync_out, false);
    engine_stop(e, 0);
    free(plain.store);
    for (int depth = 1; depth <= 4; depth++) {
        fake_ahead d = { .base = { .n_blocks = rope_switch }, .depth = depth, .n_slots = v & TIGHT_SLOTS ? o->max_num_seqs : 0 };
        REQUIRE_OK(start_ahead(&d, o, &e));
        run_all(e, ahead_out, depth > 2);
        engine_stats st;
        engine_get_stats(e, &st);
        CHECK(o->num_blocks_override > 30 || st.preemptions > 20);
        CHECK(o->num_blocks_override < 400 || st.prefix_hits > 0);
        engine_stop(e, 0);
        ahead_close(&d);
        for (int i = 0; i < 2 * N_REQS; i++) compare(what, depth, i, &sync_out[i], &ahead_out[i]);
        CHECK_INT(atomic_load(&d.n_wrong), 0);
        CHECK(atomic_load(&d.n_fetched) > 0);
        if (v & NO_WORDS || o->no_async_scheduling) CHECK_INT(atomic_load(&d.deepest), o->no_async_scheduling ? 1 : depth);
        if (v & NO_WORDS && depth > 1 && !o->no_async_scheduling) CHECK(atomic_load(&d.n_named) > 0);
    }
}

TEST(same_outputs_in_a_batch)
{
    engine_options o = { .max_model_len = 64, .num_blocks_override = 2000, .block_size = 4, .max_num_seqs = 100 };
    compare_all("batch", &o, 0, ALL);
    compare_all("batch, no words", &o, 0, NO_WORDS);
    o.no_async_scheduling = true;
    compare_all("batch, no async scheduling", &o, 0, ALL);
}

TEST(same_outputs_with_few_slots)
{
    engine_options o = { .max_model_len = 48, .num_blocks_override = 400, .block_size = 4, .max_num_seqs = 5 };
    compare_all("few slots", &o, 0, TIGHT_SLOTS);
    compare_all("few slots, no words", &o, 0, TIGHT_SLOTS | NO_WORDS);
}

TEST(same_outputs_chunked)
{
    engine_options o = { .max_model_len = 64, .num_blocks_override = 300, .block_size = 4, .max_num_batched_tokens = 13, .max_num_seqs = 6 };
    compare_all("chunked", &o, 0, ALL);
    compare_all("chunked, no words", &o, 0, NO_WORDS);
    o.long_prefill_token_threshold = 5;
    o.max_num_batched_tokens = o.max_num_seqs = 3;
    compare_all("chunked, threshold", &o, 0, NO_WORDS);
}

TEST(same_outputs_after_preemption)
{
    engine_options o = { .max_model_len = 64, .num_blocks_override = 24, .block_size = 4, .no_reserve_full_isl = true };
    compare_all("preempted", &o, 0, ALL);
    compare_all("preempted, no words", &o, 0, NO_WORDS);
    o.policy = SCHED_PRIORITY;
    o.no_prefix_caching = true;
    compare_all("preempted, priority", &o, 0, NO_WORDS);
    compare_all("preempted, long rope", &o, 20, NO_WORDS);
}

TEST(same_outputs_in_a_hostile_world)
{
    setenv("SYSTOLIC_HOSTILE", "5", 1);
    engine_options o = { .max_model_len = 24, .block_size = 2, .num_blocks_override = 15 };
    compare_all("hostile", &o, 0, ALL);
    compare_all("hostile, no words", &o, 0, NO_WORDS);
    unsetenv("SYSTOLIC_HOSTILE");
}

TEST(same_logprobs_in_all_modes)
{
    for (int mode = LOGPROBS_RAW; mode <= LOGITS_PROCESSED; mode++) {
        engine_options o = { .max_model_len = 48, .num_blocks_override = 600, .block_size = 4, .logprobs_mode = (logprobs_mode)mode };
        compare_all("logprobs mode", &o, 0, mode % 2 ? NO_WORDS : ALL);
    }
}

/* ---- what the device is asked ---- */

TEST(logits_are_fetched_only_when_wanted)
{
    fake_ahead d = { .depth = 2 };
    engine_options o = { .max_model_len = 64, .num_blocks_override = 100 };
    rig g = {0};
    outcome a[8];
    int32_t prompt[8];
    REQUIRE_OK(start_ahead(&d, &o, &g.e));
    make_prompt(prompt, 8, 1);
    sampling_params p = greedy(20);
    p.repetition_penalty = 1.2f;
    for (int i = 0; i < 8; i++) {
        outcome_init(&a[i]);
        CHECK_OK(submit(&g, &a[i], prompt, 8, &p));
    }
    for (int i = 0; i < 8; i++) outcome_done(&a[i]);
    CHECK_INT(atomic_load(&d.n_fetched), 0);
    p.logprobs = 0;
    outcome_init(&a[0]);
    CHECK_OK(submit(&g, &a[0], prompt, 8, &p));
    outcome_done(&a[0]);
    CHECK(atomic_load(&d.n_fetched) >= 20);
    engine_stop(g.e, 0);
    ahead_close(&d);
    CHECK_INT(atomic_load(&d.n_wrong), 0);
}

/* The device stays as full as it can be: of a lone request's steps, all but the first few are submitted while others are in flight. */
TEST(the_device_is_kept_busy)
{
    for (int depth = 2; depth <= 4; depth++) {
        fake_ahead d = { .base = { .delay_us = 500 }, .depth = depth };
        engine_options o = { .max_model_len = 128, .num_blocks_override = 100 };
        rig g = {0};
        outcome a;
        int32_t prompt[8];
        make_prompt(prompt, 8, 1);
        REQUIRE_OK(start_ahead(&d, &o, &g.e));
        const sampling_params p = greedy(100);
        outcome_init(&a);
        CHECK_OK(submit(&g, &a, prompt, 8, &p));
        outcome_wait(&a);
        CHECK_INT(a.n, 100);
        outcome_done(&a);
        engine_stop(g.e, 0);
        ahead_close(&d);
        /* Each step but the first was computed from a token that the host did not have; the exceptions are the scheduler being late. */
        if (atomic_load(&d.n_named) < 90) FAIL("depth %d: only %d of 99 tokens were passed on by the device", depth, atomic_load(&d.n_named));
        CHECK_INT(atomic_load(&d.n_wrong), 0);
    }
}

TEST(too_few_slots_are_refused)
{
    fake_ahead d = { .depth = 2, .n_slots = 3 };
    engine_options o = { .max_model_len = 64, .num_blocks_override = 100, .max_num_seqs = 4 };
    engine *e;
    CHECK_ERR(start_ahead(&d, &o, &e), ST_INVALID, "4 are needed");
    ahead_close(&d);
}

/* ---- failures ---- */

/* Step k fails: what the k - 1 before it gave still counts. */
static void run_until_failure(fake_ahead *d, int k, bool no_async, const char *message)
{
    engine_options o = { .max_model_len = 64, .num_blocks_override = 100, .max_num_seqs = 3, .no_async_scheduling = no_async };
    rig g = {0};
    outcome a[6], b;
    int32_t prompt[8];
    REQUIRE_OK(start_ahead(d, &o, &g.e));
    make_prompt(prompt, 8, 1);
    const sampling_params p = greedy(30);
    int n_submitted = 0;
    for (; n_submitted < 6; n_submitted++) {
        outcome_init(&a[n_submitted]);
        if (submit(&g, &a[n_submitted], prompt, 8, &p) != ST_OK) break; /* it failed before we were through */
    }
    CHECK(n_submitted > 0);
    for (int i = 0; i < n_submitted; i++) {
        outcome_wait(&a[i]);
        CHECK_INT(a[i].finish, FINISH_ERROR);
        if (!strstr(a[i].error, message)) FAIL("\"%s\", wanted \"%s\"", a[i].error, message);
    }
    CHECK_INT(a[0].n, k - 1);
    CHECK(!engine_healthy(g.e));
    CHECK(engine_check_kv(g.e));
    outcome_init(&b);
    CHECK_ERR(submit(&g, &b, prompt, 8, &p), ST_INTERNAL, message);
    for (int i = 0; i < n_submitted; i++) outcome_done(&a[i]);
    engine_stop(g.e, 0);
    ahead_close(d);
    CHECK_INT(atomic_load(&d->n_wrong), 0);
    CHECK_INT(atomic_load(&d->n_waited), d->n_submitted);
}

TEST(a_failing_device_ends_all)
{
    const int64_t live = mem_live();
    log_set_level(LOG_ERROR + 1);
    for (int depth = 1; depth <= 4; depth++)
        for (int k = 1; k <= 12; k++) {
            fake_ahead d = { .base = { .delay_us = 50 }, .depth = depth, .fail_submit = k };
            run_until_failure(&d, k, k % 5 == 0, "the fake device refused");
            d = (fake_ahead){ .base = { .delay_us = 50 }, .depth = depth, .fail_wait = k };
            run_until_failure(&d, k, k % 5 == 0, "the fake device broke");
            d = (fake_ahead){ .base = { .delay_us = 50 }, .depth = depth, .wrong_token = k };
            run_until_failure(&d, k, k % 5 == 0, "the device sampled token 97, expected one of 0..96");
        }
    log_set_level(LOG_INFO);
    CHECK_INT(mem_live(), live);
}

TEST(stop_drains_then_aborts)
{
    for (int drain = 0; drain < 2; drain++)
        for (int depth = 1; depth <= 4; depth++) {
            fake_ahead d = { .base = { .delay_us = 500 }, .depth = depth };
            engine_options o = { .max_model_len = 64, .num_blocks_override = 100, .max_num_seqs = 4 };
            rig g = {0};
            outcome a[8];
            int32_t prompt[8];
            REQUIRE_OK(start_ahead(&d, &o, &g.e));
            make_prompt(prompt, 8, 1);
            const sampling_params p = greedy(20);
            for (int i = 0; i < 8; i++) {
                outcome_init(&a[i]);
                CHECK_OK(submit(&g, &a[i], prompt, 8, &p));
            }
            engine_stop(g.e, drain ? 60 : 0);
            for (int i = 0; i < 8; i++) {
                CHECK_INT(a[i].n_finals, 1);
                CHECK_INT(a[i].finish, drain ? FINISH_LENGTH : FINISH_ABORT);
                outcome_done(&a[i]);
            }
            ahead_close(&d);
            CHECK_INT(atomic_load(&d.n_wrong), 0);
        }
}

/* ---- memory ---- */

static void silent(const engine_output *o)
{
    if (o->finish != FINISH_NONE) atomic_fetch_add((atomic_int *)o->user, 1);
}

TEST(decoding_allocates_nothing)
{
    enum { N = 32 };
    for (int i = 0; i < N; i++) make_wish(&wishes[i], i, 64);
    for (int depth = 1; depth <= 4; depth++) {
        fake_ahead d = { .base = { .delay_us = 100 }, .depth = depth };
        engine_options o = { .max_model_len = 600, .num_blocks_override = 3000 };
        rig g = {0};
        engine_request *r[N];
        atomic_int done;
        atomic_init(&done, 0);
        REQUIRE_OK(start_ahead(&d, &o, &g.e));
        for (int i = 0; i < N; i++) {
            sampling_params p = wishes[i].p;
            p.max_tokens = p.min_tokens = 500; /* none ends while we count */
            p.n_stop_token_ids = 0;
            p.n_allowed_token_ids = 0; /* a short list with bad words can ban all, the end among them */
            p.logprobs = i % 5 ? -2 : 3;
            p.prompt_logprobs = -2;
            if (i % 3) p.repetition_penalty = 1, p.frequency_penalty = p.presence_penalty = 0; /* histories grow, their memory now and then */
            request_spec s = { .id = "x", .prompt = wishes[i].prompt, .n_prompt = wishes[i].n, .params = &p, .on_output = silent, .user = &done };
            REQUIRE_OK(engine_submit(g.e, &s, &r[i]));
        }
        while (atomic_load(&d.n_waited) < 250) sched_yield();
        const uint64_t before = mem_count();
        const int from = atomic_load(&d.n_waited);
        while (atomic_load(&d.n_waited) < from + 150) sched_yield();
        const int64_t n = (int64_t)(mem_count() - before);
        if (n > depth) FAIL("depth %d: %lld allocations in 150 steps", depth, (long long)n);
        while (atomic_load(&done) < N) sched_yield();
        for (int i = 0; i < N; i++) engine_request_release(r[i]);
        engine_stop(g.e, 0);
        ahead_close(&d);
        CHECK_INT(atomic_load(&d.n_wrong), 0);
    }
}

enum { OOM_OUT = 6 };
static const int32_t oom_word[] = { 7, 8 }, oom_ids[] = { 1, 2, 3, 9, 11 };
static const int32_t *const oom_words[] = { oom_word };
static const int oom_lens[] = { 2 };

/* One request that needs memory for everything, and one that needs none. */
static void run_two(rig *g, outcome o[2], status st[2])
{
    int32_t prompt[20];
    make_prompt(prompt, 20, 2);
    sampling_params p[2] = { greedy(OOM_OUT), greedy(OOM_OUT) };
    p[0].logprobs = p[0].prompt_logprobs = 3;
    p[0].repetition_penalty = 1.1f;
    p[0].bad_words = oom_words, p[0].bad_word_lens = oom_lens, p[0].n_bad_words = 1;
    p[0].allowed_token_ids = oom_ids, p[0].n_allowed_token_ids = 5;
    for (int i = 0; i < 2; i++) st[i] = submit(g, &o[i], prompt, i ? 5 : 20, &p[i]);
    for (int i = 0; i < 2; i++) {
        if (st[i] != ST_OK) continue;
        outcome_wait(&o[i]);
        if (o[i].finish == FINISH_ERROR) st[i] = ST_NOMEM;
        engine_request_release(o[i].r);
    }
    CHECK(engine_healthy(g->e));
    CHECK(st[0] == ST_OK || st[1] == ST_OK); /* one allocation failed: one request at most suffers */
}

/* With the nth allocation failing (0: none). False: there were not so many. */
static bool run_with_failure(uint64_t n, outcome o[2])
{
    fake_ahead d = { .base = { .vocab = VOCAB, .block_size = 4 }, .depth = 1 + (int)(n % 4), .n_slots = 4 };
    const engine_options eo = { .max_model_len = 32, .num_blocks_override = 30, .block_size = 4, .max_num_seqs = 4 };
    const model_info mi = { .vocab_size = VOCAB, .max_model_len = 32 };
    rig g = {0};
    status st[2];
    for (int i = 0; i < 2; i++) outcome_init(&o[i]);
    engine_device dev = ahead_open(&d);
    mem_fail_at(n);
    st[0] = st[1] = engine_start_on(&dev, &mi, &eo, &g.e);
    if (st[0] == ST_OK) {
        run_two(&g, o, st);
        engine_stop(g.e, 0);
    }
    const bool hit = mem_failed();
    mem_fail_at(0);
    ahead_close(&d);
    CHECK_INT(atomic_load(&d.n_wrong), 0);
    for (int i = 0; i < 2; i++) CHECK(st[i] == ST_NOMEM || (st[i] == ST_OK && o[i].finish == FINISH_LENGTH && o[i].n == OOM_OUT));
    return hit;
}

TEST(out_of_memory_is_a_status)
{
    static outcome want[2], got[2];
    log_set_level(LOG_ERROR + 1);
    run_with_failure(0, want);
    const int64_t live = mem_live();
    uint64_t n = 1;
    for (; run_with_failure(n, got); n++) {
        CHECK_INT(mem_live(), live);
        for (int i = 0; i < 2; i++) {
            if (got[i].finish != FINISH_LENGTH) continue; /* who is not told of a failure has not suffered from one */
            CHECK(memcmp(got[i].tokens, want[i].tokens, OOM_OUT * sizeof(int32_t)) == 0);
            CHECK(same_lps(want[i].lps, want[i].n_lps, got[i].lps, got[i].n_lps, OOM_OUT));
            CHECK(same_lps(want[i].plps, want[i].n_plps, got[i].plps, got[i].n_plps, 20));
        }
    }
    CHECK(n > 40);
    log_set_level(LOG_INFO);
}

TEST_MAIN
