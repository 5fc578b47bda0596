/* The scheduler and the engine with layers of several kinds: what windows have passed is given back and used again, prefixes are found
 * where everything that the next query sees is there and only there, and results are the definition's whatever runs beside. */
#include "engine/sched_internal.h"
#include "tests/unit/engine/harness.h"

enum { BLOCK = 4, BLOCKS = 200 };

static const kv_layout full_and_window = { .n_groups = 2, .n_places = 1, .group = { { 0, 0, 1 }, { 8, 0, 1 } } };
static const kv_layout full_and_chunk = { .n_groups = 2, .n_places = 1, .group = { { 0, 0, 1 }, { 0, 16, 1 } } };
static const kv_layout only_window = { .n_groups = 1, .n_places = 1, .group = { { 8, 0, 1 } } };
static const kv_layout many = { .n_groups = 5, .n_places = 1, .group = { { 0, 0, 1 }, { 5, 0, 1 }, { 0, 12, 1 }, { 16, 0, 1 }, { 7, 10, 1 } } };

/* ---- the scheduler, step by step ---- */

typedef struct world { engine_options o; device_limits limits; block_hasher hasher; buf scratch; sched *s; plan *p; int n_cached, n_outputs; } world;

static void note(const engine_output *o)
{
    world *w = o->user;
    w->n_cached = o->n_cached_tokens;
    w->n_outputs += o->n_tokens;
}

static void world_open(world *w, const kv_layout *l, int step_tokens)
{
    const model_info mi = { .vocab_size = VOCAB, .max_model_len = 256 };
    const engine_options asked = { .max_num_batched_tokens = step_tokens, .max_num_seqs = 4, .max_model_len = 256, .block_size = BLOCK };
    *w = (world){ 0 };
    REQUIRE_OK(engine_plan(&asked, &mi, &w->o, &w->limits));
    REQUIRE_OK(block_hasher_init(&w->hasher, HASH_SHA256, "0", &w->scratch));
    const sched_config c = { .o = &w->o, .limits = &w->limits, .hasher = &w->hasher, .n_blocks = BLOCKS + 1, .kv = *l };
    REQUIRE_OK(sched_new(&c, &w->s));
    REQUIRE_OK(plan_new(&w->limits, l->n_groups, &w->p));
}

static void world_close(world *w)
{
    sched_end_all(w->s, FINISH_ABORT, NULL);
    CHECK_OK(sched_check(w->s));
    plan_free(w->p);
    sched_free(w->s);
    buf_free(&w->scratch);
}

/* The first `same` tokens of the prompt are everybody's. */
static engine_request *add(world *w, int n_prompt, int same, int max_tokens)
{
    static int32_t prompt[256];
    static unsigned seq;
    make_prompt(prompt, n_prompt, ++seq + 100);
    make_prompt(prompt, same, 1);
    sampling_params p = greedy(max_tokens);
    const request_spec spec = { .id = "r", .prompt = prompt, .n_prompt = n_prompt, .params = &p, .on_output = note, .user = w };
    engine_request *r = NULL;
    CHECK_OK(request_new(&spec, &w->o, VOCAB, 0, w->s->c.kv.n_groups, &w->hasher, seq, &r));
    sched_add(w->s, r);
    return r;
}

static bool step(world *w)
{
    if (!sched_plan(w->s, w->p)) return false;
    CHECK_OK(sched_check(w->s));
    for (int i = 0; i < w->p->b.n_seqs; i++)
        if (w->p->seqs[i].sample) w->p->seqs[i].r->tokens[w->p->seqs[i].start + w->p->seqs[i].n] = 1;
    w->p->st = ST_OK;
    sched_apply(w->s, w->p);
    return true;
}

static int held(const world *w) { return kv_n_blocks(w->s->kv) - kv_n_free(w->s->kv); }

/* Runs one request to its end; how many of its tokens came from the cache. */
static int cached_of(world *w, int n_prompt, int same)
{
    add(w, n_prompt, same, 1);
    while (step(w)) {}
    return w->n_cached;
}

TEST(what_a_window_has_passed_is_given_back)
{
    world w;
    world_open(&w, &full_and_window, 64);
    engine_request *r = add(&w, 40, 40, 100);
    REQUIRE(step(&w));
    CHECK_INT(held(&w), 20);                       /* the prompt's own queries saw all of it */
    REQUIRE(step(&w));                             /* token 40 sees 33 .. 40 */
    CHECK_INT(held(&w), 11 + 3);
    CHECK_INT(w.p->b.n_groups, 2);
    for (int g = 0; g < 2; g++) {
        const int32_t *pages = request_blocks(r, g);
        for (int i = 0; i < 11; i++) CHECK((pages[i] == 0) == (g == 1 && i < 8));
    }
    for (int i = 0; i < 60; i++) REQUIRE(step(&w));
    CHECK_INT(held(&w), 26 + 3);                   /* token 100 sees 93 .. 100 */
    world_close(&w);

    world_open(&w, &only_window, 16);              /* a model whose layers all have the window */
    add(&w, 200, 200, 20);
    int most = 0;
    while (step(&w)) most = held(&w) > most ? held(&w) : most;
    CHECK(most <= kv_layout_blocks(&only_window, 256, 16, BLOCK) && most >= 5);
    world_close(&w);
}

TEST(pages_of_the_batch)
{
    world w;
    world_open(&w, &full_and_window, 64);
    add(&w, 21, 0, 50);
    add(&w, 13, 0, 50);
    REQUIRE(step(&w));
    engine_request *r[2] = { w.s->running[0], w.s->running[1] };
    REQUIRE(sched_plan(w.s, w.p));
    const batch *b = &w.p->b;
    CHECK(b->n_seqs == 2 && b->n_tokens == 2);
    for (int g = 0; g < 2; g++)
        for (int s = 0; s < 2; s++) {
            int pos = b->positions[s];
            CHECK(memcmp(batch_pages(b, g, s), request_blocks(r[s], g), (size_t)(pos / BLOCK + 1) * sizeof(int32_t)) == 0);
            CHECK_INT(batch_slots(b, g)[s], request_blocks(r[s], g)[pos / BLOCK] * BLOCK + pos % BLOCK);
        }
    CHECK(batch_slots(b, 0)[0] != batch_slots(b, 1)[0]);
    for (int i = 0; i < 2; i++) r[i]->tokens[w.p->seqs[i].start + w.p->seqs[i].n] = 1;
    sched_apply(w.s, w.p);
    world_close(&w);
}

/* Takes free blocks, the least recently used first, until the group has lost block i of the hashes. Others must still be there. */
static void evict_until(world *w, const block_hash *hashes, int i, int group)
{
    int32_t b;
    while (kv_find(w->s->kv, &hashes[i], group)) {
        REQUIRE(kv_take(w->s->kv, 1, &b));
        kv_release(w->s->kv, &b, 1);
        /* it goes to the front again: hide it behind the others by giving it a content */
        block_hash h = { { 0 } };
        REQUIRE(kv_take(w->s->kv, 1, &b));
        memcpy(h.bytes, &b, sizeof b);
        h.bytes[31] = 77;
        kv_register(w->s->kv, b, &h, 0);
        kv_release(w->s->kv, &b, 1);
    }
}

TEST(prefixes_of_mixed_layers)
{
    world w;
    world_open(&w, &full_and_window, 8);           /* in chunks, so that the window's first blocks are given back first */
    engine_request *r = add(&w, 40, 40, 1);
    block_hash hashes[10];
    request_ref(r);
    while (step(&w)) {}
    memcpy(hashes, r->hashes, sizeof hashes);
    engine_request_release(r);
    CHECK_INT(held(&w), 0);
    CHECK_INT(cached_of(&w, 60, 20), 20);          /* blocks 3 and 4 of the window, which nobody uses any more, are still there */
    CHECK_INT(cached_of(&w, 40, 40), 36);
    sched_reset_prefix_cache(w.s);
    CHECK_INT(cached_of(&w, 40, 40), 0);
    evict_until(&w, hashes, 4, 1);
    for (int i = 0; i < 9; i++) CHECK(kv_find(w.s->kv, &hashes[i], 0) != 0);
    CHECK(kv_find(w.s->kv, &hashes[7], 1) && kv_find(w.s->kv, &hashes[8], 1));
    CHECK_INT(cached_of(&w, 60, 36), 36);          /* the last window is there: nothing before it is needed */
    CHECK_INT(cached_of(&w, 60, 20), 0);           /* all of the full layers' is, but not what the window sees */
    world_close(&w);
}

TEST(prefixes_of_chunks)
{
    world w;
    world_open(&w, &full_and_chunk, 8);
    engine_request *r = add(&w, 48, 48, 1);
    block_hash hashes[12];
    request_ref(r);
    while (step(&w)) {}
    memcpy(hashes, r->hashes, sizeof hashes);
    engine_request_release(r);
    evict_until(&w, hashes, 4, 1);
    CHECK(!kv_find(w.s->kv, &hashes[7], 1) && kv_find(w.s->kv, &hashes[7], 0));
    CHECK_INT(cached_of(&w, 60, 24), 16);          /* token 24 sees 16 .. 23, whose blocks are gone; token 16 sees nothing of those before */
    world_close(&w);

    world_open(&w, &full_and_chunk, 8);
    r = add(&w, 48, 48, 1);
    request_ref(r);
    while (step(&w)) {}
    engine_request_release(r);
    evict_until(&w, hashes, 4, 1);
    CHECK_INT(cached_of(&w, 60, 32), 32);          /* token 32 begins a chunk: it needs nothing of those before */
    world_close(&w);
}

/* ---- the engine ---- */

enum { N = 40, LEN = 96 };
typedef struct question { int32_t prompt[LEN]; int n, n_want; sampling_params p; int32_t want[LEN]; } question;

static void make_questions(const kv_layout *l, question *q)
{
    float logits[VOCAB];
    for (int i = 0; i < N; i++, q++) {
        int32_t seen[LEN + 1];
        q->n = 1 + i * 29 % 70;
        q->p = greedy(1 + i * 7 % 26);
        make_prompt(q->prompt, q->n, 500 + (unsigned)i);
        make_prompt(q->prompt, q->n * (i % 4) / 4, 9);      /* shared to a part */
        memcpy(seen, q->prompt, (size_t)q->n * sizeof *seen);
        for (int n = q->n; q->n_want < q->p.max_tokens && n < LEN; n++) {
            int32_t best = 0;
            fake_reference_kv(l, seen, n, 0, VOCAB, logits);
            for (int32_t v = 1; v < VOCAB; v++)
                if (logits[v] > logits[best]) best = v;
            q->want[q->n_want++] = seen[n] = best;
        }
    }
}

static engine_stats run(const char *what, const kv_layout *l, const engine_options *o, int rounds)
{
    static question q[N];
    static outcome out[N];
    rig g = { .dev = { .kv = *l } };
    memset(q, 0, sizeof q);
    make_questions(l, q);
    engine_stats st = { 0 };
    status opened = rig_start(&g, o);
    CHECK_OK(opened);
    if (opened != ST_OK) return st;
    for (int k = 0; k < rounds; k++) {
        for (int i = 0; i < N; i++) {
            outcome_init(&out[i]);
            CHECK_OK(submit(&g, &out[i], q[i].prompt, q[i].n, &q[i].p));
        }
        for (int i = 0; i < N; i++) {
            outcome_done(&out[i]);
            if (out[i].n != q[i].n_want || memcmp(out[i].tokens, q[i].want, (size_t)out[i].n * sizeof *q[i].want) != 0) FAIL("%s: request %d has other tokens", what, i);
        }
    }
    CHECK(engine_check_kv(g.e));
    engine_get_stats(g.e, &st);
    rig_stop(&g);
    return st;
}

TEST(tokens_are_the_definitions)
{
    const kv_layout *kinds[] = { &full_and_window, &full_and_chunk, &only_window, &many };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const int groups = kinds[k]->n_groups;
        engine_options o = { .max_model_len = LEN, .block_size = BLOCK, .num_blocks_override = 400 * groups };
        engine_stats st = run("roomy", kinds[k], &o, 2);
        CHECK(st.prefix_hits > 0 && st.preemptions == 0);
        o = (engine_options){ .max_model_len = LEN, .block_size = BLOCK, .max_num_batched_tokens = 8, .max_num_seqs = 8, .no_reserve_full_isl = true };
        o.num_blocks_override = 1 + (int)kv_layout_blocks(kinds[k], LEN, 8, BLOCK);
        run("as few blocks as one needs", kinds[k], &o, 2);
        o.num_blocks_override--;
        rig g = { .dev = { .kv = *kinds[k] } };
        CHECK_ERR(rig_start(&g, &o), ST_INVALID, "To serve at least one request");
        free(g.dev.store);
        o = (engine_options){ .max_model_len = LEN, .block_size = 2, .num_blocks_override = 80 * groups };
        setenv("SYSTOLIC_HOSTILE", "3", 1);
        st = run("hostile", kinds[k], &o, 1);
        unsetenv("SYSTOLIC_HOSTILE");
        CHECK(st.preemptions > 0);
        o = (engine_options){ .max_model_len = LEN, .block_size = BLOCK, .num_blocks_override = 60 * groups, .no_prefix_caching = true, .no_async_scheduling = true };
        run("without a cache", kinds[k], &o, 1);
    }
}

TEST_MAIN
