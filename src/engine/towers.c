#include "engine/towers.h"

#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

typedef struct tower {
    encoder *e;
    weight_source *w;
    device_model *dm[8];        /* per stage, loaded for most_rows */
} tower;

typedef struct kept { media_rows *r; uint64_t used; } kept;

struct towers {
    device *dev;
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

/* What buffers are planned for: pictures of 12.8 million pixels, 40 minutes of sound. */
static int64_t most_tokens(const towers *ts, encoder_kind kind)
{
    const int64_t most = kind == ENCODER_IMAGE ? 16384 : 32768;
    return ts->most_tokens < most ? ts->most_tokens : most;
}

static status load_tower(towers *ts, tower *t, encoder_kind kind, const char *dir)
{
    TRY(encoder_weights_open(t->e, dir, &t->w));
    for (int s = 0; s < encoder_n_stages(t->e); s++) {
        const int64_t rows = encoder_most_rows(t->e, s, most_tokens(ts, kind));
        const device_limits l = { .max_tokens = (int)rows, .max_seqs = 1, .max_rows = 1, .max_model_len = (int)rows, .block_size = 16, .kv_dtype = DT_F32 };
        TRY(device_load(ts->dev, encoder_graph(t->e, s), t->w, &l, NULL, NULL, &t->dm[s]));
    }
    return ST_OK;
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
    if (st == ST_OK && any) st = device_open("cpu", &(device_options){ .n_threads = o->n_threads, .isa = o->isa }, &ts->dev);
    for (int k = 0; k < ENCODER_KINDS && st == ST_OK; k++)
        if (ts->t[k].e) st = load_tower(ts, &ts->t[k], (encoder_kind)k, o->dir);
    if (st == ST_OK && any) *out = ts;
    else towers_close(ts);
    return st;
}

void towers_close(towers *ts)
{
    if (!ts) return;
    for (int k = 0; k < ENCODER_KINDS; k++) {
        for (int s = 0; s < 8; s++)
            if (ts->t[k].dm[s]) device_unload(ts->t[k].dm[s]);
        encoder_weights_close(ts->t[k].w);
        encoder_free(ts->t[k].e);
    }
    if (ts->dev) device_close(ts->dev);
    for (int i = 0; i < ts->n_kept; i++) media_rows_release(ts->kept[i].r);
    mem_free(ts->kept);
    pthread_mutex_destroy(&ts->run_mu);
    pthread_mutex_destroy(&ts->mu);
    mem_free(ts);
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
