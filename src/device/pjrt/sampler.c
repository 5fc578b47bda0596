#include "device/pjrt/sampler.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "ops/hlo.h"

/* ---- kinds ---- */
enum { EDITS_MIN = 16, HISTORY_MIN = 256 };

static int round_up(int n, int least)
{
    int64_t size = least;
    if (n <= 0) return 0;
    while (size < n) size *= 4;
    return size > INT32_MAX ? INT32_MAX : (int)size;
}

static bool is_cut(const sample_row *r, int vocab) { return (r->top_k > 0 && r->top_k < vocab) || r->top_p < 1 || r->min_p > 0; }

/* The first history entry that counts: the prompt matters to the repetition penalty only. */
static int history_from(const sample_row *r)
{
    if (r->repetition_penalty != 1) return 0;
    return r->presence_penalty != 0 || r->frequency_penalty != 0 ? r->n_prompt : r->n_history;
}

static int max_of(int a, int b) { return a > b ? a : b; }

sampler_kind sampler_kind_of(const sample_row *rows, int n_rows, int bucket_rows, int vocab, int n_slots)
{
    sampler_kind k = { .rows = bucket_rows, .vocab = vocab, .n_slots = n_slots };
    for (int i = 0; i < n_rows; i++) {
        const sample_row *r = &rows[i];
        if (r->slot < 0) continue;
        const bool random = r->temperature != 0;
        k.random = k.random || random;
        k.cut = k.cut || (random && is_cut(r, vocab));
        k.mask = k.mask || r->mask;
        k.edits = max_of(k.edits, r->n_edits);
        k.history = max_of(k.history, r->n_history - history_from(r));
    }
    k.edits = round_up(k.edits, EDITS_MIN);
    k.history = round_up(k.history, HISTORY_MIN);
    return k;
}

/* ---- parameters ----
 * Field after field, each [rows] or [rows, n], in the order in which the program meets them. ints: place in the ring; random:
 * the two halves of the key; edits: ids; penalties: n_prompt, history; cut: top_k. floats: random: temperature; edits: values;
 * penalties: presence, frequency, repetition; cut: log(min_p), top_p. */

int64_t sampler_ints_len(const sampler_kind *k)
{
    return (int64_t)k->rows * (1 + (k->random ? 2 : 0) + (k->cut ? 1 : 0) + (k->history ? 1 + (int64_t)k->history : 0) + k->edits);
}

int64_t sampler_floats_len(const sampler_kind *k)
{
    return (int64_t)k->rows * ((k->random ? 1 : 0) + (k->cut ? 2 : 0) + (k->history ? 3 : 0) + (int64_t)k->edits);
}

static int64_t mask_words(const sampler_kind *k) { return ((int64_t)k->vocab + 31) / 32; }
int64_t sampler_mask_len(const sampler_kind *k) { return k->mask ? k->rows * mask_words(k) : 0; }
static int ring_len(const sampler_kind *k) { return k->n_slots * BATCH_RING; }

/* Where the next field starts. */
typedef struct packer { int32_t *ints; float *floats; } packer;

static int32_t *next_ints(packer *p, int64_t n)
{
    int32_t *at = p->ints;
    p->ints += n;
    return at;
}

static float *next_floats(packer *p, int64_t n)
{
    float *at = p->floats;
    p->floats += n;
    return at;
}

/* What a row without a token gets: nothing changes its logits, and its greedy choice goes nowhere. */
static const sample_row PADDING = { .slot = -1, .repetition_penalty = 1, .top_p = 1 };
typedef struct row_list { const sample_row *rows; int n; } row_list;
static const sample_row *row_at(row_list l, int i) { return i < l.n && l.rows[i].slot >= 0 ? &l.rows[i] : &PADDING; }

static void fill_random(const sampler_kind *k, row_list rows, packer *p)
{
    int32_t *key0 = next_ints(p, k->rows), *key1 = next_ints(p, k->rows);
    float *temperature = next_floats(p, k->rows);
    for (int i = 0; i < k->rows; i++) {
        const sample_row *r = row_at(rows, i);
        key0[i] = (int32_t)(uint32_t)r->key;
        key1[i] = (int32_t)(uint32_t)(r->key >> 32);
        temperature[i] = r->temperature;
    }
}

static void fill_cut(const sampler_kind *k, row_list rows, packer *p)
{
    int32_t *top_k = next_ints(p, k->rows);
    float *log_min_p = next_floats(p, k->rows), *top_p = next_floats(p, k->rows);
    for (int i = 0; i < k->rows; i++) {
        const sample_row *r = row_at(rows, i);
        top_k[i] = r->top_k > 0 && r->top_k < k->vocab ? r->top_k : k->vocab;
        log_min_p[i] = r->min_p > 0 ? logf(r->min_p) : -INFINITY;
        top_p[i] = r->top_p;
    }
}

static void fill_edits(const sampler_kind *k, row_list rows, packer *p)
{
    int32_t *ids = next_ints(p, (int64_t)k->rows * k->edits);
    float *values = next_floats(p, (int64_t)k->rows * k->edits);
    for (int i = 0; i < k->rows; i++, ids += k->edits, values += k->edits) {
        const sample_row *r = row_at(rows, i);
        assert(r->n_edits <= k->edits);
        for (int j = 0; j < k->edits; j++) {
            ids[j] = j < r->n_edits ? r->edit_ids[j] : k->vocab;
            values[j] = j < r->n_edits ? r->edit_values[j] : 0;
        }
    }
}

/* Padding entries name the token after the last one, whose count is dropped. */
static void fill_history(const sampler_kind *k, row_list rows, packer *p)
{
    int32_t *n_prompt = next_ints(p, k->rows), *history = next_ints(p, (int64_t)k->rows * k->history);
    float *presence = next_floats(p, k->rows), *frequency = next_floats(p, k->rows), *repetition = next_floats(p, k->rows);
    for (int i = 0; i < k->rows; i++, history += k->history) {
        const sample_row *r = row_at(rows, i);
        const int from = history_from(r), n = r->n_history - from;
        assert(n <= k->history);
        presence[i] = r->presence_penalty;
        frequency[i] = r->frequency_penalty;
        repetition[i] = r->repetition_penalty;
        n_prompt[i] = max_of(r->n_prompt - from, 0);
        if (n > 0) memcpy(history, r->history + from, (size_t)n * sizeof *history);
        for (int j = max_of(n, 0); j < k->history; j++) history[j] = k->vocab;
    }
}

void sampler_fill(const sampler_kind *k, const sample_row *rows, int n_rows, int32_t *ints, float *reals, uint32_t *mask)
{
    const row_list list = { rows, n_rows };
    packer p = { ints, reals };
    int32_t *place = next_ints(&p, k->rows);
    assert(n_rows <= k->rows);
    for (int i = 0; i < k->rows; i++) {
        const sample_row *r = row_at(list, i);
        place[i] = r->slot < 0 ? ring_len(k) : r->slot * BATCH_RING + r->ring_pos;
    }
    if (k->random) fill_random(k, list, &p);
    if (k->edits) fill_edits(k, list, &p);
    if (k->history) fill_history(k, list, &p);
    if (k->cut) fill_cut(k, list, &p);
    if (!k->mask) return;
    const size_t row_bytes = (size_t)mask_words(k) * sizeof *mask;
    for (int i = 0; i < k->rows; i++, mask += mask_words(k)) {
        const sample_row *r = row_at(list, i);
        if (r->mask) memcpy(mask, r->mask, row_bytes);
        else memset(mask, 0xFF, row_bytes);
    }
}

/* ---- the program: logits ---- */

typedef struct emitter {
    hlo *h;
    const sampler_kind *k;
    hlo_val ring, ints, floats, mask;
    int64_t next_int, next_float;
    hlo_val id;                     /* i32 [rows, vocab] the token of each logit */
} emitter;

/* The next field of the parameters: [rows], or [rows, n]. The order is sampler_fill's. */
static hlo_val field(emitter *e, hlo_val from, int64_t *at, int64_t n)
{
    const int64_t start = *at;
    *at += e->k->rows * n;
    const hlo_val flat = hlo_slice(e->h, from, 0, start, *at);
    return n == 1 ? flat : hlo_reshape(e->h, flat, 2, (int64_t[]){ e->k->rows, n });
}
static hlo_val int_field(emitter *e) { return field(e, e->ints, &e->next_int, 1); }
static hlo_val float_field(emitter *e) { return field(e, e->floats, &e->next_float, 1); }

/* One number per row beside all its logits. */
static hlo_val wide(emitter *e, hlo_val per_row) { return hlo_broadcast_at(e->h, per_row, 0, e->id); }
static hlo_val full_like(emitter *e, double v, hlo_val like) { return hlo_full_like(e->h, hlo_float(e->h, DT_F32, v), like); }
static hlo_val pick(emitter *e, hlo_val pred, hlo_val yes, hlo_val no) { return hlo_select(e->h, pred, yes, no); }
static hlo_val both(emitter *e, hlo_val a, hlo_val b) { return hlo_bin(e->h, "and", a, b); }
static hlo_val either(emitter *e, hlo_val a, hlo_val b) { return hlo_bin(e->h, "or", a, b); }
static hlo_val plus(emitter *e, hlo_val x, double y) { return hlo_bin_scalar(e->h, "add", x, y); }
static hlo_val minus(emitter *e, hlo_val x, hlo_val y) { return hlo_bin(e->h, "subtract", x, y); }

static hlo_val apply_mask(emitter *e, hlo_val x)
{
    hlo *h = e->h;
    const int64_t rows = e->k->rows, words = mask_words(e->k), bits[] = { rows, words, 32 };
    hlo_comment(h, "allowed tokens: bit i of word w stands for token 32 w + i");
    hlo_val m = hlo_broadcast(h, e->mask, (int[]){ 0, 1 }, 3, bits);
    m = hlo_bin(h, "shift_right_logical", m, hlo_iota(h, DT_U32, 2, 3, bits));
    m = hlo_slice(h, hlo_reshape(h, m, 2, (int64_t[]){ rows, words * 32 }), 1, 0, e->k->vocab);
    m = hlo_cmp_scalar(h, "NE", hlo_bin_scalar(h, "and", m, 1), 0);
    return pick(e, m, x, full_like(e, -INFINITY, x));
}

/* ---- lists of tokens to sums per token ----
 * By a product of one-hot matrices: token = HOT * high + low, and sums[high, low] = sum over the list of onehot(high) *
 * onehot(low) * weight. Ones in bf16 and sums in f32 are exact, and so are f32 products with a one. Matrix units do in a
 * fraction of a millisecond what takes a scatter one update after the other, and libtpu tens of seconds to compile (it sorts
 * the updates). Two kinds of entries are summed apart, the second as tokens of their own after those of the first. */
enum { HOT = 512, LIST_CHUNK = 1024 };
typedef struct sums { hlo_val first, second; } sums;    /* f32 [rows, vocab] */

static hlo_val one_hot(emitter *e, hlo_val at, int64_t n, dtype t)
{
    hlo *h = e->h;
    const int64_t dim[] = { at.dim[0], at.dim[1], n };
    const hlo_val hot = hlo_cmp(h, "EQ", hlo_broadcast(h, at, (int[]){ 0, 1 }, 3, dim), hlo_iota(h, DT_I32, 2, 3, dim));
    return hlo_convert(h, hot, t);
}

/* weight may be none: all are 1. */
static hlo_val sum_pairs(emitter *e, hlo_val high, int64_t n_high, hlo_val low, hlo_val weight)
{
    const dtype t = hlo_is(weight) ? DT_F32 : DT_BF16;
    const hlo_val a = one_hot(e, high, n_high, t);
    hlo_val b = one_hot(e, low, HOT, t);
    if (hlo_is(weight)) b = hlo_bin(e->h, "multiply", b, hlo_broadcast_at(e->h, weight, 0, b));
    return hlo_dot(e->h, a, b, HLO_DIMS(0), HLO_DIMS(0), HLO_DIMS(1), HLO_DIMS(1), DT_F32);
}

/* Long lists by chunks, so that the one-hot matrices stay small. */
static hlo_val sum_all_pairs(emitter *e, hlo_val high, int64_t n_high, hlo_val low, hlo_val weight)
{
    hlo *h = e->h;
    const int64_t n = low.dim[1], sizes[] = { e->k->rows, LIST_CHUNK }, dim[] = { e->k->rows, n_high, HOT };
    if (n <= LIST_CHUNK) return sum_pairs(e, high, n_high, low, weight);
    hlo_val sum = hlo_full(h, hlo_float(h, DT_F32, 0), 3, dim), w = weight;
    const hlo_val from = hlo_int(h, DT_I32, 0), to = hlo_int(h, DT_I32, n / LIST_CHUNK);
    const hlo_val i = hlo_for(h, from, to, &sum, 1, &sum);
    const hlo_val starts[] = { { 0 }, hlo_bin_scalar(h, "multiply", i, LIST_CHUNK) };
    const hlo_val high_part = hlo_dynamic_slice(h, high, starts, sizes), low_part = hlo_dynamic_slice(h, low, starts, sizes);
    if (hlo_is(weight)) w = hlo_dynamic_slice(h, weight, starts, sizes);
    sum = hlo_bin(h, "add", sum, sum_pairs(e, high_part, n_high, low_part, w));
    hlo_end_for(h, &sum, &sum);
    return sum;
}

/* id [rows, n]; what is no token is dropped. */
static sums sum_list(emitter *e, hlo_val id, hlo_val is_second, hlo_val weight)
{
    hlo *h = e->h;
    const int64_t vocab = e->k->vocab, blocks = (vocab + HOT - 1) / HOT;
    const hlo_val is_token = both(e, hlo_cmp_scalar(h, "GE", id, 0), hlo_cmp_scalar(h, "LT", id, (double)vocab));
    const hlo_val block = hlo_bin_scalar(h, "divide", id, HOT), low = hlo_bin_scalar(h, "and", id, HOT - 1);
    hlo_val high = pick(e, is_second, plus(e, block, (double)blocks), block);
    high = pick(e, is_token, high, hlo_full_like(h, hlo_int(h, DT_I32, -1), high));
    const hlo_val all = hlo_reshape(h, sum_all_pairs(e, high, 2 * blocks, low, weight), 2, (int64_t[]){ e->k->rows, 2 * blocks * HOT });
    return (sums){ hlo_slice(h, all, 1, 0, vocab), hlo_slice(h, all, 1, blocks * HOT, blocks * HOT + vocab) };
}

static hlo_val apply_edits(emitter *e, hlo_val x)
{
    hlo *h = e->h;
    hlo_comment(h, "edits: equal ids add up; a banned token stays banned, whatever its logit is");
    const hlo_val ids = field(e, e->ints, &e->next_int, e->k->edits), values = field(e, e->floats, &e->next_float, e->k->edits);
    const hlo_val is_ban = hlo_cmp_scalar(h, "EQ", values, -INFINITY);
    const sums edit = sum_list(e, ids, is_ban, pick(e, is_ban, full_like(e, 1, values), values));
    return pick(e, hlo_cmp_scalar(h, "GT", edit.second, 0), full_like(e, -INFINITY, x), hlo_bin(h, "add", x, edit.first));
}

/* How often each token is among a row's outputs, and in its prompt. */
static sums count_history(emitter *e)
{
    hlo *h = e->h;
    const hlo_val n_prompt = int_field(e), listed = field(e, e->ints, &e->next_int, e->k->history);
    const hlo_val in_ring = hlo_take(h, e->ring, hlo_un(h, "not", listed)); /* not i is -1 - i */
    const hlo_val id = pick(e, hlo_cmp_scalar(h, "LT", listed, 0), in_ring, listed);
    const hlo_val is_prompt = hlo_cmp(h, "LT", hlo_iota(h, DT_I32, 1, 2, id.dim), hlo_broadcast_at(h, n_prompt, 0, id));
    return sum_list(e, id, is_prompt, (hlo_val){0});
}

static hlo_val apply_penalties(emitter *e, hlo_val x)
{
    hlo *h = e->h;
    hlo_comment(h, "penalties: history (what is below 0 is still in the ring) to counts; then repetition, frequency, presence");
    const sums n = count_history(e);
    const hlo_val presence = wide(e, float_field(e)), frequency = wide(e, float_field(e)), repetition = wide(e, float_field(e));
    const hlo_val is_output = hlo_cmp_scalar(h, "GT", n.first, 0);
    const hlo_val is_seen = either(e, is_output, hlo_cmp_scalar(h, "GT", n.second, 0));
    const hlo_val up = hlo_bin(h, "divide", x, repetition), down = hlo_bin(h, "multiply", x, repetition);
    x = pick(e, is_seen, pick(e, hlo_cmp_scalar(h, "GT", x, 0), up, down), x);
    const hlo_val less = minus(e, minus(e, x, hlo_bin(h, "multiply", frequency, n.first)), presence);
    return pick(e, is_output, less, x);
}

/* ---- where the distribution is cut ----
 * Floats have an order-preserving map to unsigned integers. Thresholds are found by bisection over these, for all rows at
 * once, with one pass over the logits per round: nothing is sorted. A row whose threshold is known, or that needs none, has
 * an interval [lo, hi) of one number, and rounds end when all have. */

static hlo_val to_order(emitter *e, hlo_val v)
{
    const hlo_val u = hlo_bitcast(e->h, v, DT_U32), negative = hlo_cmp_scalar(e->h, "GE", u, 0x1p31);
    return pick(e, negative, hlo_un(e->h, "not", u), hlo_bin_scalar(e->h, "or", u, 0x1p31));
}

static hlo_val from_order(emitter *e, hlo_val u)
{
    const hlo_val positive = hlo_cmp_scalar(e->h, "GE", u, 0x1p31);
    return hlo_bitcast(e->h, pick(e, positive, hlo_bin_scalar(e->h, "and", u, 0x1p31 - 1), hlo_un(e->h, "not", u)), DT_F32);
}

typedef struct interval { hlo_val lo, hi; } interval;

static interval interval_of(emitter *e, hlo_val active, hlo_val lo, hlo_val hi) { return (interval){ lo, pick(e, active, hi, plus(e, lo, 1)) }; }
static hlo_val any_open(emitter *e, interval i) { return hlo_reduce(e->h, "or", hlo_cmp_scalar(e->h, "GT", minus(e, i.hi, i.lo), 1), 0); }
static hlo_val middle(emitter *e, interval i) { return hlo_bin(e->h, "add", i.lo, hlo_bin_scalar(e->h, "shift_right_logical", minus(e, i.hi, i.lo), 1)); }
static interval narrow(emitter *e, interval i, hlo_val mid, hlo_val up) { return (interval){ pick(e, up, mid, i.lo), pick(e, up, i.hi, mid) }; }

/* Narrows to the largest threshold for which `pred` holds at least n times, or to any with exactly n. */
static hlo_val count(emitter *e, hlo_val pred) { return hlo_reduce(e->h, "add", hlo_convert(e->h, pred, DT_I32), 1); }
static interval narrow_to_count(emitter *e, interval i, hlo_val mid, hlo_val pred, hlo_val n)
{
    const hlo_val found = count(e, pred);
    i = narrow(e, i, mid, hlo_cmp(e->h, "GE", found, n));
    return (interval){ i.lo, pick(e, hlo_cmp(e->h, "EQ", found, n), plus(e, i.lo, 1), i.hi) };
}

static hlo_val find_top_k(emitter *e, hlo_val x, hlo_val active, interval all, hlo_val top_k)
{
    hlo *h = e->h;
    hlo_val c[2];
    hlo_comment(h, "top_k: a threshold that the k largest and those tied with the last of them reach");
    const interval first = interval_of(e, both(e, active, hlo_cmp_scalar(h, "LT", top_k, e->k->vocab)), all.lo, all.hi);
    hlo_while(h, (hlo_val[]){ first.lo, first.hi }, 2, c);
    interval i = { c[0], c[1] };
    hlo_do(h, any_open(e, i));
    const hlo_val mid = middle(e, i);
    i = narrow_to_count(e, i, mid, hlo_cmp(h, "GE", x, wide(e, from_order(e, mid))), top_k);
    hlo_end(h, (hlo_val[]){ i.lo, i.hi }, c);
    return c[0];
}

/* Kept are logits above v, and those equal to v whose token is at least id. */
typedef struct cut_point { hlo_val v, id; } cut_point;

/* The id of the n-th of the tied from the end; 0 where not active. */
static hlo_val find_tie(emitter *e, hlo_val active, hlo_val tied, hlo_val n)
{
    hlo *h = e->h;
    hlo_val c[2];
    hlo_comment(h, "top_p: as many of those tied at the threshold as fit, from the highest token down");
    const hlo_val zero = hlo_full_like(h, hlo_int(h, DT_I32, 0), n);
    const interval first = interval_of(e, active, zero, plus(e, zero, e->k->vocab));
    hlo_while(h, (hlo_val[]){ first.lo, first.hi }, 2, c);
    interval i = { c[0], c[1] };
    hlo_do(h, any_open(e, i));
    const hlo_val mid = middle(e, i);
    i = narrow_to_count(e, i, mid, both(e, tied, hlo_cmp(h, "GE", e->id, wide(e, mid))), n);
    hlo_end(h, (hlo_val[]){ i.lo, i.hi }, c);
    return c[0];
}

static hlo_val weights(emitter *e, hlo_val x, hlo_val max) { return hlo_un(e->h, "exponential", minus(e, x, x.rank == 2 ? wide(e, max) : max)); }

static hlo_val sum_from(emitter *e, hlo_val x, hlo_val w, hlo_val order)
{
    const hlo_val kept = hlo_cmp(e->h, "GE", x, wide(e, from_order(e, order)));
    return hlo_reduce(e->h, "add", pick(e, kept, w, full_like(e, 0, w)), 1);
}

/* The largest threshold above which, itself included, lies top_p of the weight that lies above all.lo. */
static cut_point find_top_p(emitter *e, hlo_val x, hlo_val max, hlo_val active, interval all, hlo_val top_p)
{
    hlo *h = e->h;
    hlo_val c[3];
    hlo_comment(h, "top_p: the largest threshold that top_p of the weight reaches");
    active = both(e, active, hlo_cmp_scalar(h, "LT", top_p, 1));
    const hlo_val w = weights(e, x, max), need = hlo_bin(h, "multiply", top_p, sum_from(e, x, w, all.lo));
    /* Weights of e^-88 and less count as 0: the threshold is above. */
    const hlo_val low = hlo_bin(h, "maximum", all.lo, to_order(e, plus(e, max, -88)));
    const interval first = interval_of(e, active, pick(e, active, low, all.lo), all.hi);
    hlo_while(h, (hlo_val[]){ first.lo, first.hi, full_like(e, 0, need) }, 3, c);
    interval i = { c[0], c[1] };
    hlo_do(h, any_open(e, i));
    const hlo_val mid = middle(e, i), sum = sum_from(e, x, weights(e, x, max), mid), up = hlo_cmp(h, "GE", sum, need);
    i = narrow(e, i, mid, up);
    hlo_end(h, (hlo_val[]){ i.lo, i.hi, pick(e, up, c[2], sum) }, c);
    const hlo_val v = from_order(e, c[0]), tied = hlo_cmp(h, "EQ", x, wide(e, v));
    const hlo_val n_tied = hlo_convert(h, count(e, tied), DT_F32);
    const hlo_val fit = hlo_un(h, "ceil", hlo_bin(h, "divide", minus(e, need, c[2]), weights(e, v, max)));
    const hlo_val n = hlo_bin(h, "maximum", hlo_bin(h, "minimum", fit, n_tied), full_like(e, 1, fit));
    return (cut_point){ v, find_tie(e, both(e, active, hlo_cmp(h, "LT", n, n_tied)), tied, hlo_convert(h, n, DT_I32)) };
}

static hlo_val apply_cuts(emitter *e, hlo_val x, hlo_val max, hlo_val active)
{
    hlo *h = e->h;
    hlo_comment(h, "min_p, against the largest");
    const hlo_val top_k = int_field(e), log_min_p = float_field(e), top_p = float_field(e);
    interval all = { to_order(e, hlo_bin(h, "add", max, log_min_p)), plus(e, to_order(e, max), 1) };
    all.lo = find_top_k(e, x, active, all, top_k);
    const cut_point at = find_top_p(e, x, max, active, all, top_p);
    hlo_comment(h, "what is cut");
    const hlo_val v = wide(e, at.v), tie = both(e, hlo_cmp(h, "EQ", x, v), hlo_cmp(h, "GE", e->id, wide(e, at.id)));
    return pick(e, either(e, hlo_cmp(h, "GT", x, v), tie), x, full_like(e, -INFINITY, x));
}

/* ---- choice ---- */

static hlo_val mix(emitter *e, hlo_val x, int shift, double factor)
{
    x = hlo_bin(e->h, "xor", x, hlo_bin_scalar(e->h, "shift_right_logical", x, shift));
    return factor != 0 ? hlo_bin_scalar(e->h, "multiply", x, factor) : x;
}

/* A uniform number in (0, 1) from key and token, bit for bit the host's (engine/row_impl.h). */
static hlo_val uniform(emitter *e, hlo_val key0, hlo_val key1)
{
    hlo *h = e->h;
    hlo_val x = hlo_bin_scalar(h, "multiply", hlo_bitcast(h, e->id, DT_U32), 0x9E3779B1u);
    x = hlo_bin(h, "add", x, wide(e, hlo_bitcast(h, key0, DT_U32)));
    x = mix(e, mix(e, mix(e, x, 16, 0x7FEB352Du), 15, 0x846CA68Bu), 16, 0);
    x = hlo_bin(h, "add", x, wide(e, hlo_bitcast(h, key1, DT_U32)));
    x = mix(e, mix(e, mix(e, x, 16, 0x85EBCA6Bu), 13, 0xC2B2AE35u), 16, 0);
    x = hlo_bitcast(h, hlo_bin_scalar(h, "shift_right_logical", x, 1), DT_I32);
    x = hlo_bin_scalar(h, "multiply", plus(e, hlo_convert(h, x, DT_F32), 0.5), 0x1p-31);
    return hlo_bin_scalar(h, "minimum", x, 0x1.fffffep-1);
}

/* argmax(p / q), q exponential: scores of the race; banned tokens never win. */
static hlo_val race(emitter *e, hlo_val x, hlo_val max, hlo_val key0, hlo_val key1)
{
    hlo *h = e->h;
    hlo_comment(h, "the exponential race");
    const hlo_val q = hlo_un(h, "negate", hlo_un(h, "log_plus_one", hlo_un(h, "negate", uniform(e, key0, key1))));
    return pick(e, hlo_cmp_scalar(h, "GT", x, -INFINITY), hlo_bin(h, "divide", weights(e, x, max), q), full_like(e, -1, x));
}

static hlo_val largest(emitter *e, hlo_val x) { return hlo_reduce(e->h, "maximum", x, 1); }

/* Scores of the tokens: the best is the row's token. x has no NaN. A temperature of 0 is greedy, and so is a row whose largest
 * logit is infinite (everything banned, or more than a distribution can say). */
static hlo_val scores(emitter *e, hlo_val x, hlo_val key0, hlo_val key1, hlo_val temperature)
{
    hlo *h = e->h;
    hlo_comment(h, "temperature");
    const hlo_val cold = hlo_cmp_scalar(h, "EQ", temperature, 0);
    x = hlo_bin(h, "divide", x, wide(e, pick(e, cold, full_like(e, 1, temperature), temperature)));
    const hlo_val max = largest(e, x), finite = hlo_cmp_scalar(h, "LT", hlo_un(h, "abs", max), INFINITY);
    const hlo_val active = both(e, finite, hlo_un(h, "not", cold));
    const hlo_val kept = e->k->cut ? apply_cuts(e, x, max, active) : x;
    return pick(e, wide(e, active), race(e, kept, max, key0, key1), x);
}

static void emit(emitter *e, hlo_val x, hlo_val results[2])
{
    hlo *h = e->h;
    hlo_val key0 = {0}, key1 = {0}, temperature = {0};
    const hlo_val place = int_field(e);
    e->id = hlo_iota(h, DT_I32, 1, 2, x.dim);
    if (e->k->random) {
        key0 = int_field(e);
        key1 = int_field(e);
        temperature = float_field(e);
    }
    if (e->k->mask) x = apply_mask(e, x);
    if (e->k->edits) x = apply_edits(e, x);
    if (e->k->history) x = apply_penalties(e, x);
    x = pick(e, hlo_cmp(h, "EQ", x, x), x, full_like(e, -INFINITY, x)); /* NaN is no choice */
    if (e->k->random) x = scores(e, x, key0, key1, temperature);
    hlo_comment(h, "the best, of equals the lowest token");
    const hlo_val best = hlo_argmax(h, x, 1);
    hlo_comment(h, "tokens that are wanted, to the ring");
    results[1] = pick(e, hlo_cmp_scalar(h, "LT", place, ring_len(e->k)), best, hlo_full_like(h, hlo_int(h, DT_I32, 0), best));
    results[0] = hlo_put(h, e->ring, hlo_reshape(h, place, 2, (int64_t[]){ e->k->rows, 1 }), best);
}

static status check_kind(const sampler_kind *k)
{
    const int64_t most = INT32_MAX; /* elements of an array: indices are i32 */
    if (k->rows < 1 || k->vocab < 1 || k->n_slots < 1 || k->edits < 0 || k->history < 0)
        return err_set(ST_INVALID, "a sampling program for %d rows of %d logits, %d slots, %d edits, %d history tokens: the first three must be above 0", k->rows,
                       k->vocab, k->n_slots, k->edits, k->history);
    if (k->rows > most / 2 / (k->vocab + HOT) || k->n_slots > most / BATCH_RING || sampler_ints_len(k) > most || sampler_floats_len(k) > most)
        return err_set(ST_INVALID, "a sampling program for %d rows of %d logits, %d slots, %d edits, %d history tokens: an array has more than %d elements", k->rows,
                       k->vocab, k->n_slots, k->edits, k->history, INT32_MAX);
    if ((k->history > LIST_CHUNK && k->history % LIST_CHUNK) || (k->edits > LIST_CHUNK && k->edits % LIST_CHUNK))
        return err_set(ST_INVALID, "a sampling program for %d edits, %d history tokens: beyond %d these must be multiples of that", k->edits, k->history, LIST_CHUNK);
    if (k->cut && !k->random) return err_set(ST_INVALID, "a sampling program that cuts distributions but is greedy");
    return ST_OK;
}

status sampler_program(const sampler_kind *k, mesh m, buf *out)
{
    TRY(check_kind(k));
    hlo h;
    emitter e = { .h = &h, .k = k };
    const int64_t n_floats = sampler_floats_len(k);
    hlo_arg args[5] = {
        { .name = "logits", .type = DT_F32, .rank = 2, .dim = { k->rows, k->vocab }, .alias = -1 },
        { .name = "ring", .type = DT_I32, .rank = 1, .dim = { ring_len(k) }, .alias = 0 },
        { .name = "ints", .type = DT_I32, .rank = 1, .dim = { sampler_ints_len(k) }, .alias = -1 },
    };
    hlo_val in[5], results[2];
    int n = 3;
    if (n_floats) args[n++] = (hlo_arg){ .name = "floats", .type = DT_F32, .rank = 1, .dim = { n_floats }, .alias = -1 };
    if (k->mask) args[n++] = (hlo_arg){ .name = "mask", .type = DT_U32, .rank = 2, .dim = { k->rows, mask_words(k) }, .alias = -1 };
    hlo_begin(&h, "sample", m, args, n, in);
    e.ring = in[1];
    e.ints = in[2];
    if (n_floats) e.floats = in[3];
    if (k->mask) e.mask = in[n - 1];
    emit(&e, in[0], results);
    return hlo_finish(&h, results, 2, out);
}
