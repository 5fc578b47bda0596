#include "cli/workload.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/bench_data.h"

enum { MAX_FILE = 1 << 30, MAX_LINE = 1 << 20 };
static const double MAX_SECONDS = 1e9;

void workload_free(workload *w)
{
    mem_free(w->v);
    mem_free(w->ids);
    *w = (workload){0};
}

static status add_item(workload *w, work_item x)
{
    if (w->n == WORKLOAD_MAX_REQUESTS) return err_set(ST_LIMIT, "more than %d requests", WORKLOAD_MAX_REQUESTS);
    if (w->n == w->cap) {
        work_item *more = mem_realloc_array(w->v, w->cap * 2 + 256, sizeof *more);
        if (!more) return err_nomem();
        w->v = more;
        w->cap = w->cap * 2 + 256;
    }
    w->v[w->n++] = x;
    return ST_OK;
}

static status add_id(workload *w, uint32_t id)
{
    if (w->n_ids == UINT32_MAX) return err_set(ST_LIMIT, "more than %u block ids", UINT32_MAX);
    if (w->n_ids == w->cap_ids) {
        uint32_t *more = mem_realloc_array(w->ids, w->cap_ids * 2 + 1024, sizeof *more);
        if (!more) return err_nomem();
        w->ids = more;
        w->cap_ids = w->cap_ids * 2 + 1024;
    }
    w->ids[w->n_ids++] = id;
    return ST_OK;
}

/* ---- made up ---- */

static int draw_len(bench_rng *r, int len, double ratio)
{
    int lo = (int)floor(len * (1 - ratio)), hi = (int)ceil(len * (1 + ratio));
    int n = ratio > 0 ? bench_range(r, lo, hi) : len;
    return n < 1 ? 1 : n;
}

status workload_make(const workload_mix *m, workload *out)
{
    workload w = { .rate = m->rate, .prefix_len = m->prefix_len, .seed = m->seed };
    bench_rng lens = { m->seed }, gaps = { m->seed ^ 0x5DEECE66Du };
    double t = 0;
    for (int i = 0; i < m->n; i++) {
        const int input = m->prefix_len + draw_len(&lens, m->input_len, m->range_ratio), output = draw_len(&lens, m->output_len, m->range_ratio);
        status st = add_item(&w, (work_item){ .at = t, .input = input, .output = output });
        if (st != ST_OK) {
            workload_free(&w);
            return st;
        }
        if (isfinite(m->rate)) t += -log(1 - bench_uniform(&gaps)) / m->rate;
    }
    *out = w;
    return ST_OK;
}

/* ---- traces ---- */

/* Days since 1970 of a civil date (Howard Hinnant, "chrono-compatible low-level date algorithms"). */
static double days_of(int y, int m, int d)
{
    y -= m <= 2;
    const int era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400, doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1, doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return (double)era * 146097 + doe - 719468;
}

/* Seconds as a number or a date; what follows it. */
static bool read_time(const char *s, double *out, const char **end)
{
    int y, mo, d, h, mi, used = 0;
    char *stop;
    if (sscanf(s, "%4d-%2d-%2d%*1[ T]%2d:%2d:%n", &y, &mo, &d, &h, &mi, &used) == 5 && used > 0) {
        const double sec = strtod(s + used, &stop);
        if (stop == s + used || mo < 1 || mo > 12) return false;
        *out = days_of(y, mo, d) * 86400 + h * 3600 + mi * 60 + sec;
    } else {
        *out = strtod(s, &stop);
        if (stop == s) return false;
    }
    *end = stop;
    return isfinite(*out);
}

static bool read_len(const char **s, int32_t *out)
{
    char *stop;
    if (**s != ',') return false;
    errno = 0;
    const long v = strtol(*s + 1, &stop, 10);
    if (stop == *s + 1 || errno || v < 0 || v > WORKLOAD_MAX_LEN) return false;
    *out = v < 1 ? 1 : (int32_t)v;
    *s = stop;
    return true;
}

static status read_csv_line(const char *s, work_item *x)
{
    if (!read_time(s, &x->at, &s) || !read_len(&s, &x->input) || !read_len(&s, &x->output) || (*s && *s != ','))
        return err_set(ST_INVALID, "expected TIME,INPUT TOKENS,OUTPUT TOKENS with lengths up to %d", WORKLOAD_MAX_LEN);
    return ST_OK;
}

static status read_json_line(const char *s, size_t n, workload *w, work_item *x)
{
    jv *v;
    TRY(jv_parse(s, n, &v));
    const int64_t input = jv_get_i64(v, "input_length", -1), output = jv_get_i64(v, "output_length", -1);
    const jv *ids = jv_get(v, "hash_ids");
    status st = ST_OK;
    x->at = jv_get_f64(v, "timestamp", NAN) / 1000;
    if (!isfinite(x->at) || input < 0 || input > WORKLOAD_MAX_LEN || output < 0 || output > WORKLOAD_MAX_LEN)
        st = err_set(ST_INVALID, "expected timestamp, input_length and output_length with lengths up to %d", WORKLOAD_MAX_LEN);
    x->input = input < 1 ? 1 : (int32_t)input;
    x->output = output < 1 ? 1 : (int32_t)output;
    x->ids_at = (uint32_t)w->n_ids;
    for (size_t i = 0; i < jv_len(ids) && st == ST_OK; i++) st = add_id(w, (uint32_t)jv_i64(jv_at(ids, i), 0));
    x->n_ids = (uint32_t)w->n_ids - x->ids_at;
    jv_free(v);
    return st;
}

static int by_time(const void *a, const void *b)
{
    const work_item *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

/* In the order of arrival, from 0 on. */
static status settle(workload *w)
{
    if (w->n == 0) return err_set(ST_INVALID, "it has no requests");
    qsort(w->v, w->n, sizeof *w->v, by_time); /* glibc's keeps the order of equal times */
    const double first = w->v[0].at;
    for (size_t i = 0; i < w->n; i++) w->v[i].at -= first;
    if (w->v[w->n - 1].at > MAX_SECONDS) return err_set(ST_INVALID, "its requests span %g seconds", w->v[w->n - 1].at);
    return ST_OK;
}

static status read_line(const char *line, size_t len, int number, workload *w)
{
    char text[MAX_LINE / 1024];
    work_item x = {0};
    status st;
    if (len == 0) return ST_OK;
    if (len > MAX_LINE) return err_set(ST_LIMIT, "line %d has more than %d bytes", number, MAX_LINE);
    if (*line == '{') {
        st = read_json_line(line, len, w, &x);
    } else {
        snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text ? len : sizeof text - 1), line);
        st = read_csv_line(text, &x);
        if (st != ST_OK && number == 1) return ST_OK; /* the names */
    }
    if (st == ST_OK) st = add_item(w, x);
    return st == ST_OK || st == ST_NOMEM ? st : err_wrap(st, "line %d", number);
}

status workload_parse(const char *text, size_t len, workload *out)
{
    workload w = {0};
    status st = ST_OK;
    size_t at = len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    for (int number = 1; at < len && st == ST_OK; number++) {
        const char *nl = memchr(text + at, '\n', len - at);
        size_t n = nl ? (size_t)(nl - (text + at)) : len - at, used = n;
        while (used > 0 && (text[at + used - 1] == '\r' || text[at + used - 1] == ' ')) used--;
        st = read_line(text + at, used, number, &w);
        at += n + (nl != NULL);
    }
    if (st == ST_OK) st = settle(&w);
    if (st == ST_OK) *out = w;
    else workload_free(&w);
    return st;
}

status workload_read(const char *path, workload *out)
{
    char chunk[65536];
    size_t n;
    buf b = {0};
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno("cannot open %s", path);
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && b.len <= MAX_FILE) buf_append(&b, chunk, n);
    status st = ferror(f) ? err_errno("cannot read %s", path) : buf_status(&b);
    fclose(f);
    if (st == ST_OK && b.len > MAX_FILE) st = err_set(ST_LIMIT, "it is larger than %d bytes", MAX_FILE);
    if (st == ST_OK) st = workload_parse(b.data ? b.data : "", b.len, out);
    buf_free(&b);
    return st == ST_OK || st == ST_NOMEM ? st : err_wrap(st, "trace %s", path);
}

double workload_seconds(const workload *w) { return w->n > 0 ? w->v[w->n - 1].at : 0; }

void workload_cut(workload *w, size_t n)
{
    if (n < w->n) w->n = n;
}

/* The next round begins one usual gap after the last arrival. */
status workload_span(workload *w, double seconds)
{
    const size_t n = w->n;
    const double round = workload_seconds(w) * (1 + 1 / (double)(n > 1 ? n - 1 : 1));
    for (size_t i = 0; round > 0 && w->v[w->n - 1].at < seconds; i++) {
        work_item x = w->v[i % n];
        x.at += round * (double)(i / n + 1);
        TRY(add_item(w, x));
    }
    size_t keep = 0;
    while (keep < w->n && w->v[keep].at <= seconds) keep++;
    w->n = keep;
    return ST_OK;
}

void workload_prompt(const workload *w, size_t i, int vocab, int32_t *out)
{
    const work_item *x = &w->v[i];
    for (int from = 0, block = 0; from < x->input; from += WORKLOAD_BLOCK, block++) {
        const bool known = (uint32_t)block < x->n_ids;
        bench_rng r = { known ? (uint64_t)w->ids[x->ids_at + (uint32_t)block] * HASH_GOLDEN : (w->seed + i + 1) * 0xD1342543DE82EF95u + (uint64_t)block };
        const int to = from + WORKLOAD_BLOCK < x->input ? from + WORKLOAD_BLOCK : x->input;
        for (int t = from; t < to; t++) out[t] = (int32_t)(bench_uniform(&r) * vocab);
    }
    bench_rng shared = { w->seed };
    for (int t = 0; t < w->prefix_len && t < x->input; t++) out[t] = (int32_t)(bench_uniform(&shared) * vocab);
}
