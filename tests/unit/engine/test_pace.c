/* How many prompt tokens run beside those who decode: the estimate, and the plans that follow it. */
#include "engine/pace.h"
#include "engine/sched.h"
#include "tests/test.h"

static engine_step_event step(int prompt, int decode, double seconds)
{
    return (engine_step_event){ .n_prefill_reqs = prompt > 0, .n_prefill_tokens = prompt, .n_decode_reqs = decode, .n_decode_tokens = decode, .seconds = seconds };
}

static void note(pace *p, int prompt, int decode, double seconds)
{
    engine_step_event e = step(prompt, decode, seconds);
    pace_note(p, &e);
}

TEST(nothing_known_limits_nothing)
{
    pace p = { 0 };
    CHECK_INT(pace_prompt_tokens(&p, 0.2, 2048), 2048);
    note(&p, 0, 4, 0.05);
    CHECK_INT(pace_prompt_tokens(&p, 0.2, 2048), 2048);
    note(&p, 8, 4, 9.0);                      /* too few to say anything */
    note(&p, 0, 4, 0);
    CHECK_INT(pace_prompt_tokens(&p, 0.2, 2048), 2048);
}

TEST(chunks_follow_measured_steps)
{
    pace p = { 0 };
    note(&p, 512, 0, 2.048);                  /* 4 ms a token */
    note(&p, 0, 8, 0.05);
    CHECK_INT(pace_prompt_tokens(&p, 0.2, 2048), 32);      /* 37, in sixteens */
    CHECK_INT(pace_prompt_tokens(&p, 1.0, 2048), 224);
    CHECK_INT(pace_prompt_tokens(&p, 1.0, 100), 100);
    CHECK_INT(pace_prompt_tokens(&p, 0.001, 2048), 16);    /* never nothing */
    for (int i = 0; i < 60; i++) note(&p, 0, 8, 0.4);      /* decoding alone takes 400 ms: as much again for prompts */
    CHECK_INT(pace_prompt_tokens(&p, 0.2, 2048), 96);
    for (int i = 0; i < 60; i++) note(&p, 96, 8, 0.4 + 96 * 0.00199);    /* it learns what prompts cost here */
    CHECK_INT(pace_prompt_tokens(&p, 0.2, 2048), 192);
}

/* ---- plans ---- */

static void ignore(const engine_output *o) { (void)o; }

typedef struct world { engine_options o; device_limits limits; sched *s; plan *p; } world;

static void world_open(world *w)
{
    const model_info mi = { .vocab_size = 50, .max_model_len = 512 };
    *w = (world){ 0 };
    const engine_options asked = { .max_num_batched_tokens = 256, .max_num_seqs = 8, .max_model_len = 512, .no_prefix_caching = true };
    REQUIRE_OK(engine_plan(&asked, &mi, &w->o, &w->limits));
    const sched_config c = { .o = &w->o, .limits = &w->limits, .n_blocks = 300 };
    REQUIRE_OK(sched_new(&c, &w->s));
    REQUIRE_OK(plan_new(&w->limits, 1, &w->p));
}

static void world_close(world *w)
{
    sched_end_all(w->s, FINISH_ABORT, NULL);
    plan_free(w->p);
    sched_free(w->s);
}

static void add(world *w, int n_prompt)
{
    static int32_t prompt[512];
    static uint64_t seq;
    sampling_params sp = { .top_p = 1, .repetition_penalty = 1, .max_tokens = 100, .logprobs = -2, .prompt_logprobs = -2, .ignore_eos = true };
    const request_spec spec = { .id = "r", .prompt = prompt, .n_prompt = n_prompt, .params = &sp, .on_output = ignore };
    engine_request *r;
    REQUIRE_OK(request_new(&spec, &w->o, 50, 0, 1, NULL, ++seq, &r));
    sched_add(w->s, r);
}

/* One step, its tokens sampled as 1. */
static bool run(world *w)
{
    if (!sched_plan(w->s, w->p)) return false;
    for (int i = 0; i < w->p->b.n_seqs; i++)
        if (w->p->seqs[i].sample) w->p->seqs[i].r->tokens[w->p->seqs[i].start + w->p->seqs[i].n] = 1;
    w->p->st = ST_OK;
    engine_step_event e = w->p->event;
    sched_apply(w->s, w->p);
    w->p->event = e;
    return true;
}

TEST(prompts_are_cut_only_beside_those_who_decode)
{
    world w;
    world_open(&w);
    sched_limit_prompts(w.s, 32);
    add(&w, 200);
    REQUIRE(run(&w));
    CHECK_INT(w.p->event.n_prefill_tokens, 200);           /* nobody waits */
    add(&w, 200);
    add(&w, 20);
    for (int i = 0, left = 220; left > 0; i++) {
        REQUIRE(run(&w));
        CHECK(w.p->event.n_prefill_tokens <= 32);
        CHECK(w.p->event.n_decode_tokens >= 1);
        left -= w.p->event.n_prefill_tokens;
        CHECK(i < 10);
    }
    sched_limit_prompts(w.s, 0);
    add(&w, 200);
    REQUIRE(run(&w));
    CHECK_INT(w.p->event.n_prefill_tokens, 200);
    CHECK_OK(sched_check(w.s));
    world_close(&w);
}

TEST_MAIN
