/* Sampling against a naive reference, the distribution of the race, every parameter; SYSTOLIC_BENCH=1 prints times. */
#include "tests/test.h"

#include "base/clock.h"
#include "base/mem.h"
#include "engine/cut.h"
#include "engine/sample.h"

static unsigned rng = 12345;
static float uniform(void)
{
    rng = rng * 1664525u + 1013904223u;
    return (float)(rng >> 8) / 16777216.0f;
}
/* Roughly normal, wide enough to look like logits; quantised so that ties happen. */
static float logit(float scale, float quantum)
{
    float x = -6;
    for (int i = 0; i < 12; i++) x += uniform();
    x *= scale;
    return quantum > 0 ? roundf(x / quantum) * quantum : x;
}

static sampling_params plain(float temperature)
{
    return (sampling_params){ .temperature = temperature, .top_p = 1, .repetition_penalty = 1, .max_tokens = 100, .logprobs = -2, .prompt_logprobs = -2 };
}

static int32_t next(sampler *s, const sampling_params *p, const int32_t *tokens, int n_prompt, int n_tokens, const float *logits, int n, uint64_t seed, lp_vec *lps)
{
    float *x = malloc((size_t)n * sizeof *x);
    memcpy(x, logits, (size_t)n * sizeof *x);
    sample_input in = { .params = p, .tokens = tokens, .n_prompt = n_prompt, .n_tokens = n_tokens, .seed = seed };
    lp_vec none = {0};
    int32_t t = -1;
    if (sampler_next(s, &in, x, &t, lps ? lps : &none) != ST_OK) FAIL("sampler_next: %s", err_msg());
    lp_vec_free(&none);
    free(x);
    return t;
}

/* ---- truncation ---- */

typedef struct pair { float v; int id; } pair;
static int ascending(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    return x->v < y->v ? -1 : x->v > y->v ? 1 : x->id - y->id;
}

/* facts 5.2 (9), (10) word for word. Returns false when the running sum comes too close to 1 - top_p to call. */
static bool naive_cut(const float *x, int n, float min_p, int top_k, float top_p, bool *kept)
{
    pair *s = malloc((size_t)n * sizeof *s);
    float max = -INFINITY;
    for (int i = 0; i < n; i++) {
        s[i] = (pair){ x[i], i };
        if (x[i] > max) max = x[i];
    }
    bool clear = true;
    for (int i = 0; i < n; i++) {
        double p = exp((double)x[i] - (double)max);
        if (min_p > 0 && p < (double)min_p) s[i].v = -INFINITY;
        if (min_p > 0 && fabs(p - (double)min_p) < 1e-6 * p) clear = false;
    }
    qsort(s, (size_t)n, sizeof *s, ascending);
    if (top_k > 0 && top_k < n) {
        float kth = s[n - top_k].v;
        for (int i = 0; i < n; i++)
            if (s[i].v < kth) s[i].v = -INFINITY;
    }
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++) total += exp((double)s[i].v - (double)max);
    for (int i = 0; i < n; i++) {
        sum += exp((double)s[i].v - (double)max) / total;
        bool drop = top_p < 1 && sum <= 1 - (double)top_p && i < n - 1;
        if (top_p < 1 && fabs(sum - (1 - (double)top_p)) < 3e-6 && s[i].v > -INFINITY) clear = false;
        kept[s[i].id] = s[i].v > -INFINITY && !drop;
        /* what weighs nothing may stay or go */
        if (top_p < 1 && exp((double)s[i].v - (double)max) / total < 1e-12) kept[s[i].id] = false;
    }
    free(s);
    return clear;
}

TEST(truncation_is_the_naive_one)
{
    int n_clear = 0;
    for (int round = 0; round < 600; round++) {
        const int n = round % 3 == 0 ? 50 + round : round % 3 == 1 ? 5000 + round : 40000 + round;
        float *x = malloc((size_t)n * sizeof *x);
        bool *want = malloc((size_t)n);
        const float scale = 0.5f + uniform() * 6, quantum = round % 4 == 0 ? 0.25f : 0;
        for (int i = 0; i < n; i++) x[i] = logit(scale, quantum);
        float max = -INFINITY;
        for (int i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
        const float min_p = round % 5 == 0 ? uniform() * 0.2f : 0, top_p = round % 2 ? 0.05f + 0.94f * uniform() : 1;
        const int top_k = round % 7 < 4 ? 0 : 1 + (int)(uniform() * (round % 7 == 4 ? 10.0f : round % 7 == 5 ? 300.0f : (float)n));
        cut_scratch c;
        REQUIRE_OK(cut_scratch_new(&c, row_ops_best(), (size_t)n));
        if (naive_cut(x, n, min_p, top_k, top_p, want)) {
            n_clear++;
            cut_point at = cut_find(&c, x, max, min_p, top_k, top_p);
            size_t got = cut_survivors(&c, x, at), k = 0;
            for (int i = 0; i < n; i++) {
                if (!want[i]) continue;
                if (k >= got || c.ids[k] != i || c.vals[k] != x[i]) {
                    FAIL("round %d (n %d, min_p %g, top_k %d, top_p %g): survivor %zu is %d, wanted %d", round, n, (double)min_p, top_k, (double)top_p, k, k < got ? c.ids[k] : -1, i);
                    break;
                }
                k++;
            }
            if (k != got && !test_cur_failed) FAIL("round %d (n %d, min_p %g, top_k %d, top_p %g): %zu survivors, wanted %zu", round, n, (double)min_p, top_k, (double)top_p, got, k);
        }
        cut_scratch_free(&c);
        free(x);
        free(want);
    }
    CHECK(n_clear > 300);
}

TEST(best_are_sorted_with_ties_by_index)
{
    for (int round = 0; round < 60; round++) {
        const int n = round % 2 ? 30000 : 40, k = round % 3 == 0 ? 5 : round % 3 == 1 ? 20 : n;
        float *x = malloc((size_t)n * sizeof *x);
        pair *s = malloc((size_t)n * sizeof *s);
        for (int i = 0; i < n; i++) {
            x[i] = logit(3, round % 4 < 2 ? 0.5f : 0);
            if (i % 11 == 0) x[i] = -INFINITY;
            s[i] = (pair){ -x[i], i };
        }
        qsort(s, (size_t)n, sizeof *s, ascending);
        cut_scratch c;
        REQUIRE_OK(cut_scratch_new(&c, row_ops_best(), (size_t)n));
        CHECK_INT(cut_best(&c, x, (size_t)k), k);
        for (int i = 0; i < k; i++)
            if (c.ids[i] != s[i].id) { FAIL("round %d: best %d is %d, wanted %d", round, i, c.ids[i], s[i].id); break; }
        cut_scratch_free(&c);
        free(x);
        free(s);
    }
}

/* ---- the race ---- */

TEST(race_draws_from_the_distribution)
{
    enum { N = 19, DRAWS = 200000 };
    float x[N];
    double p[N], total = 0, chi = 0;
    int count[N] = {0};
    sampler *s;
    REQUIRE_OK(sampler_new(N, LOGPROBS_RAW, &s));
    for (int i = 0; i < N; i++) x[i] = logit(1, 0);
    for (int i = 0; i < N; i++) total += p[i] = exp((double)x[i] / 0.8);
    sampling_params par = plain(0.8f);
    int32_t hist[1] = {0};
    for (int d = 0; d < DRAWS; d++) count[next(s, &par, hist, 1, 1, x, N, (uint64_t)d * 77777, NULL)]++;
    for (int i = 0; i < N; i++) {
        double want = DRAWS * p[i] / total;
        chi += (count[i] - want) * (count[i] - want) / want;
    }
    CHECK(chi < 45); /* 18 degrees of freedom: 42.3 is the 0.1% point */
    sampler_free(s);
}

TEST(consecutive_outputs_are_independent)
{
    enum { N = 4, DRAWS = 160000 };
    float x[N] = { 0, 0, 0, 0 };
    int32_t hist[DRAWS / 1000 + 2] = {0};
    int pairs[N][N] = {{0}};
    double chi = 0;
    sampler *s;
    REQUIRE_OK(sampler_new(N, LOGPROBS_RAW, &s));
    sampling_params par = plain(1);
    int32_t last = 0;
    for (int d = 0; d < DRAWS; d++) {
        const int len = 1 + d % (DRAWS / 1000);
        int32_t t = next(s, &par, hist, 1, len, x, N, (uint64_t)(d / (DRAWS / 1000)), NULL);
        pairs[last][t]++;
        last = t;
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) chi += pow(pairs[i][j] - DRAWS / 16.0, 2) / (DRAWS / 16.0);
    CHECK(chi < 40); /* 15 degrees of freedom: 37.7 is the 0.1% point */
    sampler_free(s);
}

TEST(instruction_sets_agree_bit_for_bit)
{
    const row_ops *a = row_ops_named("portable"), *b = row_ops_best();
    enum { N = 5003 };
    static float x[N], y[N], ea[N], eb[N], va[N], vb[N];
    static int32_t ia[N], ib[N], all[N];
    for (int round = 0; round < 200; round++) {
        const size_t n = round < 40 ? (size_t)round : (size_t)(uniform() * N);
        for (size_t i = 0; i < n; i++) x[i] = i % 97 == 5 ? -INFINITY : logit(1 + 8 * uniform(), round % 3 ? 0 : 0.5f);
        memcpy(y, x, sizeof x);
        const float m = a->max(x, n);
        CHECK(m == b->max(x, n));
        CHECK_INT(a->argmax(x, n), b->argmax(x, n));
        if (n == 0) continue;
        CHECK(a->divide(x, n, 0.7f) == b->divide(y, n, 0.7f));
        CHECK(memcmp(x, y, n * sizeof *x) == 0);
        CHECK(a->sum_exp(x, n, m) == b->sum_exp(x, n, m));
        CHECK(a->exps(x, n, m, ea) == b->exps(x, n, m, eb));
        CHECK(memcmp(ea, eb, n * sizeof *ea) == 0);
        CHECK_INT(a->count_ge(x, n, m - 3), b->count_ge(x, n, m - 3));
        size_t k = a->collect_ge(x, n, m - 3, va, ia);
        CHECK_INT(k, b->collect_ge(x, n, m - 3, vb, ib));
        CHECK(memcmp(va, vb, k * sizeof *va) == 0 && memcmp(ia, ib, k * sizeof *ia) == 0);
        CHECK_INT(a->race(x, NULL, n, m, (uint64_t)round * 999), b->race(x, NULL, n, m, (uint64_t)round * 999));
        for (size_t i = 0; i < n; i++) all[i] = (int32_t)i;
        CHECK_INT(b->race(x, NULL, n, m, (uint64_t)round * 31), b->race(x, all, n, m, (uint64_t)round * 31)); /* skipping those that cannot win changes nothing */
        CHECK_INT(a->race(va, ia, k, m, 5), b->race(va, ia, k, m, 5));
        /* the race over survivors and over all with the others banned is the same race */
        b->ban_below(x, n, m - 3);
        if (k) CHECK_INT(ia[a->race(va, ia, k, m, 5)], a->race(x, NULL, n, m, 5));
        for (size_t i = 0; i < n; i++) {
            const double e = y[i] - m < -87 ? 0 : exp((double)(y[i] - m));
            if (fabs((double)ea[i] - e) > 2e-7 * e) { FAIL("exp(%g) = %g, wanted %g", (double)(y[i] - m), (double)ea[i], e); break; }
        }
    }
}

/* ---- parameters ---- */

TEST(greedy_takes_the_first_of_equals)
{
    float x[10] = { 1, 5, 2, 5, 0, 5 };
    int32_t hist[1] = {0};
    sampler *s;
    REQUIRE_OK(sampler_new(10, LOGPROBS_RAW, &s));
    sampling_params p = plain(0);
    CHECK_INT(next(s, &p, hist, 1, 1, x, 10, 0, NULL), 1);
    p.top_k = 1; /* ties at the k-th value are all kept */
    p.temperature = 1;
    int seen[10] = {0};
    for (int i = 0; i < 200; i++) seen[next(s, &p, hist, 1, 1, x, 10, (uint64_t)i, NULL)]++;
    CHECK(seen[1] > 30 && seen[3] > 30 && seen[5] > 30 && seen[1] + seen[3] + seen[5] == 200);
    p.top_k = 0;
    p.top_p = 1e-6f; /* the largest always survives: the last of equals in ascending order */
    CHECK_INT(next(s, &p, hist, 1, 1, x, 10, 1, NULL), 5);
    sampler_free(s);
}

TEST(masks_bias_and_min_tokens)
{
    float x[8] = { 8, 7, 6, 5, 4, 3, 2, 1 };
    int32_t hist[4] = { 0, 2, 3, 4 };
    sampler *s;
    REQUIRE_OK(sampler_new(8, LOGPROBS_RAW, &s));
    sampling_params p = plain(0);
    const int32_t allowed[] = { 5, 3, 5 }, stops[] = { 0, 1, -7, 99 };
    p.allowed_token_ids = allowed;
    p.n_allowed_token_ids = 3;
    CHECK_INT(next(s, &p, hist, 1, 1, x, 8, 0, NULL), 3);
    p.n_allowed_token_ids = 0;
    p.all_stop_ids = stops;
    p.n_all_stop_ids = 4;
    p.min_tokens = 2;
    CHECK_INT(next(s, &p, hist, 1, 1, x, 8, 0, NULL), 2);
    CHECK_INT(next(s, &p, hist, 1, 2, x, 8, 0, NULL), 2);
    CHECK_INT(next(s, &p, hist, 1, 3, x, 8, 0, NULL), 0);
    p.min_tokens = 0;
    const int32_t one[] = { 0 }, two[] = { 3, 1 }, three[] = { 2, 3, 4, 2 };
    const int32_t *const words[] = { one, two, three };
    const int lens[] = { 1, 2, 4 };
    p.bad_words = words;
    p.bad_word_lens = lens;
    p.n_bad_words = 3;
    CHECK_INT(next(s, &p, hist, 1, 1, x, 8, 0, NULL), 1); /* 0 banned */
    CHECK_INT(next(s, &p, hist, 1, 3, x, 8, 0, NULL), 2); /* tail 3: 1 banned too */
    CHECK_INT(next(s, &p, hist, 1, 4, x, 8, 0, NULL), 1); /* tail 2 3 4: 2 banned, 1 not */
    CHECK_INT(next(s, &p, hist, 2, 4, x, 8, 0, NULL), 1); /* the prompt does not count as a tail */
    p.n_bad_words = 0;
    const int32_t ids[] = { 7, 0 };
    const float bias[] = { 10, -100 };
    p.logit_bias_ids = ids;
    p.logit_bias = bias;
    p.n_logit_bias = 2;
    CHECK_INT(next(s, &p, hist, 1, 1, x, 8, 0, NULL), 7);
    sampler_free(s);
}

TEST(penalties)
{
    float x[6] = { 2, 2, 2, -2, 2, -4 };
    /* prompt 0 3; outputs 1 1 0 */
    int32_t hist[5] = { 0, 3, 1, 1, 0 };
    sampler *s;
    lp_vec lps = {0};
    REQUIRE_OK(sampler_new(6, LOGITS_PROCESSED, &s));
    sampling_params p = plain(0);
    p.repetition_penalty = 2;
    p.frequency_penalty = 0.25f;
    p.presence_penalty = 0.5f;
    p.logprobs = -1;
    for (int again = 0; again < 2; again++) { /* twice: nothing may be left over */
        lps.len = 0;
        CHECK_INT(next(s, &p, hist, 2, 5, x, 6, 0, &lps), 2);
        const float want[6] = { 2.0f / 2 - 0.25f - 0.5f, 2.0f / 2 - 0.5f - 0.5f, 2, -4, 2, -4 };
        CHECK_INT(lps.len, 6);
        for (size_t i = 0; i < lps.len; i++) CHECK_NEAR(lps.data[i].logprob, want[lps.data[i].id], 0);
    }
    lp_vec_free(&lps);
    sampler_free(s);
}

TEST(logprobs_in_all_modes)
{
    enum { N = 300 };
    float x[N];
    int32_t hist[2] = { 1, 2 };
    for (int i = 0; i < N; i++) x[i] = logit(2, 0);
    x[9] = 30; /* banned below */
    const int32_t b[] = { 9 };
    const int32_t *const words[] = { b };
    const int lens[] = { 1 };
    for (int mode = 0; mode < 4; mode++) {
        sampler *s;
        lp_vec lps = {0};
        REQUIRE_OK(sampler_new(N, (logprobs_mode)mode, &s));
        sampling_params p = plain(0.5f);
        p.bad_words = words;
        p.bad_word_lens = lens;
        p.n_bad_words = 1;
        p.top_k = 5;
        p.logprobs = 7;
        const int32_t t = next(s, &p, hist, 1, 2, x, N, 3, &lps);
        /* the tensor to be returned */
        double y[N], sum = 0;
        for (int i = 0; i < N; i++) y[i] = (double)x[i];
        if (mode == LOGPROBS_PROCESSED || mode == LOGITS_PROCESSED) {
            y[9] = (double)-INFINITY;
            pair q[N];
            for (int i = 0; i < N; i++) {
                y[i] /= 0.5;
                q[i] = (pair){ (float)y[i], i };
            }
            qsort(q, N, sizeof *q, ascending);
            for (int i = 0; i < N - 5; i++) y[q[i].id] = (double)-INFINITY;
        }
        if (mode == LOGPROBS_RAW || mode == LOGPROBS_PROCESSED) {
            for (int i = 0; i < N; i++) sum += exp(y[i]);
            for (int i = 0; i < N; i++) y[i] -= log(sum);
        }
        int rank = 0;
        for (int i = 0; i < N; i++) rank += y[i] >= y[t];
        REQUIRE(lps.len >= 7 && lps.len <= 8);
        CHECK_INT(lps.data[0].id, t);
        CHECK_INT(lps.data[0].rank, rank);
        CHECK_INT(lps.len, rank <= 7 ? 7 : 8); /* the token is not repeated */
        for (size_t i = 0; i < lps.len; i++) {
            const token_logprob *l = &lps.data[i];
            if (isinf(y[l->id])) CHECK(isinf(l->logprob));
            else CHECK_NEAR(l->logprob, y[l->id], 1e-4);
            if (i > 0) CHECK(l->id != t);
            if (i > 1) CHECK(l->rank > l[-1].rank && l->logprob <= l[-1].logprob);
        }
        const int32_t ids[] = { 4, t, 250 };
        p.logprob_token_ids = ids;
        p.n_logprob_token_ids = 3;
        lps.len = 0;
        CHECK_INT(next(s, &p, hist, 1, 2, x, N, 3, &lps), t);
        CHECK_INT(lps.len, 3);
        CHECK_INT(lps.data[1].id, 4);
        CHECK_INT(lps.data[2].id, 250);
        p.n_logprob_token_ids = 0;
        p.logprobs = 0;
        lps.len = 0;
        CHECK_INT(next(s, &p, hist, 1, 2, x, N, 3, &lps), t);
        CHECK_INT(lps.len, 1);
        p.prompt_logprobs = 2;
        lps.len = 0;
        CHECK_OK(sampler_prompt(s, &p, 77, x, &lps));
        CHECK_INT(lps.len, 3);
        CHECK_INT(lps.data[0].id, 77);
        CHECK_INT(lps.data[1].id, 9);
        CHECK_INT(lps.data[1].rank, 1);
        lp_vec_free(&lps);
        sampler_free(s);
    }
}

TEST(survives_odd_logits)
{
    enum { N = 40 };
    float x[N];
    int32_t hist[1] = {0};
    sampler *s;
    REQUIRE_OK(sampler_new(N, LOGPROBS_PROCESSED, &s));
    for (int kind = 0; kind < 5; kind++)
        for (int temp = 0; temp < 2; temp++) {
            lp_vec lps = {0};
            for (int i = 0; i < N; i++) x[i] = kind == 0 ? -INFINITY : kind == 1 ? NAN : kind == 2 ? (i == 7 ? INFINITY : 1) : kind == 3 ? (i % 2 ? NAN : 1) : 3e38f * (float)(i % 3 - 1);
            sampling_params p = plain((float)temp);
            p.top_k = 3;
            p.top_p = 0.5f;
            p.min_p = 0.1f;
            p.logprobs = 5;
            int32_t t = next(s, &p, hist, 1, 1, x, N, 1, &lps);
            CHECK(t >= 0 && t < N);
            if (kind == 2) CHECK_INT(t, 7);
            if (kind == 3) CHECK_INT(t % 2, 0);
            lp_vec_free(&lps);
        }
    sampler_free(s);
}

TEST(out_of_memory_is_a_status)
{
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        float x[20] = { 1, 2, 3 };
        int32_t hist[1] = {0}, t = -1;
        sampler *s = NULL;
        lp_vec lps = {0};
        sampling_params p = plain(1);
        p.logprobs = 3;
        sample_input in = { .params = &p, .tokens = hist, .n_prompt = 1, .n_tokens = 1 };
        mem_fail_at(n);
        status st = sampler_new(20, LOGPROBS_RAW, &s);
        if (st == ST_OK) {
            st = sampler_next(s, &in, x, &t, &lps);
            CHECK(t >= 0);
        }
        int hit = mem_failed();
        mem_fail_at(0);
        if (s) sampler_free(s);
        lp_vec_free(&lps);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
        CHECK_INT(st, ST_NOMEM);
    }
}

/* ---- speed ---- */

static void bench(const char *what, sampler *s, const sampling_params *p, const float *logits, int n)
{
    static int32_t hist[4096];
    float *x = malloc((size_t)n * sizeof *x);
    lp_vec lps = {0};
    double best = 1e9;
    for (int i = 0; i < 30; i++) {
        memcpy(x, logits, (size_t)n * sizeof *x);
        sample_input in = { .params = p, .tokens = hist, .n_prompt = 10, .n_tokens = 10 + i, .seed = (uint64_t)i };
        int32_t t;
        lps.len = 0;
        double t0 = clock_now();
        if (sampler_next(s, &in, x, &t, &lps) != ST_OK) FAIL("%s", err_msg());
        double dt = clock_now() - t0;
        if (dt < best) best = dt;
    }
    printf("  %-36s %8.1f us\n", what, best * 1e6);
    lp_vec_free(&lps);
    free(x);
}

TEST(speed)
{
    enum { N = 151936 };
    if (!getenv("SYSTOLIC_BENCH")) return;
    float *x = malloc(N * sizeof *x);
    sampler *s;
    REQUIRE_OK(sampler_new(N, LOGPROBS_RAW, &s));
    for (int sharp = 0; sharp < 2; sharp++) {
        for (int i = 0; i < N; i++) x[i] = logit(sharp ? 2.5f : 0.3f, 0);
        if (sharp) x[1234] = 22, x[77777] = 21, x[5] = 19;
        printf("  vocabulary %d, %s logits, %s\n", N, sharp ? "peaked" : "flat", row_ops_best()->name);
        sampling_params p = plain(0);
        bench("greedy", s, &p, x, N);
        p.logprobs = 5;
        bench("greedy, 5 logprobs", s, &p, x, N);
        p = plain(1);
        bench("temperature 1", s, &p, x, N);
        p = plain(0.7f);
        bench("temperature 0.7", s, &p, x, N);
        p.top_p = 0.9f;
        bench("temperature 0.7, top_p 0.9", s, &p, x, N);
        p.top_p = 1;
        p.top_k = 50;
        bench("temperature 0.7, top_k 50", s, &p, x, N);
        p.top_p = 0.95f;
        bench("temperature 0.7, top_k 50, top_p 0.95", s, &p, x, N);
        p.top_k = 1000;
        bench("temperature 0.7, top_k 1000, top_p", s, &p, x, N);
        p = plain(0.7f);
        p.min_p = 0.05f;
        bench("temperature 0.7, min_p 0.05", s, &p, x, N);
        p.repetition_penalty = 1.1f;
        bench("  and repetition_penalty", s, &p, x, N);
    }
    sampler_free(s);
    free(x);
}

TEST_MAIN
