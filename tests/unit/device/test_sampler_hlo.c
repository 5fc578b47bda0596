/* Sampling as a program: kinds and parameters without a plugin; what libtpu says of the programs
 * (SYSTOLIC_SAMPLER_COSTS=64x128256: of all, in that size); tokens on XLA:CPU against a plain reference in double. */
#include "base/clock.h"
#include "device/pjrt/compiler.h"
#include "device/pjrt/sampler.h"
#include "tests/unit/device/pjrt/help.h"

/* XLA:CPU loses 18 bytes per compiled loop or so; what this repository allocates is not under that library. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libtensorflow_cc\n"; }

enum { SLOTS = 80, RING_LEN = SLOTS * BATCH_RING, HISTORY = 1500, EDITS = 20 };

static uint64_t seed = 1;
static uint64_t rnd(void)
{
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static int below(int n) { return (int)(rnd() % (uint64_t)n); }
static double unit(void) { return ((double)(rnd() >> 11) + 0.5) * 0x1p-53; }
static double normal(void) { return sqrt(-2 * log(unit())) * cos(6.283185307179586 * unit()); }
#define ONE_OF(type, ...) (((const type[]){ __VA_ARGS__ })[below((int)(sizeof((const type[]){ __VA_ARGS__ }) / sizeof(type)))])

/* ---- the reference ---- */

typedef struct scored { float x; int id; double w; } scored;

static int descending(const void *a, const void *b)
{
    const scored *p = a, *q = b;
    return p->x != q->x ? (p->x < q->x ? 1 : -1) : q->id - p->id;
}

/* Logits as the row's choice sees them. */
static void ref_process(const sample_row *r, const int32_t *ring, int vocab, float *x)
{
    float *sum = calloc((size_t)vocab, sizeof *sum);
    int *outputs = calloc((size_t)vocab, sizeof *outputs), *in_prompt = calloc((size_t)vocab, sizeof *in_prompt);
    for (int i = 0; i < r->n_edits; i++) sum[r->edit_ids[i]] += r->edit_values[i];
    for (int i = 0; i < r->n_history; i++) {
        const int t = r->history[i] < 0 ? ring[-1 - r->history[i]] : r->history[i];
        if (i < r->n_prompt) in_prompt[t] = 1;
        else outputs[t]++;
    }
    for (int t = 0; t < vocab; t++) {
        if (r->mask && !(r->mask[t / 32] >> t % 32 & 1)) x[t] = -INFINITY;
        x[t] = sum[t] == -INFINITY ? -INFINITY : x[t] + sum[t];
        if (in_prompt[t] || outputs[t]) x[t] = x[t] > 0 ? x[t] / r->repetition_penalty : x[t] * r->repetition_penalty;
        if (outputs[t]) x[t] = (x[t] - r->frequency_penalty * (float)outputs[t]) - r->presence_penalty;
        if (isnan(x[t])) x[t] = -INFINITY;
    }
    free(sum);
    free(outputs);
    free(in_prompt);
}

static double ref_race(double w, int id, uint64_t key)
{
    uint32_t u = (uint32_t)id * 0x9E3779B1u + (uint32_t)key;
    u ^= u >> 16, u *= 0x7FEB352Du, u ^= u >> 15, u *= 0x846CA68Bu, u ^= u >> 16, u += (uint32_t)(key >> 32);
    u ^= u >> 16, u *= 0x85EBCA6Bu, u ^= u >> 13, u *= 0xC2B2AE35u, u ^= u >> 16;
    const float v = ((float)(int32_t)(u >> 1) + 0.5f) * 0x1p-31f;
    return w / -log1p(-(double)(v < 0x1.fffffep-1f ? v : 0x1.fffffep-1f));
}

/* How many of the n best survive min_p, top_k and top_p. *close: the sum comes within 1e-5 of where top_p cuts. */
static int ref_cut(const sample_row *r, const scored *s, int n, bool *close)
{
    int m = n;
    if (r->min_p > 0)
        while (m > 1 && s[m - 1].x < s[0].x + logf(r->min_p)) m--;
    if (r->top_k > 0 && r->top_k < m)
        while (m > r->top_k && s[m - 1].x < s[r->top_k - 1].x) m--;
    if (r->top_p >= 1) return m;
    double total = 0, before = 0;
    for (int i = 0; i < m; i++) total += s[i].w;
    const double need = (double)r->top_p * total;
    int kept = 0;
    for (int i = 0; i < m; before += s[i++].w) {
        if (i == 0 || before < need) kept = i + 1;
        if (fabs(before - need) < 1e-5 * total) *close = true;
    }
    return kept;
}

/* The row's token; x is used up. *close: rounding may give another one. *n_kept: tokens that can be chosen. */
static int ref_choose(const sample_row *r, int vocab, float *x, bool *close, int *n_kept)
{
    int best = 0;
    *close = false;
    *n_kept = 1;
    for (int t = 0; t < vocab; t++) {
        if (r->temperature != 0) x[t] /= r->temperature;
        if (x[t] > x[best]) best = t;
    }
    if (r->temperature == 0 || !isfinite(x[best])) return best;
    scored *s = malloc((size_t)vocab * sizeof *s);
    for (int t = 0; t < vocab; t++) s[t] = (scored){ x[t], t, exp((double)x[t] - (double)x[best]) };
    qsort(s, (size_t)vocab, sizeof *s, descending);
    *n_kept = ref_cut(r, s, vocab, close);
    double first = -1, second = -1;
    for (int i = 0; i < *n_kept; i++) {
        const double score = s[i].x > -INFINITY ? ref_race(s[i].w, s[i].id, r->key) : -1;
        if (score > first || (score == first && s[i].id < best)) {
            second = first;
            first = score;
            best = s[i].id;
        } else if (score > second) {
            second = score;
        }
    }
    free(s);
    if (second > first * (1 - 1e-5)) *close = true;
    return best;
}

/* ---- a step: rows, their storage, what the program said ---- */

typedef struct step {
    int vocab, n_rows, bucket;
    sample_row *rows;
    float *logits;
    int32_t *ring, *tokens, *new_ring;
    uint32_t *mask;
    int32_t (*history)[HISTORY], (*ids)[EDITS];
    float (*values)[EDITS];
} step;

static step step_new(int vocab, int n_rows, int bucket)
{
    const size_t n = (size_t)bucket, words = (size_t)(vocab + 31) / 32;
    step s = { .vocab = vocab, .n_rows = n_rows, .bucket = bucket, .rows = calloc(n, sizeof *s.rows), .logits = calloc(n * (size_t)vocab, sizeof(float)),
               .ring = calloc(RING_LEN, 4), .new_ring = calloc(RING_LEN, 4), .tokens = calloc(n, 4), .mask = calloc(n * words, 4),
               .history = calloc(n, sizeof *s.history), .ids = calloc(n, sizeof *s.ids), .values = calloc(n, sizeof *s.values) };
    for (int i = 0; i < RING_LEN; i++) s.ring[i] = below(vocab);
    for (int i = 0; i < n_rows; i++) s.rows[i] = (sample_row){ .slot = i, .ring_pos = below(BATCH_RING), .repetition_penalty = 1, .top_p = 1, .key = rnd() };
    return s;
}

static void step_free(step *s)
{
    void *all[] = { s->rows, s->logits, s->ring, s->new_ring, s->tokens, s->mask, s->history, s->ids, s->values };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static float *logits_of(const step *s, int row) { return s->logits + (size_t)row * (size_t)s->vocab; }

/* Shapes of distributions: peaked, flat, with many ties, with banned tokens, with one huge value, equal, in two values. */
enum { SHAPES = 8 };
static void make_logits(const step *s, int row, int form)
{
    float *x = logits_of(s, row);
    for (int t = 0; t < s->vocab; t++) {
        const double g = normal();
        x[t] = (float)(form == 0 ? 3 * g : form == 1 ? 0.1 * g : form == 2 ? rint(4 * g) / 2 : form == 3 ? (below(3) ? -INFINITY : 2 * g) :
                       form == 4 ? g : form == 5 ? 1.25 : form == 6 ? (below(10) ? -3 : 1.5) : 3 * g + 20);
    }
    if (form == 4) x[below(s->vocab)] = 1e6f;
    if (form == 7) x[below(s->vocab)] = NAN;
}

static void make_random(sample_row *r)
{
    r->temperature = ONE_OF(float, 0, 0.3f, 0.7f, 1, 1, 1.5f);
    if (below(2)) r->top_k = ONE_OF(int32_t, 1, 2, 5, 20, 50, 200, 1 << 30);
    if (below(2)) r->top_p = ONE_OF(float, 1e-6f, 0.1f, 0.5f, 0.8f, 0.9f, 0.95f, 0.999f);
    if (below(3) == 0) r->min_p = ONE_OF(float, 0.001f, 0.05f, 0.3f, 1);
}

static void make_edits(const step *s, int row)
{
    sample_row *r = &s->rows[row];
    r->edit_ids = s->ids[row];
    r->edit_values = s->values[row];
    r->n_edits = below(EDITS + 1);
    for (int i = 0; i < r->n_edits; i++) {
        s->ids[row][i] = i && below(3) == 0 ? s->ids[row][i - 1] : below(s->vocab);
        s->values[row][i] = ONE_OF(float, -INFINITY, -100, 100, 2.5f, -0.25f, 5);
    }
}

static void make_history(const step *s, int row, int most)
{
    sample_row *r = &s->rows[row];
    r->history = s->history[row];
    r->n_history = below(most + 1);
    r->n_prompt = below(r->n_history + 1);
    for (int i = 0; i < r->n_history; i++) {
        s->history[row][i] = i && below(2) ? s->history[row][below(i)] : below(s->vocab);
        if (s->history[row][i] < 0) s->history[row][i] = below(s->vocab);
    }
    for (int i = r->n_history - 3; i < r->n_history; i++)
        if (i >= r->n_prompt) s->history[row][i] = -1 - below(RING_LEN);
    r->presence_penalty = ONE_OF(float, 0, 0.5f, -1);
    r->frequency_penalty = ONE_OF(float, 0, 0.25f, -0.5f, 1.5f);
    r->repetition_penalty = ONE_OF(float, 1, 1.25f, 0.8f, 2);
}

static void make_mask(const step *s, int row)
{
    const size_t words = (size_t)(s->vocab + 31) / 32;
    uint32_t *m = s->mask + (size_t)row * words;
    const int allowed = ONE_OF(int, 1, 2, 30);
    memset(m, 0, words * 4);
    for (int i = 0; i < allowed * s->vocab / 32 + 1; i++) {
        const int t = below(s->vocab);
        m[t / 32] |= 1u << t % 32;
    }
    s->rows[row].mask = m;
}

static pjrt_buffer *put(pjrt_client *c, dtype t, int rank, int64_t a, int64_t b, const void *data)
{
    pjrt_buffer *out = NULL;
    if (pjrt_upload(c, 0, t, (int64_t[]){ a, b }, (size_t)rank, data, PJRT_HOLD_CALL, &out, NULL) != ST_OK) FAIL("%s", err_msg());
    return out;
}

static status compile(pjrt_client *c, const sampler_kind *k, pjrt_program **out)
{
    buf text = {0};
    status st = sampler_program(k, (mesh){ .dp = 1, .tp = 1 }, &text);
    if (st == ST_OK) st = test_compile(c, &(pjrt_source){ "sample", text.data, text.len }, &(pjrt_compile_options){0}, out);
    buf_free(&text);
    return st;
}

static void run(pjrt_client *c, pjrt_program *p, const sampler_kind *k, step *s)
{
    const int64_t n_ints = sampler_ints_len(k), n_floats = sampler_floats_len(k), n_mask = sampler_mask_len(k);
    int32_t *ints = malloc((size_t)n_ints * 4);
    float *reals = malloc((size_t)n_floats * 4);
    uint32_t *mask = malloc((size_t)n_mask * 4);
    pjrt_buffer *in[5], *out[2] = { NULL, NULL };
    size_t n = 0;
    sampler_fill(k, s->rows, s->n_rows, ints, reals, mask);
    in[n++] = put(c, DT_F32, 2, s->bucket, s->vocab, s->logits);
    in[n++] = put(c, DT_I32, 1, RING_LEN, 0, s->ring);
    in[n++] = put(c, DT_I32, 1, n_ints, 0, ints);
    if (n_floats) in[n++] = put(c, DT_F32, 1, n_floats, 0, reals);
    if (n_mask) in[n++] = put(c, DT_U32, 2, s->bucket, (s->vocab + 31) / 32, mask);
    status st = pjrt_execute(p, in, n, NULL, 0, out, NULL);
    if (st == ST_OK) st = pjrt_download_now(c, out[0], s->new_ring, RING_LEN * 4);
    if (st == ST_OK) st = pjrt_download_now(c, out[1], s->tokens, (size_t)s->bucket * 4);
    if (st != ST_OK) FAIL("%s", err_msg());
    for (size_t i = 0; i < n; i++) pjrt_buffer_free(c, in[i]);
    for (int i = 0; i < 2; i++) pjrt_buffer_free(c, out[i]);
    free(ints);
    free(reals);
    free(mask);
}

typedef struct tally { int rows, greedy, close, differ, wrong; } tally;

static void compare(const step *s, tally *n)
{
    int32_t *ring = malloc(RING_LEN * 4);
    float *x = malloc((size_t)s->vocab * sizeof *x);
    memcpy(ring, s->ring, RING_LEN * 4);
    for (int i = 0; i < s->bucket; i++) {
        const sample_row *r = &s->rows[i];
        if (i >= s->n_rows || r->slot < 0) {
            CHECK_INT(s->tokens[i], 0);
            continue;
        }
        bool close;
        int n_kept;
        memcpy(x, logits_of(s, i), (size_t)s->vocab * sizeof *x);
        ref_process(r, s->ring, s->vocab, x);
        const int want = ref_choose(r, s->vocab, x, &close, &n_kept);
        n->rows++;
        n->greedy += r->temperature == 0;
        n->close += close;
        n->differ += s->tokens[i] != want;
        if (s->tokens[i] != want && !close && n->wrong++ < 3)
            FAIL("row %d: token %d, wanted %d of %d (temperature %g, min_p %g, top_k %d, top_p %.7g, %d edits, %d history, mask %d)", i, s->tokens[i], want, n_kept,
                 (double)r->temperature, (double)r->min_p, r->top_k, (double)r->top_p, r->n_edits, r->n_history, r->mask != NULL);
        ring[r->slot * BATCH_RING + r->ring_pos] = s->tokens[i];
    }
    CHECK(!memcmp(ring, s->new_ring, RING_LEN * 4));
    free(ring);
    free(x);
}

/* ---- without a plugin ---- */

TEST(kinds_hold_what_rows_need_and_no_more)
{
    int32_t history[5] = { 1, 2, 3, 4, 5 };
    const uint32_t words[4] = {0};
    sample_row rows[3] = { { .repetition_penalty = 1, .top_p = 1 }, { .slot = 1, .repetition_penalty = 1, .top_p = 1 }, { .slot = -1, .temperature = 1, .top_k = 3, .mask = words } };
    sampler_kind k = sampler_kind_of(rows, 3, 4, 100, SLOTS);
    CHECK(k.rows == 4 && k.vocab == 100 && k.n_slots == SLOTS && !k.random && !k.cut && !k.mask && !k.edits && !k.history);
    CHECK(sampler_ints_len(&k) == 4 && sampler_floats_len(&k) == 0 && sampler_mask_len(&k) == 0);
    rows[0].top_k = 5;                  /* greedy: nothing to cut */
    CHECK(!sampler_kind_of(rows, 3, 4, 100, SLOTS).cut);
    rows[0].temperature = 1;
    CHECK(sampler_kind_of(rows, 3, 4, 100, SLOTS).cut && !sampler_kind_of(rows, 3, 4, 5, SLOTS).cut);
    rows[1].mask = words;
    rows[1].n_edits = 17;
    rows[1].history = history;
    rows[1].n_history = 5;
    rows[1].n_prompt = 4;
    CHECK_INT(sampler_kind_of(rows, 3, 4, 100, SLOTS).history, 0);  /* no penalty after all */
    rows[1].presence_penalty = 1;
    k = sampler_kind_of(rows, 3, 4, 100, SLOTS);
    CHECK(k.random && k.cut && k.mask && k.edits == 64 && k.history == 256);
    CHECK_INT(sampler_ints_len(&k), 4 * (1 + 2 + 64 + 1 + 256 + 1));
    CHECK_INT(sampler_floats_len(&k), 4 * (1 + 64 + 3 + 2));
    CHECK_INT(sampler_mask_len(&k), 4 * 4);
    rows[1].n_history = 257 + 4;        /* the prompt matters to the repetition penalty only */
    CHECK_INT(sampler_kind_of(rows, 3, 4, 100, SLOTS).history, 1024);
    rows[1].n_history = 256 + 4;
    CHECK_INT(sampler_kind_of(rows, 3, 4, 100, SLOTS).history, 256);
    rows[1].repetition_penalty = 2;
    CHECK_INT(sampler_kind_of(rows, 3, 4, 100, SLOTS).history, 1024);
}

TEST(kinds_that_are_no_program_are_refused)
{
    buf out = {0};
    const mesh one = { .dp = 1, .tp = 1 };
    CHECK_ERR(sampler_program(&(sampler_kind){ .rows = 0, .vocab = 10, .n_slots = 1 }, one, &out), ST_INVALID, "0 rows of 10 logits");
    CHECK_ERR(sampler_program(&(sampler_kind){ .rows = 1, .vocab = -1, .n_slots = 1 }, one, &out), ST_INVALID, "above 0");
    CHECK_ERR(sampler_program(&(sampler_kind){ .rows = 65536, .vocab = 65536, .n_slots = 1 }, one, &out), ST_INVALID, "more than 2147483647 elements");
    CHECK_ERR(sampler_program(&(sampler_kind){ .rows = 64, .vocab = 10, .n_slots = 1, .history = 1 << 30 }, one, &out), ST_INVALID, "1073741824 history tokens");
    CHECK_ERR(sampler_program(&(sampler_kind){ .rows = 64, .vocab = 10, .n_slots = 1, .cut = true }, one, &out), ST_INVALID, "greedy");
    CHECK_ERR(sampler_program(&(sampler_kind){ .rows = 64, .vocab = 10, .n_slots = 1, .history = 1500 }, one, &out), ST_INVALID, "multiples of that");
    CHECK_INT(out.len, 0);
    buf_free(&out);
}

static status write_and_drop(const sampler_kind *k)
{
    buf out = {0};
    status st = sampler_program(k, (mesh){ .dp = 1, .tp = 2 }, &out);
    buf_free(&out);
    return st;
}

TEST(out_of_memory_is_a_status)
{
    const sampler_kind k = { .rows = 8, .vocab = 50, .n_slots = SLOTS, .random = true, .cut = true, .mask = true, .edits = 16, .history = 256 };
    EVERY_ALLOCATION_FAILS(write_and_drop(&k));
}

/* ---- libtpu: what the programs cost. First, because the compiler forks before this process has a plugin ---- */

static void price(pjrt_compiler *k, sampler_kind kind, pjrt_effort effort)
{
    buf text = {0}, exe = {0};
    pjrt_stats st = {0};
    CHECK_OK(sampler_program(&kind, (mesh){ .dp = 1, .tp = 1 }, &text));
    CHECK_OK(pjrt_compiler_run(k, &(pjrt_source){ "sample", text.data, text.len }, &(pjrt_compile_options){ .effort = effort }, &exe, &st));
    printf("  v6e %d x %d%s%s%s, edits %d, history %d%s: %.1f s, temporaries %.1f MB (logits %.1f), code %.2f MB, %.3g flops, %.3g bytes\n", kind.rows, kind.vocab,
           kind.random ? " random" : " greedy", kind.cut ? " cut" : "", kind.mask ? " mask" : "", kind.edits, kind.history, effort == PJRT_EFFORT_O1 ? ", O1" : "", st.compile_s,
           (double)st.temp_bytes / 1e6, (double)kind.rows * kind.vocab * 4e-6, (double)st.code_bytes / 1e6, st.flops, st.bytes);
    fflush(stdout);
    CHECK(st.alias_bytes > 0);
    buf_free(&text);
    buf_free(&exe);
}

TEST(libtpu_compiles_the_programs)
{
    NEED_TPU;
    static const sampler_kind kinds[] = {
        { .n_slots = 256, .random = true, .cut = true, .mask = true, .edits = 16, .history = 4096 },
        { .n_slots = 256 }, { .n_slots = 256, .mask = true }, { .n_slots = 256, .edits = 16 }, { .n_slots = 256, .edits = 256 },
        { .n_slots = 256, .history = 1024 }, { .n_slots = 256, .history = 16384 }, { .n_slots = 256, .random = true }, { .n_slots = 256, .random = true, .cut = true } };
    const char *size = getenv("SYSTOLIC_SAMPLER_COSTS");
    int rows = 16, vocab = 32000;
    if (size && sscanf(size, "%dx%d", &rows, &vocab) != 2) SKIP("SYSTOLIC_SAMPLER_COSTS=\"%s\" is not like 64x128256", size);
    pjrt_compiler *k;
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path, .topology = "v6e:1x1", .limit_s = 300 }, &k));
    for (size_t i = 0; i < (size ? sizeof kinds / sizeof *kinds : 1); i++) {
        sampler_kind kind = kinds[i];
        kind.rows = rows;
        kind.vocab = vocab;
        if (size) price(k, kind, PJRT_EFFORT_DEFAULT);
        price(k, kind, PJRT_EFFORT_O1);
    }
    pjrt_compiler_close(k);
}

/* ---- on XLA:CPU ---- */

/* Programs by kind, compiled once. */
static struct { sampler_kind k; pjrt_program *p; } known[32];

static pjrt_program *program_of(pjrt_client *c, const sampler_kind *k)
{
    int i = 0;
    for (; i < 32 && known[i].p; i++) {
        const sampler_kind *o = &known[i].k;
        if (o->rows == k->rows && o->vocab == k->vocab && o->random == k->random && o->cut == k->cut && o->mask == k->mask && o->edits == k->edits && o->history == k->history)
            return known[i].p;
    }
    if (i == 32) return NULL;
    const status st = compile(c, k, &known[i].p);
    if (st != ST_OK) FAIL("%s", err_msg());
    known[i].k = *k;
    return known[i].p;
}

static void check_step(pjrt_client *c, step *s, tally *n)
{
    const sampler_kind k = sampler_kind_of(s->rows, s->n_rows, s->bucket, s->vocab, SLOTS);
    pjrt_program *p = program_of(c, &k);
    if (!p) return;
    run(c, p, &k, s);
    compare(s, n);
}

static void check_rare(const char *what, tally n)
{
    printf("  %s: %d rows, %d of them greedy; %d so close that rounding may decide, %d of these differ\n", what, n.rows, n.greedy, n.close, n.differ);
    CHECK(n.differ * 500 <= n.rows);
}

TEST(greedy_tokens_are_exact)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    tally n = {0};
    for (int features = 0; features < 8; features++) {
        step s = step_new(1009, 60, 64);
        for (int i = 0; i < s.n_rows; i++) {
            make_logits(&s, i, below(SHAPES));
            if (features & 1 && below(4)) make_mask(&s, i);
            if (features & 2 && below(4)) make_edits(&s, i);
            if (features & 4 && below(4)) make_history(&s, i, 250);
        }
        s.rows[7].slot = s.rows[30].slot = -1;
        check_step(c, &s, &n);
        step_free(&s);
    }
    CHECK_INT(n.differ, 0);
    CHECK_INT(n.rows, 8 * 58);
}

TEST(sampled_tokens_are_the_references)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    tally n = {0};
    for (int round = 0; round < 24; round++) {
        step s = step_new(round % 2 ? 1009 : 5000, 60, 64);
        for (int i = 0; i < s.n_rows; i++) {
            make_logits(&s, i, below(SHAPES));
            if (round % 4 < 2) {
                s.rows[i].temperature = ONE_OF(float, 0, 0.5f, 1, 1.3f);
                continue;
            }
            make_random(&s.rows[i]);
            if (round % 8 < 4) continue;
            if (below(2)) make_mask(&s, i);
            if (below(2)) make_edits(&s, i);
            if (below(2)) make_history(&s, i, 250);
        }
        s.rows[9].slot = s.rows[59].slot = -1;
        check_step(c, &s, &n);
        step_free(&s);
    }
    check_rare("tokens", n);
}

/* Beyond a thousand tokens counting goes by chunks. */
TEST(long_histories_are_counted)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    tally n = {0};
    for (int round = 0; round < 3; round++) {
        step s = step_new(round == 2 ? 1024 : 700, 8, 8);
        for (int i = 0; i < s.n_rows; i++) {
            make_logits(&s, i, 0);
            if (round) make_random(&s.rows[i]);
            make_history(&s, i, i ? HISTORY : 100);
            if (i == 1) s.rows[i].n_history = HISTORY;
        }
        check_step(c, &s, &n);
        step_free(&s);
    }
    CHECK_INT(n.differ, 0);
}

/* Sums over many values of like size are where f32 is weakest. */
TEST(large_vocabularies_keep_their_precision)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    tally n = {0};
    for (int round = 0; round < 4; round++) {
        step s = step_new(151936, 8, 8);
        for (int i = 0; i < s.n_rows; i++) {
            make_logits(&s, i, round % 2 ? below(SHAPES) : 1);
            make_random(&s.rows[i]);
            s.rows[i].temperature = ONE_OF(float, 0.7f, 1, 1.5f);
            s.rows[i].top_p = ONE_OF(float, 0.5f, 0.9f, 0.99f);
            if (i % 2) s.rows[i].top_k = 0;
        }
        check_step(c, &s, &n);
        step_free(&s);
    }
    check_rare("tokens of 151936", n);
}

/* Two tokens above a tail that outweighs them. top_p ends within a few millionths of the first: whether the second is kept
 * tells how well the tail was summed. */
TEST(sums_are_good_to_a_few_millionths)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    const double margins[] = { 1e-2, 1e-4, 3e-6 };
    step s = step_new(151936, 32, 32);
    float *x = logits_of(&s, 0);
    double total = 0;
    for (int t = 0; t < s.vocab; t++) x[t] = (float)(-8 + 0.7 * normal());
    x[77] = 0;
    x[78] = -0.01f;
    for (int t = 0; t < s.vocab; t++) total += exp((double)x[t]);
    for (size_t m = 0; m < sizeof margins / sizeof *margins; m++) {
        int n_second[2] = {0};
        for (int i = 0; i < s.n_rows; i++) {
            if (i) memcpy(logits_of(&s, i), x, (size_t)s.vocab * sizeof *x);
            s.rows[i].key = rnd();
            s.rows[i].temperature = 1;
            s.rows[i].top_p = (float)((i % 2 ? 1 + margins[m] : 1 - margins[m]) / total);
        }
        const sampler_kind k = sampler_kind_of(s.rows, s.n_rows, s.bucket, s.vocab, SLOTS);
        pjrt_program *p = program_of(c, &k);
        REQUIRE(p);
        run(c, p, &k, &s);
        for (int i = 0; i < s.n_rows; i++) n_second[i % 2] += s.tokens[i] == 78;
        if (n_second[0] != 0 || n_second[1] < 3) FAIL("margin %g: %d and %d of 16 rows took the second", margins[m], n_second[0], n_second[1]);
    }
    step_free(&s);
}

/* One distribution, many keys: every token that survives the cuts comes up, no other does. */
static void check_survivors(const char *what, void (*logits)(const step *s, int row), sample_row like, int vocab, int want)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    tally n = {0};
    char *seen = calloc((size_t)vocab, 1);
    int n_seen = 0;
    for (int round = 0; round < 12; round++) {
        step s = step_new(vocab, 64, 64);
        for (int i = 0; i < s.n_rows; i++) {
            logits(&s, i);
            like.slot = i;
            like.key = rnd();
            s.rows[i] = like;
        }
        check_step(c, &s, &n);
        for (int i = 0; i < s.n_rows; i++) {
            n_seen += !seen[s.tokens[i]];
            seen[s.tokens[i]] = 1;
        }
        step_free(&s);
    }
    if (n_seen != want) FAIL("%s: %d tokens came up, wanted %d", what, n_seen, want);
    free(seen);
}

static void nearly_equal(const step *s, int row) { for (int t = 0; t < s->vocab; t++) logits_of(s, row)[t] = 1 + (float)(t * 37 % s->vocab) * 0x1p-23f; }
static void equal(const step *s, int row) { for (int t = 0; t < s->vocab; t++) logits_of(s, row)[t] = -2; }
static void two_values(const step *s, int row) { for (int t = 0; t < s->vocab; t++) logits_of(s, row)[t] = t % 20 == 3 ? 1 : t % 2 ? 0.75f : -40; }
static void around_zero(const step *s, int row) { for (int t = 0; t < s->vocab; t++) logits_of(s, row)[t] = t % 3 == 0 ? -0.0f : t % 3 == 1 ? 0.0f : -1e-6f; }

TEST(thresholds_are_exact)
{
    const sample_row all = { .repetition_penalty = 1, .top_p = 1, .temperature = 1 };
    sample_row r = all;
    r.top_k = 30;
    check_survivors("the 30 largest, one ulp apart", nearly_equal, r, 401, 30);
    check_survivors("all are tied with the 30th", equal, r, 41, 41);
    check_survivors("more than the 30th's ties", two_values, r, 80, 4 + 36);
    check_survivors("zeros are equal, whatever their sign", around_zero, r, 60, 40);
    r = all;
    r.top_p = 0.25f;
    check_survivors("top_p among equals: the highest tokens", equal, r, 41, 11);
    check_survivors("top_p among the one ulp apart", nearly_equal, r, 161, 41);
    r.top_k = 20;
    check_survivors("top_p of what top_k left", nearly_equal, r, 401, 5);
    r.top_k = 0;
    r.top_p = 0.5f;
    r.min_p = 0.9f;
    check_survivors("top_p of what min_p left", two_values, r, 400, 10);
}

TEST(rows_without_a_distribution_give_a_valid_token)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    step s = step_new(1009, 12, 64);
    const float fill[4] = { NAN, -INFINITY, INFINITY, 3e38f };
    for (int i = 0; i < s.n_rows; i++) {
        for (int t = 0; t < s.vocab; t++) logits_of(&s, i)[t] = fill[i % 4];
        if (i % 4 == 2) logits_of(&s, i)[0] = NAN;
        s.rows[i].temperature = i < 4 ? 0 : i < 8 ? 1 : 0.01f;
        if (i >= 4) s.rows[i].top_k = 5;
        if (i >= 8) s.rows[i].top_p = 0.5f;
    }
    tally n = {0};
    check_step(c, &s, &n);
    for (int i = 0; i < s.n_rows; i++) CHECK(s.tokens[i] >= 0 && s.tokens[i] < s.vocab);
    CHECK_INT(n.differ, 0);
    step_free(&s);
}

/* Last: the programs and the client that all tests shared. */
TEST(programs_and_client_close)
{
    NEED_CPU;
    if (!plugin) SKIP("it was not opened");
    pjrt_client *c = cpu();
    REQUIRE(c);
    for (int i = 0; i < 32; i++) pjrt_program_free(known[i].p);
    pjrt_client_close(c);
    pjrt_plugin_close(plugin);
}

TEST_MAIN
