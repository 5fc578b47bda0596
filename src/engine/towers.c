#include "engine/towers.h"

#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

enum { STAGES = 8, LEAST_ROWS = 256 };

typedef struct tower {
    encoder *e;
    weight_source *w;
    device_model *dm[STAGES];   /* loaded for towers_limits */
} tower;

typedef struct kept { media_rows *r; uint64_t used; } kept;

struct towers {
    device *own;                /* the CPU; NULL where the language model's device runs them */
    tower t[ENCODER_KINDS];
    int64_t most_tokens, cache_bytes;
    pthread_mutex_t run_mu;     /* the device runs one item at a time */
    pthread_mutex_t mu;         /* guards the rest */
    kept *kept; int n_kept, cap_kept;
    uint64_t clock;
    towers_stats stats;
};

media_rows *media_rows_ref(media_rows *r)
{
    atomic_fetch_add(&r->refs, 1);
    return r;
}

void media_rows_release(media_rows *r)
{
    if (r && atomic_fetch_sub(&r->refs, 1) == 1) mem_free(r);
}

/* ---- opening ---- */

int64_t towers_most_tokens(encoder_kind kind, int64_t max_model_len)
{
    const int64_t most = kind == ENCODER_IMAGE ? 16384 : 32768;
    return max_model_len < most ? max_model_len : most;
}

static int64_t most_tokens(const towers *ts, encoder_kind kind) { return towers_most_tokens(kind, ts->most_tokens); }

/* A stage that has as many rows for any item needs but one program. */
device_limits towers_limits(const encoder *e, int stage, int64_t tokens)
{
    const int64_t rows = encoder_most_rows(e, stage, tokens), always = encoder_most_rows(e, stage, 1) == rows ? rows : LEAST_ROWS;
    return (device_limits){ .max_tokens = (int)rows, .max_seqs = 1, .max_rows = (int)rows, .max_model_len = (int)rows, .block_size = 16, .kv_dtype = DT_F32, .least_rows = (int)always };
}

static void unload(towers *ts)
{
    for (int k = 0; k < ENCODER_KINDS; k++)
        for (int s = 0; s < STAGES; s++) {
            if (ts->t[k].dm[s]) device_unload(ts->t[k].dm[s]);
            ts->t[k].dm[s] = NULL;
        }
}

static status load(towers *ts, device *dev)
{
    for (int k = 0; k < ENCODER_KINDS; k++)
        for (int s = 0; ts->t[k].e && s < encoder_n_stages(ts->t[k].e); s++) {
            const device_limits l = towers_limits(ts->t[k].e, s, most_tokens(ts, (encoder_kind)k));
            TRY(device_load(dev, encoder_graph(ts->t[k].e, s), ts->t[k].w, &l, NULL, NULL, &ts->t[k].dm[s]));
        }
    return ST_OK;
}

/* On the device that was given, else on the CPU. */
static status load_somewhere(towers *ts, const towers_options *o)
{
    if (o->dev) {
        if (load(ts, o->dev) == ST_OK) return ST_OK;
        log_warn("The encoders of images and sounds run on the host's CPU, the device cannot: %s", err_msg());
        unload(ts);
    }
    TRY(device_open("cpu", &(device_options){ .n_threads = o->n_threads, .isa = o->isa }, &ts->own));
    return load(ts, ts->own);
}

status towers_open(const jv *config, const towers_options *o, towers **out)
{
    *out = NULL;
    towers *ts = mem_calloc(1, sizeof *ts);
    if (!ts) return err_nomem();
    pthread_mutex_init(&ts->run_mu, NULL);
    pthread_mutex_init(&ts->mu, NULL);
    ts->most_tokens = o->most_tokens;
    ts->cache_bytes = o->cache_bytes;
    bool any = false;
    status st = ST_OK;
    for (int k = 0; k < ENCODER_KINDS && st == ST_OK; k++) {
        st = encoder_new(config, (encoder_kind)k, o->type, &ts->t[k].e);
        any |= ts->t[k].e != NULL;
    }
    for (int k = 0; k < ENCODER_KINDS && st == ST_OK; k++)
        if (ts->t[k].e) st = encoder_weights_open(ts->t[k].e, o->dir, &ts->t[k].w);
    if (st == ST_OK && any) st = load_somewhere(ts, o);
    if (st == ST_OK && any) *out = ts;
    else towers_close(ts);
    return st;
}

void towers_close(towers *ts)
{
    if (!ts) return;
    unload(ts);
    for (int k = 0; k < ENCODER_KINDS; k++) {
        encoder_weights_close(ts->t[k].w);
        encoder_free(ts->t[k].e);
    }
    if (ts->own) device_close(ts->own);
    for (int i = 0; i < ts->n_kept; i++) media_rows_release(ts->kept[i].r);
    mem_free(ts->kept);
    pthread_mutex_destroy(&ts->run_mu);
    pthread_mutex_destroy(&ts->mu);
    mem_free(ts);
}

/* One stage runs at a time. */
int64_t towers_device_bytes(const towers *t)
{
    int64_t weights = 0, step = 0;
    for (int k = 0; k < ENCODER_KINDS && !t->own; k++)
        for (int s = 0; s < STAGES; s++) {
            if (!t->t[k].dm[s]) continue;
            weights += device_weight_bytes(t->t[k].dm[s]);
            if (device_step_bytes(t->t[k].dm[s]) > step) step = device_step_bytes(t->t[k].dm[s]);
        }
    return weights + step;
}

bool towers_has(const towers *t, encoder_kind kind) { return t->t[kind].e != NULL; }
int towers_levels(const towers *t) { return t->t[ENCODER_IMAGE].e ? encoder_levels(t->t[ENCODER_IMAGE].e) : 0; }

status towers_n_tokens(const towers *t, encoder_kind kind, const encoder_input *in, int64_t *out)
{
    if (!t->t[kind].e) return err_set(ST_UNSUPPORTED, "this model takes no %s", kind == ENCODER_IMAGE ? "images" : "audio");
    TRY(encoder_n_tokens(t->t[kind].e, in, out));
    if (*out > most_tokens(t, kind))
        return err_set(ST_INVALID, "the %s needs %lld tokens, at most %lld are accepted", kind == ENCODER_IMAGE ? "image" : "audio", (long long)*out, (long long)most_tokens(t, kind));
    return ST_OK;
}

/* ---- outputs that are kept; all under mu ---- */

static media_rows *find_kept(towers *ts, const uint8_t hash[32])
{
    ts->stats.queries++;
    for (int i = 0; i < ts->n_kept; i++)
        if (memcmp(ts->kept[i].r->hash, hash, 32) == 0) {
            ts->kept[i].used = ++ts->clock;
            ts->stats.hits++;
            return media_rows_ref(ts->kept[i].r);
        }
    return NULL;
}

static int64_t bytes_of(const media_rows *r) { return (int64_t)sizeof *r + r->n * r->width * (int64_t)sizeof(float); }

static void drop_oldest(towers *ts)
{
    int oldest = 0;
    for (int i = 1; i < ts->n_kept; i++)
        if (ts->kept[i].used < ts->kept[oldest].used) oldest = i;
    ts->stats.cached_bytes -= bytes_of(ts->kept[oldest].r);
    media_rows_release(ts->kept[oldest].r);
    ts->kept[oldest] = ts->kept[--ts->n_kept];
}

/* Failing to keep one is no failure. */
static void keep(towers *ts, media_rows *r)
{
    if (bytes_of(r) > ts->cache_bytes) return;
    while (ts->n_kept > 0 && ts->stats.cached_bytes + bytes_of(r) > ts->cache_bytes) drop_oldest(ts);
    if (ts->n_kept == ts->cap_kept) {
        const int cap = ts->cap_kept ? 2 * ts->cap_kept : 16;
        kept *more = mem_realloc_array(ts->kept, (size_t)cap, sizeof *more);
        if (!more) return;
        ts->kept = more;
        ts->cap_kept = cap;
    }
    ts->kept[ts->n_kept++] = (kept){ media_rows_ref(r), ++ts->clock };
    ts->stats.cached_bytes += bytes_of(r);
}

/* ---- running ---- */

static status run_stage(void *arg, int stage, const batch *b) { return device_run(((tower *)arg)->dm[stage], b); }

/* The output as shared rows; pictures' deepstack levels, which sounds have none of, are zero there. */
static status share(const towers *ts, const tower *t, const float *out, int64_t n, const uint8_t hash[32], media_rows **shared)
{
    const int64_t own = encoder_width(t->e), width = own / (1 + encoder_levels(t->e)) * (1 + towers_levels(ts));
    media_rows *r = mem_calloc(1, sizeof *r + (size_t)(n * width) * sizeof(float));
    if (!r) return err_nomem();
    r->n = n;
    r->width = width;
    atomic_init(&r->refs, 1);
    memcpy(r->hash, hash, 32);
    for (int64_t i = 0; i < n; i++) memcpy(r->rows + i * width, out + i * own, (size_t)own * sizeof(float));
    *shared = r;
    return ST_OK;
}

static status encode(towers *ts, tower *t, const encoder_input *in, const uint8_t hash[32], media_rows **out)
{
    float *rows = NULL;
    int64_t n = 0;
    TRY(encoder_run(t->e, in, run_stage, t, &rows, &n));
    const status st = share(ts, t, rows, n, hash, out);
    mem_free(rows);
    return st;
}

status towers_encode(towers *ts, encoder_kind kind, const encoder_input *in, const uint8_t hash[32], media_rows **out)
{
    int64_t n;
    TRY(towers_n_tokens(ts, kind, in, &n));
    pthread_mutex_lock(&ts->run_mu);
    pthread_mutex_lock(&ts->mu);
    *out = find_kept(ts, hash);
    pthread_mutex_unlock(&ts->mu);
    status st = *out ? ST_OK : encode(ts, &ts->t[kind], in, hash, out);
    if (st == ST_OK) {
        pthread_mutex_lock(&ts->mu);
        bool have = false;
        for (int i = 0; i < ts->n_kept; i++) have |= ts->kept[i].r == *out;
        if (!have) keep(ts, *out);
        pthread_mutex_unlock(&ts->mu);
    }
    pthread_mutex_unlock(&ts->run_mu);
    return st;
}

void towers_get_stats(towers *t, towers_stats *out)
{
    pthread_mutex_lock(&t->mu);
    *out = t->stats;
    pthread_mutex_unlock(&t->mu);
}
