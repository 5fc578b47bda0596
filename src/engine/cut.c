#include "engine/cut.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { N_BINS = 1024, FEW = 64 };
static const float NOTHING_LEFT = 88.0f; /* exp(-88) counts as 0 (row.h) */

status cut_scratch_new(cut_scratch *c, const row_ops *ops, size_t n)
{
    cut_scratch x = { .ops = ops, .n = n };
    x.vals = mem_array(n, sizeof *x.vals);
    x.weights = mem_array(n, sizeof *x.weights);
    x.work = mem_array(n > ROW_GROUPS_MAX ? n : ROW_GROUPS_MAX, sizeof *x.work);
    x.ids = mem_array(n, sizeof *x.ids);
    x.keys = mem_array(n, sizeof *x.keys);
    x.spare = mem_array(n, sizeof *x.spare);
    x.bins = mem_array(N_BINS, sizeof *x.bins);
    if (!x.vals || !x.weights || !x.work || !x.ids || !x.keys || !x.spare || !x.bins) {
        cut_scratch_free(&x);
        return err_nomem();
    }
    *c = x;
    return ST_OK;
}

void cut_scratch_free(cut_scratch *c)
{
    mem_free(c->vals);
    mem_free(c->weights);
    mem_free(c->work);
    mem_free(c->ids);
    mem_free(c->keys);
    mem_free(c->spare);
    mem_free(c->bins);
    *c = (cut_scratch){0};
}

bool cut_any(cut_point at) { return at.v > -INFINITY || at.id > 0; }

/* Floats as unsigned integers in the same order. */
static uint32_t ordered(float f)
{
    uint32_t u;
    if (f == 0) f = 0; /* -0 and 0 are equal */
    memcpy(&u, &f, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Ascending. Radix sort beyond a few: no bad cases. The result is in `a`. */
static void sort_keys(uint64_t *a, uint64_t *spare, size_t n)
{
    if (n <= FEW) {
        for (size_t i = 1; i < n; i++) {
            uint64_t k = a[i];
            size_t j = i;
            for (; j > 0 && a[j - 1] > k; j--) a[j] = a[j - 1];
            a[j] = k;
        }
        return;
    }
    uint64_t *from = a, *to = spare;
    for (unsigned shift = 0; shift < 64; shift += 8) {
        size_t at[256] = {0}, sum = 0;
        for (size_t i = 0; i < n; i++) at[from[i] >> shift & 255]++;
        if (at[from[0] >> shift & 255] == n) continue;
        for (int d = 0; d < 256; d++) {
            size_t count = at[d];
            at[d] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++) to[at[from[i] >> shift & 255]++] = from[i];
        uint64_t *t = from;
        from = to;
        to = t;
    }
    if (from != a) memcpy(a, from, n * sizeof *a);
}

static void swap(float *a, float *b)
{
    const float t = *a;
    *a = *b;
    *b = t;
}

/* The k-th largest (1-based) of x, which is reordered. No NaN. */
static float quickselect(float *x, size_t n, size_t k)
{
    size_t lo = 0, hi = n - 1;
    const size_t want = k - 1; /* index in descending order */
    while (lo < hi) {
        /* The median of three goes first, which is what makes Hoare's partition end with both sides non-empty. */
        float *mid = &x[lo + (hi - lo) / 2];
        if (*mid < x[hi]) swap(mid, &x[hi]);
        if (*mid < x[lo]) swap(mid, &x[lo]);
        if (x[lo] < x[hi]) swap(&x[lo], &x[hi]);
        const float pivot = x[lo];
        size_t i = lo, j = hi + 1;
        for (bool first = true;; first = false) {
            if (!first) i++;
            while (x[i] > pivot) i++;
            do j--; while (x[j] < pivot);
            if (i >= j) break;
            swap(&x[i], &x[j]);
        }
        if (want <= j) hi = j;
        else lo = j + 1;
    }
    return x[lo];
}

/* A value that at least k of the n are >= to, and not many more: the k-th largest of the maxima of some groups. */
static float lower_bound(cut_scratch *c, const float *x, size_t k)
{
    const size_t n_groups = k <= 256 ? 1024 : ROW_GROUPS_MAX;
    if (k * 4 > n_groups || c->n < n_groups * 2) return -INFINITY;
    c->ops->group_max(x, c->n, c->work, n_groups);
    return quickselect(c->work, n_groups, k);
}

/* Candidates for the k largest into vals and ids. */
static size_t collect_top(cut_scratch *c, const float *x, size_t k) { return c->ops->collect_ge(x, c->n, lower_bound(c, x, k), c->vals, c->ids); }

static float kth_largest(cut_scratch *c, const float *x, size_t k)
{
    const size_t m = collect_top(c, x, k);
    if (m < k) return -INFINITY;
    memcpy(c->work, c->vals, m * sizeof *c->work);
    return quickselect(c->work, m, k);
}

/* The last token kept, going down from the largest while the sum of those before is < need. c->weights belong to vals; ids NULL means
 * that ids[i] = i. */
static cut_point last_kept(cut_scratch *c, const float *vals, const int32_t *ids, size_t m, float max, float low, double need)
{
    /* Only the bin in which the sum is reached has to be sorted. */
    const float scale = max > low ? (float)(N_BINS - 1) / (max - low) : 0;
    memset(c->bins, 0, N_BINS * sizeof *c->bins);
    for (size_t i = 0; i < m; i++)
        if (vals[i] >= low) c->bins[(size_t)(int32_t)((max - vals[i]) * scale)] += (double)c->weights[i];
    double before = 0;
    size_t bin = 0, n = 0;
    while (bin < N_BINS - 1 && before + c->bins[bin] < need) before += c->bins[bin++];
    for (size_t i = 0; i < m; i++)
        if (vals[i] >= low && (size_t)(int32_t)((max - vals[i]) * scale) == bin) c->keys[n++] = (uint64_t)ordered(vals[i]) << 32 | (uint32_t)i;
    if (n == 0) return (cut_point){ low, 0 }; /* rounding kept the sum below `need`: nothing is cut */
    sort_keys(c->keys, c->spare, n);
    size_t at = n;
    while (at > 0 && (at == n || before < need)) before += (double)c->weights[(uint32_t)c->keys[--at]];
    const uint32_t i = (uint32_t)c->keys[at];
    return (cut_point){ vals[i], ids ? ids[i] : (int32_t)i };
}

/* Only what is near the top is looked at, deeper each time, until it weighs enough. */
static cut_point find_top_p(cut_scratch *c, const float *x, float max, float floor_v, float top_p)
{
    const bool cut = floor_v > -INFINITY;
    double total = cut ? 0 : c->ops->exps(x, c->n, max, c->weights);
    for (float depth = cut ? NOTHING_LEFT : 4;; depth *= 2) {
        const bool all = depth >= NOTHING_LEFT;
        float from = max - (all ? NOTHING_LEFT : depth);
        if (from < floor_v) from = floor_v;
        if (depth == 4 && c->ops->count_ge(x, c->n, from) > c->n / 4) /* a flat distribution: collecting would cost more than it saves */
            return last_kept(c, x, NULL, c->n, max, max - NOTHING_LEFT, (double)top_p * total);
        const size_t m = c->ops->collect_ge(x, c->n, from, c->vals, c->ids);
        const double sum = c->ops->exps(c->vals, m, max, c->weights);
        if (cut) total = sum;
        const double need = (double)top_p * total;
        if (sum >= need || all) return last_kept(c, c->vals, c->ids, m, max, from, need);
    }
}

cut_point cut_find(cut_scratch *c, const float *x, float max, float min_p, int top_k, float top_p)
{
    cut_point at = { -INFINITY, 0 };
    if (min_p > 0) at.v = max + logf(min_p);
    if (top_k > 0 && (size_t)top_k < c->n) {
        const float v = kth_largest(c, x, (size_t)top_k);
        if (v > at.v) at.v = v;
    }
    if (top_p < 1) at = find_top_p(c, x, max, at.v, top_p);
    return at;
}

size_t cut_survivors(cut_scratch *c, const float *x, cut_point at)
{
    const size_t m = c->ops->collect_ge(x, c->n, at.v, c->vals, c->ids);
    size_t n = 0;
    for (size_t i = 0; i < m; i++) {
        if (c->vals[i] == at.v && c->ids[i] < at.id) continue;
        c->vals[n] = c->vals[i];
        c->ids[n++] = c->ids[i];
    }
    return n;
}

void cut_apply(cut_scratch *c, float *x, cut_point at)
{
    c->ops->ban_below(x, c->n, at.v);
    for (size_t i = 0; i < (size_t)at.id; i++)
        if (x[i] == at.v) x[i] = -INFINITY;
}

size_t cut_best(cut_scratch *c, const float *x, size_t k)
{
    if (k == 0) return 0;
    if (k > c->n) k = c->n;
    const size_t m = collect_top(c, x, k);
    for (size_t i = 0; i < m; i++) c->keys[i] = (uint64_t)~ordered(c->vals[i]) << 32 | (uint32_t)c->ids[i];
    sort_keys(c->keys, c->spare, m);
    const size_t n = m < k ? m : k;
    for (size_t i = 0; i < n; i++) c->ids[i] = (int32_t)(uint32_t)c->keys[i];
    return n;
}
